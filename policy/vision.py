"""The vision side of the policy: from pixels and a question to rows for the language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from common.errors import PolicyInputError
from policy.configuration import FaVChatConfig
from policy.encoders import build_encoder
from policy.encoders.base import VisionEncoder
from policy.input_checks import (
    check_features,
    check_frames,
    check_pixels,
    check_question,
    check_windows,
    needed,
    refuse_both,
)
from policy.levels.high_level import GATES
from policy.levels.low_level import LOW_LEVELS
from policy.levels.middle_level import MiddleLevel
from policy.levels.projector import PROJECTORS, ScaledLayerNorm
from policy.levels.tokens import PublishedTokens, shrink_maps

Stream = Literal["general", "facial"]

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


CLIP_INPUTS = ("general_pixels", "facial_pixels", "general_features", "facial_features")
"""Those that hold the clip itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisualPrefix:
    """What the language model sees of a clip, in the light of a prompt."""

    rows: Float[Tensor, "B Q H"]
    stream_weights: Float[Tensor, "B 2"]  # general, facial; sums to 1


class VisionSide(nn.Module):
    """What the policy has in front of its language model, as a mixin of the policy.

    Its parts are the policy's own attributes: their names are those of checkpoints and freeze
    tables.
    """

    config: FaVChatConfig

    def _build_vision(self, config: FaVChatConfig) -> None:
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
        self.projector = PROJECTORS[config.fusion](
            text_width, config.text_config.hidden_size, config.visual_scale
        )

    def freeze_pretrained(self) -> None:
        """Encoders and word embeddings take no gradient.

        A stage that trains an encoder unfreezes its :meth:`part_parameters`. Loading replaces
        parameters, after which ``from_pretrained`` freezes anew.
        """
        for stream in self.encoders.values():
            stream.requires_grad_(False)
        for table in self._word_embeddings():
            table.requires_grad_(False)

    def _word_embeddings(self) -> tuple[nn.Embedding, nn.Embedding]:
        middle = self.middle_level
        return (
            middle.general_qformer.get_input_embeddings(),
            middle.facial_qformer.get_input_embeddings(),
        )

    def set_visual_scale(self, scale: float) -> None:
        """Let untrained visual rows have this spread per component."""
        self.config.visual_scale = scale
        for module in self.projector.modules():
            if isinstance(module, ScaledLayerNorm):
                module.scale = scale
                module.reset_parameters()

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

        Raises:
            PolicyInputError: for a stream that the policy does not have, pixels that are no clips
                of its encoder, or a mask that does not fit them.
            ConfigError: for windows of a policy that was built without.
        """
        if stream not in self.encoders:
            raise PolicyInputError(
                f"stream {stream!r}",
                f"this policy has {' and '.join(self.encoders)}",
                "encode one of these",
            )
        check_pixels(stream, pixels, self._pixel_channels[stream])
        lengths = check_frames(frame_mask, {f"{stream}_pixels": pixels.shape[1]}, len(pixels))
        if stream == "general":
            self._check_windows(pixels.shape[1])
        return self._encode(stream, pixels, lengths)

    def _encode(
        self, stream: Stream, pixels: Tensor, lengths: Sequence[int] | None
    ) -> tuple[Tensor, ...]:
        encoder = self.encoders[stream]
        if lengths is None or not encoder.joint_time:
            maps = self._in_windows(encoder, pixels)
        else:
            clips = [
                self._in_windows(encoder, clip[None, :length])
                for clip, length in zip(pixels, lengths, strict=True)
            ]
            frames = pixels.shape[1]
            maps = tuple(
                torch.cat([_pad_frames(stage, frames) for stage in stages])
                for stages in zip(*clips, strict=True)
            )
        if stream == "general":
            return maps[-1:]
        return tuple(shrink_maps(stage, self.config.facial_grid) for stage in maps)

    def _in_windows(self, encoder: VisionEncoder, pixels: Tensor) -> tuple[Tensor, ...]:
        pixels = pixels.to(next(encoder.parameters()).dtype)
        windows = pixels.split(self.config.frames_per_clip or pixels.shape[1], dim=1)
        maps = [encoder(window) for window in windows]
        return tuple(torch.cat(stages, dim=1) for stages in zip(*maps, strict=True))

    def visual_prefix(
        self,
        *,
        query_ids: Int[Tensor, "B Lt"] | None = None,
        query_mask: Int[Tensor, "B Lt"] | None = None,
        general_pixels: Float[Tensor, "B T C H W"] | None = None,
        facial_pixels: Float[Tensor, "B T C H W"] | None = None,
        general_features: Float[Tensor, "B T C h w"] | None = None,
        facial_features: Sequence[Float[Tensor, "B T C h w"]] | None = None,
        frame_mask: Bool[Tensor, "B T"] | None = None,
    ) -> VisualPrefix:
        """Encode clips in the light of their prompts.

        Each stream takes pixels, or the features of a frozen encoder (policy.features).

        Args:
            query_ids: the question in the Q-Former's tokens; ``query_mask`` is 0 at padding, which
                comes last. Both are needed.
            frame_mask: False at padded frames, which come last; None when there are none. What lies
                in padding does not matter.

        Raises:
            PolicyInputError: for inputs that are missing, or that do not fit each other or the
                policy.
            ConfigError: for windows of a policy that was built without.
        """
        query_ids, query_mask = needed("query_ids", query_ids), needed("query_mask", query_mask)
        check_question(
            query_ids,
            query_mask,
            max_tokens=self.config.qformer_config.max_position_embeddings,
            vocabulary=self.config.qformer_config.vocab_size,
        )
        pixels: dict[Stream, Tensor | None] = {"general": general_pixels, "facial": facial_pixels}
        features: dict[Stream, Sequence[Tensor] | None] = {
            "general": None if general_features is None else (general_features,),
            "facial": facial_features,
        }
        lengths = self._check_clips(pixels, features, frame_mask, len(query_ids))
        if frame_mask is not None and lengths is not None:
            # Attention gives padding no weight, but no weight times NaN is NaN.
            pixels = {
                name: None if clip is None else _blank(clip, frame_mask)
                for name, clip in pixels.items()
            }
            features = {
                name: None if maps is None else [_blank(stage, frame_mask) for stage in maps]
                for name, maps in features.items()
            }
        dtype = self.middle_level.general_queries.dtype  # a cache may hold another one
        maps = {
            stream: [
                stage.to(dtype)
                for stage in features[stream] or self._encode(stream, pixels[stream], lengths)
            ]
            for stream in self.encoders
        }
        general = maps["general"][-1]
        text_mask = query_mask.bool()
        if frame_mask is None:
            frame_mask = text_mask.new_ones(general.shape[:2])
        words = self.middle_level.words(query_ids)
        facial, facial_mask = self.low_level(
            words, text_mask, maps.get("facial", [general]), frame_mask.bool(), general
        )
        general_rows, facial_rows = self.middle_level(
            query_ids, text_mask, general, frame_mask.bool(), facial, facial_mask
        )
        weights = self.high_level(general_rows, facial_rows, words, text_mask)
        rows = self.projector(general_rows, facial_rows, weights)
        return VisualPrefix(rows=rows, stream_weights=weights)

    def _check_clips(
        self,
        pixels: Mapping[Stream, Tensor | None],
        features: Mapping[Stream, Sequence[Tensor] | None],
        frame_mask: Tensor | None,
        clips: int,
    ) -> list[int] | None:
        """Real frames of each clip; None when no frame is padding."""
        frames: dict[str, int] = {}
        for stream, encoder in self.encoders.items():
            if (maps := features[stream]) is not None:
                if pixels[stream] is not None:
                    refuse_both([f"{stream}_pixels"], [f"{stream}_features"])
                channels = encoder.stage_channels
                check_features(
                    stream, maps, channels[-1:] if stream == "general" else channels, clips
                )
                frames[f"{stream}_features"] = maps[0].shape[1]
            else:
                clip = needed(f"{stream}_pixels or {stream}_features", pixels[stream])
                check_pixels(stream, clip, self._pixel_channels[stream], clips)
                frames[f"{stream}_pixels"] = clip.shape[1]
        lengths = check_frames(frame_mask, frames, clips)
        self._check_windows(max(frames.values()))
        return lengths

    def _check_windows(self, frames: int) -> None:
        """Whether windows show in the general tokens is fixed when the policy is built."""
        tokens = self.middle_level.general_tokens
        if isinstance(tokens, PublishedTokens) and tokens.time is None:
            check_windows(frames, self.config.frames_per_clip)

    @cached_property
    def _pixel_channels(self) -> dict[Stream, int]:
        """Channels of each encoder's input, as its preparation of a black image shows them."""
        black = [np.zeros((8, 8, 3), dtype=np.uint8)]
        return {
            stream: int(encoder.prepare(black, encoder.options).shape[1])
            for stream, encoder in self.encoders.items()
        }


def _pad_frames(maps: Float[Tensor, "1 t C h w"], frames: int) -> Float[Tensor, "1 T C h w"]:
    return nn.functional.pad(maps, (0, 0, 0, 0, 0, 0, 0, frames - maps.shape[1]))


def _blank(frames: Float[Tensor, "B T C h w"], mask: Bool[Tensor, "B T"]) -> Tensor:
    """Zeros at padded frames."""
    return frames.masked_fill(~mask.bool()[:, :, None, None, None], 0.0)
