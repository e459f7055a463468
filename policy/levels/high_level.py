"""High level: the prompt decides how much each stream counts (FaVChat v4 §2.1)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from policy.levels.tokens import masked_mean

SCORE_WIDTH = 64
"""Hidden units of a weight adapter. Many small steps that agree move a wide one's score at once."""


class TextGate(nn.Module):
    """Two text-conditioned weight adapters, one scalar score each, and a softmax over the two."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.general = WeightAdapter(width)
        self.facial = WeightAdapter(width)

    def forward(
        self,
        general: Float[Tensor, "B Q W"],
        facial: Float[Tensor, "B Q W"],
        text: Float[Tensor, "B Lt W"],
        text_mask: Bool[Tensor, "B Lt"],
    ) -> Float[Tensor, "B 2"]:
        prompt = masked_mean(text, text_mask)
        scores = [self.general(general, prompt), self.facial(facial, prompt)]
        return torch.stack(scores, dim=-1).softmax(dim=-1)


class WeightAdapter(nn.Module):
    """A score for one stream from what it says on average and what the prompt asks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stream_norm, self.text_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.hidden = nn.Linear(2 * width, SCORE_WIDTH)
        self.score = nn.Linear(SCORE_WIDTH, 1)

    def forward(
        self, stream: Float[Tensor, "B Q W"], prompt: Float[Tensor, "B W"]
    ) -> Float[Tensor, " B"]:
        both = torch.cat([self.stream_norm(stream.mean(dim=1)), self.text_norm(prompt)], dim=-1)
        return self.score(nn.functional.gelu(self.hidden(both))).squeeze(-1)


class FeatureGate(nn.Module):
    """FaVChat v1's mixture: a score from each stream alone, whatever is asked, and a softmax."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.general = FeatureAdapter(width)
        self.facial = FeatureAdapter(width)

    def forward(
        self,
        general: Float[Tensor, "B Q W"],
        facial: Float[Tensor, "B Q W"],
        text: Float[Tensor, "B Lt W"],
        text_mask: Bool[Tensor, "B Lt"],
    ) -> Float[Tensor, "B 2"]:
        scores = [self.general(general), self.facial(facial)]
        return torch.stack(scores, dim=-1).softmax(dim=-1)


class FeatureAdapter(nn.Module):
    """A score for one stream from what it says on average."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stream_norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, SCORE_WIDTH)
        self.score = nn.Linear(SCORE_WIDTH, 1)

    def forward(self, stream: Float[Tensor, "B Q W"]) -> Float[Tensor, " B"]:
        hidden = nn.functional.gelu(self.hidden(self.stream_norm(stream.mean(dim=1))))
        return self.score(hidden).squeeze(-1)


class StaticGate(nn.Module):
    """The ablation: both streams count one half, whatever is asked."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(
        self,
        general: Float[Tensor, "B Q W"],
        facial: Float[Tensor, "B Q W"],
        text: Float[Tensor, "B Lt W"],
        text_mask: Bool[Tensor, "B Lt"],
    ) -> Float[Tensor, "B 2"]:
        return general.new_full((general.shape[0], 2), 0.5)


GATES: dict[str, type[TextGate] | type[FeatureGate] | type[StaticGate]] = {
    "text": TextGate,
    "feature": FeatureGate,
    "static": StaticGate,
}
