"""The policy without something: the order of a clip's frames, or the prompt in its levels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from sft.evaluation.records import Ablation

if TYPE_CHECKING:
    from policy.modeling import FaVChatForConditionalGeneration
    from policy.processing import ClipInputs, FaVChatProcessor

_PROMPT_ARGUMENTS = {"low_level": 0, "middle_level": 0, "high_level": 2}
"""Where each level's forward takes the prompt; its mask comes next."""

UNPROMPTED: Mapping[Ablation, tuple[str, ...]] = {
    Ablation.NO_PROMPT: tuple(_PROMPT_ARGUMENTS),
    Ablation.NO_PROMPT_LOW: ("low_level",),
    Ablation.NO_PROMPT_MIDDLE: ("middle_level",),
    Ablation.NO_PROMPT_HIGH: ("high_level",),
}
"""The levels that do not read the question under an ablation."""


@contextmanager
def without_prompt(
    model: FaVChatForConditionalGeneration, processor: FaVChatProcessor, levels: tuple[str, ...]
) -> Iterator[None]:
    """Let ``levels`` read an empty question while the block runs; the language model reads it all.

    A level that does not look at the prompt by its recipe is not changed by this.
    """
    ids = torch.tensor([processor.query_tokens("")], device=model.device)

    def hook_of(place: int, *, embedded: bool) -> Any:
        def hook(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            prompt = model.middle_level.words(ids) if embedded else ids
            size = len(arguments[0])
            empty = prompt.expand(size, *prompt.shape[1:])
            mask = torch.ones(empty.shape[:2], dtype=torch.bool, device=empty.device)
            return (*arguments[:place], empty, mask, *arguments[place + 2 :])

        return hook

    with ExitStack() as stack:
        for level in levels:
            hook = hook_of(_PROMPT_ARGUMENTS[level], embedded=level != "middle_level")
            handle = getattr(model, level).register_forward_pre_hook(hook)
            stack.callback(handle.remove)
        yield


def frame_order(ablation: Ablation, num_frames: int) -> list[int]:
    """Which frame comes where under an ablation of the order of time.

    Example:
        >>> frame_order(Ablation.REVERSED_FRAMES, 4), frame_order(Ablation.SHUFFLED_FRAMES, 4)
        ([3, 2, 1, 0], [2, 0, 1, 3])
    """
    backwards = list(range(num_frames - 1, -1, -1))
    if ablation is Ablation.REVERSED_FRAMES:
        return backwards
    drawn = np.random.default_rng(0).permutation(num_frames).tolist()
    return drawn if drawn != sorted(drawn) else backwards  # a draw for two frames may move none


@torch.no_grad()
def reorder_frames(
    model: FaVChatForConditionalGeneration,
    processor: FaVChatProcessor,
    video: str,
    clip: ClipInputs,
    order: Sequence[int],
) -> ClipInputs:
    """``clip``, which is of ``video``, as it would be if its frames came in ``order``.

    Features of an encoder that sees one frame at a time are reordered as they are. Where frames
    attend to each other, the reordered pixels are encoded anew.

    Raises:
        VideoError: when ``video`` has to be read again and cannot be.
    """
    names = ("general_pixels", "facial_pixels", "general_features", "faces", "times")
    changes: dict[str, Any] = {
        name: value[list(order)] for name in names if (value := getattr(clip, name)) is not None
    }
    if clip.facial_features is not None:
        changes["facial_features"] = tuple(stage[list(order)] for stage in clip.facial_features)
    joint = [
        stream
        for stream, encoder in model.encoders.items()
        if encoder.joint_time and f"{stream}_features" in changes
    ]
    pixels = processor.prepare_clip(video, face_required=False) if joint else None
    for stream in joint:
        frames = getattr(pixels, f"{stream}_pixels")[list(order)]
        maps = model.encode_frames(stream, frames[None].to(model.device))
        stages = tuple(stage[0].cpu() for stage in maps)
        changes[f"{stream}_features"] = stages[0] if stream == "general" else stages
    return replace(clip, **changes)
