"""The embedded extractor: Mini-XCEPTION's own classifier, read along the clip."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.errors import NoFaceError
from corpus.attributes import VOCABULARY
from corpus.extractors.features import ENCODER_BATCH, sampled_frames
from corpus.labels import MIN_SHARE

NUM_FRAMES = 60  # at most so many are looked at, spread evenly
SMOOTHED_SHARE = 1 / 12  # of the clip, over which probabilities are averaged
THRESHOLD = 0.5


class Expression:
    """Seven emotions without any training of ours, in the order in which they are shown.

    A clip's frames are looked at one by one, probabilities averaged over a moving stretch of the
    clip. An emotion counts when it leads for at least :data:`corpus.labels.MIN_SHARE` of the frames
    with a face: the same share from which a label counts. Its score then is its mean probability
    where it leads, elsewhere its mean probability times the share of frames that it leads.
    """

    name = "expression"
    names: tuple[str, ...] = ("anger", "disgust", "fear", "happy", "sad", "surprise", "neutral")

    def __init__(self, *, device: str = "cpu") -> None:
        from policy.encoders.mini_xception import EMOTIONS, MiniXception
        from policy.faces import FaceDetector

        assert tuple(VOCABULARY.find(word) for word in EMOTIONS) == self.names, "other classes"
        self.device = device
        self._network = MiniXception()
        self._network.load_embedded()
        self._network.to(device).requires_grad_(False)
        self._detector = FaceDetector()

    def extract(self, video: str | Path) -> dict[str, float]:
        """Score by name; emotions that count come first, in the order in which they first lead.

        Raises:
            VideoError: for a video that cannot be decoded.
            NoFaceError: when no frame that is looked at shows a face.
        """
        probabilities = self.along(sampled_frames(video, NUM_FRAMES))
        if not len(probabilities):
            raise NoFaceError(
                f"video {video}", "an expression is that of a face", "filter the corpus first"
            )
        return emotions_in_order(probabilities, self.names)

    def present(self, scores: Mapping[str, float]) -> tuple[str, ...]:
        """Names with a score of at least one half, in the order of ``scores``."""
        return tuple(name for name, score in scores.items() if score >= THRESHOLD)

    def emotion_order(self, scores: Mapping[str, float]) -> tuple[str, ...]:
        """What counts, in order of time."""
        return self.present(scores)

    def along(self, frames: np.ndarray) -> np.ndarray:
        """Probabilities [T', 7] for those of the frames [T, H, W, 3] that show a face."""
        import torch

        from policy.faces import crop_face, track_largest_face

        track = track_largest_face(frames, self._detector)
        margin = self._network.face_enlargement
        faces = [
            crop_face(frame, box, enlarge=margin)
            for frame, box in zip(frames, track, strict=True)
            if box is not None
        ]
        rows = [np.empty((0, len(self.names)), dtype=np.float32)]
        with torch.inference_mode():
            for start in range(0, len(faces), ENCODER_BATCH):
                pixels = self._network.prepare(faces[start : start + ENCODER_BATCH])
                rows.append(self._network.classify(pixels.to(self.device)).cpu().numpy())
        return np.concatenate(rows)


def emotions_in_order(probabilities: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Scores as :meth:`Expression.extract` gives them, from probabilities [T, C] along a clip."""
    smooth = moving_mean(probabilities, max(1, round(len(probabilities) * SMOOTHED_SHARE)))
    leader = smooth.argmax(axis=1)
    scores: dict[str, float] = {}
    rest: dict[str, float] = {}
    for index in dict.fromkeys([*leader.tolist(), *range(len(names))]):
        share = float((leader == index).mean())
        if share >= MIN_SHARE:
            scores[names[index]] = float(smooth[leader == index, index].mean())
        else:
            rest[names[index]] = float(smooth[:, index].mean()) * share
    return scores | rest


def moving_mean(values: np.ndarray, length: int) -> np.ndarray:
    """Of values [T, C]: the mean of the ``length`` rows around each, fewer at both ends."""
    total = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    rows = np.arange(len(values))
    first = np.maximum(0, rows - (length - 1) // 2)
    last = np.minimum(len(values), rows + length // 2 + 1)
    return (total[last] - total[first]) / (last - first)[:, None]
