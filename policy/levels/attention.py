"""Cross-attention of a few queries to many visual tokens."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from common.errors import ConfigError

HEAD_WIDTH = 32


class CrossAttention(GradientCheckpointingLayer):
    """Pre-norm multi-head cross-attention with a residual: x + W LN(Attention(LN(x), LN(tokens))).

    The inner norm (NormFormer, Shleifer et al. 2021, arXiv:2110.09456, §2.1) keeps the average of
    thousands of tokens from being a whisper beside x. Scores are never stored as a matrix; with
    gradient checkpointing neither are keys and values.

    Raises:
        ConfigError: for a width that does not divide into heads of 32.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = max(1, width // HEAD_WIDTH)
        if width % self.num_heads:
            raise ConfigError(
                f"policy.shared_width={width}",
                f"attention divides it into heads of {HEAD_WIDTH}",
                f"set policy.shared_width={self.num_heads * HEAD_WIDTH}",
            )
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
