"""``degrpo model --memory``: what the three stages take on each rank, without weights or GPU."""

from __future__ import annotations

import math
from pathlib import Path

from common.console import say
from common.errors import ConfigError
from degrpo.config import TrainConfig
from sft.deepspeed_config import zero_stage
from sft.memory import MemoryEstimator, Plan, Sharding, format_memory, room, verdict


def print_memory(
    config: TrainConfig,
    *,
    ranks: int,
    zero: int,
    gib_per_rank: float,
    gradient_checkpointing: bool,
    question_tokens: int,
    answer_tokens: int,
    deepspeed: Path | None = None,
) -> bool:
    """A table of memory per rank, and for each stage whether it fits; says what helps if not.

    Each rank takes its share of a stage's batch, at least one clip.

    Args:
        ranks: GPUs in all.
        zero: 0, 2 or 3.
        gib_per_rank: memory of one GPU.
        question_tokens: of the longest prompt, template included, visual rows not.
        answer_tokens: of the longest answer.
        deepspeed: a DeepSpeed config; it is read as training reads it, and its stage of ZeRO takes
            the place of ``zero``.

    Returns:
        Whether every stage fits as it is.

    Raises:
        ConfigError: for numbers that cannot be, for parts that do not exist, and for a DeepSpeed
            config that training would refuse.
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
    if deepspeed is not None:
        width, bf16 = model.config.text_config.hidden_size, config.policy.dtype == "bfloat16"
        zero = zero_stage(deepspeed, hidden_size=width, bf16=bf16)
    sharding = Sharding(ranks=ranks, zero=zero)
    estimate = MemoryEstimator(model)
    plans = {}
    for number in (1, 2, 3):
        stage = config.sft.stage(number)
        shape = StepShape(
            batch_size=math.ceil(stage.batch_size / ranks),
            num_frames=config.policy.num_frames,
            question_tokens=question_tokens,
            answer_tokens=answer_tokens,
            gradient_checkpointing=gradient_checkpointing,
        )
        plans[f"stage {number}"] = Plan(stage=stage, shape=shape, sharding=sharding)
    memories = {name: estimate(plan) for name, plan in plans.items()}
    say(_heading(config, plans["stage 1"]) + "\n")
    say(format_memory(memories) + "\n")
    for name, memory in memories.items():
        remedy = None if memory.total <= usable else estimate.remedy(plans[name], room=usable)
        say(verdict(name, memory, remedy, gib_per_rank=gib_per_rank))
    return all(memory.total <= usable for memory in memories.values())


def _heading(config: TrainConfig, plan: Plan) -> str:
    ranks, zero = plan.sharding.ranks, plan.sharding.zero
    clips = "/".join(str(math.ceil(config.sft.stage(n).batch_size / ranks)) for n in (1, 2, 3))
    checkpointing = "with" if plan.shape.gradient_checkpointing else "without"
    return (
        f"GiB on each of {ranks} rank{'s' * (ranks > 1)}: "
        f"{f'ZeRO {zero}' if zero else 'no sharding'}, {config.policy.dtype}, "
        f"{checkpointing} gradient checkpointing;\n"
        f"{clips} clips at a time in stages 1/2/3, {config.policy.num_frames} frames, "
        f"{plan.shape.question_tokens} tokens of question, {plan.shape.answer_tokens} of answer"
    )
