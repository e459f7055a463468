"""What a clip looks like to frozen encoders, as one vector of a fixed layout.

    clip -> sampled frames -> main face followed -> a crop per stream -> encoder -> maps pooled to a
    coarse grid (place is kept) -> statistics over time (motion is kept) -> vector [D]

The vector is a concatenation of blocks in the order of :func:`layout`: per stream, per statistic, a
block per stage of the encoder (inside: channel, row, column) and one for the probabilities of its
own classifier, where it has one; the last blocks describe how the face box itself moved.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from common.errors import ConfigError, NoFaceError
from policy.faces import FaceBox, FaceDetector, crop_face, track_largest_face
from policy.video import even_indices, file_sha256, read_clip

if TYPE_CHECKING:
    from torch import Tensor

    from policy.encoders.base import FrameEncoder
    from policy.feature_cache import FeatureCache

VERSION = 1  # counts changes to what the same layout's numbers mean
ENCODER_BATCH = 32  # frames per forward pass
STATISTICS = ("mean", "max", "std", "change")
PYRAMID = "corpus.extractors.encoders:EfficientNetPyramid"
TRACK = "track"
TRACK_VALUES = 4  # centre across, centre down, width, height


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One way of looking at the sampled frames.

    Example: EfficientNet on the head with hat and necklace, its 7×7 cells pooled to 4×4:
        >>> Stream(name="head", encoder="efficientnet_lite0", look="steady", margin=1.2,
        ...        grids=(4,), max_frames=4)
    """

    name: str
    encoder: str  # key of policy.encoders.ENCODERS, or my_package.module:Class
    look: Literal["steady", "follow"]
    # "follow" cuts out the box of every frame. "steady" cuts out one square place for the whole
    # clip, so that nodding and shaking stay visible; it moves only as far as the face leaves it.
    margin: float  # by how much box (follow) or square (steady) grow, half of it on each side
    grids: tuple[int, ...]  # cells along a side, per stage of the encoder; 0 leaves a stage out
    max_frames: int  # of the sampled frames, spread evenly
    num_classes: int = 0  # of the encoder's own ``classify``, whose probabilities are added
    statistics: tuple[str, ...] = STATISTICS


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """Which frames of a clip, and which streams."""

    name: str
    num_frames: int  # at most so many, spread evenly over the clip
    streams: tuple[Stream, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A run of the vector: ``vector[start : start + size]``."""

    stream: str
    statistic: str
    part: str  # "stage 0", ..., "classes"; "box" of the track
    start: int
    size: int


FEATURES: dict[str, FeatureSpec] = {
    "embedded": FeatureSpec(
        name="embedded",
        num_frames=16,
        streams=(
            # A detected box reaches from brow to chin; the head with hat and collar is about twice
            # as large. Appearance holds still, so that few frames suffice for the costly encoder.
            Stream(
                name="head",
                encoder=PYRAMID,
                look="steady",
                margin=0.9,
                grids=(14, 0, 14, 7, 4),
                max_frames=4,
                statistics=("mean", "change"),
            ),
            Stream(
                name="face",
                encoder=PYRAMID,
                look="follow",
                margin=0.2,
                grids=(14, 0, 14, 7, 4),
                max_frames=4,
                statistics=("mean", "max", "change"),
            ),
            Stream(
                name="expression",
                encoder="mini_xception",
                look="follow",
                margin=0.0,
                grids=(8, 8, 8, 4),
                max_frames=16,
                num_classes=7,
            ),
        ),
    ),
    # For tests: random weights, quick.
    "tiny": FeatureSpec(
        name="tiny",
        num_frames=4,
        streams=(
            Stream(
                name="head", encoder="tiny", look="steady", margin=1.0, grids=(0, 4, 2, 2),
                max_frames=4,
            ),
        ),
    ),
}  # fmt: skip


def find_features(name: str) -> FeatureSpec:
    """The entry of :data:`FEATURES`.

    Raises:
        ConfigError: for a name that it does not have.
    """
    if name not in FEATURES:
        raise ConfigError(
            f"features {name!r}", f"features are one of {', '.join(FEATURES)}", "correct the name"
        )
    return FEATURES[name]


def layout(spec: FeatureSpec) -> tuple[Block, ...]:
    """The blocks of ``spec``'s vector, in order and without gaps."""
    blocks: list[Block] = []
    for stream in spec.streams:
        parts = _parts(stream)
        for statistic in stream.statistics:
            for part, size in parts.items():
                blocks.append(_after(blocks, stream.name, statistic, part, size))
    for statistic in STATISTICS:
        blocks.append(_after(blocks, TRACK, statistic, "box", TRACK_VALUES))
    return tuple(blocks)


def layout_digest(spec: FeatureSpec) -> str:
    """Sixteen hex digits that change whenever the vector of the same clip may change.

    Encoder weights are not part of it; see :meth:`ClipFeatures.encoder_digests`.
    """
    prepared = [_encoder_class(stream).preprocessing() for stream in spec.streams]
    content = [VERSION, asdict(spec), [asdict(block) for block in layout(spec)], prepared]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def vector_size(spec: FeatureSpec) -> int:
    """D: how long the vector is."""
    return sum(block.size for block in layout(spec))


def _after(blocks: Sequence[Block], stream: str, statistic: str, part: str, size: int) -> Block:
    start = blocks[-1].start + blocks[-1].size if blocks else 0
    return Block(stream=stream, statistic=statistic, part=part, start=start, size=size)


def _parts(stream: Stream) -> dict[str, int]:
    """What an encoder gives per frame: how many numbers of which kind."""
    encoder = _encoder_class(stream)
    channels = encoder.stage_channels
    if len(stream.grids) != len(channels):
        raise ConfigError(
            f"stream {stream.name} with {len(stream.grids)} grids",
            f"encoder {stream.encoder} has {len(channels)} stages",
            "give one grid per stage, 0 for stages that are not used",
        )
    stages = enumerate(zip(channels, stream.grids, strict=True))
    parts = {f"stage {index}": width * grid * grid for index, (width, grid) in stages if grid}
    return parts | ({"classes": stream.num_classes} if stream.num_classes else {})


def _encoder_class(stream: Stream) -> type[FrameEncoder]:
    from policy.encoders import find_encoder
    from policy.encoders.base import FrameEncoder

    found = find_encoder(stream.encoder)
    if not issubclass(found, FrameEncoder):
        raise ConfigError(
            f"stream {stream.name} with encoder {stream.encoder}",
            "extractors look at frames one by one",
            "name an encoder that subclasses policy.encoders.base.FrameEncoder",
        )
    return found


class ClipFeatures:
    """``features(video)`` gives the vector [D] float32 of a clip, from the cache when it is there.

    Args:
        spec: what to compute.
        device: where the encoders run.
        cache: where vectors are kept, by content of the file; None computes every time.
    """

    def __init__(
        self, spec: FeatureSpec, *, device: str = "cpu", cache: FeatureCache | None = None
    ) -> None:
        self.spec, self.device, self.cache = spec, device, cache
        self.digest = layout_digest(spec)
        self.encoders = {name: _load(name, device) for name in _encoder_names(spec)}
        self.encoder_digests = {
            name: _weights_digest(encoder) for name, encoder in self.encoders.items()
        }
        self._detector = FaceDetector()

    def __call__(self, video: str | Path) -> np.ndarray:
        """The vector [D] float32 of the whole clip.

        Raises:
            VideoError: for a video that cannot be decoded.
            NoFaceError: for a clip in which no sampled frame shows a face. This, too, is kept.
        """
        import torch

        from policy.feature_cache import FeatureKey

        key = FeatureKey(
            video_sha256=file_sha256(video),
            num_frames=self.spec.num_frames,
            preprocessing=f"extractor-{self.digest}",
            encoder=json.dumps(self.encoder_digests, sort_keys=True),
        )
        found = self.cache.get(key) if self.cache else None
        if found is None:
            vector = self.of_frames(sampled_frames(video, self.spec.num_frames))
            found = {"vector": torch.from_numpy(np.empty(0) if vector is None else vector)}
            if self.cache:
                self.cache.put(key, found)
        if not found["vector"].numel():
            raise NoFaceError(
                f"video {video}",
                "features are those of a face, and no sampled frame shows one",
                "drop the clip, or filter the corpus first",
            )
        return found["vector"].numpy()

    def of_frames(self, frames: np.ndarray) -> np.ndarray | None:
        """As calling it, for frames [T, H, W, 3] uint8 RGB; None when none shows a face."""
        track = track_largest_face(frames, self._detector)
        seen = [(frame, box) for frame, box in zip(frames, track, strict=True) if box]
        if not seen:
            return None
        boxes = [box for _, box in seen]
        parts: list[np.ndarray] = []
        for stream in self.spec.streams:
            windows = boxes if stream.look == "follow" else steady_windows(boxes, stream.margin)
            chosen = _spread(len(seen), stream.max_frames)
            margin = stream.margin if stream.look == "follow" else 0.0
            crops = [cut_out(seen[index][0], windows[index], margin) for index in chosen]
            per_frame = self._encode(stream, crops)
            parts.extend(statistics(per_frame, stream.statistics))
        parts.extend(statistics(box_motion(boxes), STATISTICS))
        return np.concatenate(parts)

    def _encode(self, stream: Stream, crops: Sequence[np.ndarray]) -> np.ndarray:
        """[T, values per frame] float32."""
        import torch

        encoder = self.encoders[stream.encoder]
        rows: list[Tensor] = []
        with torch.inference_mode():
            for start in range(0, len(crops), ENCODER_BATCH):
                pixels = encoder.prepare(crops[start : start + ENCODER_BATCH]).to(self.device)
                rows.append(pooled(encoder, pixels, stream))
        return torch.cat(rows).cpu().float().numpy()


def pooled(encoder: FrameEncoder, pixels: Tensor, stream: Stream) -> Tensor:
    """[N, values per frame]: each stage's map averaged over grid × grid cells, then its classes."""
    import torch
    from torch.nn import functional as F

    kept = [
        F.adaptive_avg_pool2d(stage, grid).flatten(1)
        for stage, grid in zip(encoder.frame_maps(pixels), stream.grids, strict=True)
        if grid
    ]
    if stream.num_classes:
        kept.append(encoder.classify(pixels))  # type: ignore[operator]
    return torch.cat(kept, dim=1)


def sampled_frames(video: str | Path, num: int) -> np.ndarray:
    """At most ``num`` frames [T, H, W, 3] uint8 RGB spread evenly over a file; none twice."""
    clip = read_clip(video, num_frames=num)
    fresh = np.diff(clip.times, prepend=-np.inf) > 0  # a shorter clip comes with repeated frames
    return clip.frames[fresh]


def steady_windows(boxes: Sequence[FaceBox], margin: float) -> list[FaceBox]:
    """A square per box, all of one size: at the boxes' median place unless a face leaves it.

    The side is the boxes' median longer side, grown by ``margin``.
    """
    spans = np.array([(box.x, box.y, box.width, box.height) for box in boxes])
    side = float(np.median(spans[:, 2:].max(axis=1))) * (1 + margin)
    centres = spans[:, :2] + spans[:, 2:] / 2
    place = np.median(centres, axis=0)
    room = np.maximum(0.0, (side - spans[:, 2:]) / 2)  # how far off centre a face is still inside
    moved = np.clip(place, centres - room, centres + room)
    return [
        replace(box, x=x - side / 2, y=y - side / 2, width=side, height=side)
        for box, (x, y) in zip(boxes, moved.tolist(), strict=True)
    ]


def cut_out(frame: np.ndarray, box: FaceBox, margin: float) -> np.ndarray:
    """The grown box [h, w, 3] uint8; what lies outside the frame repeats its edge.

    :func:`policy.faces.crop_face` cuts such a box off instead, which would move a face that is near
    the edge to another place of the crop.
    """
    import cv2

    grow_x, grow_y = box.width * margin / 2, box.height * margin / 2
    height, width = frame.shape[:2]
    beyond = (
        grow_y - box.y, box.y + box.height + grow_y - height,
        grow_x - box.x, box.x + box.width + grow_x - width,
    )  # fmt: skip
    top, bottom, left, right = (max(0, int(np.ceil(pixels))) for pixels in beyond)
    if top or bottom or left or right:
        frame = cv2.copyMakeBorder(frame, top, bottom, left, right, cv2.BORDER_REPLICATE)
    return crop_face(frame, replace(box, x=box.x + left, y=box.y + top), enlarge=margin)


def box_motion(boxes: Sequence[FaceBox]) -> np.ndarray:
    """[T, 4] float32: centre and size of each box, less their medians, in median box heights."""
    spans = np.array([(box.x, box.y, box.width, box.height) for box in boxes])
    values = np.concatenate([spans[:, :2] + spans[:, 2:] / 2, spans[:, 2:]], axis=1)
    middle = np.median(values, axis=0)
    return ((values - middle) / middle[3]).astype(np.float32)


def statistics(values: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
    """Over time, of values [T, D] float32: one [D] float32 per name of :data:`STATISTICS`.

    ``std`` is the population's; ``change`` is the mean absolute difference of neighbours, 0 for
    a single frame.
    """
    compute = {
        "mean": lambda: values.mean(axis=0),
        "max": lambda: values.max(axis=0),
        "std": lambda: values.std(axis=0),
        "change": lambda: (
            np.abs(np.diff(values, axis=0)).mean(axis=0)
            if len(values) > 1
            else np.zeros(values.shape[1], np.float32)
        ),
    }
    return [compute[name]().astype(np.float32) for name in names]


def _spread(total: int, most: int) -> list[int]:
    return even_indices(total, min(total, most)).tolist()


def _encoder_names(spec: FeatureSpec) -> list[str]:
    return list(dict.fromkeys(stream.encoder for stream in spec.streams))


def _load(name: str, device: str) -> FrameEncoder:
    import torch

    from policy.encoders import find_encoder

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)  # of encoders without weights of their own
        encoder = find_encoder(name)()
    encoder.load_embedded()
    return encoder.to(device).requires_grad_(False)


def _weights_digest(encoder: FrameEncoder) -> str:
    digest = hashlib.sha256()
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]
