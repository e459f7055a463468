"""sim(y, targets) of FaVChat v4, Eq. 7: how much of what is asked for does a response say?

The paper names a sentence-embedding similarity and leaves its grain open. Two readings:

- ``phrase`` (default): claim by claim, calibrated, with a guard against opposites;
- ``sentence``: one cosine between the whole response and the joined targets, the literal reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from rewards.clauses import Clause, make_clause, split_clauses
from rewards.contrast import Readings, agreement, closed_family, hedging, readings
from rewards.embedding import Embedder

# Cosines of all-MiniLM-L6-v2 between a claim's content and a target phrase: 25 unrelated pairs lie
# under .37 nine times in ten, 30 paraphrases have the median .82 (docs/rewards.md).
UNRELATED_COSINE = 0.37
PARAPHRASE_COSINE = 0.82
RUN_ON_WORDS = (
    3  # a claim that contains a target and more words than this beside it is an enumeration
)
REPEAT_COSINE = 0.95  # two claims this close say the same thing


class Similarity(Protocol):
    """Scores responses against the target phrases of each part of the reward."""

    def __call__(
        self, responses: Sequence[str], targets: Sequence[Mapping[str, Sequence[str]]]
    ) -> list[dict[str, float]]:
        """For each response, a score in [0, 1] per part that has target phrases."""
        ...


class SentenceSimilarity:
    """The literal reading: cosine of the response and the joined target phrases, negatives as 0."""

    def __init__(self, embedder: Embedder) -> None:
        self._embed = embedder

    def __call__(
        self, responses: Sequence[str], targets: Sequence[Mapping[str, Sequence[str]]]
    ) -> list[dict[str, float]]:
        joined = [
            {part: ", ".join(_spaced(phrases)) for part, phrases in parts.items() if phrases}
            for parts in targets
        ]
        rows = _embedded(
            self._embed, [*responses, *(text for parts in joined for text in parts.values())]
        )
        return [
            {
                part: max(0.0, float(rows[response] @ rows[text])) if response.strip() else 0.0
                for part, text in parts.items()
            }
            for response, parts in zip(responses, joined, strict=True)
        ]


class PhraseSimilarity:
    """Recall of the target phrases, balanced against how many of the claims made they support.

    A part's recall is the mean, over its phrases, of the best-matching claim. Precision is the
    mean, over the response's claims, of the best-matching phrase of *any* part, so that a
    description is not punished for answering all of them; a claim made twice counts once. The
    score of a part is their harmonic mean: naming every attribute there is earns recall and loses
    precision. Naming labels that exclude each other ("happy or sad") divides the recall of the
    right one.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        unrelated: float = UNRELATED_COSINE,
        paraphrase: float = PARAPHRASE_COSINE,
    ) -> None:
        self._embed = embedder
        self._calibration = (unrelated, paraphrase)

    def __call__(
        self, responses: Sequence[str], targets: Sequence[Mapping[str, Sequence[str]]]
    ) -> list[dict[str, float]]:
        claims = [[_text(clause) for clause in split_clauses(response)] for response in responses]
        wanted = [
            {
                part: [_target(phrase) for phrase in phrases]
                for part, phrases in parts.items()
                if phrases
            }
            for parts in targets
        ]
        rows = _embedded(
            self._embed,
            [
                text.content
                for text in (*_flat(claims), *_flat(_flat([parts.values() for parts in wanted])))
            ],
        )
        return [self._score(said, parts, rows) for said, parts in zip(claims, wanted, strict=True)]

    def _score(
        self, claims: list[_Text], parts: Mapping[str, list[_Text]], rows: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        if not claims or not parts:
            return dict.fromkeys(parts, 0.0)
        hedged = hedging(
            [claim.readings for claim in claims],
            [phrase.readings for phrase in _flat(parts.values())],
        )
        match = {  # [claims, phrases] per part
            part: np.array(
                [[self._match(claim, phrase, rows) for phrase in phrases] for claim in claims]
            )
            for part, phrases in parts.items()
        }
        precision = _precision(
            claims, np.concatenate(list(match.values()), axis=1).max(axis=1), rows
        )
        return {
            part: _harmonic_mean(_recall(scores, parts[part], hedged), precision)
            for part, scores in match.items()
        }

    def _match(self, claim: _Text, phrase: _Text, rows: Mapping[str, np.ndarray]) -> float:
        """How far one claim says one target phrase, in [0, 1]."""
        allowed = agreement(claim.readings, phrase.readings)
        if allowed == 0.0:
            return 0.0
        if phrase.family is not None:
            said, meant = claim.readings[phrase.family], phrase.readings[phrase.family]
            if not set(said.asserted).isdisjoint(meant.asserted):
                return allowed  # the label itself, by whatever alias
        if claim.negated != phrase.negated:
            return 0.0
        if not claim.content or not phrase.content:
            return 0.0
        if (
            f" {phrase.content} " in f" {claim.content} "
            and claim.num_words - phrase.num_words <= RUN_ON_WORDS
        ):
            return allowed
        low, high = self._calibration
        return allowed * float(
            np.clip((rows[claim.content] @ rows[phrase.content] - low) / (high - low), 0.0, 1.0)
        )


SIMILARITIES: dict[str, type[PhraseSimilarity] | type[SentenceSimilarity]] = {
    "phrase": PhraseSimilarity,
    "sentence": SentenceSimilarity,
}


@dataclass(frozen=True, slots=True)
class _Text:
    content: str
    negated: bool
    readings: Readings
    family: int | None  # of a target phrase that is a closed label

    @property
    def num_words(self) -> int:
        return len(self.content.split())


def _text(clause: Clause) -> _Text:
    return _Text(clause.content, clause.negated, _readings(clause.text), None)


@lru_cache(maxsize=4096)
def _target(phrase: str) -> _Text:
    clause = make_clause(phrase)
    # A phrase of frame words only ("female") must not vanish: it is what was asked for.
    return _Text(
        clause.content or clause.text,
        clause.negated,
        _readings(clause.text),
        closed_family(clause.text),
    )


_readings = lru_cache(maxsize=16384)(readings)


def _recall(scores: np.ndarray, phrases: Sequence[_Text], hedged: Sequence[float]) -> float:
    """Mean over the phrases of the best claim, cut to its share where the response hedges."""
    best = scores.max(axis=0)
    for index, phrase in enumerate(phrases):
        for reading, share in zip(phrase.readings, hedged, strict=True):
            if reading.asserted:
                best[index] *= share
    return float(best.mean())


def _precision(claims: list[_Text], best: np.ndarray, rows: Mapping[str, np.ndarray]) -> float:
    """Mean of ``best`` over the claims that say something; a repeated claim or word counts once."""
    credits: list[float] = []
    earlier: list[np.ndarray] = []
    for claim, credit in zip(claims, best, strict=True):
        if not claim.content and credit == 0.0:
            continue  # "the man in the video": a frame, neither right nor wrong
        words = claim.content.split()
        repeated = bool(words) and any(
            float(rows[claim.content] @ row) >= REPEAT_COSINE for row in earlier
        )
        credits.append(
            0.0 if repeated else float(credit) * (len(set(words)) / len(words) if words else 1.0)
        )
        if words:
            earlier.append(rows[claim.content])
    return float(np.mean(credits)) if credits else 0.0


def _harmonic_mean(recall: float, precision: float) -> float:
    return 2 * recall * precision / (recall + precision) if recall + precision > 0 else 0.0


def _embedded(embed: Embedder, texts: Sequence[str]) -> dict[str, np.ndarray]:
    unique = [text for text in dict.fromkeys(texts) if text]
    return dict(zip(unique, embed(unique), strict=True)) if unique else {}


def _spaced(phrases: Sequence[str]) -> list[str]:
    return [phrase.replace("_", " ") for phrase in phrases]


def _flat(nested: Iterable[Iterable[Any]]) -> list[Any]:
    return [item for inner in nested for item in inner]
