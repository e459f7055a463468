"""``degrpo model``: what a recipe's policy is made of, without building it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.console import say
from degrpo.config import TrainConfig
from policy.freezing import Phase, trainable_parts
from policy.parameter_table import PartCount, Training, count_parameters, format_table

if TYPE_CHECKING:
    from policy.modeling import FaVChatForConditionalGeneration

RL = "RL"
BYTES_PER_WEIGHT = {"float32": 4, "bfloat16": 2}


def print_model(config: TrainConfig) -> None:
    """The parameter table of a recipe's policy, and what a clip becomes on its way through it.

    The policy is built on PyTorch's meta device: shapes without values, so that a 7B model takes
    seconds and no memory, and neither weights nor a network.

    Raises:
        ConfigError: for parts that do not exist or do not fit each other.
    """
    from policy.build import build_policy_on_meta

    model = build_policy_on_meta(config.policy)
    phases = training_phases(config)
    counts = [*count_parameters(model, phases), _critic(model, phases)]
    say(f"{config.policy.language_model} with {' and '.join(_encoder_names(config))}\n")
    say(format_table(counts, phases))
    say(f"\n{_legend(config, phases)}\n")
    for line in clip_shapes(model, config):
        say(line)
    weights = sum(count.total for count in counts) * BYTES_PER_WEIGHT[config.policy.dtype]
    say(f"weights: {weights / 2**30:.1f} GiB in {config.policy.dtype}")


def training_phases(config: TrainConfig) -> dict[str, Training]:
    """What learns in each phase of a recipe."""
    phases = {}
    for number in (1, 2, 3):
        stage = config.sft.stage(number)
        phases[f"stage {number}"] = Training(
            parts=tuple(stage.trainable), lora_rank=stage.lora_rank or 0
        )
    parts = trainable_parts(config.sft.freeze_table, Phase.RL)
    return {**phases, RL: Training(parts=parts, lora_rank=config.learner.lora_rank)}


def clip_shapes(model: FaVChatForConditionalGeneration, config: TrainConfig) -> list[str]:
    """What one clip becomes: frames, tokens of each stream, visual rows; a line each.

    Args:
        model: on the meta device.
    """
    policy = config.policy
    options = {
        "general": (policy.general_encoder, policy.general_encoder_options),
        "facial": (policy.facial_encoder, policy.facial_encoder_options),
    }
    lines = [f"a clip: {policy.num_frames} frames, sampling={policy.sampling}"]
    for stream in model.encoders:
        maps = _meta_maps(model, stream, *options[stream], num_frames=policy.num_frames)
        grids = ", ".join(f"{m.shape[3]}×{m.shape[4]}×{m.shape[2]}" for m in maps)
        tokens = " / ".join(f"{m.shape[1] * m.shape[3] * m.shape[4]:,}" for m in maps)
        lines.append(f"  {stream}: maps {grids} a frame; {tokens} tokens a clip")
    rows, width = model.config.num_visual_rows, model.config.text_config.hidden_size
    lines.append(f"  language model: {rows} visual rows, {width} wide")
    return lines


def _meta_maps(  # type: ignore[no-untyped-def]
    model: FaVChatForConditionalGeneration, stream, name: str, options, *, num_frames: int
):
    import numpy as np
    import torch

    from policy.encoders import find_encoder

    encoder = find_encoder(name)
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    (pixels,) = encoder.prepare([image], encoder.Options.of(options))
    clip = torch.empty(1, num_frames, *pixels.shape, device="meta", dtype=model.dtype)
    return model.encode_frames(stream, clip)


def _critic(model: FaVChatForConditionalGeneration, phases: dict[str, Training]) -> PartCount:
    import torch

    from degrpo.learner.critic import ValueCritic

    with torch.device("meta"):
        critic = ValueCritic(model.config.text_config.hidden_size)
    total = sum(parameter.numel() for parameter in critic.parameters())
    trainable = {phase: total if phase == RL else 0 for phase in phases}
    return PartCount(part="value_critic", total=total, trainable=trainable)


def _encoder_names(config: TrainConfig) -> list[str]:
    names = [config.policy.general_encoder]
    return names + [config.policy.facial_encoder] * (config.policy.facial_source == "facial")


def _legend(config: TrainConfig, phases: dict[str, Training]) -> str:
    adapters = [
        f"{phase}: LoRA of rank {training.lora_rank}"
        for phase, training in phases.items()
        if training.lora_rank and "language_model" in training.parts
    ]
    return f"– is frozen; freeze table {config.sft.freeze_table}; {', '.join(adapters)}"
