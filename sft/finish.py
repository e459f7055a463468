"""What follows a stage's training: its metrics, its evaluation, and its place on the disk."""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sft.config import SftConfig
from sft.data import Row, rows, rows_with_swapped_clips
from sft.fit import CLIPS_IN_MEMORY, Fitted
from sft.folders import POLICY, partial_folder, publish
from sft.plan import StagePlan

if TYPE_CHECKING:
    from policy.feature_cache import FeatureCache
    from policy.modeling import FaVChatForConditionalGeneration
    from policy.processing import FaVChatProcessor

logger = logging.getLogger(__name__)

T = TypeVar("T")


def finish(
    plan: StagePlan,
    sft: SftConfig,
    model: FaVChatForConditionalGeneration,
    processor: FaVChatProcessor,
    cache: FeatureCache,
    fitted: Fitted,
    *,
    began: float,
) -> None:
    """Measure a trained policy, and publish it as the finished stage.

    Args:
        model: the whole policy, without adapters.
        began: ``time.monotonic()`` when this process began with the stage.
    """
    from policy.checkpoints import save_policy

    metrics = _metrics(plan, sft, model, processor, cache, fitted)
    if sft.evaluate and fitted.held_out.samples:
        metrics["evaluation"] = _evaluate(plan, sft, model, processor, cache, fitted)
    save_policy(model, processor, partial_folder(plan.folder) / POLICY)
    metrics["seconds"] = round(fitted.earlier_seconds + time.monotonic() - began, 1)
    publish(plan.folder, fingerprint=plan.fingerprint, stage=plan.number, metrics=metrics)
    logger.info("stage %d: %s", plan.number, json.dumps(metrics["train"]))


def spread(samples: Sequence[T], at_most: int) -> list[T]:
    """``at_most`` of the samples, evenly spread over them; all of them for 0.

    Example:
        >>> spread("abcdef", 3)
        ['a', 'c', 'e']
    """
    if not at_most or len(samples) <= at_most:
        return list(samples)
    return [samples[index * len(samples) // at_most] for index in range(at_most)]


def _metrics(
    plan: StagePlan,
    sft: SftConfig,
    model: FaVChatForConditionalGeneration,
    processor: FaVChatProcessor,
    cache: FeatureCache,
    fitted: Fitted,
) -> dict[str, Any]:
    from policy.features import FeatureExtractor
    from sft.collator import AnswerCollator
    from sft.evaluation.measure import mean_scores

    trained_on = spread(fitted.training.samples, sft.max_evaluated)
    held_out = spread(fitted.held_out.samples, sft.max_evaluated)
    read_clip = functools.lru_cache(CLIPS_IN_MEMORY)(FeatureExtractor(model, processor, cache))
    collate = AnswerCollator([*trained_on, *held_out], processor, read_clip)

    def measured(rows: Sequence[Row], what: str) -> dict[str, float] | None:
        scores = mean_scores(model, collate, rows, plan.config.batch_size, what=what)
        return scores and {name: round(value, 4) for name, value in scores.items()}

    return {
        "stage": plan.number,
        "split": plan.config.split,
        "samples": len(fitted.training.samples),
        "skipped": {**fitted.training.skipped, **fitted.held_out.skipped},
        "steps": fitted.steps,
        "epoch_losses": fitted.epoch_losses,
        "train_seconds": fitted.train_seconds,
        "train": measured(rows(trained_on), "losses"),
        "train_swapped_clips": measured(
            rows_with_swapped_clips(trained_on), "losses with other clips"
        ),
        "held_out": measured(rows(held_out), "held-out losses"),
        "feature_cache": cache.metrics(),
    }


def _evaluate(
    plan: StagePlan,
    sft: SftConfig,
    model: FaVChatForConditionalGeneration,
    processor: FaVChatProcessor,
    cache: FeatureCache,
    fitted: Fitted,
) -> dict[str, float]:
    """Evaluate the trained stage on held-out samples, keep the whole of it, return its scores."""
    from policy.features import FeatureExtractor
    from sft.evaluation.measure import EvaluationOptions, evaluate
    from sft.evaluation.records import Ablation, save_evaluation
    from sft.evaluation.report import scalars, write_tensorboard

    partial = partial_folder(plan.folder)
    read_clip = functools.lru_cache(CLIPS_IN_MEMORY)(FeatureExtractor(model, processor, cache))
    options = EvaluationOptions(
        batch_size=sft.evaluation_batch_size,
        max_new_tokens=sft.max_answer_tokens,
        ablations=tuple(Ablation(name) for name in sft.ablations),
    )
    samples = spread(fitted.held_out.samples, sft.max_evaluated)
    evaluation = evaluate(model, processor, read_clip, samples, options)
    save_evaluation(evaluation, partial)
    if sft.tensorboard:
        write_tensorboard(evaluation, partial / "tensorboard", step=fitted.steps)
    return scalars(evaluation)
