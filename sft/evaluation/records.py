"""What an evaluation finds, as data that survives JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from common.errors import CheckpointError
from corpus.ledger import write_atomically

EVALUATION_FILE = "evaluation.json"


class Part(StrEnum):
    """What a sample's targets ask for; the parts of the facial reward (FaVChat v4, Eq. 7)."""

    ATTRIBUTES = "attributes"
    EMOTION = "emotion"
    ACTION = "action"


class Ablation(StrEnum):
    """What is taken from the policy while the loss on the same answers is measured again."""

    SWAPPED_CLIPS = "swapped_clips"  # each question about another sample's clip
    REVERSED_FRAMES = "reversed_frames"  # the last frame first; on questions about actions
    SHUFFLED_FRAMES = "shuffled_frames"  # the same permutation of all clips; likewise
    NO_PROMPT = "no_prompt"  # no prompt-query level reads the question, the language model does
    NO_PROMPT_LOW = "no_prompt_low"  # one level alone does not read it
    NO_PROMPT_MIDDLE = "no_prompt_middle"
    NO_PROMPT_HIGH = "no_prompt_high"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A ratio over held-out clips with its 95% bootstrap interval.

    Example: 31 of 50 answers right:
        >>> Estimate(value=0.62, low=0.48, high=0.76, count=50)
    """

    value: float
    low: float | None  # None with fewer than two clips
    high: float | None
    count: int  # what the ratio is per: answers, tokens, names or targets


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReading:
    """Which of the things asked for an answer names.

    Example: asked for brown hair and a beard, "She has brown hair, no beard, and a hat.":
        >>> PartReading(right=("brown hair",), wrong=("a hat",), missed=("facial hair",))
    """

    right: tuple[str, ...] = ()  # asked for and named
    wrong: tuple[str, ...] = ()  # named, but neither asked for nor in the gold answer
    missed: tuple[str, ...] = ()  # asked for and not named, or named and denied

    @property
    def exact(self) -> bool:
        return not (self.wrong or self.missed)

    @property
    def silent(self) -> bool:
        """Nothing of this part was named."""
        return not (self.right or self.wrong)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRecord:
    """One question, what the policy said, and what was read out of it.

    Example:
        >>> AnswerRecord(
        ...     sample_id="3f9c2b7a10de44c1", video="/data/mini/clips/single_face-000-035.mp4",
        ...     kind="emotion", level="high", stratum=None,
        ...     question="What emotion does this person show?", gold="The person looks happy.",
        ...     answer="The person looks sad.", truncated=False, loss=4.5, num_correct=5,
        ...     num_tokens=6, readings={"emotion": PartReading(wrong=("sad",), missed=("happy",))})
    """

    sample_id: str
    video: str
    kind: str | None
    level: str | None
    stratum: str | None  # of difficulty, where the corpus has them (face cards)
    question: str
    gold: str
    answer: str  # greedy
    truncated: bool  # it was cut at max_new_tokens
    loss: float  # nats over the gold answer's tokens, summed
    num_correct: int  # gold tokens that were the most likely one
    num_tokens: int
    readings: Mapping[str, PartReading]  # by Part; only those that the targets ask for


@dataclass(frozen=True, slots=True, kw_only=True)
class PartScores:
    """How well the answers name what was asked for.

    Example:
        >>> half = Estimate(value=0.5, low=0.0, high=1.0, count=2)
        >>> PartScores(num_answers=2, accuracy=half, precision=half, recall=half, f1=half,
        ...            constant_answer=0.5, num_silent=0)
    """

    num_answers: int  # whose targets have this part
    accuracy: Estimate  # answers that name all that was asked for and nothing wrong
    precision: Estimate | None  # of what was named, the share that was asked for; None: no names
    recall: Estimate  # of what was asked for, the share that was named
    f1: Estimate  # harmonic mean of the two, 2 right / (2 right + wrong + missed)
    constant_answer: float  # accuracy of the best answer that is the same for every question
    num_silent: int  # answers that name nothing of this part


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One set of answers: all, a level's, or a kind's.

    ``parts`` holds "attributes", "emotion", "action" and, over all three, "facts", as far as the
    answers' targets have them.

    Example:
        >>> Scores(num_answers=120, num_clips=40, num_truncated=2,
        ...        loss=Estimate(value=0.71, low=0.66, high=0.77, count=960),
        ...        token_accuracy=Estimate(value=0.81, low=0.79, high=0.83, count=960), parts={})
    """

    num_answers: int
    num_clips: int
    num_truncated: int
    loss: Estimate  # nats per answer token
    token_accuracy: Estimate
    parts: Mapping[str, PartScores]


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationScores:
    """The loss without something, and how much that costs, on the same answers.

    Example:
        >>> AblationScores(
        ...     num_answers=120, loss=Estimate(value=1.9, low=1.7, high=2.1, count=960),
        ...     loss_increase=Estimate(value=1.2, low=1.0, high=1.4, count=960),
        ...     token_accuracy=Estimate(value=0.55, low=0.51, high=0.59, count=960))
    """

    num_answers: int
    loss: Estimate  # nats per answer token
    loss_increase: Estimate  # over the intact policy's; the interval is of the paired difference
    token_accuracy: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A policy on held-out samples.

    Example:
        >>> evaluation = evaluate(model, processor, extractor, held_out)
        >>> evaluation.levels["low"].parts["attributes"].f1.value
        0.48
        >>> evaluation.ablations["swapped_clips"].loss_increase.low > 0
        True
    """

    overall: Scores | None  # None when no sample could be used
    levels: Mapping[str, Scores]  # by corpus.schema.Level, in its order
    kinds: Mapping[str, Scores]  # by corpus.schema.QuestionKind, in its order
    strata: Mapping[str, Scores]  # by stratum of difficulty, in the order of their names
    ablations: Mapping[str, AblationScores]
    answers: tuple[AnswerRecord, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)  # sample_id -> reason
    settings: Mapping[str, Any] = field(default_factory=dict)  # what it was made with, as JSON

    def to_json(self) -> dict[str, Any]:
        """Plain mappings, lists and numbers; :meth:`from_json` reads them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Evaluation:
        """The evaluation that :meth:`to_json` wrote."""
        return cls(
            overall=None if row["overall"] is None else _scores(row["overall"]),
            levels={name: _scores(value) for name, value in row["levels"].items()},
            kinds={name: _scores(value) for name, value in row["kinds"].items()},
            strata={name: _scores(value) for name, value in row["strata"].items()},
            ablations={
                name: AblationScores(
                    num_answers=value["num_answers"],
                    **_estimates(value, "loss", "loss_increase", "token_accuracy"),
                )
                for name, value in row["ablations"].items()
            },
            answers=tuple(_answer(value) for value in row["answers"]),
            skipped=dict(row["skipped"]),
            settings=dict(row.get("settings", {})),
        )


def save_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write ``evaluation.json`` into an existing folder; atomic."""
    text = json.dumps(evaluation.to_json(), indent=1, ensure_ascii=False)
    write_atomically(folder / EVALUATION_FILE, text + "\n")


def load_evaluation(folder: Path) -> Evaluation:
    """What :func:`save_evaluation` wrote.

    Raises:
        CheckpointError: when it is missing or not an evaluation.
    """
    path = folder / EVALUATION_FILE
    try:
        return Evaluation.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} ({error})",
            "a finished stage has an evaluation that can be read",
            "run the same command with sft.evaluate=true: the stage is evaluated again",
        ) from error


def _scores(row: Mapping[str, Any]) -> Scores:
    parts = {name: _part_scores(value) for name, value in row["parts"].items()}
    return Scores(**{**row, **_estimates(row, "loss", "token_accuracy"), "parts": parts})


def _part_scores(row: Mapping[str, Any]) -> PartScores:
    return PartScores(**{**row, **_estimates(row, "accuracy", "precision", "recall", "f1")})


def _estimates(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: None if row[name] is None else Estimate(**row[name]) for name in names}


def _answer(row: Mapping[str, Any]) -> AnswerRecord:
    readings = {
        part: PartReading(**{name: tuple(phrases) for name, phrases in reading.items()})
        for part, reading in row["readings"].items()
    }
    return AnswerRecord(**{**row, "readings": readings})
