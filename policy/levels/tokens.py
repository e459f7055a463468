"""From feature maps to tokens that know their time and place, and masked means over tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from transformers.modeling_layers import GradientCheckpointingLayer

NUM_FREQUENCIES = 16
GRID_SPAN = 16.0
"""Rows and columns are measured in sixteenths of the image, so that all grids share one scale."""

FRAME_TIME_SPREAD = 0.02
"""Initial weights of the frame times that join published tokens: BERT's, for its positions."""


class VisualTokens(GradientCheckpointingLayer):
    """Feature maps of all frames to one sequence of tokens.

    Per-frame encoders see no time, and convolutions hardly see place: without the position added
    here, a clip and its reverse would give the same set of tokens. Features are normalised first
    (encoder outputs differ in scale from stage to stage).
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.projection = nn.Linear(channels, width)
        self.position = nn.Linear(3 * 2 * NUM_FREQUENCIES, width, bias=False)

    def forward(self, maps: Float[Tensor, "B T C h w"]) -> Float[Tensor, "B T*h*w D"]:
        _, frames, _, rows, columns = maps.shape
        tokens = self.projection(self.norm(maps.permute(0, 1, 3, 4, 2)))
        place = space_time_features(frames, rows, columns, device=tokens.device).to(tokens)
        return (tokens + self.position(place)).flatten(1, 3)


class PublishedTokens(nn.Module):
    """Feature maps of an encoder that sees time itself, as its published Q-Former read them.

    A LayerNorm (VideoChat2's ``vision_layernorm``) and nothing else. Long clips are encoded in
    windows and the encoder counts the frames of each from zero; ``windows`` adds the frame's place
    in the whole clip, or the order of the windows would be lost.
    """

    def __init__(self, channels: int, *, windows: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-12)
        self.time = FrameTime(channels) if windows else None

    def forward(self, maps: Float[Tensor, "B T C h w"]) -> Float[Tensor, "B T*h*w C"]:
        tokens = self.norm(maps.permute(0, 1, 3, 4, 2))
        if self.time is not None:
            tokens = tokens + self.time(maps.shape[1])[:, None, None]
        return tokens.flatten(1, 3)


class FrameTime(nn.Module):
    """A learned position for each frame index, small beside tokens of spread 1 when it starts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2 * NUM_FREQUENCIES, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=FRAME_TIME_SPREAD)

    def forward(self, frames: int) -> Float[Tensor, "T D"]:
        return _waves(_count(frames, self.weight.device)).to(self.weight) @ self.weight


def space_time_features(
    frames: int, rows: int, columns: int, *, device: torch.device | None = None
) -> Float[Tensor, "T h w F"]:
    """Sines and cosines of the frame index, the row and the column, [T, h, w, 6·frequencies]."""
    time = _waves(_count(frames, device))
    row = _waves((_count(rows, device) + 0.5) / rows * GRID_SPAN)
    column = _waves((_count(columns, device) + 0.5) / columns * GRID_SPAN)
    shape = (frames, rows, columns, -1)
    return torch.cat(
        [
            time[:, None, None].expand(shape),
            row[None, :, None].expand(shape),
            column[None, None].expand(shape),
        ],
        dim=-1,
    )


def _count(number: int, device: torch.device | None) -> Float[Tensor, " n"]:
    """0, 1, 2, … in float32: bfloat16 has no integers above 256."""
    return torch.arange(number, dtype=torch.float32, device=device)


def _waves(positions: Float[Tensor, " n"]) -> Float[Tensor, "n F"]:
    """Wavelengths from 2π to 2π·100 positions (Vaswani et al. 2017, §3.5, with a shorter base)."""
    exponents = _count(NUM_FREQUENCIES, positions.device) / NUM_FREQUENCIES
    angles = positions[:, None] * 100.0**-exponents
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def token_mask(frame_mask: Bool[Tensor, "B T"], tokens: Tensor) -> Bool[Tensor, "B T*h*w"]:
    """True at the tokens [B, T·h·w, D] of real frames."""
    return frame_mask.repeat_interleave(tokens.shape[1] // frame_mask.shape[1], dim=1)


def masked_mean(x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B D"]:
    """Mean over the tokens where ``mask`` is true; padding never counts."""
    weights = mask.to(x.dtype).unsqueeze(-1)
    return (x * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)


def shrink_maps(maps: Float[Tensor, "B T C h w"], side: int) -> Float[Tensor, "B T C h' w'"]:
    """Maps averaged down to at most ``side`` rows and columns; 0 leaves them as they are."""
    rows, columns = maps.shape[-2:]
    if not side or max(rows, columns) <= side:
        return maps
    pooled = adaptive_avg_pool2d(maps.flatten(0, 1), (min(rows, side), min(columns, side)))
    return pooled.unflatten(0, maps.shape[:2])
