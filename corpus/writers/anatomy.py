"""Attributes as parts of sentences: where on a person each is seen, and how several join.

"long hair", "wavy hair" and "brown hair" are one noun phrase, "long wavy brown hair"; a hat is
worn, a beard is had.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from corpus.attributes import VOCABULARY, Group
from corpus.records import Features
from corpus.schema import Level


class Place(StrEnum):
    """Where an attribute is seen, in the order in which a person is described."""

    PICTURE = "picture"
    PERSON = "person"
    HAIR = "hair"
    FACE = "face"
    SKIN = "skin"
    EYES = "eyes"
    NOSE = "nose"
    MOUTH = "mouth"
    BEARD = "beard"
    WORN = "worn"


PLACES: dict[Place, tuple[str, ...]] = {
    Place.PICTURE: ("blurry",),
    Place.PERSON: ("male",),
    Place.HAIR: (
        *("bald", "shaved_head", "bald_spot", "receding_hairline", "crew_cut", "mullet"),
        *("long_hair", "straight_hair", "wavy_hair", "black_hair", "blond_hair", "gray_hair"),
        *("brown_hair", "bangs"),
    ),
    Place.FACE: ("young", "chubby", "oval_face", "high_cheekbones", "double_chin"),
    Place.SKIN: ("pale_skin", "rosy_cheeks", "heavy_makeup", "facial_tattoos"),
    Place.EYES: ("bushy_eyebrows", "arched_eyebrows", "narrow_eyes", "bags_under_eyes"),
    Place.NOSE: ("big_nose", "pointy_nose"),
    Place.MOUTH: ("big_lips", "wearing_lipstick"),
    # "no beard" last: "no beard and sideburns" would deny both.
    Place.BEARD: (
        *("clean_shaven", "5_o_clock_shadow", "stubbly", "facial_hair", "goatee", "mustache"),
        *("sideburns", "no_beard"),
    ),
    Place.WORN: (
        *("eyeglasses", "sunglasses", "wearing_hat", "wearing_mask", "wearing_earrings"),
        *("wearing_necklace", "wearing_necktie"),
    ),
}
_PLACE_OF = {name: place for place, names in PLACES.items() for name in names}
_RANK = {name: rank for names in PLACES.values() for rank, name in enumerate(names)}

# Where a free phrase belongs, by its words; the first that fits. A phrase with none is of the face.
_WORDS: tuple[tuple[Place, str], ...] = (
    (Place.BEARD, r"beards?|stubble|m[ou]+staches?|goatee|sideburns|shaven|facial hair|shadow"),
    (Place.HAIR, r"hair|haired|bald|bangs|fringe|ponytail|braids?|bun|hairline|curls"),
    (Place.WORN, r"glasses|sunglasses|eyeglasses|hat|cap|scarf|mask|earrings?|necklace|necktie"),
    (Place.WORN, r"tie|shirt|t-shirt|suit|jacket|dress|coat|sweater|blouse|collar|headphones"),
    (Place.EYES, r"eyes?|eyebrows?|brows?|eyelids?|eyelashes"),
    (Place.NOSE, r"nose|nostrils"),
    (Place.MOUTH, r"lips?|mouth|teeth|lipstick"),
    (Place.SKIN, r"skin|cheeks|freckles|wrinkles|makeup|tattoos?|moles?|scars?"),
)
_LEVEL_OF_PLACE = {
    **dict.fromkeys((Place.HAIR, Place.SKIN, Place.BEARD), Level.LOW),
    **dict.fromkeys((Place.EYES, Place.NOSE, Place.MOUTH), Level.MID),
}

_SHARED_NOUNS = frozenset({"hair", "eyebrows", "nose", "face"})
_MASS_OR_PLURAL = frozenset({"hair", "eyebrows"})  # take no article


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One attribute of appearance, as targets say it."""

    phrase: str
    place: Place
    level: Level
    name: str | None = None  # of corpus.attributes; None for a free phrase


def appearance_items(features: Features) -> list[Item]:
    """What is known of a person's looks, in the order of description, each once.

    Names of ``features.present`` come first in their place, then free phrases of its targets. A
    woman's missing beard is not worth a word.
    """
    woman = features.subject == "woman" or "male" in features.absent
    unsaid = ("no_beard", "clean_shaven") if woman else ()
    phrases = [
        VOCABULARY[name].phrase
        for name in features.present
        if name in VOCABULARY and VOCABULARY[name].group is Group.APPEARANCE
    ]
    items = [_item(phrase) for phrase in dict.fromkeys((*phrases, *features.targets.attributes))]
    order = list(Place)
    return sorted(
        (item for item in items if item.name not in unsaid),
        key=lambda item: (order.index(item.place), _RANK.get(item.name or "", len(_RANK))),
    )


def _item(phrase: str) -> Item:
    name = VOCABULARY.find(phrase)
    if name in _PLACE_OF and VOCABULARY[name].phrase == phrase:
        return Item(phrase=phrase, place=_PLACE_OF[name], level=VOCABULARY[name].level, name=name)
    place = next(
        (place for place, words in _WORDS if re.search(rf"\b({words})\b", phrase.lower())),
        Place.FACE,
    )
    return Item(phrase=phrase, place=place, level=_LEVEL_OF_PLACE.get(place, Level.HIGH))


def joined(items: Iterable[Item]) -> list[str]:
    """Noun phrases for ``items``: known adjectives of one noun become one phrase.

    Example:
        >>> joined(appearance_items(features))  # long_hair, brown_hair, bangs, oval_face, young
        ['long brown hair', 'bangs', 'a young oval face']
    """
    groups: dict[tuple[Place, str], list[str]] = {}
    for item in items:
        *adjective, noun = _without_article(item.phrase).split()
        if item.name is not None and noun in _SHARED_NOUNS and len(adjective) == 1:
            groups.setdefault((item.place, noun), []).extend(adjective)
        else:
            groups[item.place, item.phrase] = []
    return [
        _noun_phrase(adjectives, noun) if adjectives else noun
        for (_, noun), adjectives in groups.items()
    ]


def _noun_phrase(adjectives: Sequence[str], noun: str) -> str:
    text = " ".join((*adjectives, noun))
    return text if noun in _MASS_OR_PLURAL else with_article(text)


def with_article(text: str) -> str:
    """``text`` after "a" or "an", by its first letter."""
    return f"{'an' if text[0].lower() in 'aeiou' else 'a'} {text}"


def _without_article(phrase: str) -> str:
    return re.sub(r"^(a|an|the) ", "", phrase)


def denial(phrase: str) -> str:
    """The phrase as something that is not there.

    Example:
        >>> denial("a hat"), denial("bangs")
        ('no hat', 'no bangs')
    """
    return f"no {_without_article(phrase)}"
