"""The label file against a witness that never saw it: Mini-XCEPTION's own classifier."""

from __future__ import annotations

import pytest
import torch

from corpus.adapters.embedded import locate
from corpus.labels import ClipLabels, Interval, load_labels
from policy.encoders.mini_xception import EMOTIONS, MiniXception
from policy.faces import FaceDetector, crop_face, track_largest_face
from policy.video import read_clip

EVERY = 6  # frames
LEAST_FRAMES = 12  # shorter intervals are mostly the change from one emotion to the next
CLEAR_MAJORITY = 0.75
TRAINING = {name: clip for name, clip in load_labels().clips.items() if not clip.held_out}


@pytest.fixture(scope="module")
def classifier() -> MiniXception:
    network = MiniXception()
    network.load_embedded()
    return network


def clear_intervals(clip: ClipLabels) -> list[Interval]:
    """Those long enough whose label is also the name of one of the classifier's emotions."""
    return [
        interval
        for interval in clip.emotion
        if interval.phrases[0] in EMOTIONS and interval.last - interval.first >= LEAST_FRAMES
    ]


def test_the_cross_check_covers_these_emotions() -> None:
    checked = [item for clip in TRAINING.values() for item in clear_intervals(clip)]
    assert {item.phrases for item in checked} == {("neutral",), ("happy",), ("sad",)}


@pytest.mark.parametrize("name", [name for name, clip in TRAINING.items() if clip.emotion])
def test_labels_agree_with_the_classifier(name: str, classifier: MiniXception) -> None:
    labels = TRAINING[name]
    frames = read_clip(locate(labels)).frames
    for interval in clear_intervals(labels):
        shown = frames[interval.first : interval.last + 1 : EVERY]
        faces = [
            crop_face(frame, box, enlarge=MiniXception.face_enlargement)
            for frame, box in zip(shown, track_largest_face(shown, FaceDetector()), strict=True)
            if box is not None
        ]
        with torch.no_grad():
            top = classifier.classify(MiniXception.prepare(faces)).argmax(dim=1)
        share = (top == EMOTIONS.index(interval.phrases[0])).float().mean().item()
        assert share >= CLEAR_MAJORITY, f"{interval}: {[EMOTIONS[index] for index in top]}"
