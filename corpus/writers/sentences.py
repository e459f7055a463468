"""Sentences about one person: looks, feelings and doings, with agreement of verb and pronoun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from corpus.records import Features
from corpus.writers.anatomy import Item, Place, joined
from corpus.writers.brief import in_order, listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """How the person in a clip is spoken of."""

    noun: str  # "man"
    pronoun: str  # "he"
    possessive: str  # "his"
    plural: bool = False  # of the pronoun: "they are", but "the person is"

    def verb(self, singular: str, subject: str) -> str:
        """``singular`` ("is", "has", "looks", "wears") as it agrees with ``subject``."""
        if not (self.plural and subject.lower() == self.pronoun):
            return singular
        return {"is": "are", "has": "have"}.get(singular, singular.removesuffix("s"))

    def subject(self, random: Random) -> str:
        """The pronoun, and sometimes the noun again."""
        return self.pronoun if random.random() < 0.75 else f"the {self.noun}"


SUBJECTS = {
    "man": Person(noun="man", pronoun="he", possessive="his"),
    "woman": Person(noun="woman", pronoun="she", possessive="her"),
    "person": Person(noun="person", pronoun="they", possessive="their", plural=True),
}


def person_of(features: Features) -> Person:
    """By the features' subject, else by the attribute ``male``; a person where neither is known."""
    subject = features.subject
    if subject == "person" and "male" in features.present:
        subject = "man"
    elif subject == "person" and "male" in features.absent:
        subject = "woman"
    return SUBJECTS.get(subject, SUBJECTS["person"])


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


_HAS = (
    "{s} {has} {all}.",
    "{s} {has} {all}.",
    "{p} features include {all}.",
    "Among {p} features are {all}.",
    "{s} {has} {first} as well as {rest}.",
    "{s} also {has} {all}.",
)
_WEARS = ("{s} {is} wearing {all}.", "{s} {wears} {all}.")


def looks(items: Sequence[Item], who: Person, random: Random, *, later: bool = True) -> list[str]:
    """One sentence about what is had, and one about what is worn.

    Args:
        later: something was said before, so that "also" has something to follow.
    """
    worn = [item for item in items if item.place is Place.WORN]
    picture = [item.phrase for item in items if item.place is Place.PICTURE]
    is_one = [item.phrase for item in items if item.place is Place.PERSON]
    had = joined(
        item for item in items if item.place not in (Place.WORN, Place.PICTURE, Place.PERSON)
    )
    sentences = [f"This is {listed(is_one)}."] if is_one else []
    if had:
        plain = len(had) == 1 or any(phrase.startswith("no ") for phrase in had)
        templates = _HAS[:1] if plain else _HAS
        fitting = [template for template in templates if later or " also " not in template]
        sentences.append(_fill(random.choice(fitting), had, who, random))
    if worn:
        sentences.append(_fill(random.choice(_WEARS), joined(worn), who, random))
    if picture:
        sentences.append(f"It is {listed(picture)}.")
    return sentences


def feeling(emotions: Sequence[str], who: Person, random: Random) -> str:
    """What the face expresses, in order of time."""
    subject = who.subject(random)
    looks_ = who.verb(random.choice(("looks", "seems", "appears")), subject)
    if len(emotions) == 1:
        course = random.choice(("{s} {v} {e}.", "{s} {v} {e}.", "Overall, {s} {v} {e}."))
        return capital(course.format(s=subject, v=looks_, e=emotions[0]))
    course = random.choice(
        ("{s} {v} {e}.", "At first, {s} {v} {e}.", "In the course of the clip, {s} {v} {e}.")
    )
    return capital(course.format(s=subject, v=looks_, e=in_order(emotions)))


def doing(actions: Sequence[str], who: Person, random: Random) -> list[str]:
    """What the face and the head do; many actions take two sentences."""
    subject = who.subject(random)
    start = random.choice(("", "", "during the clip, ", "in the video, "))
    half = len(actions) if len(actions) <= 4 else (len(actions) + 1) // 2
    sentences = [f"{start}{subject} {who.verb('is', subject)} {listed(actions[:half])}."]
    if half < len(actions):
        rest = listed(actions[half:])
        sentences.append(f"{who.pronoun} {who.verb('is', who.pronoun)} also {rest}.")
    return [capital(sentence) for sentence in sentences]


def _fill(template: str, phrases: Sequence[str], who: Person, random: Random) -> str:
    subject = who.subject(random)
    text = template.format(
        s=subject,
        p=who.possessive,
        has=who.verb("has", subject),
        wears=who.verb("wears", subject),
        **{"is": who.verb("is", subject)},
        all=listed(phrases),
        first=phrases[0],
        rest=listed(phrases[1:]),
    )
    return capital(text)
