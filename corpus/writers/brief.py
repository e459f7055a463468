"""The brief writer: one short sentence a question, for small models. Offline and seeded.

Texts are full sentences that hold every target phrase of their question word for word, and no
other. Attributes are noun phrases ("a black shirt"), emotions adjectives in order of time
("neutral", "happy"), actions present participles ("smiling"). With a handful of targets answers
stay within 24 words, so that a response of 32 tokens can hold them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from random import Random

from corpus.attributes import VOCABULARY
from corpus.records import Features, Pair, Texts
from corpus.schema import FacialTargets, Level, QuestionKind
from corpus.writers.base import Assignment, Unwritten
from corpus.writers.given import with_given

MAX_ANSWER_WORDS = 24
MAX_ATTRIBUTES, MAX_ACTIONS = 5, 8
"""Of more than so many, :class:`Brief` says the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """How the person in a clip is referred to."""

    noun: str  # "the man"
    pronoun: str  # "he"


SUBJECTS = {
    "man": Subject(noun="the man", pronoun="he"),
    "woman": Subject(noun="the woman", pronoun="she"),
    "person": Subject(noun="the person", pronoun="this person"),
}

QUESTIONS: dict[QuestionKind, tuple[str, ...]] = {
    QuestionKind.APPEARANCE: (
        "What does this person look like?",
        "Describe the appearance of the person.",
        "Which features of appearance can you see?",
        "How would you describe this person's looks?",
    ),
    QuestionKind.EMOTION: (
        "What emotion does this person show?",
        "How does the person in the video feel?",
        "Which emotion does the face express?",
        "What is the mood of this person?",
        "Which feelings can be read from the face, in order?",
    ),
    QuestionKind.ACTION: (
        "What is this person doing?",
        "Which facial actions can you see?",
        "What does the person do in the video?",
        "Describe the movements of the face and head.",
    ),
    QuestionKind.DESCRIPTION: (
        "Describe the person in this video.",
        "What do you see in this video?",
        "Describe the looks, the emotion and the actions of the person.",
        "Give a short description of the face in this clip.",
    ),
}

# {subject}: "the man"; {pronoun}: "he"; {attributes}, {emotion}, {action}: joined phrases.
ANSWERS: dict[QuestionKind, tuple[str, ...]] = {
    QuestionKind.APPEARANCE: (
        "{subject} has {attributes}.",
        "This is a person with {attributes}.",
        "{subject} in the video has {attributes}.",
    ),
    QuestionKind.EMOTION: (
        "{subject} looks {emotion}.",
        "{subject} appears {emotion}.",
        "The face looks {emotion}.",
    ),
    QuestionKind.ACTION: (
        "{subject} is {action}.",
        "{subject} in the video is {action}.",
        "In this clip, {subject} is {action}.",
    ),
    QuestionKind.DESCRIPTION: (
        "{subject} with {attributes} looks {emotion}, and is {action}.",
        "{subject} has {attributes}, looks {emotion}, and is {action}.",
        "Looking {emotion}, {subject} with {attributes} is {action}.",
    ),
}

NUM_VARIANTS = {kind: 5 if kind is QuestionKind.EMOTION else 3 for kind in QUESTIONS}
"""Pairs that :class:`Brief` writes of each kind; the stage for emotions asks for emotions often."""

SUMMARIES = (
    "The video shows one person. {subject} has {attributes}. {pronoun} looks {emotion}, "
    "and during the clip {pronoun} is {action}.",
    "In this clip, we see the face of one person. {subject} has {attributes}. "
    "{pronoun} appears {emotion}. {pronoun} is {action}.",
    "This video is about one person. {subject} is {action}. "
    "{pronoun} has {attributes}, and {pronoun} looks {emotion}.",
)


def targets_for(kind: QuestionKind, targets: FacialTargets) -> FacialTargets:
    """The part of ``targets`` that a question of ``kind`` asks for; all of it for a description.

    A question for reasons asks for an emotion and for the actions that show it.
    """
    match kind:
        case QuestionKind.APPEARANCE:
            return FacialTargets(attributes=targets.attributes)
        case QuestionKind.EMOTION:
            return FacialTargets(emotion=targets.emotion)
        case QuestionKind.ACTION:
            return FacialTargets(action=targets.action)
        case QuestionKind.REASONING:
            return FacialTargets(emotion=targets.emotion, action=targets.action)
        case QuestionKind.DESCRIPTION:
            return targets


def write_pair(
    kind: QuestionKind, targets: FacialTargets, subject: str, *, seed: str, variant: int = 0
) -> Pair:
    """One question–answer pair about ``targets``.

    Args:
        kind: a key of :data:`QUESTIONS`.
        subject: key of :data:`SUBJECTS`.
        seed: equal seeds write equal texts.
        variant: pairs of one seed with different variants have different questions, until the
            phrasings of the kind are used up; then they repeat.

    Raises:
        ValueError: when the clip has no target of a part that the kind asks for.
    """
    asked = targets_for(kind, targets)
    questions, answers = QUESTIONS[kind], ANSWERS[kind]
    start = Random(f"{seed}/{kind}").randrange(len(questions) * len(answers))
    question = questions[(start + variant) % len(questions)]
    answer = answers[(start + variant) % len(answers)]
    return Pair(
        question=question,
        answer=_fill(answer, asked, subject),
        targets=asked,
        kind=kind,
        level=Level.HIGH,
        extra={"variant": variant},
    )


def write_summary(targets: FacialTargets, subject: str, *, seed: str) -> str:
    """Two to four full sentences, about 20 to 35 words, with every target phrase."""
    return _fill(Random(f"{seed}/summary").choice(SUMMARIES), targets, subject)


def in_order(emotions: Sequence[str]) -> str:
    """Emotions as a course of time.

    Example:
        >>> in_order(["sad"]), in_order(["neutral", "sad", "happy"])
        ('sad', 'neutral, then sad, then happy')
    """
    return ", then ".join(emotions)


def listed(phrases: Sequence[str]) -> str:
    """Phrases as a list in prose.

    Example:
        >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
        ('a', 'a and b', 'a, b and c')
    """
    if len(phrases) < 2:
        return "".join(phrases)
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _fill(template: str, targets: FacialTargets, subject: str) -> str:
    if empty := [
        name
        for name, phrases in asdict(targets).items()
        if f"{{{name}}}" in template and not phrases
    ]:
        raise ValueError(f"there is nothing to say about {', '.join(empty)}")
    who = SUBJECTS[subject]
    text = template.format(
        subject=who.noun,
        pronoun=who.pronoun,
        attributes=listed(targets.attributes),
        emotion=in_order(targets.emotion),
        action=listed(targets.action),
    )
    return ". ".join(sentence[:1].upper() + sentence[1:] for sentence in text.split(". "))


class Brief:
    """One short summary, and for every kind as many questions as the training stages share out.

    A pair's ``extra["variant"]`` counts the phrasings of its kind from 0, so that the stages can
    ask in different words. Kinds of which a clip shows nothing are left out.

    Example:
        >>> texts = next(Brief().write([assignment]))
        >>> texts.summary
        'This video is about one person. The man is smiling. He has a beard, and he looks happy.'
    """

    name = "brief-1"

    def write(self, assignments: Iterable[Assignment]) -> Iterator[Texts | Unwritten]:
        for assignment in assignments:
            yield self._write(assignment)

    def _write(self, assignment: Assignment) -> Texts | Unwritten:
        features = _sayable(assignment.features)
        if features.subject not in SUBJECTS:
            reason = f"subject {features.subject!r} is none of {', '.join(SUBJECTS)}"
            return Unwritten(cut_id=features.cut_id, reason=reason, final=True)
        shown = {part for part, phrases in asdict(features.targets).items() if phrases}
        kinds = [kind for kind in QUESTIONS if _parts(kind) <= shown]
        if not shown:
            return Unwritten(cut_id=features.cut_id, reason="nothing is known of it", final=True)
        pairs = tuple(
            write_pair(
                kind, features.targets, features.subject, seed=assignment.seed, variant=variant
            )
            for kind in kinds
            for variant in range(NUM_VARIANTS[kind])
        )
        if QuestionKind.DESCRIPTION in kinds:
            summary = write_summary(features.targets, features.subject, seed=assignment.seed)
        else:  # the summaries' own sentences have something to say of every part
            first = [pair.answer for pair in pairs if pair.extra["variant"] == 0]
            summary = " ".join(("The video shows one person.", *first))
        return with_given(assignment, summary, pairs, self.name)


def _sayable(features: Features) -> Features:
    """Features that these sentences can say: who is a man is the subject; a few of many phrases."""
    name = VOCABULARY["male"].phrase
    subject, known = features.subject, features.targets
    if subject == "person" and name in known.attributes:
        subject = "man"
    targets = FacialTargets(
        attributes=tuple(phrase for phrase in known.attributes if phrase != name)[:MAX_ATTRIBUTES],
        emotion=known.emotion,
        action=known.action[:MAX_ACTIONS],
    )
    return replace(features, subject=subject, targets=targets)


def _parts(kind: QuestionKind) -> set[str]:
    """Parts of the targets that a clip must have for a question of ``kind``."""
    every = FacialTargets(attributes=("a",), emotion=("b",), action=("c",))
    return {part for part, phrases in asdict(targets_for(kind, every)).items() if phrases}
