"""Visual rows relative to those of other clips: what all clips share says nothing about one."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

SLOWEST = 0.02
"""Weight of the newest batch in the running statistics; larger for the first fifty."""

SMALLEST_VARIANCE = 1e-8


class RunningStandardisation(nn.Module):
    """Centre and scale every component of every row by its mean and spread over clips.

    Rows of untrained Q-Formers are nearly the same for all clips: the clip accounts for one part in
    fifty of their power, and for less while a stage learns what all answers share. Relative to the
    running mean and spread over clips and questions, the clip is what there is.

    Statistics are running means, constants to the gradient, and follow the rows wherever what is
    before this module learns: where gradients flow back through it. Elsewhere it is fixed.

    Args:
        num_rows: Q, rows of a clip.
        width: H, their width.
    """

    mean: Tensor
    square: Tensor
    num_batches: Tensor

    def __init__(self, num_rows: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_rows, width))
        self.register_buffer("square", torch.ones(num_rows, width))
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.int64))

    def forward(self, rows: Float[Tensor, "B Q H"]) -> Float[Tensor, "B Q H"]:
        if torch.is_grad_enabled() and rows.requires_grad:
            self._follow(rows.detach())
        variance = (self.square - self.mean**2).clamp(min=SMALLEST_VARIANCE)
        return ((rows - self.mean) * variance.rsqrt()).to(rows.dtype)

    @torch.no_grad()
    def _follow(self, rows: Tensor) -> None:
        self.num_batches += 1
        weight = (1 / self.num_batches).clamp(min=SLOWEST).to(self.mean)
        self.mean.lerp_(rows.mean(dim=0).to(self.mean), weight)
        self.square.lerp_((rows**2).mean(dim=0).to(self.square), weight)

    def reset_parameters(self) -> None:
        """Forget the statistics: rows pass as they are until some are followed."""
        nn.init.zeros_(self.mean)
        nn.init.ones_(self.square)
        nn.init.zeros_(self.num_batches)
