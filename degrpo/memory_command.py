"""``degrpo model --memory``: what the three stages take on each rank, without weights or GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.console import say
from common.errors import ConfigError
from degrpo.config import TrainConfig
from sft.deepspeed_config import zero_stage
from sft.memory import MemoryEstimator, Plan, Sharding, format_memory, room, verdict
from sft.scale import Scale


def print_memory(
    config: TrainConfig,
    *,
    ranks: int,
    gib_per_rank: float,
    gradient_checkpointing: bool,
    question_tokens: int,
    answer_tokens: int,
    zero: int | None = None,
    deepspeed: Path | None = None,
) -> bool:
    """A table of memory per rank, and for each stage whether it fits; says what helps if not.

    Each rank takes ``sft.micro_batch_size`` clips at a time, or its share of a stage's batch. The
    recipe's own ``sft.gradient_checkpointing`` counts, too.

    Args:
        ranks: GPUs in all.
        gib_per_rank: memory of one GPU.
        question_tokens: of the longest prompt, template included, visual rows not.
        answer_tokens: of the longest answer.
        zero: 0, 2 or 3; None takes the stage of ZeRO from ``deepspeed``.
        deepspeed: a DeepSpeed config, read as training reads it; None takes ``sft.deepspeed``.
            Without any, nothing is sharded, as in training.

    Returns:
        Whether every stage fits as it is.

    Raises:
        ConfigError: for numbers that cannot be, batches that the ranks cannot divide, parts
            that do not exist, and a DeepSpeed config that training would refuse.
    """
    from policy.build import build_policy_on_meta
    from sft.memory_step import StepShape

    if question_tokens < 1 or answer_tokens < 1:
        raise ConfigError(
            f"{question_tokens} question tokens, {answer_tokens} answer tokens",
            "both have at least one",
            "leave them out for the defaults",
        )
    usable = room(gib_per_rank)
    model = build_policy_on_meta(config.policy)
    if zero is None:
        path = deepspeed or config.sft.deepspeed
        width, bf16 = model.config.text_config.hidden_size, config.policy.dtype == "bfloat16"
        zero = zero_stage(Path(path), hidden_size=width, bf16=bf16) if path else 0
    sharding = Sharding(ranks=ranks, zero=zero)
    scale = Scale(ranks=ranks, micro_batch_size=config.sft.micro_batch_size)
    clips = {n: scale.divide(config.sft.stage(n).batch_size)[0] for n in (1, 2, 3)}
    estimate = MemoryEstimator(model)
    plans = {}
    for number, batch_size in clips.items():
        stage = config.sft.stage(number)
        shape = StepShape(
            batch_size=batch_size,
            num_frames=config.policy.num_frames,
            question_tokens=question_tokens,
            answer_tokens=answer_tokens,
            gradient_checkpointing=gradient_checkpointing or config.sft.gradient_checkpointing,
        )
        plans[f"stage {number}"] = Plan(stage=stage, shape=shape, sharding=sharding)
    memories = {name: estimate(plan) for name, plan in plans.items()}
    say(_heading(config, list(plans.values())) + "\n")
    say(format_memory(memories) + "\n")
    for name, memory in memories.items():
        remedy = None if memory.total <= usable else estimate.remedy(plans[name], room=usable)
        say(verdict(name, memory, remedy, gib_per_rank=gib_per_rank))
    return all(memory.total <= usable for memory in memories.values())


def _heading(config: TrainConfig, plans: Sequence[Plan]) -> str:
    shape, (ranks, zero) = plans[0].shape, (plans[0].sharding.ranks, plans[0].sharding.zero)
    clips = "/".join(str(plan.shape.batch_size) for plan in plans)
    checkpointing = "with" if shape.gradient_checkpointing else "without"
    return (
        f"GiB on each of {ranks} rank{'s' * (ranks > 1)}: "
        f"{f'ZeRO {zero}' if zero else 'no sharding'}, {config.policy.dtype}, "
        f"{checkpointing} gradient checkpointing;\n"
        f"{clips} clips at a time in stages 1/2/3, {config.policy.num_frames} frames, "
        f"{shape.question_tokens} tokens of question, {shape.answer_tokens} of answer"
    )
