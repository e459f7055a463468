"""Questions and answers about a card, in five strata.

========== ================================================ ================================
stratum    question                                         answer
========== ================================================ ================================
trivial    says the answer itself                           true, and known without looking
learnable  about one large thing                            true, and to be seen
hard       about motion, a subtle thing, or three together  true, and to be seen
impossible about a part that is covered                     true, but nobody can see it
noisy      as a learnable one                               false
========== ================================================ ================================

The stratum stands in ``Pair.extra["stratum"]`` only.

Hard questions may also ask for the course of the emotion, whether it grows or fades: the one thing
that a clip played backwards answers differently. ``Pair.extra["topic"]`` marks these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from common.errors import ConfigError
from corpus.attributes import VOCABULARY, Group
from corpus.cards.look import stream
from corpus.cards.spec import DERIVED, CardSpec
from corpus.cards.topics import (
    COURSE,
    COURSE_QUESTIONS,
    FADING,
    GROWING,
    TOPICS,
    Stratum,
    Topic,
)
from corpus.cards.truth import HIDDEN, Truth, truth
from corpus.records import Pair
from corpus.schema import FacialTargets, Level, QuestionKind

DEFAULT_SHARES: Mapping[str, float] = {
    Stratum.TRIVIAL: 0.15,
    Stratum.LEARNABLE: 0.4,
    Stratum.HARD: 0.2,
    Stratum.IMPOSSIBLE: 0.15,
    Stratum.NOISY: 0.1,
}


MAX_NAMED = 4  # so many things an answer names at most: short sentences
COURSE_SHARE = 0.5  # of the hard questions on a card whose emotion can be seen


def write_pairs(
    spec: CardSpec, strata: Sequence[Stratum], *, ask_course: bool = False
) -> tuple[Pair, ...]:
    """One question per entry of ``strata``, no topic twice while there are others.

    A card with nothing to ask in a stratum gives no pair for it: about one question in twenty,
    most often where a cover leaves little to be seen.

    Args:
        ask_course: a hard question asks for the course of a visible emotion with probability
            :data:`COURSE_SHARE`, at most once a card. Other strata keep their questions.
    """
    known = truth(spec)
    used: set[str] = set()
    pairs = []
    for number, stratum in enumerate(strata):
        rng = stream(spec.seed, f"question {number}")
        pair = None
        if ask_course and stratum == Stratum.HARD:
            pair = _course(spec, known, used, stream(spec.seed, f"course {number}"))
        pair = pair or _WRITERS[stratum](spec, known, used, rng)
        if pair is not None:
            pairs.append(pair)
    return tuple(pairs)


def with_hidden(draw: Callable[[str], CardSpec], seed: int, index: int) -> CardSpec | None:
    """A card with a covered part that a question can ask for; None where no cover fits it.

    ``draw`` gives the card with a part hidden. Which of lower face and hair comes first is drawn
    without a look at the card, so that a cover does not tell what is below it.
    """
    parts = ["lower_face", "hair"]
    if np.random.default_rng([seed, index, 0xC0FE]).uniform() < 0.5:
        parts.reverse()
    for part in (*parts, "eyes"):
        spec = draw(part)
        if _hidden_topics(spec, truth(spec)):
            return spec
    return None


def draw_strata(
    seed: int, index: int, count: int, shares: Mapping[str, float]
) -> tuple[Stratum, ...]:
    """Strata of the ``count`` questions of card ``index``; over many cards they keep ``shares``.

    Questions are numbered through all cards, and question n takes the stratum in which the n-th
    point of a golden-ratio sequence falls: any run of questions has nearly the wanted shares.

    Raises:
        ConfigError: for an unknown stratum, and for shares that do not sum to 1.
    """
    if unknown := sorted(shares.keys() - set(Stratum)):
        rule = f"strata are {', '.join(Stratum)}"
        raise ConfigError(f"strata {', '.join(unknown)}", rule, "name some of these")
    if min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        received = ", ".join(f"{name}={share}" for name, share in shares.items())
        raise ConfigError(f"strata {received}", "shares sum to 1", "change one of them")
    start = np.random.default_rng([seed, 0x5717A]).uniform()
    numbers = np.arange(index * count, (index + 1) * count)
    points = (start + numbers * 0.6180339887498949) % 1
    names = [Stratum(name) for name in shares]
    edges = np.cumsum([shares[name] for name in names])
    places = np.minimum(np.searchsorted(edges, points, side="right"), len(names) - 1)
    return tuple(names[place] for place in places)


def join(phrases: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    if len(phrases) < 2:
        return "".join(phrases)
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


# -- one writer per stratum -------------------------------------------------------------------


def _trivial(spec: CardSpec, known: Truth, used: set[str], rng: np.random.Generator) -> Pair | None:
    """The question says what the answer is; only what can be seen is said."""
    options = [
        name
        for name in known.present
        if VOCABULARY[name].group == Group.APPEARANCE and name not in DERIVED  # "there is no beard"
    ]
    if not options:
        return None
    name = str(rng.choice(options))
    phrase = VOCABULARY[name].phrase
    question = _pick(
        rng,
        (
            f"The clip shows {phrase}. What does the clip show?",
            f"There is {phrase} here. What is there?"
            if not _plural(phrase)
            else f"There are {phrase} here. What is there?",
        ),
    )
    return _pair(question, f"The clip shows {phrase}.", (name,), Stratum.TRIVIAL)


def _learnable(
    spec: CardSpec, known: Truth, used: set[str], rng: np.random.Generator
) -> Pair | None:
    return _visible(known, used, rng, Stratum.LEARNABLE)


def _hard(spec: CardSpec, known: Truth, used: set[str], rng: np.random.Generator) -> Pair | None:
    """Every third one asks for three things at once, the others for motion or a subtle thing."""
    if rng.uniform() < 1 / 3:
        pair = _composed(known, used, rng)
        if pair is not None:
            return pair
    return _visible(known, used, rng, Stratum.HARD) or _composed(known, used, rng)


def _impossible(
    spec: CardSpec, known: Truth, used: set[str], rng: np.random.Generator
) -> Pair | None:
    topics = _hidden_topics(spec, known)
    if not topics:
        return None
    key = str(rng.choice(sorted(topics)))
    used.add(key)
    topic = TOPICS[key]
    return _ask(topic, topics[key], rng, Stratum.IMPOSSIBLE)


def _noisy(spec: CardSpec, known: Truth, used: set[str], rng: np.random.Generator) -> Pair | None:
    """The answer names another of the topic's alternatives, one that is seen not to hold."""
    topics = {
        key: wrong
        for key, topic in TOPICS.items()
        if topic.stratum == Stratum.LEARNABLE
        and _held(topic, known.present)
        and (wrong := [name for name in topic.names if name in known.absent])
    }
    key = _unused(topics, used, rng)
    if key is None:
        return None
    return _ask(TOPICS[key], [str(rng.choice(topics[key]))], rng, Stratum.NOISY)


_WRITERS: Mapping[
    Stratum, Callable[[CardSpec, Truth, set[str], np.random.Generator], Pair | None]
] = {
    Stratum.TRIVIAL: _trivial,
    Stratum.LEARNABLE: _learnable,
    Stratum.HARD: _hard,
    Stratum.IMPOSSIBLE: _impossible,
    Stratum.NOISY: _noisy,
}


def _course(spec: CardSpec, known: Truth, used: set[str], rng: np.random.Generator) -> Pair | None:
    """Whether a question is asked, and in which words, does not depend on the answer."""
    seen = spec.emotion != "neutral" and spec.emotion in known.present
    if not seen or COURSE in used or rng.uniform() >= COURSE_SHARE:
        return None
    used.add(COURSE)
    course = FADING if spec.fading else GROWING
    return Pair(
        question=_pick(rng, COURSE_QUESTIONS),
        answer=f"The expression is {course}.",
        targets=FacialTargets(action=(course,)),
        kind=QuestionKind.ACTION,
        level=Level.HIGH,
        options=(GROWING, FADING),
        extra={"stratum": Stratum.HARD.value, "topic": COURSE},
    )


# -- parts of them ----------------------------------------------------------------------------


def _held(topic: Topic, names: Sequence[str]) -> list[str]:
    return [name for name in topic.names if name in names]


def _visible(
    known: Truth, used: set[str], rng: np.random.Generator, stratum: Stratum
) -> Pair | None:
    topics = {
        key: held
        for key, topic in TOPICS.items()
        if topic.stratum == stratum and (held := _held(topic, known.present))
    }
    key = _unused(topics, used, rng)
    if key is None:
        return None
    return _ask(TOPICS[key], topics[key], rng, stratum)


def _hidden_topics(spec: CardSpec, known: Truth) -> dict[str, list[str]]:
    """Topics of which everything that could be the answer is covered."""
    covered = HIDDEN.get(spec.hidden or "", ())
    return {
        key: held
        for key, topic in TOPICS.items()
        if set(topic.names) <= set(covered) and (held := _held(topic, known.hidden))
    }


def _composed(known: Truth, used: set[str], rng: np.random.Generator) -> Pair | None:
    """Up to three of hair, things worn, lips, skin, beard and feeling, in one sentence."""
    parts = [
        (TOPICS[key], _held(TOPICS[key], known.present))
        for key in ("hair colour", "worn", "lips", "skin", "facial hair", "emotion")
    ]
    parts = [(topic, held) for topic, held in parts if held]
    if len(parts) < 2 or "composed" in used:
        return None
    used.add("composed")
    chosen = [parts[index] for index in sorted(rng.permutation(len(parts))[:3])]
    names = [held[0] for _, held in chosen]
    seen = [VOCABULARY[n].phrase for n in names if VOCABULARY[n].group == Group.APPEARANCE]
    felt = [VOCABULARY[n].phrase for n in names if VOCABULARY[n].group == Group.EMOTION]
    answer = (
        f"The clip shows {join(seen)}."
        if not felt
        else (f"The clip shows {join(seen)}, and the person looks {felt[0]}.")
    )
    question = _pick(
        rng, ("Describe the person in one sentence.", "Who is in the clip? Describe the person.")
    )
    targets = VOCABULARY.targets(names)
    return Pair(
        question=question,
        answer=answer,
        targets=targets,
        kind=QuestionKind.DESCRIPTION,
        level=Level.HIGH,
        extra={"stratum": Stratum.HARD.value},
    )


def _ask(topic: Topic, held: Sequence[str], rng: np.random.Generator, stratum: Stratum) -> Pair:
    named = tuple(held[:MAX_NAMED]) if topic.many else tuple(held[:1])
    answer = topic.answer.format(join([VOCABULARY[name].phrase for name in named]))
    return _pair(_pick(rng, topic.questions), answer, named, stratum)


def _pair(question: str, answer: str, names: tuple[str, ...], stratum: Stratum) -> Pair:
    kinds = {
        Group.APPEARANCE: QuestionKind.APPEARANCE,
        Group.EMOTION: QuestionKind.EMOTION,
        Group.ACTION: QuestionKind.ACTION,
    }
    levels = [VOCABULARY[name].level for name in names]
    return Pair(
        question=question,
        answer=answer,
        targets=VOCABULARY.targets(names),
        kind=kinds[VOCABULARY[names[0]].group],
        level=max(levels, key=list(Level).index),
        extra={"stratum": stratum.value},
    )


def _unused(
    topics: Mapping[str, Sequence[str]], used: set[str], rng: np.random.Generator
) -> str | None:
    """A topic that was not asked for yet, or any; None when there is none."""
    keys = sorted(topics.keys() - used) or sorted(topics)
    if not keys:
        return None
    key = str(rng.choice(keys))
    used.add(key)
    return key


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _plural(phrase: str) -> bool:
    return phrase.split()[0] not in ("a", "an", "no") and phrase.endswith("s")
