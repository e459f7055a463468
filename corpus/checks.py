"""Which texts are refused, and why.

    too_short, too_long, empty, repeated, choice   the form of a text
    leakage                                        a language model speaks of itself or its prompt
    contradiction                                  it says what the features rule out
    unsupported                                    a summary names attributes that nobody saw
    demeaning, sociodemographic                    FaVChat v4, Appendix H

The check reads words, not clips: it refuses what is at odds with the features, and cannot find what
is at odds with the picture alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

from common.labels import words
from corpus.attributes import VOCABULARY, Group
from corpus.claims import demeaning_words, sociodemographic_claims
from corpus.config import CheckConfig
from corpus.reading import read_attributes, read_emotions
from corpus.records import Features, Pair, Problem, Texts

MAX_SUMMARY_WORDS = 300
MAX_ANSWER_WORDS = 120
MAX_QUESTION_WORDS = 50

_LEAKAGE = re.compile(
    r"\bas an? (ai|artificial|(large )?language model|assistant)\b|\b(large )?language model\b|"
    r"\bi('m| am) (sorry|unable|not able)\b|\bi (cannot|can't|can not)\b|"
    r"\b(feature|attribute) (dictionary|list)\b|\bprovided (features|attributes|frames|images)\b|"
    r"\b(based on|according to) the (features|attributes|frames|images|dictionary|json)\b|"
    r"\bjson\b|```|<\|",
    re.IGNORECASE,
)
_MEN = frozenset(words("man he him his himself male boy gentleman"))
_WOMEN = frozenset(words("woman she her hers herself female girl lady"))

# What a name says of others too: who has a goatee has facial hair.
IMPLIES: Mapping[str, tuple[str, ...]] = {
    "sunglasses": ("eyeglasses",),
    "goatee": ("facial_hair",),
    "mustache": ("facial_hair",),
    "stubbly": ("facial_hair", "5_o_clock_shadow"),
    "5_o_clock_shadow": ("facial_hair", "stubbly"),
    "facial_hair": ("stubbly",),
    "clean_shaven": ("no_beard",),
    "no_beard": ("clean_shaven",),
    "bald": ("shaved_head",),
    "shaved_head": ("bald",),
    "laugh": ("smile",),
    "grin": ("smile",),
    "smirk": ("smile",),
    "cry": ("weep",),
    "weep": ("cry",),
    "stare": ("gaze",),
    "gaze": ("stare",),
    "glare": ("stare", "gaze"),
    "grimace": ("make_a_face",),
    "shake_head": ("head_wagging", "turn"),
    "head_wagging": ("shake_head", "turn"),
    "look_around": ("turn",),
}


@dataclass(frozen=True, slots=True)
class _Known:
    """What features say, as the checks ask for it."""

    present: frozenset[str]  # names, those of free phrases and of what names imply included
    named: frozenset[str]  # without what is implied
    ruled_out: frozenset[str]  # absent, or excluded by what is present
    emotions: frozenset[str]  # empty where none is known
    groups: frozenset[Group]  # of which names are known; others may be named freely
    phrases: tuple[str, ...]

    @classmethod
    def of(cls, features: Features) -> _Known:
        phrases = tuple(phrase for part in asdict(features.targets).values() for phrase in part)
        free = [name for phrase in phrases for name in read_attributes(phrase).asserted]
        known = [name for name in features.present if name in VOCABULARY]
        named = frozenset((*known, *free))
        present = named | {other for name in named for other in IMPLIES.get(name, ())}
        excluded = {other for name in named for other in VOCABULARY[name].excludes}
        felt = [name for name in known if VOCABULARY[name].group is Group.EMOTION]
        felt += [
            name for phrase in features.targets.emotion for name in read_emotions(phrase).asserted
        ]
        return cls(
            present=present,
            named=named,
            ruled_out=(frozenset(features.absent) | excluded) - present,
            emotions=frozenset(felt),
            groups=frozenset(VOCABULARY[name].group for name in known),
            phrases=phrases,
        )


def check_texts(texts: Texts, features: Features, config: CheckConfig) -> list[Problem]:
    """Everything that must not stay as it is; empty for texts that may.

    Args:
        features: of the same cut. Where names of attributes are known, a summary may name only
            those of the parts that are known; with free phrases alone it is held to what they rule
            out.
    """
    if not config.enabled:
        return []
    known = _Known.of(features)
    found: list[tuple[str, str, str]] = []
    for rule, detail in _summary(texts.summary, known, features, config):
        found.append(("summary", rule, detail))
    for index, pair in enumerate(texts.pairs, start=1):
        for rule, detail in _pair(pair, known, features):
            found.append((f"pair {index}", rule, detail))
    for index, detail in _repeated(texts.pairs):
        found.append((f"pair {index}", "repeated", detail))
    return [
        Problem(cut_id=texts.cut_id, where=where, rule=rule, detail=detail)
        for where, rule, detail in found
    ]


def _summary(
    text: str, known: _Known, features: Features, config: CheckConfig
) -> Iterator[tuple[str, str]]:
    num_words = len(text.split())
    if num_words < config.min_summary_words:
        yield "too_short", f"{num_words} words, at least {config.min_summary_words} are needed"
    yield from _too_long(text, MAX_SUMMARY_WORDS)
    yield from _manner(text, known)
    yield from _contradictions(text, known)
    yield from _wrong_gender(text, features)
    for name in read_attributes(text).asserted:
        attribute = VOCABULARY[name]
        if (
            attribute.group in known.groups
            and name not in known.present
            and name not in known.ruled_out  # said already
        ):
            yield "unsupported", f"says {attribute.phrase!r}, which is not among the features"


def _pair(pair: Pair, known: _Known, features: Features) -> Iterator[tuple[str, str]]:
    for text, what, most in (
        (pair.question, "question", MAX_QUESTION_WORDS),
        (pair.answer, "answer", MAX_ANSWER_WORDS),
    ):
        if not text.strip():
            yield "empty", f"the {what} is empty"
        yield from _too_long(text, most)
        yield from _manner(text, known)
    if not pair.options:
        yield from _presupposed(pair.question, known)
    elif not any(_says(pair.answer, option) for option in pair.options):
        yield "choice", f"the answer names none of the options {', '.join(pair.options)}"
    yield from _contradictions(pair.answer, known)
    yield from _wrong_gender(pair.answer, features)


def _says(text: str, option: str) -> bool:
    return re.search(rf"\b{re.escape(option)}\b", text, re.IGNORECASE) is not None


def _too_long(text: str, most: int) -> Iterator[tuple[str, str]]:
    num_words = len(text.split())
    if num_words > most:
        yield "too_long", f"{num_words} words, at most {most} are wanted"


def _manner(text: str, known: _Known) -> Iterator[tuple[str, str]]:
    """What no text about a person says, whatever is seen."""
    if match := _LEAKAGE.search(text.replace("’", "'")):
        yield "leakage", f"says {match.group()!r}"
    for claim in demeaning_words(text):
        yield "demeaning", f"says {claim.word!r}"
    for claim in sociodemographic_claims(text, known.phrases):
        yield "sociodemographic", f"says {claim.word!r} ({claim.sort}), which nothing supports"


def _presupposed(question: str, known: _Known) -> Iterator[tuple[str, str]]:
    """ "Why is she sad?" says that she is; "Is she sad?" does not."""
    if question.strip().lower().startswith(("why", "what makes", "which visible", "what shows")):
        yield from _contradictions(question, known)


def _contradictions(text: str, known: _Known) -> Iterator[tuple[str, str]]:
    reading = read_attributes(text)
    for name in reading.asserted:
        if name in known.ruled_out:
            yield "contradiction", f"says {VOCABULARY[name].phrase!r}, which is ruled out"
    for name in reading.denied:
        if name in known.named and name not in reading.asserted:
            yield "contradiction", f"denies {VOCABULARY[name].phrase!r}, which is seen"
    if known.emotions:
        felt = ", ".join(sorted(known.emotions))
        emotions = read_emotions(text)
        for name in emotions.asserted:
            if name not in known.emotions:
                yield "contradiction", f"says {name}, but the emotion is {felt}"
        for name in emotions.denied:
            if name in known.emotions and name not in emotions.asserted:
                yield "contradiction", f"denies {name}, but the emotion is {felt}"


def _wrong_gender(text: str, features: Features) -> Iterator[tuple[str, str]]:
    """Where the subject is known, most words for a person are of the same gender."""
    subject = features.subject
    if subject == "person":
        subject = "man" if "male" in features.present else subject
        subject = "woman" if "male" in features.absent else subject
    tokens = re.findall(r"[a-z]+", text.lower())
    men, women = (sum(token in said for token in tokens) for said in (_MEN, _WOMEN))
    if (subject == "man" and women > men) or (subject == "woman" and men > women):
        yield "contradiction", f"speaks of another person than the {subject} in the clip"


def _repeated(pairs: Iterable[Pair]) -> Iterator[tuple[int, str]]:
    """Questions that an earlier pair asks in the same words."""
    seen: dict[str, int] = {}
    for index, pair in enumerate(pairs, start=1):
        key = " ".join(re.findall(r"\w+", pair.question.lower()))
        if key and seen.setdefault(key, index) != index:
            yield index, f"asks what pair {seen[key]} asks"
