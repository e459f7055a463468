"""What a viewer can know of a card: what was drawn, less what something else covers.

An attribute is *hidden* when none of its pixels can be seen, and *unclear* when a viewer might
rightly say yes or no: a beard's edge above a scarf, or a smile on a happy face.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from corpus.cards.spec import BEARDS, EMOTION_RATES, FACE_ACTIONS, CardSpec, drawn_names

_HAIR = (
    "receding_hairline",
    "bald",
    "bangs",
    "black_hair",
    "blond_hair",
    "gray_hair",
    "brown_hair",
    "straight_hair",
    "wavy_hair",
    "long_hair",
    "shaved_head",
    "crew_cut",
    "mullet",
    "bald_spot",
)
_BEARD = (*BEARDS, "no_beard", "clean_shaven")
_MOUTH_ACTIONS = tuple(name for name in FACE_ACTIONS if name != "squint")
_EYE_ACTIONS = ("wink", "close_eyes", "look_around", "squint", "weep")
_FEELINGS = tuple(EMOTION_RATES)

HIDDEN: Mapping[str, tuple[str, ...]] = {
    "lower_face": (*_BEARD, "big_lips", "wearing_lipstick", "double_chin"),
    "eyes": ("narrow_eyes", "bags_under_eyes", "eyeglasses", "sunglasses", "heavy_makeup"),
    "hair": (*_HAIR, "wearing_earrings"),
    "neck": ("wearing_necklace", "wearing_necktie"),
}
"""Part -> attributes that its cover takes away wholly; each pixel the same with and without."""

PARTLY: Mapping[str, tuple[str, ...]] = {
    "lower_face": (
        *_MOUTH_ACTIONS,
        *_FEELINGS,
        "blush",
        "weep",
        "sideburns",
        "big_nose",
        "pointy_nose",
        "high_cheekbones",
        "rosy_cheeks",
        "facial_tattoos",
        "chubby",
        "oval_face",
        "wearing_earrings",
        "wearing_mask",
        "wearing_necktie",
        "wearing_necklace",
        "long_hair",
        "mullet",
    ),
    "eyes": (
        *_EYE_ACTIONS,
        *_FEELINGS,
        "arched_eyebrows",
        "bushy_eyebrows",
        "frown",
        "laugh",
        "yawn",
        "sneer",
        "scrunch",
        "shout",
        "sing",
        "grimace",
        "kiss",
        "rosy_cheeks",
    ),
    "hair": (
        "sideburns",
        "arched_eyebrows",
        "bushy_eyebrows",
        "chubby",
        "oval_face",
        "double_chin",
        "wearing_hat",
        "high_cheekbones",
        "wearing_necklace",
        "wearing_necktie",
        "facial_tattoos",
        "facial_hair",
        "goatee",
        "no_beard",
        "clean_shaven",
        "wearing_mask",
        *_FEELINGS,
    ),
    "neck": ("double_chin", "wearing_hat", "long_hair", "mullet"),
}
"""Part -> attributes of which its cover leaves too little."""

BLURS: Mapping[str, tuple[str, ...]] = {
    "wearing_mask": (
        *_BEARD,
        "big_lips",
        "wearing_lipstick",
        "big_nose",
        "pointy_nose",
        "double_chin",
        "high_cheekbones",
        "rosy_cheeks",
        "facial_tattoos",
        "chubby",
        "oval_face",
        "blush",
        "weep",
        *_MOUTH_ACTIONS,
        *_FEELINGS,
    ),
    "wearing_hat": (
        "receding_hairline",
        "bald",
        "bangs",
        "shaved_head",
        "crew_cut",
        "bald_spot",
        "straight_hair",
        "wavy_hair",
        "mullet",
        "black_hair",
        "blond_hair",
        "gray_hair",
        "brown_hair",
    ),
    "sunglasses": ("narrow_eyes", "bags_under_eyes", "heavy_makeup", *_EYE_ACTIONS),
    "long_hair": ("sideburns", "mullet", "wearing_earrings"),
    "facial_hair": (
        "goatee",
        "double_chin",
        "sideburns",
        "stubbly",
        "5_o_clock_shadow",
        "chubby",
        "oval_face",
    ),
    "goatee": ("facial_hair", "double_chin"),
    "mustache": ("facial_hair",),
    "stubbly": ("facial_hair", "5_o_clock_shadow"),
    "5_o_clock_shadow": ("facial_hair", "stubbly"),
    "blurry": ("stubbly", "bags_under_eyes", "narrow_eyes"),
    "bald": ("shaved_head",),
    "shaved_head": ("bald", "crew_cut"),
    "crew_cut": ("straight_hair", "wavy_hair"),
    "heavy_makeup": ("narrow_eyes",),
    "big_lips": ("pout",),
    # emotions
    "happy": ("smile", "grin", "laugh"),
    "sad": ("frown", "pout", "weep", "narrow_eyes"),
    "anger": ("frown", "squint", "narrow_eyes"),
    "contempt": ("smirk", "sneer", "narrow_eyes"),
    "disgust": ("scrunch", "sneer", "squint", "frown", "narrow_eyes"),
    "fear": ("grimace",),
    "shame": ("blush", "rosy_cheeks", "frown", "close_eyes", "narrow_eyes", "look_around"),
    "confusion": ("squint", "frown", "smirk"),
    # actions
    "smile": ("happy", "neutral", "grin", "smirk"),
    "grin": ("happy", "neutral", "smile"),
    "laugh": ("happy", "neutral", "smile", "grin", "close_eyes", "squint", "narrow_eyes"),
    "smirk": ("contempt", "neutral", "smile"),
    "sneer": ("contempt", "disgust", "neutral", "scrunch"),
    "scrunch": ("disgust", "neutral", "squint", "narrow_eyes"),
    "frown": ("anger", "sad", "neutral"),
    "pout": ("sad", "neutral", "kiss", "big_lips"),
    "kiss": ("pout", "close_eyes"),
    "grimace": ("fear", "disgust", "neutral", "grin"),
    "shout": ("anger", "neutral", "talk", "surprise"),
    "sing": ("talk", "close_eyes", "shout", "head_wagging"),
    "talk": ("sing",),
    "yawn": ("close_eyes", "shout"),
    "weep": ("sad", "neutral"),
    "squint": ("narrow_eyes", "close_eyes", "anger", "neutral"),
    "close_eyes": ("narrow_eyes", "squint"),
    "look_around": ("turn", "shake_head"),
    "blush": ("rosy_cheeks", "shame"),
    "rosy_cheeks": ("blush",),
    "turn": ("shake_head", "look_around"),
}
"""Attribute -> others that nobody can be sure of beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Names that cards draw, each in one of four sets; in the vocabulary's order."""

    present: tuple[str, ...]  # drawn, and to be seen
    absent: tuple[str, ...]  # not drawn, which can be seen, too
    hidden: tuple[str, ...]  # drawn, but covered or outside of the picture
    unclear: tuple[str, ...]  # everything else


def truth(spec: CardSpec) -> Truth:
    """Sort all names that cards draw."""
    drawn = set(spec.names)
    covered = set(HIDDEN.get(spec.hidden or "", ()))
    unclear = set(PARTLY.get(spec.hidden or "", ()))
    for name in drawn - covered:
        unclear.update(BLURS.get(name, ()))
    names = drawn_names()
    return Truth(
        present=tuple(n for n in names if n in drawn and n not in covered | unclear),
        absent=tuple(n for n in names if n not in drawn | covered | unclear),
        hidden=tuple(n for n in names if n in drawn & covered),
        unclear=tuple(n for n in names if n in (unclear | covered) and n not in drawn & covered),
    )
