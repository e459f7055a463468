"""Run the three progressive pre-training stages (FaVChat v4 §2.3), each from the one before."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import CheckpointError, ConfigError
from common.folders import claim
from corpus.config import CorpusConfig
from corpus.schema import load_samples
from policy.config import PolicyConfig
from sft.checkpoints import checkpoints_bytes
from sft.config import SftConfig
from sft.deepspeed_config import training_config
from sft.evaluation.records import EVALUATION_FILE, load_evaluation
from sft.evaluation.stage import evaluate_finished
from sft.finish import finish
from sft.fit import fit, start_policy, whole_policy
from sft.folders import (
    check_room,
    check_weights,
    clear_away,
    finished_fingerprint,
    partial_folder,
    writable,
)
from sft.plan import StagePlan, plan_stages, start_fingerprint
from sft.ranks import Ranks
from sft.scale import Scale
from sft.stages import check_stages, check_trainable

if TYPE_CHECKING:
    from policy.feature_cache import FeatureCache
    from policy.modeling import FaVChatForConditionalGeneration

logger = logging.getLogger(__name__)


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

    What a stage cannot do for want of samples or of evenly divided batches is found before the
    first one is trained. With ``sft.evaluate``, finished stages whose evaluation is missing,
    damaged or of other settings are evaluated again.

    Started by ``accelerate launch`` or ``torchrun``, this runs in every rank; they divide the
    batches, and the first of them evaluates and writes.

    Args:
        sft: recipe of the stages; results go to ``sft.output_dir/stage-N``.
        policy: the policy that stage 1 builds.
        corpus: where the samples are; the corpus must have been built.
        stages: consecutive stage numbers. When 1 is not among them, the stage before the first
            must be finished.

    Raises:
        ConfigError: for stages with a gap, a missing corpus, a split without samples, batches
            that the ranks cannot divide, several GPUs without a launcher, or more than one stage
            to train with DeepSpeed.
        CheckpointError: when the stage to start from is missing or damaged.
        SampleError: when too many of a stage's samples cannot be used.
        TrainingError: when a loss is not finite, its samples are named; or weights are not.
        MachineError: when the output folder cannot be written or its disk is too full.
    """
    numbers = check_stages(stages)
    _check_launched(sft)
    ranks = Ranks.join()
    samples = load_samples(Path(corpus.path) / "samples.jsonl")
    output_dir = Path(sft.output_dir)
    with _claimed(output_dir, ranks):
        start = start_fingerprint(output_dir, policy, numbers[0])
        plans = plan_stages(numbers, sft, samples, output_dir, start)
        left = ranks.on_main(lambda: [plan.number for plan in plans if not _is_finished(plan)])
        _check_left([plan for plan in plans if plan.number in left], sft, ranks)
        for plan in plans:
            if plan.number in left:
                later = [number for number in left if number >= plan.number]
                _run_stage(plan, sft, policy, ranks, left=later)
                continue
            logger.info("stage %d is finished: %s", plan.number, plan.folder)
            if sft.evaluate:
                cache = _feature_cache(policy)
                ranks.on_main(functools.partial(evaluate_finished, plan, sft, policy, cache))
        ranks.on_main(lambda: _report(output_dir))
    ranks.leave()
    return output_dir / f"stage-{numbers[-1]}"


def _check_launched(sft: SftConfig) -> None:
    import torch

    gpus = torch.cuda.device_count()
    if gpus > 1 and not Ranks.launched():
        raise ConfigError(
            f"{gpus} visible GPUs in a process without ranks",
            "a launcher starts one rank per GPU",
            f"start it with `torchrun --standalone --nproc-per-node {gpus} -m degrpo.cli sft ...`, "
            "or set CUDA_VISIBLE_DEVICES=0 to use one",
        )
    if sft.deepspeed and not Ranks.launched():
        raise ConfigError(
            f"sft.deepspeed={sft.deepspeed} in a process without ranks",
            "DeepSpeed divides a stage among the ranks that a launcher starts",
            "start it with `torchrun --standalone --nproc-per-node 8 -m degrpo.cli sft ...`",
        )
    if sft.deepspeed:
        training_config(Path(sft.deepspeed))  # says what is wrong with the file


def _check_left(left: Sequence[StagePlan], sft: SftConfig, ranks: Ranks) -> None:
    """Find what a stage cannot do before those ahead of it are trained."""
    if sft.deepspeed and len(left) > 1:
        first, *others = (str(plan.number) for plan in left)
        raise ConfigError(
            f"sft.deepspeed={sft.deepspeed} and stages {first}, {', '.join(others)} to train",
            "DeepSpeed keeps the memory that a stage took until its process ends",
            f"give `--stage {first}`, then {', then '.join(others)}",
        )
    scale = Scale(ranks=ranks.size, micro_batch_size=sft.micro_batch_size)
    for plan in left:
        scale.divide(plan.config.batch_size)


@contextlib.contextmanager
def _claimed(output_dir: Path, ranks: Ranks) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        ranks.on_main(lambda: stack.enter_context(claim(output_dir, "sft.output_dir")))
        yield


def _is_finished(plan: StagePlan) -> bool:
    finished = finished_fingerprint(plan.folder)
    if finished is not None and finished != plan.fingerprint:
        logger.warning(
            "stage %d in %s was made from another recipe, other data or another start: "
            "training it again",
            plan.number,
            plan.folder,
        )
    if finished != plan.fingerprint:
        return False
    clear_away(plan.folder)
    return True


def _feature_cache(policy: PolicyConfig) -> FeatureCache:
    from policy.feature_cache import FeatureCache

    return FeatureCache(max_bytes=int(policy.feature_cache_gib * 2**30))


def _run_stage(
    plan: StagePlan, sft: SftConfig, policy: PolicyConfig, ranks: Ranks, *, left: Sequence[int]
) -> None:
    began = time.monotonic()
    start = plan.start
    if start is not None:
        ranks.on_main(lambda: check_weights(start))
    model, processor = start_policy(plan, policy)
    for number in left:
        check_trainable(model, sft.stage(number), f"sft.stage_{number}")
    needed = _needed_bytes(sft, model, left)
    partial = partial_folder(plan.folder)
    ranks.on_main(lambda: check_room(plan.folder.parent, needed_bytes=needed, partial=partial))
    cache = _feature_cache(policy)
    fitted = fit(plan, sft, model, processor, cache, ranks)
    if sft.deepspeed and ranks.main:
        model, processor = whole_policy(plan, policy)
    ranks.on_main(lambda: finish(plan, sft, model, processor, cache, fitted, began=began))


def _needed_bytes(
    sft: SftConfig, model: FaVChatForConditionalGeneration, left: Sequence[int]
) -> int:
    """Room for the stages that are left: policies, and the checkpoints of one at a time."""
    size = sum(parameter.nbytes for parameter in model.parameters())
    needed = (len(left) + 1) * size
    if sft.checkpoint_every:
        needed += checkpoints_bytes(
            model, [sft.stage(number) for number in left], deepspeed=bool(sft.deepspeed)
        )
    return needed


def _report(output_dir: Path) -> None:
    """A table over the finished stages that were evaluated, beside their folders."""
    from sft.evaluation.report import write_report

    evaluations = {}
    for number in (1, 2, 3):
        folder = output_dir / f"stage-{number}"
        if not (folder / EVALUATION_FILE).is_file():
            continue
        try:
            evaluations[f"stage {number}"] = load_evaluation(folder)
        except CheckpointError as error:
            logger.warning("stage %d is left out of the table: %s", number, error)
    if evaluations:
        with writable(output_dir):
            path = write_report(output_dir, evaluations)
        logger.info("held-out questions: %s", path)
