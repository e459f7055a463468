"""One look at a clip: whose face is seen when, where the shots change, what it resembles.

    frames -> crop -+-> shrunk to 160 pixels -> shot changes, perceptual hashes
                    +-> face detector (every so many-th frame) -> tracks, shot by shot

Measures only; what is kept is decided by corpus.filtering, corpus.segments and corpus.duplicates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from corpus.records import Inspection, SourceClip
from policy.faces import FaceBox, FaceDetector, FaceTrack, FaceTracker
from policy.video import crop_frame, even_indices, file_sha256, frame_rate, iterate_frames

SHOT_THRESHOLD = 27.0
"""Mean change of hue, saturation and value between neighbouring frames, 0..255, that is a cut.

PySceneDetect's own default. The strongest motion in the embedded clips scores 11, their title cuts
69 and more. Dissolves and fades, which no single pair of frames shows, are not found.
"""

SHOT_SIDE = 160
"""Frames are shrunk to this long side before shots and hashes: fast, and deaf to noise."""

NUM_HASHES = 5
"""Frames that are hashed, spread evenly over the clip: first their looks, then their motion."""

HASH_SIDE = 32
"""Side of the grey picture that imagehash.phash transforms."""

STILL = 1.0
"""A frame that differs from the clip's mean by less than this many grey levels shows no motion."""

MIN_SIGHTINGS = 3
"""A face beside the main person's is reported from so many detections on; fewer are mistakes."""


def inspect(clip: SourceClip, *, sample_every: int = 1) -> Inspection:
    """Look at every frame of ``clip`` once; memory grows by a kilobyte a frame.

    Faces are looked for in every ``sample_every``-th frame of each shot, beginning with its first;
    frames between two samples count as showing the face when both samples do, frames after the last
    sample of a shot as that sample does. Of a clip with ``crop`` only the cropped part counts:
    shares, sizes, shots and hashes are those of the cropped picture.

    The main person is the one whose face covers most, summed over the frames of a shot. Where that
    person is away the largest of the others that never shared the picture with it stands in: a
    detector alone cannot tell a person who comes back from another one. For the same reason
    ``num_people`` counts somebody who is beside the main person in two shots twice.

    Raises:
        VideoError: for a video that is missing, not a video, or damaged in more than a tenth of it.
    """
    if sample_every < 1:
        raise ValueError(f"sample_every must be at least 1, got {sample_every}")
    watch = _Watch(sample_every)
    for _, frame in iterate_frames(
        clip.video, start_seconds=clip.start_seconds, end_seconds=clip.end_seconds
    ):
        watch.see(crop_frame(frame, clip.crop))
    shots = watch.finish()
    seen, area = _sampled_main_face(shots)
    return Inspection(
        clip_id=clip.clip_id,
        sha256=file_sha256(clip.video),
        num_frames=watch.num_frames,
        fps=frame_rate(clip.video),
        width=watch.width,
        height=watch.height,
        face=tuple(face for shot in shots for face in shot.face_by_frame()),
        face_share_of_frames=sum(seen) / len(seen),
        face_share_of_area=min(area),
        shots=tuple(shot.first for shot in shots),
        num_people=sum(len(shot.others()) for shot in shots) + any(seen),
        other_faces=tuple(_report(shot, track) for shot in shots for track in shot.others()),
        hashes=watch.hashes(),
    )


def _sampled_main_face(shots: Sequence[_Shot]) -> tuple[list[bool], list[float]]:
    """Per sampled frame: is the main face seen, and which share of the picture does it cover?"""
    boxes = [(shot, box) for shot in shots for box in shot.main_boxes()]
    area = [0.0 if box is None else _covered(box, shot.width, shot.height) for shot, box in boxes]
    return [box is not None for _, box in boxes], area


def _covered(box: FaceBox, width: int, height: int) -> float:
    """Share of the picture inside ``box``, which may reach beyond the picture's edges."""
    across = min(box.x + box.width, width) - max(box.x, 0.0)
    down = min(box.y + box.height, height) - max(box.y, 0.0)
    return max(0.0, across) * max(0.0, down) / (width * height)


def _report(shot: _Shot, track: FaceTrack) -> Mapping[str, Any]:
    areas = [_covered(box, shot.width, shot.height) for box in track.boxes if box is not None]
    return {
        "first": shot.frame_of(track.first),
        "last": shot.frame_of(track.last),
        "area_share": round(sum(areas) / len(areas), 4),
    }


class _Shot:
    """One shot's faces. The tracker counts samples; frames are ``first + sample · every``."""

    def __init__(self, first: int, width: int, height: int, every: int) -> None:
        self.first, self.width, self.height, self.every = first, width, height, every
        self.num_frames = 0
        self.num_samples = 0
        self.tracker = FaceTracker()

    def see(self, frame: np.ndarray, detector: FaceDetector) -> None:
        if self.num_frames % self.every == 0:
            self.tracker.update(detector.detect(frame))
            self.num_samples += 1
        self.num_frames += 1

    def frame_of(self, sample: int) -> int:
        return self.first + sample * self.every

    def main_tracks(self) -> list[FaceTrack]:
        """The largest track, then the largest of those that share no time with ones taken."""
        taken: list[FaceTrack] = []
        for track in sorted(self.tracker.tracks, key=lambda track: -track.summed_area):
            if all(track.last < other.first or other.last < track.first for other in taken):
                taken.append(track)
        return taken

    def others(self) -> list[FaceTrack]:
        main = {id(track) for track in self.main_tracks()}
        return [
            track
            for track in self.tracker.tracks
            if id(track) not in main and track.sightings >= MIN_SIGHTINGS
        ]

    def main_boxes(self) -> list[FaceBox | None]:
        """[samples] the main face, where it is seen."""
        boxes: list[FaceBox | None] = [None] * self.num_samples
        for track in self.main_tracks():
            boxes[track.first : track.last + 1] = track.boxes
        return boxes

    def face_by_frame(self) -> list[bool]:
        """[frames of the shot] with the frames between samples filled in."""
        seen = [box is not None for box in self.main_boxes()]
        frames = [True] * self.num_frames
        for sample, (here, after) in enumerate(pairwise([*seen, seen[-1]])):
            start = sample * self.every
            length = len(frames[start : start + self.every])
            frames[start : start + length] = [here] + [here and after] * (length - 1)
        return frames


class _Watch:
    """Takes the frames of a clip one by one; keeps a 32×32 grey picture of each, no more."""

    def __init__(self, every: int) -> None:
        from scenedetect.detectors import ContentDetector

        self.every = every
        self.num_frames = self.width = self.height = 0
        self._faces = FaceDetector()
        # Without a shortest length every change counts: a stretch must not cross a late one either.
        self._cuts = ContentDetector(threshold=SHOT_THRESHOLD, min_scene_len=0)
        self._shots: list[_Shot] = []
        self._grey: list[np.ndarray] = []

    def see(self, frame: np.ndarray) -> None:
        """Take the next frame [H, W, 3] uint8 RGB."""
        import cv2
        from scenedetect import FrameTimecode

        self.height, self.width = frame.shape[:2]
        shrink = min(1.0, SHOT_SIDE / max(self.width, self.height))
        size = (max(1, round(self.width * shrink)), max(1, round(self.height * shrink)))
        small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        # The detector reads no times, only numbers; any frame rate will do.
        now = FrameTimecode(self.num_frames, fps=25.0)
        is_new = bool(self._cuts.process_frame(now, cv2.cvtColor(small, cv2.COLOR_RGB2BGR)))
        if is_new or not self._shots:
            self._shots.append(_Shot(self.num_frames, self.width, self.height, self.every))
        self._shots[-1].see(frame, self._faces)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        self._grey.append(cv2.resize(grey, (HASH_SIDE, HASH_SIDE), interpolation=cv2.INTER_AREA))
        self.num_frames += 1

    def finish(self) -> list[_Shot]:
        return self._shots

    def hashes(self) -> tuple[str, ...]:
        """Perceptual hashes (64 bits each, hexadecimal) of ``NUM_HASHES`` frames.

        The first half hashes the frames as they are. Before a standing camera these hardly differ
        between two clips of one recording; the second half therefore hashes how the same frames
        differ from the clip's mean picture, that is, who moved where and when.
        """
        indices = even_indices(self.num_frames, NUM_HASHES).tolist()
        mean = np.mean(self._grey, axis=0)
        looks = [self._grey[index] for index in indices]
        return tuple(map(_phash, looks)) + tuple(_motion_hash(look - mean) for look in looks)


def _motion_hash(difference: np.ndarray) -> str:
    largest = np.abs(difference).max()
    if largest < STILL:  # noise: its hash would tell copies apart
        return "0" * 16
    return _phash((128 + 127 * difference / largest).astype(np.uint8))


def _phash(grey: np.ndarray) -> str:
    """Of a picture [HASH_SIDE, HASH_SIDE] uint8: signs of its 8×8 lowest frequencies."""
    import imagehash
    from PIL import Image

    return str(imagehash.phash(Image.fromarray(grey)))
