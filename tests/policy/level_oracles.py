"""What the levels compute, written down a second time: plain formulas in float64, no modules."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """In float64, every weight drawn anew: gains and biases that start at 1 and 0 matter, too."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype) / 3)
    return module.requires_grad_(False)


def part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights below ``prefix``, without it."""
    start = prefix + "."
    return {name[len(start) :]: x for name, x in weights.items() if name.startswith(start)}


def linear(x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    y = torch.einsum("...i,oi->...o", x, weights["weight"])
    return y + weights["bias"] if "bias" in weights else y


def layer_norm(x: Tensor, weights: Mapping[str, Tensor], eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    deviation = (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    return centred / deviation * weights["weight"] + weights["bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.special.erf(x / math.sqrt(2)))


def waves(position: float) -> list[float]:
    angles = [position * 100 ** (-k / 16) for k in range(16)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


def visual_tokens(maps: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """Tokens [T·h·w, D] of one clip's maps [T, C, h, w], one after the other."""
    frames, _, rows, columns = maps.shape
    tokens = []
    for t in range(frames):
        for r in range(rows):
            for c in range(columns):
                where = waves(t) + waves((r + 0.5) / rows * 16) + waves((c + 0.5) / columns * 16)
                place = linear(torch.tensor(where, dtype=maps.dtype), part(weights, "position"))
                feature = layer_norm(maps[t, :, r, c], part(weights, "norm"))
                tokens.append(linear(feature, part(weights, "projection")) + place)
    return torch.stack(tokens)


def cross_attention(x: Tensor, tokens: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """Queries [Lq, D] over tokens [N, D] in heads of 32; leave masked tokens out beforehand."""
    keys = layer_norm(tokens, part(weights, "key_norm"))
    queries = linear(layer_norm(x, part(weights, "query_norm")), part(weights, "query"))
    heads = []
    for first in range(0, x.shape[-1], 32):
        head = slice(first, first + 32)
        k = linear(keys, part(weights, "key"))[:, head]
        v = linear(keys, part(weights, "value"))[:, head]
        scores = torch.einsum("qd,nd->qn", queries[:, head], k) / math.sqrt(32)
        shares = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
        heads.append(torch.einsum("qn,nd->qd", shares, v))
    attended = layer_norm(torch.cat(heads, dim=-1), part(weights, "output_norm"))
    return x + linear(attended, part(weights, "output"))
