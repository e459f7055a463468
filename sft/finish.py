"""What follows a stage's training: its metrics, its evaluation, and its place on the disk."""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sft.config import SftConfig
from sft.data import Row, rows, rows_with_swapped_clips
from sft.evaluation.records import Evaluation
from sft.evaluation.stage import (
    can_evaluate,
    evaluate_stage,
    evaluation_metrics,
    keep_evaluation,
    spread,
)
from sft.finite import refuse_not_finite
from sft.fit import CLIPS_IN_MEMORY, Fitted
from sft.folders import POLICY, encode_metrics, partial_folder, publish, writable
from sft.plan import StagePlan

if TYPE_CHECKING:
    from policy.feature_cache import FeatureCache
    from policy.modeling import FaVChatForConditionalGeneration
    from policy.processing import ClipInputs, FaVChatProcessor

logger = logging.getLogger(__name__)


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

    Raises:
        TrainingError: when weights or losses are not finite; nothing is published then.
        MachineError: when the disk is full.
    """
    from policy.checkpoints import save_policy
    from policy.features import FeatureExtractor

    refuse_not_finite(
        model.state_dict(), what=f"stage {plan.number}", key=f"sft.stage_{plan.number}"
    )
    read_clip = functools.lru_cache(CLIPS_IN_MEMORY)(FeatureExtractor(model, processor, cache))
    evaluation = None
    usable = fitted.held_out.samples
    if sft.evaluate and can_evaluate(plan, usable):
        evaluation = evaluate_stage(sft, model, processor, read_clip, usable)
    metrics = _metrics(plan, sft, model, processor, read_clip, fitted, evaluation)
    metrics["feature_cache"] = cache.metrics()
    encode_metrics(metrics)  # refuses what is not finite before anything is written
    partial = partial_folder(plan.folder)
    with writable(partial):
        save_policy(model, processor, partial / POLICY)
        if evaluation is not None:
            keep_evaluation(evaluation, partial, step=fitted.steps, tensorboard=sft.tensorboard)
    metrics["seconds"] = round(fitted.earlier_seconds + time.monotonic() - began, 1)
    publish(plan.folder, fingerprint=plan.fingerprint, stage=plan.number, metrics=metrics)
    logger.info("stage %d: %s", plan.number, json.dumps(metrics["train"]))


def _metrics(
    plan: StagePlan,
    sft: SftConfig,
    model: FaVChatForConditionalGeneration,
    processor: FaVChatProcessor,
    read_clip: Callable[[str], ClipInputs],
    fitted: Fitted,
    evaluation: Evaluation | None,
) -> dict[str, Any]:
    from sft.collator import AnswerCollator
    from sft.evaluation.measure import mean_scores

    trained_on = spread(fitted.training.samples, sft.max_evaluated)
    held_out = spread(fitted.held_out.samples, sft.max_evaluated)
    collate = AnswerCollator([*trained_on, *held_out], processor, read_clip)

    def measured(rows: Sequence[Row], what: str) -> dict[str, float] | None:
        scores = mean_scores(model, collate, rows, plan.config.batch_size, what=what)
        return scores and {name: round(value, 4) for name, value in scores.items()}

    if evaluation is not None:
        on_held_out, num_held_out = evaluation_metrics(evaluation), len(evaluation.answers)
    else:
        num_held_out = len(held_out)
        on_held_out = {"held_out": measured(rows(held_out), "held-out losses")}
    return {
        "stage": plan.number,
        "split": plan.config.split,
        "samples": len(fitted.training.samples),
        "skipped": {**fitted.training.skipped, **fitted.held_out.skipped},
        "steps": fitted.steps,
        "epoch_losses": fitted.epoch_losses,
        "train_seconds": fitted.train_seconds,
        "measured": {"train": len(trained_on), "held_out": num_held_out},
        "train": measured(rows(trained_on), "losses"),
        "train_swapped_clips": measured(
            rows_with_swapped_clips(trained_on), "losses with other clips"
        ),
        **on_held_out,
    }
