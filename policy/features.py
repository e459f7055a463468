"""From a video file to what the policy takes, encoding each clip once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from policy.encoders.base import VisionEncoder
from policy.feature_cache import FeatureCache, FeatureKey
from policy.modeling import FaVChatForConditionalGeneration, Stream
from policy.processing import ClipInputs, FaVChatProcessor, no_face
from policy.video import file_sha256

STREAMS: tuple[Stream, ...] = ("general", "facial")


class FeatureExtractor:
    """``extractor(video)`` gives a :class:`ClipInputs` for ``Example.clip``.

    A stream whose encoder is frozen comes as features, a stream whose encoder is being trained as
    pixels; both from the cache when they are there. An encoder counts as frozen when none of its
    parameters requires a gradient.
    """

    def __init__(
        self,
        model: FaVChatForConditionalGeneration,
        processor: FaVChatProcessor,
        cache: FeatureCache | None = None,
    ) -> None:
        self.model, self.processor = model, processor
        self.cache = FeatureCache() if cache is None else cache
        self._hashes: dict[Stream, tuple[tuple[int, ...], str]] = {}

    def __call__(self, video: str | Path, *, face_required: bool | None = None) -> ClipInputs:
        """The inputs of one clip.

        Raises:
            VideoError: for a video that cannot be decoded.
            NoFaceError: for a clip without a face, unless ``face_required`` is False.
        """
        if face_required is None:
            face_required = self.processor.face_required
        clip = _Clip(self, video)
        inputs: dict[str, Tensor | tuple[Tensor, ...]] = {}
        for stream in STREAMS:
            if _is_trained(self._encoder(stream)):
                inputs[f"{stream}_pixels"] = clip.pixels(stream)
            else:
                inputs.update(_as_inputs(stream, clip.features(stream)))
        if face_required and not clip.face_found:
            raise no_face(video)
        return ClipInputs(**inputs, face_found=clip.face_found)  # type: ignore[arg-type]

    def _encoder(self, stream: Stream) -> VisionEncoder:
        return self.model.get_submodule(f"{stream}_encoder")

    def weights_hash(self, stream: Stream) -> str:
        """SHA-256 of an encoder's weights, computed again only after they changed in place."""
        state = self._encoder(stream).state_dict()
        versions = tuple(tensor._version for tensor in state.values())
        known = self._hashes.get(stream)
        if known is None or known[0] != versions:
            digest = hashlib.sha256()
            for name, tensor in state.items():
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().float().numpy().tobytes())
            known = self._hashes[stream] = (versions, digest.hexdigest())
        return known[1]

    @torch.no_grad()
    def encode(self, stream: Stream, pixels: Tensor) -> dict[str, Tensor]:
        """Outputs of one encoder for pixels [T, C, H, W]: the last map, or the whole pyramid."""
        parameter = next(self._encoder(stream).parameters())
        maps = tuple(
            stage[0] for stage in self.model.encode_frames(stream, pixels.to(parameter)[None])
        )
        kept = maps[-1:] if stream == "general" else maps
        return {f"stage_{index}": stage.cpu() for index, stage in enumerate(kept)}


class _Clip:
    """One video's way through the cache: it is only decoded when something is not there."""

    def __init__(self, extractor: FeatureExtractor, video: str | Path) -> None:
        self.extractor, self.video = extractor, video
        self.sha256 = file_sha256(video)
        self._prepared: ClipInputs | None = None
        self.face_found = True  # until an entry of the cache or the video itself says otherwise

    def pixels(self, stream: Stream, *, keep: bool = True) -> Tensor:
        """One encoder's input. Kept for encoders in training; the others' outputs are kept."""
        key = self._key(f"{stream}-pixels")
        found = self.extractor.cache.get(key)
        if found is None:
            if self._prepared is None:
                self._prepared = self.extractor.processor.prepare_clip(
                    self.video, face_required=False
                )
            pixels = getattr(self._prepared, f"{stream}_pixels")
            found = {"pixels": pixels, "face_found": torch.tensor(self._prepared.face_found)}
            if keep:
                self.extractor.cache.put(key, found)
        self.face_found = bool(found["face_found"])
        return found["pixels"]

    def features(self, stream: Stream) -> dict[str, Tensor]:
        """One frozen encoder's outputs, ``stage_0``, ``stage_1``, …"""
        key = self._key(f"{stream}-{self.extractor.weights_hash(stream)}")
        found = self.extractor.cache.get(key)
        if found is None:
            found = self.extractor.encode(stream, self.pixels(stream, keep=False))
            found["face_found"] = torch.tensor(self.face_found)
            self.extractor.cache.put(key, found)
        self.face_found = bool(found["face_found"])
        return {name: stage for name, stage in found.items() if name != "face_found"}

    def _key(self, encoder: str) -> FeatureKey:
        processor = self.extractor.processor
        return FeatureKey(
            video_sha256=self.sha256,
            num_frames=processor.num_frames,
            preprocessing=processor.preprocessing,
            encoder=encoder,
        )


def _is_trained(encoder: VisionEncoder) -> bool:
    return any(parameter.requires_grad for parameter in encoder.parameters())


def _as_inputs(
    stream: Stream, stages: Mapping[str, Tensor]
) -> dict[str, Tensor | tuple[Tensor, ...]]:
    ordered = tuple(stages[f"stage_{index}"] for index in range(len(stages)))
    return {f"{stream}_features": ordered[0] if stream == "general" else ordered}
