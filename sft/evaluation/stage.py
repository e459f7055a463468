"""The evaluation of a stage: when it ends, or later when the one there does not serve."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from common.errors import CheckpointError
from corpus.ledger import write_atomically
from corpus.schema import Sample, Split
from policy.config import PolicyConfig
from sft.config import SftConfig
from sft.evaluation.records import Ablation, Evaluation, load_evaluation, save_evaluation
from sft.fit import CLIPS_IN_MEMORY
from sft.folders import METRICS, TENSORBOARD, check_weights, encode_metrics, writable
from sft.plan import StagePlan
from sft.ranks import this_device

if TYPE_CHECKING:
    from policy.feature_cache import FeatureCache
    from policy.modeling import FaVChatForConditionalGeneration
    from policy.processing import ClipInputs, FaVChatProcessor

logger = logging.getLogger(__name__)

T = TypeVar("T")


def spread(samples: Sequence[T], at_most: int) -> list[T]:
    """``at_most`` of the samples, evenly spread over them; all of them for 0.

    Example:
        >>> spread("abcdef", 3)
        ['a', 'c', 'e']
    """
    if not at_most or len(samples) <= at_most:
        return list(samples)
    return [samples[index * len(samples) // at_most] for index in range(at_most)]


def settings_of(sft: SftConfig) -> dict[str, Any]:
    """What an evaluation of the same policy on the same samples depends on.

    Example:
        >>> settings_of(SftConfig(ablations=["no_prompt"]))
        {'max_answer_tokens': 32, 'max_evaluated': 512, 'ablations': ['no_prompt']}
    """
    return {
        "max_answer_tokens": sft.max_answer_tokens,
        "max_evaluated": sft.max_evaluated,
        "ablations": sorted(sft.ablations),
    }


def can_evaluate(plan: StagePlan, usable: Sequence[Sample]) -> bool:
    """Whether there are held-out samples; the log warns of none.

    Args:
        usable: those of ``plan.held_out`` that can be used.
    """
    if not usable:
        logger.warning(
            "stage %d is not evaluated: none of the %d samples of the split %s can be used",
            plan.number,
            len(plan.held_out),
            Split.HELD_OUT,
        )
    return bool(usable)


def evaluate_stage(
    sft: SftConfig,
    model: FaVChatForConditionalGeneration,
    processor: FaVChatProcessor,
    read_clip: Callable[[str], ClipInputs],
    usable: Sequence[Sample],
) -> Evaluation:
    """Evaluate a stage's policy on those of ``usable`` that the recipe asks for."""
    from sft.evaluation.measure import EvaluationOptions, evaluate

    options = EvaluationOptions(
        batch_size=sft.evaluation_batch_size,
        max_new_tokens=sft.max_answer_tokens,
        ablations=tuple(Ablation(name) for name in sft.ablations),
    )
    samples = spread(usable, sft.max_evaluated)
    evaluation = evaluate(model, processor, read_clip, samples, options)
    return dataclasses.replace(evaluation, settings=settings_of(sft))


def evaluation_metrics(evaluation: Evaluation) -> dict[str, Any]:
    """What ``metrics.json`` says of an evaluation: the mean losses, and all scores."""
    from sft.evaluation.report import scalars

    found = evaluation.overall
    means = found and {"loss": found.loss.value, "token_accuracy": found.token_accuracy.value}
    return {
        "held_out": means and {name: round(value, 4) for name, value in means.items()},
        "evaluation": scalars(evaluation),
    }


def keep_evaluation(evaluation: Evaluation, folder: Path, *, step: int, tensorboard: bool) -> None:
    """Write an evaluation into a stage's folder, and its scores to TensorBoard.

    Args:
        step: optimiser steps of the stage.
    """
    from sft.evaluation.report import write_tensorboard

    if tensorboard:
        write_tensorboard(evaluation, folder / TENSORBOARD, step=step)
    save_evaluation(evaluation, folder)


def evaluate_finished(
    plan: StagePlan, sft: SftConfig, policy: PolicyConfig, cache: FeatureCache
) -> None:
    """Evaluate a finished stage whose evaluation is missing, damaged, or made otherwise.

    Raises:
        CheckpointError: when the stage is damaged.
        MachineError: when its folder cannot be written.
    """
    import torch

    from policy.checkpoints import load_policy
    from policy.features import FeatureExtractor

    reason = _why_evaluate(plan.folder, sft)
    if reason is None:
        return
    metrics = _load_metrics(plan.folder)
    usable = [sample for sample in plan.held_out if sample.sample_id not in metrics["skipped"]]
    if not can_evaluate(plan, usable):
        return
    logger.info("stage %d is finished and evaluated anew: %s", plan.number, reason)
    check_weights(plan.folder)
    model, processor = load_policy(plan.folder, dtype=getattr(torch, policy.dtype))
    extractor = FeatureExtractor(model.to(this_device()), processor, cache)
    read_clip = functools.lru_cache(CLIPS_IN_MEMORY)(extractor)
    evaluation = evaluate_stage(sft, model, processor, read_clip, usable)
    metrics["measured"] = metrics.get("measured", {}) | {"held_out": len(evaluation.answers)}
    text = encode_metrics(metrics | evaluation_metrics(evaluation))
    with writable(plan.folder):
        write_atomically(plan.folder / METRICS, text)
        keep_evaluation(
            evaluation, plan.folder, step=metrics["steps"], tensorboard=sft.tensorboard
        )  # last, as it says that all of this was done


def _why_evaluate(folder: Path, sft: SftConfig) -> str | None:
    """None when the evaluation in ``folder`` is the one that ``sft`` asks for."""
    try:
        made_with = load_evaluation(folder).settings
    except CheckpointError as error:
        return error.received
    wanted = settings_of(sft)
    return None if made_with == wanted else f"made with {made_with}, wanted {wanted}"


def _load_metrics(folder: Path) -> dict[str, Any]:
    try:
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        return {**metrics, "skipped": dict(metrics["skipped"]), "steps": int(metrics["steps"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / METRICS} that is missing or damaged ({error})",
            "a finished stage has metrics",
            f"delete {folder} and run the same command again: this stage is trained anew",
        ) from error
