"""Run the three progressive pre-training stages (FaVChat v4 §2.3), each from the one before."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.errors import ConfigError
from common.folders import claim
from corpus.config import CorpusConfig
from corpus.schema import load_samples
from policy.config import PolicyConfig
from sft.checkpoints import checkpoints_bytes
from sft.config import SftConfig
from sft.deepspeed_config import training_config
from sft.finish import finish
from sft.fit import fit, start_policy, whole_policy
from sft.folders import check_room, clear_away, finished_fingerprint, partial_folder
from sft.plan import StagePlan, plan_stage, start_fingerprint
from sft.ranks import Ranks
from sft.stages import check_stages, check_trainable

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

    Started by ``accelerate launch`` or ``torchrun``, this runs in every rank; they divide the
    batches, and the first of them evaluates and writes.

    Args:
        sft: recipe of the stages; results go to ``sft.output_dir/stage-N``.
        policy: the policy that stage 1 builds.
        corpus: where the samples are; the corpus must have been built.
        stages: consecutive stage numbers. When 1 is not among them, the stage before the first
            must be finished.

    Raises:
        ConfigError: for stages with a gap, a missing corpus, a split without samples, or batches
            that the ranks cannot divide.
        CheckpointError: when the stage to start from is missing or damaged.
        SampleError: when too many of a stage's samples cannot be used.
        TrainingError: when a loss is not finite; its samples are named.
        MachineError: when the output folder cannot be written or its disk is too full.
    """
    numbers = check_stages(stages)
    _check_launched(sft)
    ranks = Ranks.join()
    samples = load_samples(Path(corpus.path) / "samples.jsonl")
    output_dir = Path(sft.output_dir)
    with _claimed(output_dir, ranks):
        start = start_fingerprint(output_dir, policy, numbers[0])
        for number in numbers:
            plan = plan_stage(number, sft, samples, output_dir, start)
            if ranks.on_main(functools.partial(_is_finished, plan)):
                logger.info("stage %d is finished: %s", number, plan.folder)
            else:
                _run_stage(plan, sft, policy, ranks, last=numbers[-1])
            start = plan.fingerprint
        ranks.on_main(lambda: _report(output_dir))
    return output_dir / f"stage-{numbers[-1]}"


def _check_launched(sft: SftConfig) -> None:
    if sft.deepspeed and not Ranks.launched():
        raise ConfigError(
            f"sft.deepspeed={sft.deepspeed} in a process without ranks",
            "DeepSpeed divides a stage among the ranks that a launcher starts",
            "start it with `torchrun --standalone --nproc-per-node 8 -m degrpo.cli sft ...`",
        )
    if sft.deepspeed:
        training_config(Path(sft.deepspeed))  # says what is wrong with the file


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


def _run_stage(
    plan: StagePlan, sft: SftConfig, policy: PolicyConfig, ranks: Ranks, *, last: int
) -> None:
    from policy.feature_cache import FeatureCache

    began = time.monotonic()
    model, processor = start_policy(plan, policy)
    for number in range(plan.number, last + 1):
        check_trainable(model, sft.stage(number), f"sft.stage_{number}")
    needed = _needed_bytes(plan, sft, model, last)
    partial = partial_folder(plan.folder)
    ranks.on_main(lambda: check_room(plan.folder.parent, needed_bytes=needed, partial=partial))
    cache = FeatureCache(max_bytes=int(policy.feature_cache_gib * 2**30))
    fitted = fit(plan, sft, model, processor, cache, ranks)
    if sft.deepspeed and ranks.main:
        model, processor = whole_policy(plan, policy)
    ranks.on_main(lambda: finish(plan, sft, model, processor, cache, fitted, began=began))


def _needed_bytes(plan: StagePlan, sft: SftConfig, model, last: int) -> int:
    """Room for this stage and those after it: policies, and the checkpoints of one at a time."""
    left = range(plan.number, last + 1)
    size = sum(parameter.nbytes for parameter in model.parameters())
    needed = (len(left) + 1) * size
    if sft.checkpoint_every:
        needed += checkpoints_bytes(model, [sft.stage(number) for number in left])
    return needed


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
