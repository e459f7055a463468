"""What one stage is made from: its recipe, its samples, and where it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import CheckpointError, ConfigError
from corpus.schema import Sample, Split
from policy.config import PolicyConfig
from sft.config import SftConfig, StageConfig
from sft.folders import finished_fingerprint, policy_fingerprint, stage_fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """One stage to train: where from, where to, on what."""

    number: int
    config: StageConfig
    folder: Path
    start: Path | None  # None: a new policy
    samples: list[Sample]
    held_out: list[Sample]
    fingerprint: str


def start_fingerprint(output_dir: Path, policy: PolicyConfig, first: int) -> str:
    """What stage ``first`` starts from.

    Raises:
        CheckpointError: when the stage before is not finished.
    """
    if first == 1:
        return policy_fingerprint(policy)
    before = output_dir / f"stage-{first - 1}"
    fingerprint = finished_fingerprint(before)
    if fingerprint is None:
        raise CheckpointError(
            f"stages from {first} without {before}",
            "a stage starts from the one before",
            f"run the stages from {first - 1} on, or set sft.output_dir to where they are",
        )
    return fingerprint


def plan_stages(
    numbers: Sequence[int], sft: SftConfig, corpus: Sequence[Sample], output_dir: Path, start: str
) -> list[StagePlan]:
    """The plans of consecutive stages, the first of which starts from ``start``, a fingerprint.

    Raises:
        ConfigError: for a split without samples.
    """
    plans = []
    for number in numbers:
        plans.append(plan_stage(number, sft, corpus, output_dir, start))
        start = plans[-1].fingerprint
    return plans


def plan_stage(
    number: int, sft: SftConfig, corpus: Sequence[Sample], output_dir: Path, start: str
) -> StagePlan:
    """The plan of a stage that starts from ``start``, a fingerprint.

    Raises:
        ConfigError: for a split without samples.
    """
    config = sft.stage(number)
    samples = [sample for sample in corpus if sample.split == config.split]
    held_out = [sample for sample in corpus if sample.split == Split.HELD_OUT]
    if not samples:
        raise ConfigError(
            f"sft.stage_{number}.split={config.split}",
            f"this corpus has {', '.join(sorted({s.split for s in corpus})) or 'no split'}",
            "name one of these, or build the corpus with that split",
        )
    return StagePlan(
        number=number,
        config=config,
        folder=output_dir / f"stage-{number}",
        start=output_dir / f"stage-{number - 1}" if number > 1 else None,
        samples=samples,
        held_out=held_out,
        fingerprint=stage_fingerprint(
            config, seed=sft.seed, samples=samples, held_out=held_out, start=start
        ),
    )
