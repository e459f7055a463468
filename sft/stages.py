"""Which stages run, and which parts of the policy each one gives gradients to."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from common.errors import ConfigError
from policy.freezing import ENCODERS, train_only
from sft.config import StageConfig

if TYPE_CHECKING:
    from policy.modeling import FaVChatForConditionalGeneration

logger = logging.getLogger(__name__)


def check_stages(numbers: Sequence[int]) -> tuple[int, ...]:
    """The stages to run, in order.

    Raises:
        ConfigError: for none, for one outside 1 to 3, or for a gap, since every stage starts from
            the one before.
    """
    wanted = tuple(sorted(set(numbers)))
    if not wanted or wanted[0] < 1 or wanted[-1] > 3 or len(wanted) != wanted[-1] - wanted[0] + 1:
        raise ConfigError(
            f"stages={list(numbers)}",
            "stages are consecutive numbers from 1 to 3",
            "run, say, stages 1 2 3",
        )
    return wanted


@contextmanager
def trainable(
    model: FaVChatForConditionalGeneration, stage: StageConfig, *, merge: bool = True
) -> Iterator[None]:
    """Give gradients to the stage's parts alone while the block runs.

    With ``lora_rank`` the language model learns through adapters on all its linear layers but the
    output layer; they are merged on leaving, so that what the stage saves is a plain policy.

    Args:
        merge: False leaves them where they are, for weights that are in pieces.
    """
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    adapters_alone = {"language_model"} if stage.lora_rank else set()
    train_only(model, (part for part in stage.trainable if part not in adapters_alone))
    adapted = _add_adapters(model, stage.lora_rank) if stage.lora_rank else None
    try:
        yield
        if adapted is not None and merge:
            model.language_model = adapted.merge_and_unload()
    finally:
        for parameter, needed in before:
            parameter.requires_grad_(needed)


@contextmanager
def learning_in_float32(model: FaVChatForConditionalGeneration) -> Iterator[None]:
    """Hold what learns in float32 while the block runs, and in its own dtype afterwards.

    In bfloat16 a weight has 8 bits: an update below 1/256 of it is lost, and nearly all are. The
    forward runs under autocast, so that matrices are multiplied in bfloat16 all the same. Frozen
    layer norms that may follow what learns are held likewise: CPUs refuse to mix dtypes there.
    """
    from torch import nn

    chosen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for name, part in model.named_children():
        if name not in ENCODERS:
            norms = (module for module in part.modules() if isinstance(module, nn.LayerNorm))
            chosen += [parameter for norm in norms for parameter in norm.parameters()]
    dtypes = {parameter: parameter.dtype for parameter in chosen}
    for parameter in dtypes:
        parameter.data = parameter.data.float()
    try:
        yield
    finally:
        for parameter, dtype in dtypes.items():
            parameter.data = parameter.data.to(dtype)


def check_trainable(model: FaVChatForConditionalGeneration, stage: StageConfig, key: str) -> None:
    """Make sure that a stage trains something; parts that this policy lacks are named in the log.

    Args:
        key: the recipe's field that names the stage, for the messages.

    Raises:
        ConfigError: when the policy lacks all of the stage's parts.
    """
    missing = [part for part in stage.trainable if not list(model.part_parameters(part))]
    if len(missing) == len(stage.trainable):
        raise ConfigError(
            f"{key} that trains {', '.join(stage.trainable)}",
            "these parts have no parameters in this policy: options such as policy.gate=static, "
            "policy.low_level=none and policy.facial_source=general leave them out",
            f"name another part in {key}.trainable",
        )
    if missing:
        logger.info("%s: this policy has no %s to train", key, " and no ".join(missing))


def _add_adapters(model: FaVChatForConditionalGeneration, rank: int):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    # Wrapping swaps the linear layers of the language model in place; the policy keeps its own
    # reference to it, so that nothing around the language model notices.
    return get_peft_model(model.language_model, config)
