"""Low level: the prompt's words query the facial pyramid, from fine to coarse (FaVChat v4 §2.1)."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from policy.levels.tokens import VisualTokens, token_mask

HEAD_WIDTH = 32


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


class CrossAttention(nn.Module):
    """Pre-norm multi-head cross-attention with a residual: x + W LN(Attention(LN(x), LN(tokens))).

    The inner norm (NormFormer, Shleifer et al. 2021, arXiv:2110.09456, §2.1) keeps the average of
    thousands of tokens from being a whisper beside x.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = max(1, width // HEAD_WIDTH)
        self.query_norm, self.key_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = XavierLinear(width, width)
        self.key, self.value = XavierLinear(width, width), XavierLinear(width, width)
        self.output_norm = nn.LayerNorm(width)
        self.output = XavierLinear(width, width)

    def forward(
        self,
        x: Float[Tensor, "B Lq D"],
        tokens: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"],
    ) -> Float[Tensor, "B Lq D"]:
        keys = self.key_norm(tokens)
        attended = F.scaled_dot_product_attention(
            self._heads(self.query(self.query_norm(x))),
            self._heads(self.key(keys)),
            self._heads(self.value(keys)),
            attn_mask=mask[:, None, None],
        )
        return x + self.output(self.output_norm(attended.transpose(1, 2).flatten(2)))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class XavierLinear(nn.Linear):
    """A linear map that keeps the spread of its input (PyTorch's default keeps 0.58 of it)."""

    def reset_parameters(self) -> None:
        nn.init.xavier_normal_(self.weight)
        nn.init.zeros_(self.bias)


LOW_LEVELS: dict[str, type[TextQuery] | type[FinalStage]] = {
    "text_query": TextQuery,
    "none": FinalStage,
}
