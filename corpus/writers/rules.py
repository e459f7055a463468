"""The rule-based writer: varied descriptions without a language model, equal for equal seeds.

A summary goes over the person's looks by anatomy (hair, face, eyes, nose, mouth, beard, what is
worn), the emotion over time and the actions, in one of several orders. It names at most
:data:`MAX_NAMED` attributes; the paper's summaries name 23.4 in 100.7 tokens on average.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from random import Random

from corpus.attributes import VOCABULARY, Group
from corpus.records import Features, Texts
from corpus.writers.anatomy import Item, Place, appearance_items, denial, with_article
from corpus.writers.base import Assignment, Unwritten
from corpus.writers.given import with_given
from corpus.writers.questions import write_pairs
from corpus.writers.sentences import (
    SUBJECTS,
    Person,
    capital,
    doing,
    feeling,
    looks,
    person_of,
)

MAX_NAMED = 28
"""A summary names at most so many attributes of appearance, emotions and actions."""

DENIAL_SHARE = 0.3
"""Share of summaries that also say what is not there, where that is known."""

_OPENINGS = (
    "The video shows {a}.",
    "In this clip, we see {a}.",
    "This video is about {a}.",
    "{a} is seen in this video.",
    "The clip shows the face of {a}.",
)
_ORDERS = (
    ("looks", "feeling", "doing"),
    ("looks", "doing", "feeling"),
    ("feeling", "looks", "doing"),
    ("doing", "looks", "feeling"),
)
_GROUPINGS = (
    (
        (Place.HAIR,),
        (Place.FACE, Place.SKIN),
        (Place.EYES, Place.NOSE, Place.MOUTH),
        (Place.BEARD,),
    ),
    ((Place.FACE, Place.SKIN), (Place.HAIR,), (Place.EYES, Place.NOSE), (Place.MOUTH, Place.BEARD)),
    ((Place.HAIR, Place.BEARD), (Place.FACE, Place.EYES), (Place.NOSE, Place.MOUTH, Place.SKIN)),
    ((Place.HAIR, Place.FACE), (Place.SKIN, Place.EYES, Place.NOSE, Place.MOUTH), (Place.BEARD,)),
)
# What is worth saying although it is not there, and only where nothing present says as much.
_DENIABLE = ("eyeglasses", "wearing_hat", "wearing_necklace", "wearing_earrings", "bangs", "smile")


def write_summary(features: Features, *, seed: str) -> str:
    """A description of about four tokens per attribute named.

    Raises:
        ValueError: when nothing is known of the clip.
    """
    random = Random(f"{seed}/summary")
    who = person_of(features)
    emotions = features.targets.emotion
    actions = features.targets.action
    room = MAX_NAMED - len(emotions) - len(actions)
    items = _most_telling(appearance_items(features), room)
    if not (items or emotions or actions):
        raise ValueError("nothing is known of it")
    parts = {
        "looks": _looks(items, who, random),
        "feeling": [feeling(emotions, who, random)] if emotions else [],
        "doing": doing(actions, who, random) if actions else [],
    }
    sentences = [capital(random.choice(_OPENINGS).format(a=with_article(who.noun)))]
    sentences += [text for part in random.choice(_ORDERS) for text in parts[part]]
    if random.random() < DENIAL_SHARE:
        sentences += _denials(features, who, random)
    return " ".join(sentences)


def _most_telling(items: Sequence[Item], room: int) -> list[Item]:
    """At most ``room`` items in their order; the attributes that most clips show go first."""

    def common(item: Item) -> int:
        return VOCABULARY[item.name].count if item.name else 0

    dropped = sorted(items, key=common, reverse=True)[: max(0, len(items) - max(room, 0))]
    return [item for item in items if item not in dropped]


def _looks(items: Sequence[Item], who: Person, random: Random) -> list[str]:
    sentences: list[str] = []
    worn = [(Place.WORN,)]
    grouping = [*worn, *random.choice(_GROUPINGS)]
    if random.random() < 0.75:
        grouping = [*grouping[1:], *worn]
    for places in (*grouping, (Place.PICTURE,)):
        chosen = [item for place in places for item in items if item.place is place]
        sentences += looks(chosen, who, random, later=bool(sentences))
    return sentences


def _denials(features: Features, who: Person, random: Random) -> list[str]:
    """Up to two things that annotators or classifiers saw not to be there."""
    implied = {other for name in features.present for other in VOCABULARY[name].excludes}
    known = [name for name in _DENIABLE if name in features.absent and name not in implied]
    if not known:
        return []
    name = random.choice(known)
    phrase, subject = VOCABULARY[name].phrase, who.subject(random)
    if VOCABULARY[name].group is Group.ACTION:
        return [capital(f"{subject} {who.verb('is', subject)} not {phrase}.")]
    others = [other for other in known if VOCABULARY[other].group is Group.APPEARANCE]
    phrases = [VOCABULARY[other].phrase for other in random.sample(others, min(2, len(others)))]
    return [capital(f"{' and '.join(denial(phrase) for phrase in phrases)} can be seen.")]


class Rules:
    """Summaries and two to four questions a clip, offline.

    Example:
        >>> texts = next(Rules().write([assignment]))
        >>> texts.summary
        'The video shows a woman. She has long brown hair and bangs. She looks happy. She is
        smiling.'
    """

    name = "rules-1"

    def write(self, assignments: Iterable[Assignment]) -> Iterator[Texts | Unwritten]:
        for assignment in assignments:
            yield self._write(assignment)

    def _write(self, assignment: Assignment) -> Texts | Unwritten:
        features = assignment.features
        seed = f"{assignment.seed}/{assignment.attempt}"
        if features.subject not in SUBJECTS:
            reason = f"subject {features.subject!r} is none of {', '.join(SUBJECTS)}"
            return Unwritten(cut_id=features.cut_id, reason=reason, final=True)
        try:
            summary = write_summary(features, seed=seed)
        except ValueError as error:
            return Unwritten(cut_id=features.cut_id, reason=str(error), final=True)
        return with_given(assignment, summary, write_pairs(features, seed=seed), self.name)
