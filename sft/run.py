"""Run the three progressive pre-training stages (FaVChat v4 §2.3), each from the one before."""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import CheckpointError, ConfigError
from common.folders import claim
from corpus.config import CorpusConfig
from corpus.schema import Sample, Split, load_samples
from policy.config import PolicyConfig
from sft.checkpoints import CheckpointWriter, checkpoints_bytes
from sft.collator import AnswerCollator
from sft.config import SftConfig, StageConfig
from sft.data import find_usable, refuse_too_many_skipped, rows, rows_with_swapped_clips
from sft.folders import (
    POLICY,
    check_room,
    clear_away,
    finished_fingerprint,
    open_partial,
    partial_folder,
    policy_fingerprint,
    publish,
    stage_fingerprint,
    training_fingerprint,
)
from sft.stages import check_stages, trainable

if TYPE_CHECKING:
    from policy.feature_cache import FeatureCache
    from policy.modeling import FaVChatForConditionalGeneration
    from policy.processing import FaVChatProcessor

logger = logging.getLogger(__name__)

CLIPS_IN_MEMORY = 64
"""A few MB each; the rest is read from the feature cache on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """One stage to train: where from, where to, on what."""

    number: int
    config: StageConfig
    folder: Path
    start: Path | None  # None: a new policy
    samples: list[Sample]
    held_out: list[Sample]
    fingerprint: str


def run_stages(
    sft: SftConfig,
    policy: PolicyConfig,
    corpus: CorpusConfig,
    stages: Sequence[int] = (1, 2, 3),
) -> Path:
    """Train the stages that are not finished yet and return the folder of the last one's policy.

    Stage 1 starts from ``policy.build.build_policy``, the others from the folder of the stage
    before. A finished stage is not repeated unless its recipe, its data or the stage before
    changed. A stage that was interrupted, by whatever, goes on from its last checkpoint, with the
    losses of a run that was not; on a CPU bit for bit.

    Args:
        sft: recipe of the stages; results go to ``sft.output_dir/stage-N``.
        policy: the policy that stage 1 builds.
        corpus: where the samples are; the corpus must have been built.
        stages: consecutive stage numbers. When 1 is not among them, the stage before the first
            must be finished.

    Raises:
        ConfigError: for stages with a gap, a missing corpus, or a split without samples.
        CheckpointError: when the stage to start from is missing or damaged.
        SampleError: when too many of a stage's clips cannot be decoded.
        TrainingError: when a loss is not finite; its samples are named.
        MachineError: when the output folder cannot be written or its disk is too full.
    """
    numbers = check_stages(stages)
    samples = load_samples(Path(corpus.path) / "samples.jsonl")
    output_dir = Path(sft.output_dir)
    with claim(output_dir, "sft.output_dir"):
        start = _start_fingerprint(output_dir, policy, numbers[0])
        for number in numbers:
            plan = _plan(number, sft, samples, output_dir, start)
            if _is_finished(plan):
                clear_away(plan.folder)
                logger.info("stage %d is finished: %s", number, plan.folder)
            else:
                _run_stage(plan, sft, policy, last=numbers[-1])
            start = plan.fingerprint
        _report(output_dir)
    return output_dir / f"stage-{numbers[-1]}"


def _start_fingerprint(output_dir: Path, policy: PolicyConfig, first: int) -> str:
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


def _plan(
    number: int, sft: SftConfig, corpus: Sequence[Sample], output_dir: Path, start: str
) -> _Plan:
    config = sft.stage(number)
    samples = [sample for sample in corpus if sample.split == config.split]
    held_out = [sample for sample in corpus if sample.split == Split.HELD_OUT]
    if not samples:
        raise ConfigError(
            f"sft.stage_{number}.split={config.split}",
            f"this corpus has {', '.join(sorted({s.split for s in corpus})) or 'no split'}",
            "name one of these, or build the corpus with that split",
        )
    return _Plan(
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


def _is_finished(plan: _Plan) -> bool:
    finished = finished_fingerprint(plan.folder)
    if finished is not None and finished != plan.fingerprint:
        logger.warning(
            "stage %d in %s was made from another recipe, other data or another start: "
            "training it again",
            plan.number,
            plan.folder,
        )
    return finished == plan.fingerprint


def _run_stage(plan: _Plan, sft: SftConfig, policy: PolicyConfig, *, last: int) -> None:
    from policy.build import build_policy
    from policy.checkpoints import load_policy, save_policy
    from policy.feature_cache import FeatureCache

    began = time.monotonic()
    model, processor = load_policy(plan.start) if plan.start else build_policy(policy)
    _check_room(plan, sft, model, last)
    cache = FeatureCache(max_bytes=int(policy.feature_cache_gib * 2**30))
    metrics = _train(plan, sft, model, processor, cache)
    if sft.evaluate and plan.held_out:
        metrics["evaluation"] = _evaluate(plan, sft, model, processor, cache, metrics["steps"])
    save_policy(model, processor, partial_folder(plan.folder) / POLICY)
    metrics["seconds"] = round(metrics["seconds"] + time.monotonic() - began, 1)
    publish(plan.folder, fingerprint=plan.fingerprint, stage=plan.number, metrics=metrics)
    logger.info("stage %d: %s", plan.number, json.dumps(metrics["train"]))


def _check_room(
    plan: _Plan, sft: SftConfig, model: FaVChatForConditionalGeneration, last: int
) -> None:
    left = range(plan.number, last + 1)
    size = sum(parameter.nbytes for parameter in model.parameters())
    needed = (len(left) + 1) * size
    if sft.checkpoint_every:
        needed += checkpoints_bytes(model, [sft.stage(number) for number in left])
    check_room(plan.folder.parent, needed_bytes=needed, partial=partial_folder(plan.folder))


def _train(
    plan: _Plan,
    sft: SftConfig,
    model: FaVChatForConditionalGeneration,
    processor: FaVChatProcessor,
    cache: FeatureCache,
) -> dict[str, Any]:
    """Train ``model`` in place and return the stage's metrics."""
    from transformers import set_seed

    from policy.features import FeatureExtractor
    from sft.trainer import StageTrainer

    set_seed(sft.seed)  # adapters start at random: the same whichever stages this run has done
    with trainable(model, plan.config):
        # Made once it is clear which encoders are frozen: those run once per clip, ever.
        read_clip = functools.lru_cache(CLIPS_IN_MEMORY)(FeatureExtractor(model, processor, cache))
        training = find_usable(plan.samples, read_clip, what=f"stage {plan.number}: reading clips")
        refuse_too_many_skipped(training, max_fraction=sft.max_skipped_fraction)
        held_out = find_usable(plan.held_out, read_clip, what="reading held-out clips")
        fingerprint = training_fingerprint(plan.fingerprint, training.samples)
        partial, checkpoint = open_partial(plan.folder, fingerprint=fingerprint)
        earlier = checkpoint.seconds if checkpoint else 0.0
        checkpoints = CheckpointWriter(
            partial, fingerprint=fingerprint, every=sft.checkpoint_every, seconds=earlier
        )
        trainer = StageTrainer(
            model,
            stage=plan.config,
            rows=rows(training.samples),
            collator=AnswerCollator([*plan.samples, *plan.held_out], processor, read_clip),
            tokenizer=processor.tokenizer,
            seed=sft.seed,
            folder=partial,
            tensorboard=sft.tensorboard,
            checkpoints=checkpoints,
        )
        if checkpoint:
            logger.info(
                "stage %d goes on from step %d: %s", plan.number, checkpoint.step, checkpoint.folder
            )
        trainer.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)
        seconds = checkpoints.seconds
        return {
            "stage": plan.number,
            "split": plan.config.split,
            "samples": len(training.samples),
            "skipped": {**training.skipped, **held_out.skipped},
            "steps": trainer.state.global_step,
            "epoch_losses": trainer.epoch_losses(),
            "train_seconds": round(seconds, 1),
            "seconds": earlier,  # of interrupted runs; the caller adds its own
            "train": trainer.measure(rows(training.samples)),
            "train_swapped_clips": trainer.measure(rows_with_swapped_clips(training.samples)),
            "held_out": trainer.measure(rows(held_out.samples)),
            "feature_cache": cache.metrics(),
        }


def _evaluate(
    plan: _Plan,
    sft: SftConfig,
    model: FaVChatForConditionalGeneration,
    processor: FaVChatProcessor,
    cache: FeatureCache,
    step: int,
) -> dict[str, float]:
    """Evaluate the trained stage on held-out samples, keep the whole of it, return its scores."""
    from policy.features import FeatureExtractor
    from sft.evaluation.measure import EvaluationOptions, evaluate
    from sft.evaluation.records import save_evaluation
    from sft.evaluation.report import scalars, write_tensorboard

    partial = partial_folder(plan.folder)
    read_clip = functools.lru_cache(CLIPS_IN_MEMORY)(FeatureExtractor(model, processor, cache))
    options = EvaluationOptions(
        batch_size=plan.config.batch_size, max_new_tokens=sft.max_answer_tokens
    )
    evaluation = evaluate(model, processor, read_clip, plan.held_out, options)
    save_evaluation(evaluation, partial)
    if sft.tensorboard:
        write_tensorboard(evaluation, partial / "tensorboard", step=step)
    return scalars(evaluation)


def _report(output_dir: Path) -> None:
    """A table over the finished stages that were evaluated, beside their folders."""
    from sft.evaluation.records import EVALUATION_FILE, load_evaluation
    from sft.evaluation.report import write_report

    folders = {f"stage {number}": output_dir / f"stage-{number}" for number in (1, 2, 3)}
    evaluations = {
        name: load_evaluation(folder)
        for name, folder in folders.items()
        if (folder / EVALUATION_FILE).is_file()
    }
    if evaluations:
        logger.info("held-out questions: %s", write_report(output_dir, evaluations))
