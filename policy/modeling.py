"""FaVChat as a ``transformers`` model: three prompt-query levels between pixels and answer.

pixels ── general encoder ─────────────────────────► general Q-Former ─┐
   └───── facial encoder ── low level (words query ─► facial Q-Former ─┤
                             the facial pyramid)                       ▼
prompt ── words ──┴──────────────┴─────────────────► weight adapters ─ Σ ─ projector ─ rows [Q, H]
                                                                              │
language model ◄── embeddings of the prompt, rows in place of <|video_pad|> ──┘
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from policy.configuration import FaVChatConfig
from policy.encoders import build_encoder
from policy.encoders.base import VisionEncoder
from policy.levels.high_level import GATES
from policy.levels.low_level import LOW_LEVELS
from policy.levels.middle_level import MiddleLevel
from policy.levels.projector import PROJECTORS
from policy.levels.tokens import shrink_maps

Stream = Literal["general", "facial"]

PARTS: dict[str, str] = {
    "general_encoder": "general_encoder",
    "facial_encoder": "facial_encoder",
    "low_level": "low_level",
    "middle_level": "middle_level",
    "high_level": "high_level",
    "projector": "projector",
    "language_model": "language_model",
}
"""Parts that training stages switch on and off: name -> attribute of the model."""

VISION_INPUTS = (
    "query_ids",
    "query_mask",
    "general_pixels",
    "facial_pixels",
    "general_features",
    "facial_features",
    "frame_mask",
)
"""The vision part of a batch: what :meth:`FaVChatForConditionalGeneration.visual_prefix` takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisualPrefix:
    """What the language model sees of a clip, in the light of a prompt."""

    rows: Float[Tensor, "B Q H"]
    stream_weights: Float[Tensor, "B 2"]  # general, facial; sums to 1


@dataclass
class FaVChatOutput(CausalLMOutputWithPast):
    """A causal language model's output with the high level's weights (general, facial)."""

    stream_weights: Tensor | None = None


class FaVChatForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """The FaVChat policy (FaVChat v4 §2.1).

    ``language_model`` is a plain causal language model of ``transformers``: adapters go on it, and
    it is what the sampler runs. Everything before it ends in :meth:`visual_prefix`.
    """

    config_class = FaVChatConfig
    config: FaVChatConfig
    main_input_name = "input_ids"
    base_model_prefix = "language_model"
    input_modalities = ("video", "text")
    _supports_sdpa = True

    def __init__(self, config: FaVChatConfig) -> None:
        super().__init__(config)
        general = build_encoder(config.general_encoder, config.general_encoder_options)
        self.general_encoder: VisionEncoder = general
        facial = general
        if config.facial_source == "facial":
            facial = build_encoder(config.facial_encoder, config.facial_encoder_options)
            self.facial_encoder: VisionEncoder = facial
        text_width = config.qformer_config.hidden_size
        self.low_level = LOW_LEVELS[config.low_level](
            text_width=text_width,
            stage_channels=facial.stage_channels[-1:]
            if facial is general
            else facial.stage_channels,
            general_channels=general.stage_channels[-1],
            width=config.shared_width,
        )
        self.middle_level = MiddleLevel(
            config.qformer_config,
            general_channels=general.stage_channels[-1],
            general_sees_time=general.joint_time,
            windows=config.frames_per_clip > 0,
            facial_width=config.shared_width,
            num_queries=config.num_queries,
            guided=config.middle_level == "text_guided",
        )
        self.high_level = GATES[config.gate](text_width)
        hidden_size = config.text_config.hidden_size
        self.projector = PROJECTORS[config.fusion](text_width, hidden_size, config.visual_scale)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.freeze_pretrained()
        self.post_init()

    def freeze_pretrained(self) -> None:
        """Encoders and word embeddings take no gradient.

        A stage that trains an encoder unfreezes its :meth:`part_parameters`. Loading replaces
        parameters, so that a loaded policy has to be frozen again (policy.checkpoints does).
        """
        for stream in self.encoders.values():
            stream.requires_grad_(False)
        for table in self._word_embeddings():
            table.requires_grad_(False)

    def _init_weights(self, module: nn.Module) -> None:
        # The language model and the Q-Formers draw their own values; ours use PyTorch's defaults.
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()

    def part_parameters(self, name: str) -> Iterator[nn.Parameter]:
        """Trainable parameters of one of :data:`PARTS`; the word embeddings stay frozen always."""
        frozen = {id(table.weight) for table in self._word_embeddings()}
        part = getattr(self, PARTS[name], None)  # there may be no facial encoder
        for parameter in () if part is None else part.parameters():
            if id(parameter) not in frozen:
                yield parameter

    def _word_embeddings(self) -> tuple[nn.Embedding, nn.Embedding]:
        middle = self.middle_level
        return (
            middle.general_qformer.get_input_embeddings(),
            middle.facial_qformer.get_input_embeddings(),
        )

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    @property
    def encoders(self) -> dict[Stream, VisionEncoder]:
        """The vision encoders by stream; no ``facial`` one under ``facial_source=general``."""
        names: tuple[Stream, ...] = ("general", "facial")
        found = {name: getattr(self, f"{name}_encoder", None) for name in names}
        return {name: encoder for name, encoder in found.items() if encoder is not None}

    def encode_frames(
        self,
        stream: Stream,
        pixels: Float[Tensor, "B T C H W"],
        frame_mask: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T C h w"], ...]:
        """Feature maps of one stream: the last map of the general encoder, the facial pyramid.

        Clips longer than ``config.frames_per_clip`` are encoded window by window. Where frames
        attend to each other, each clip is encoded without its padding.

        Args:
            frame_mask: False at padded frames, which come last; None when there are none.
        """
        encoder = self.encoders[stream]
        if frame_mask is None or not encoder.joint_time or bool(frame_mask.all()):
            maps = self._in_windows(encoder, pixels)
        else:
            lengths = frame_mask.sum(dim=1).tolist()
            clips = [
                self._in_windows(encoder, clip[None, :length])
                for clip, length in zip(pixels, lengths, strict=True)
            ]
            maps = tuple(
                pad_sequence([stage[0] for stage in stages], batch_first=True)
                for stages in zip(*clips, strict=True)
            )
        if stream == "general":
            return maps[-1:]
        return tuple(shrink_maps(stage, self.config.facial_grid) for stage in maps)

    def _in_windows(self, encoder: VisionEncoder, pixels: Tensor) -> tuple[Tensor, ...]:
        windows = pixels.split(self.config.frames_per_clip or pixels.shape[1], dim=1)
        maps = [encoder(window) for window in windows]
        return tuple(torch.cat(stages, dim=1) for stages in zip(*maps, strict=True))

    def visual_prefix(
        self,
        *,
        query_ids: Int[Tensor, "B Lt"],
        query_mask: Int[Tensor, "B Lt"],
        general_pixels: Float[Tensor, "B T C H W"] | None = None,
        facial_pixels: Float[Tensor, "B T C H W"] | None = None,
        general_features: Float[Tensor, "B T C h w"] | None = None,
        facial_features: Sequence[Float[Tensor, "B T C h w"]] | None = None,
        frame_mask: Bool[Tensor, "B T"] | None = None,
    ) -> VisualPrefix:
        """Encode clips in the light of their prompts.

        Each stream takes pixels, or the features of a frozen encoder (policy.features).

        Args:
            query_ids: the question in the Q-Former's tokens; ``query_mask`` is 0 at padding.
            frame_mask: False at padded frames; None when there are none.
        """
        if general_features is None:
            pixels = _needed(general_pixels)
            general_features = self.encode_frames("general", pixels, frame_mask)[-1]
        if self.config.facial_source == "general":
            facial_features = (general_features,)
        elif facial_features is None:
            facial_features = self.encode_frames("facial", _needed(facial_pixels), frame_mask)
        text_mask = query_mask.bool()
        if frame_mask is None:
            frame_mask = text_mask.new_ones(general_features.shape[:2])
        words = self.middle_level.words(query_ids)
        facial, facial_mask = self.low_level(
            words, text_mask, facial_features, frame_mask.bool(), general_features
        )
        general_rows, facial_rows = self.middle_level(
            query_ids, text_mask, general_features, frame_mask.bool(), facial, facial_mask
        )
        weights = self.high_level(general_rows, facial_rows, words, text_mask)
        rows = self.projector(general_rows, facial_rows, weights)
        return VisualPrefix(rows=rows, stream_weights=weights)

    def embed_prompt(
        self, input_ids: Int[Tensor, "B L"], rows: Float[Tensor, "B Q H"] | None
    ) -> Float[Tensor, "B L H"]:
        """Word embeddings, with the n-th visual row at the n-th media placeholder of each prompt.

        Raises:
            ValueError: when a prompt has another number of placeholders than rows.
        """
        embeddings = self.get_input_embeddings()(input_ids)
        visual = input_ids == self.config.video_token_id
        per_prompt = 0 if rows is None else rows.shape[1]
        if not bool((visual.sum(dim=1) == per_prompt).all()):
            raise ValueError(
                f"prompts with {visual.sum(dim=1).tolist()} media placeholders; each takes"
                f" {per_prompt} visual rows; pass the clip that the prompt speaks of"
            )
        if rows is None:
            return embeddings
        return embeddings.masked_scatter(visual.unsqueeze(-1), rows.to(embeddings.dtype))

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

        The clip comes as :data:`VISION_INPUTS` or as ``visual_rows`` encoded before; whatever else
        is passed goes to the language model.
        """
        vision = _take_vision(kwargs)
        weights = None
        if inputs_embeds is None:
            if visual_rows is None and vision:
                prefix = self.visual_prefix(**vision)
                visual_rows, weights = prefix.rows, prefix.stream_weights
            inputs_embeds = self.embed_prompt(_needed(input_ids), visual_rows)
        if position_ids is None and attention_mask is not None and "past_key_values" not in kwargs:
            position_ids = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
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
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"] | None = None,
        *,
        visual_rows: Float[Tensor, "B Q H"] | None = None,
        **kwargs: Any,
    ) -> Int[Tensor, "B L+new"]:
        """Prompts [B, L] (padded on the left) with their continuations, as ``transformers`` does.

        The clip is encoded once; the language model alone does the generating.
        """
        vision = _take_vision(kwargs)
        if visual_rows is None and vision:
            visual_rows = self.visual_prefix(**vision).rows
        settings = copy.deepcopy(kwargs.pop("generation_config", None) or self.generation_config)
        kwargs = settings.update(**kwargs)  # what is no generation setting goes on to the model
        return self.language_model.generate(
            input_ids=input_ids,
            generation_config=settings,
            inputs_embeds=self.embed_prompt(input_ids, visual_rows),
            attention_mask=attention_mask,
            **kwargs,
        )


def _take_vision(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Remove and return the vision inputs that are there."""
    taken = {name: kwargs.pop(name) for name in VISION_INPUTS if name in kwargs}
    return {name: value for name, value in taken.items() if value is not None}


def _needed(value: Tensor | None) -> Tensor:
    if value is None:
        raise ValueError("a batch needs input_ids, and pixels or features of both streams")
    return value
