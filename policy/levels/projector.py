"""The last step to the language model: one linear map per stream, both weighted, at its scale."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Projector(nn.Module):
    """Both streams to the language model's width H, summed with the high level's weights.

    The result is normalised to ``scale``, the spread of the language model's own word embeddings,
    so that visual rows neither drown nor vanish among words before they are trained.
    """

    def __init__(self, width: int, hidden_size: int, scale: float) -> None:
        super().__init__()
        self.general = nn.Linear(width, hidden_size)
        self.facial = nn.Linear(width, hidden_size)
        self.norm = ScaledLayerNorm(hidden_size, scale)

    def forward(
        self,
        general: Float[Tensor, "B Q W"],
        facial: Float[Tensor, "B Q W"],
        weights: Float[Tensor, "B 2"],
    ) -> Float[Tensor, "B Q H"]:
        share = weights[:, :, None, None]
        return self.norm(share[:, 0] * self.general(general) + share[:, 1] * self.facial(facial))


class ConcatProjector(nn.Module):
    """Both streams to the language model's width H, one after the other, the general rows first.

    Each is normalised to ``scale`` like the sum of :class:`Projector`, then multiplied by twice its
    weight, so that equal weights leave the scale as it is.
    """

    def __init__(self, width: int, hidden_size: int, scale: float) -> None:
        super().__init__()
        self.general = nn.Linear(width, hidden_size)
        self.facial = nn.Linear(width, hidden_size)
        self.general_norm = ScaledLayerNorm(hidden_size, scale)
        self.facial_norm = ScaledLayerNorm(hidden_size, scale)

    def forward(
        self,
        general: Float[Tensor, "B Q W"],
        facial: Float[Tensor, "B Q W"],
        weights: Float[Tensor, "B 2"],
    ) -> Float[Tensor, "B 2*Q H"]:
        streams = (
            self.general_norm(self.general(general)),
            self.facial_norm(self.facial(facial)),
        )
        share = 2 * weights[:, :, None, None]
        return torch.cat([share[:, 0] * streams[0], share[:, 1] * streams[1]], dim=1)


class ScaledLayerNorm(nn.LayerNorm):
    """A LayerNorm whose gain starts at ``scale``."""

    def __init__(self, width: int, scale: float) -> None:
        self.scale = scale
        super().__init__(width)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.constant_(self.weight, self.scale)


PROJECTORS: dict[str, type[Projector] | type[ConcatProjector]] = {
    "sum": Projector,
    "concat": ConcatProjector,
}
