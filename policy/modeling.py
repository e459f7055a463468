"""FaVChat as a ``transformers`` model: three prompt-query levels between pixels and answer.

pixels ── general encoder ─────────────────────────► general Q-Former ─┐
   └───── facial encoder ── low level (words query ─► facial Q-Former ─┤
                             the facial pyramid)                       ▼
prompt ── words ──┴──────────────┴─────────────────► weight adapters ─ Σ ─ projector ─ rows [Q, H]
                                                                              │
language model ◄── embeddings of the prompt, rows in place of <|video_pad|> ──┘
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from common.errors import ConfigError
from policy.configuration import FaVChatConfig
from policy.encoders.base import VisionEncoder
from policy.freezing import check_parts
from policy.input_checks import check_rows, needed, refuse_both, refuse_misspelt
from policy.vision import CLIP_INPUTS, VISION_INPUTS, Stream, VisionSide, VisualPrefix

__all__ = [
    "VISION_INPUTS",
    "FaVChatForConditionalGeneration",
    "FaVChatOutput",
    "Stream",
    "VisualPrefix",
]


@dataclass
class FaVChatOutput(CausalLMOutputWithPast):
    """A causal language model's output with the high level's weights (general, facial)."""

    stream_weights: Tensor | None = None


class FaVChatForConditionalGeneration(VisionSide, PreTrainedModel, GenerationMixin):
    """The FaVChat policy (FaVChat v4 §2.1).

    ``language_model`` is a plain causal language model of ``transformers``: adapters go on it, and
    it is what the sampler runs. Everything before it ends in :meth:`visual_prefix`.
    """

    config_class = FaVChatConfig
    config: FaVChatConfig
    main_input_name = "input_ids"
    base_model_prefix = "language_model"
    input_modalities = ("video", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(
        self, config: FaVChatConfig, language_model: PreTrainedModel | None = None
    ) -> None:
        """All parts with random weights.

        Args:
            language_model: takes the place of a random one of ``config.text_config``.

        Raises:
            ConfigError: when ``language_model`` is another than ``config.text_config`` describes.
        """
        super().__init__(config)
        self._build_vision(config)
        if language_model is None:
            language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.language_model = language_model
        _check_language_model(config, language_model)
        # Each part lies on one device: between their layers they hand over masks and positions.
        self._no_split_modules = [
            type(part).__name__ for part in self.children() if part is not language_model
        ]
        self.freeze_pretrained()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # The language model, the Q-Formers and Swin draw their own values; ours say theirs in
        # reset_parameters, through nn.init, which leaves tensors alone that were just loaded.
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As ``transformers`` has it, with what the constructor freezes frozen again."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.freeze_pretrained()
        return loaded

    def set_attn_implementation(
        self, attn_implementation: str | dict[str, str], *args: Any, **kwargs: Any
    ) -> None:
        """As ``transformers`` has it; both Q-Formers follow ``qformer_config``.

        They differ in width and so have configurations of their own, which ``transformers`` cannot
        find by looking for that one.
        """
        middle = self.middle_level
        chosen = attn_implementation
        if isinstance(chosen, dict):
            current = middle.general_qformer.config._attn_implementation
            chosen = chosen.get("qformer_config", current)
        chosen = middle.general_qformer.get_correct_attn_implementation(chosen)
        self.config.qformer_config._attn_implementation = chosen
        super().set_attn_implementation(attn_implementation, *args, **kwargs)
        for qformer in (middle.general_qformer, middle.facial_qformer):
            qformer.set_attn_implementation(chosen)

    def part_parameters(self, name: str) -> Iterator[nn.Parameter]:
        """Trainable parameters of a part; the Q-Formers' word embeddings stay frozen always.

        Args:
            name: key of :data:`policy.freezing.PARTS`; there may be no facial encoder.

        Raises:
            ConfigError: for another name.
        """
        check_parts([name])
        frozen = {id(table.weight) for table in self._word_embeddings()}
        part = getattr(self, name, None)
        if part is None:
            return
        encoder = isinstance(part, VisionEncoder)
        for parameter in part.trainable_parameters() if encoder else part.parameters():
            if id(parameter) not in frozen:
                yield parameter

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def get_decoder(self) -> nn.Module:
        return self.language_model.get_decoder()

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """As the language model does it; ``config.text_config`` follows."""
        embeddings = self.language_model.resize_token_embeddings(*args, **kwargs)
        self.config.text_config.vocab_size = self.language_model.config.vocab_size
        return embeddings

    def enable_input_require_grads(self) -> None:
        """Make the language model's word embeddings require gradients, and no other's.

        Swin's "input embeddings" are patches and their grid, which cannot.
        """
        self.language_model.enable_input_require_grads()

    def disable_input_require_grads(self) -> None:
        self.language_model.disable_input_require_grads()

    def embed_prompt(
        self, input_ids: Int[Tensor, "B L"], rows: Float[Tensor, "B Q H"] | None
    ) -> Float[Tensor, "B L H"]:
        """Word embeddings, with the n-th visual row at the n-th media placeholder of each prompt.

        Raises:
            PolicyInputError: for rows of another width or number than the placeholders take.
        """
        embeddings = self.get_input_embeddings()(input_ids)
        visual = input_ids == self.config.video_token_id
        check_rows(rows, visual, embeddings.shape[-1])
        if rows is None:
            return embeddings
        visual = visual.unsqueeze(-1).to(embeddings.device)
        return embeddings.masked_scatter(visual, rows.to(embeddings))

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "B L"] | None = None,
        attention_mask: Int[Tensor, "B L"] | None = None,
        labels: Int[Tensor, "B L"] | None = None,
        *,
        visual_rows: Float[Tensor, "B Q H"] | None = None,
        position_ids: Int[Tensor, "B L"] | None = None,
        inputs_embeds: Float[Tensor, "B L H"] | None = None,
        **kwargs: Any,
    ) -> FaVChatOutput:
        """Logits [B, L, V], and the loss when ``labels`` are given (-100 is left out).

        The clip comes as :data:`VISION_INPUTS` or as ``visual_rows`` encoded before, or lies with
        the prompt in ``inputs_embeds``; whatever else is passed goes to the language model.

        Raises:
            PolicyInputError: for inputs that are missing, come twice or do not fit.
        """
        vision = _take_vision(kwargs, visual_rows, inputs_embeds)
        weights = None
        if inputs_embeds is None:
            if visual_rows is None and vision:
                prefix = self.visual_prefix(**vision)
                visual_rows, weights = prefix.rows, prefix.stream_weights
            inputs_embeds = self.embed_prompt(needed("input_ids", input_ids), visual_rows)
        if position_ids is None and attention_mask is not None and attention_mask.dim() == 2:
            # The mask also covers what a cache holds.
            position_ids = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
            position_ids = position_ids[:, -inputs_embeds.shape[1] :]
        output = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=labels,
            **kwargs,
        )
        return FaVChatOutput(**output, stream_weights=weights)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Int[Tensor, "B L"] | None = None,
        attention_mask: Int[Tensor, "B L"] | None = None,
        *,
        inputs: Int[Tensor, "B L"] | None = None,
        visual_rows: Float[Tensor, "B Q H"] | None = None,
        **kwargs: Any,
    ) -> Int[Tensor, "B L+new"]:
        """Prompts [B, L] (padded on the left) with their continuations, as ``transformers`` does.

        The clip is encoded once; the language model alone does the generating. Settings that are
        not given are those of this model's ``generation_config``.

        Args:
            inputs: another name of ``input_ids``.

        Raises:
            PolicyInputError: for inputs that are missing, come twice or do not fit.
        """
        if inputs is not None:
            refuse_both(["inputs"], ["input_ids"] if input_ids is not None else [])
            input_ids = inputs
        refuse_both(["inputs_embeds"] if "inputs_embeds" in kwargs else [], ["input_ids"])
        input_ids = needed("input_ids", input_ids)
        vision = _take_vision(kwargs, visual_rows, None)
        if visual_rows is None and vision:
            visual_rows = self.visual_prefix(**vision).rows
        settings, kwargs = self._settings(kwargs)
        return self.language_model.generate(
            input_ids=input_ids,
            generation_config=settings,
            inputs_embeds=self.embed_prompt(input_ids, visual_rows),
            attention_mask=attention_mask,
            **kwargs,
        )

    def _settings(self, kwargs: dict[str, Any]) -> tuple[GenerationConfig, dict[str, Any]]:
        """How to generate, and what is left of ``kwargs``.

        ``transformers`` fills in lengths that nobody set, and counts them from the start of the
        prompt where they come with a configuration. They stay open here: the language model counts
        them from the prompt's end.
        """
        given = kwargs.pop("generation_config", None)
        sources = [vars(source) for source in (given, self.generation_config) if source is not None]
        settings, rest = self._prepare_generation_config(given, **kwargs)
        for name in ("max_length", "min_length"):
            if all(source.get(name) is None for source in (kwargs, *sources)):
                setattr(settings, name, None)
        return settings, {
            name: value for name, value in rest.items() if not hasattr(settings, name)
        }


def _take_vision(
    kwargs: dict[str, Any], visual_rows: Tensor | None, inputs_embeds: Tensor | None
) -> dict[str, Any]:
    """Remove and return the vision inputs that are there; refuse a clip in two forms."""
    taken = {name: kwargs.pop(name) for name in VISION_INPUTS if name in kwargs}
    refuse_misspelt(kwargs, VISION_INPUTS)
    vision = {name: value for name, value in taken.items() if value is not None}
    encoded = {"visual_rows": visual_rows, "inputs_embeds": inputs_embeds}
    given = [name for name, value in encoded.items() if value is not None]
    refuse_both(given, [name for name in CLIP_INPUTS if name in vision])
    refuse_both(given[:1], given[1:])
    return vision


def _check_language_model(config: FaVChatConfig, language_model: PreTrainedModel) -> None:
    described, own = config.text_config, language_model.config
    for name in ("model_type", "hidden_size", "vocab_size"):
        if getattr(described, name) != getattr(own, name):
            raise ConfigError(
                f"a language model with {name}={getattr(own, name)}",
                f"text_config says {getattr(described, name)}",
                "build FaVChatConfig with text_config=language_model.config",
            )
    if not 0 <= config.video_token_id < own.vocab_size:
        raise ConfigError(
            f"video_token_id={config.video_token_id}",
            f"the language model has {own.vocab_size} tokens",
            "add the media tokens with policy.language.add_media_tokens first",
        )
