"""The rule-based writer: from targets to summaries, questions and answers. Offline and seeded.

Texts are full sentences that hold every target phrase of their question word for word, and no
other. Attributes are noun phrases ("a black shirt"), emotions adjectives in order of time
("neutral", "happy"), actions present participles ("smiling"). Answers stay within 24 words, so that
a response of 32 tokens can hold them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from random import Random

from corpus.schema import FacialTargets, QuestionKind

MAX_ANSWER_WORDS = 24


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

SUMMARIES = (
    "The video shows one person. {subject} has {attributes}. {pronoun} looks {emotion}, "
    "and during the clip {pronoun} is {action}.",
    "In this clip, we see the face of one person. {subject} has {attributes}. "
    "{pronoun} appears {emotion}. {pronoun} is {action}.",
    "This video is about one person. {subject} is {action}. "
    "{pronoun} has {attributes}, and {pronoun} looks {emotion}.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A question, its answer, and the targets that it asks for.

    Example:
        >>> targets = FacialTargets(attributes=("a beard",), emotion=("neutral", "happy"))
        >>> write_pair(QuestionKind.EMOTION, targets, "man", seed="0/a")
        Pair(question='How does the person in the video feel?',
             answer='The man looks neutral, then happy.',
             targets=FacialTargets(emotion=('neutral', 'happy')))
    """

    question: str
    answer: str
    targets: FacialTargets


def targets_for(kind: QuestionKind, targets: FacialTargets) -> FacialTargets:
    """The part of ``targets`` that a question of ``kind`` asks for; all of it for a description."""
    match kind:
        case QuestionKind.APPEARANCE:
            return FacialTargets(attributes=targets.attributes)
        case QuestionKind.EMOTION:
            return FacialTargets(emotion=targets.emotion)
        case QuestionKind.ACTION:
            return FacialTargets(action=targets.action)
        case QuestionKind.DESCRIPTION:
            return targets


def write_pair(
    kind: QuestionKind, targets: FacialTargets, subject: str, *, seed: str, variant: int = 0
) -> Pair:
    """One question–answer pair about ``targets``.

    Args:
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
    return Pair(question=question, answer=_fill(answer, asked, subject), targets=asked)


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
