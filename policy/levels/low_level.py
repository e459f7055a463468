"""Low level: from the facial pyramid to what the facial Q-Former reads (FaVChat v4 §2.1).

Every variant takes the same inputs and gives tokens in the shared width D with their mask.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor, nn

from policy.levels.attention import CrossAttention, XavierLinear
from policy.levels.tokens import VisualTokens, token_mask


class TextQuery(nn.Module):
    """Module 1: text attends to stage 1. Module l: the output of l-1 attends to stage l.

    Returns one token per word of the prompt, [B, Lt, D], and the text's mask: what the face shows
    about each word. Words and attended values are normalised to one scale: raw word embeddings
    (spread .06) drown in what is attended, all words become alike, and a few steps of Adam make all
    clips alike, too.
    """

    def __init__(
        self, *, text_width: int, stage_channels: Sequence[int], general_channels: int, width: int
    ) -> None:
        super().__init__()
        self.text_norm = nn.LayerNorm(text_width)
        self.text = XavierLinear(text_width, width)
        self.stages = nn.ModuleList(VisualTokens(channels, width) for channels in stage_channels)
        self.attention = nn.ModuleList(CrossAttention(width) for _ in stage_channels)
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        text: Float[Tensor, "B Lt W"],
        text_mask: Bool[Tensor, "B Lt"],
        stages: Sequence[Float[Tensor, "B T C h w"]],
        frame_mask: Bool[Tensor, "B T"],
        general: Float[Tensor, "B T C h w"],
    ) -> tuple[Float[Tensor, "B Lt D"], Bool[Tensor, "B Lt"]]:
        words = self.text(self.text_norm(text))
        for tokens_of, attention, maps in zip(self.stages, self.attention, stages, strict=True):
            tokens = tokens_of(maps)
            words = attention(words, tokens, token_mask(frame_mask, tokens))
        return self.norm(words) * text_mask.unsqueeze(-1), text_mask


class FinalTextQuery(TextQuery):
    """The ablation without the chain: text attends to the last stage alone."""

    def __init__(
        self, *, text_width: int, stage_channels: Sequence[int], general_channels: int, width: int
    ) -> None:
        super().__init__(
            text_width=text_width,
            stage_channels=stage_channels[-1:],
            general_channels=general_channels,
            width=width,
        )

    def forward(
        self,
        text: Float[Tensor, "B Lt W"],
        text_mask: Bool[Tensor, "B Lt"],
        stages: Sequence[Float[Tensor, "B T C h w"]],
        frame_mask: Bool[Tensor, "B T"],
        general: Float[Tensor, "B T C h w"],
    ) -> tuple[Float[Tensor, "B Lt D"], Bool[Tensor, "B Lt"]]:
        return super().forward(text, text_mask, stages[-1:], frame_mask, general)


class VisualQuery(nn.Module):
    """FaVChat v1, Eq. 2: the facial tokens of the last stage query the general ones.

    Returns the facial tokens, [B, N, D], each with what the whole picture says about it, and their
    mask. The prompt is not asked.
    """

    def __init__(
        self, *, text_width: int, stage_channels: Sequence[int], general_channels: int, width: int
    ) -> None:
        super().__init__()
        self.facial = VisualTokens(stage_channels[-1], width)
        self.general = VisualTokens(general_channels, width)
        self.attention = CrossAttention(width)
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        text: Float[Tensor, "B Lt W"],
        text_mask: Bool[Tensor, "B Lt"],
        stages: Sequence[Float[Tensor, "B T C h w"]],
        frame_mask: Bool[Tensor, "B T"],
        general: Float[Tensor, "B T C h w"],
    ) -> tuple[Float[Tensor, "B N D"], Bool[Tensor, "B N"]]:
        facial, whole = self.facial(stages[-1]), self.general(general)
        tokens = self.attention(facial, whole, token_mask(frame_mask, whole))
        return self.norm(tokens), token_mask(frame_mask, tokens)


class FinalStage(nn.Module):
    """The ablation without the low level: the coarsest facial tokens go on as they are."""

    def __init__(
        self, *, text_width: int, stage_channels: Sequence[int], general_channels: int, width: int
    ) -> None:
        super().__init__()
        self.stage = VisualTokens(stage_channels[-1], width)
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        text: Float[Tensor, "B Lt W"],
        text_mask: Bool[Tensor, "B Lt"],
        stages: Sequence[Float[Tensor, "B T C h w"]],
        frame_mask: Bool[Tensor, "B T"],
        general: Float[Tensor, "B T C h w"],
    ) -> tuple[Float[Tensor, "B N D"], Bool[Tensor, "B N"]]:
        tokens = self.stage(stages[-1])
        return self.norm(tokens), token_mask(frame_mask, tokens)


LOW_LEVELS: dict[
    str, type[TextQuery] | type[FinalTextQuery] | type[VisualQuery] | type[FinalStage]
] = {
    "text_query": TextQuery,
    "final_cross_attention": FinalTextQuery,
    "visual_query": VisualQuery,
    "none": FinalStage,
}
