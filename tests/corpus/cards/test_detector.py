from __future__ import annotations

import numpy as np
import pytest

from corpus.cards import draw_spec, render
from policy.faces import FaceDetector


@pytest.mark.slow
def test_the_default_detector_finds_the_face() -> None:
    """In every pose, expression and costume, covers included."""
    detector = FaceDetector()
    found = []
    for index in range(60):
        card = render(draw_spec(41, index), num_frames=4)
        found += [bool(detector.detect(frame)) for frame in card.frames]
    assert np.mean(found) >= 0.98
