"""The vector of a clip: its layout, its crops, its statistics over time."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import ConfigError, NoFaceError
from corpus.adapters.embedded import locate
from corpus.extractors.encoders import EfficientNetPyramid
from corpus.extractors.features import (
    FEATURES,
    Block,
    ClipFeatures,
    box_motion,
    cut_out,
    find_features,
    layout,
    layout_digest,
    pooled,
    sampled_frames,
    statistics,
    steady_windows,
    vector_size,
)
from corpus.labels import load_labels
from policy.encoders.efficientnet import EfficientNetLite0
from policy.encoders.tiny import TinyEncoder
from policy.faces import FaceBox
from policy.feature_cache import FeatureCache


def box(x: float, y: float, width: float = 10, height: float = 20) -> FaceBox:
    return FaceBox(x=x, y=y, width=width, height=height, confidence=0.9)


def test_layout_of_tiny_features() -> None:
    # TinyEncoder has 4, 8, 8, 16 channels; of its stages the last three are used, at 4×4, 2×2, 2×2.
    per_frame = 8 * 16 + 8 * 4 + 16 * 4
    assert per_frame == 224
    found = layout(FEATURES["tiny"])
    assert found[:4] == (
        Block(stream="head", statistic="mean", part="stage 1", start=0, size=128),
        Block(stream="head", statistic="mean", part="stage 2", start=128, size=32),
        Block(stream="head", statistic="mean", part="stage 3", start=160, size=64),
        Block(stream="head", statistic="max", part="stage 1", start=224, size=128),
    )
    assert found[-1] == Block(stream="track", statistic="change", part="box", start=908, size=4)
    assert all(now.start == last.start + last.size for last, now in pairwise(found))
    assert vector_size(FEATURES["tiny"]) == 912


def test_digest_follows_what_the_vector_depends_on() -> None:
    spec = FEATURES["tiny"]
    assert layout_digest(spec) == layout_digest(replace(spec))
    stream = replace(spec.streams[0], margin=1.1)  # same sizes, other pixels
    assert layout_digest(replace(spec, streams=(stream,))) != layout_digest(spec)


def test_wrong_number_of_grids_is_named() -> None:
    spec = FEATURES["tiny"]
    stream = replace(spec.streams[0], grids=(1, 1))
    with pytest.raises(ConfigError, match="2 grids; encoder tiny has 4 stages"):
        layout(replace(spec, streams=(stream,)))
    with pytest.raises(ConfigError, match="embedded, tiny"):
        find_features("umt")


def test_statistics_by_hand() -> None:
    values = np.array([[0, 1], [2, 1], [4, 7]], dtype=np.float32)
    mean, highest, std, change = statistics(values, ("mean", "max", "std", "change"))
    assert mean.tolist() == [2, 3]
    assert highest.tolist() == [4, 7]
    np.testing.assert_allclose(std, [np.sqrt(8 / 3), np.sqrt(8)], rtol=1e-6)
    assert change.tolist() == [2, 3]
    assert statistics(values[:1], ("change",))[0].tolist() == [0, 0]


def test_pooled_keeps_place() -> None:
    encoder, stream = TinyEncoder(), FEATURES["tiny"].streams[0]
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = pooled(encoder, pixels, stream)
        second_stage = encoder.frame_maps(pixels)[1]  # [2, 8, 8, 8] to 4×4 cells of 2×2
    cell = second_stage[1, 3, 4:6, 6:8].mean()  # channel 3, row 2, column 3
    torch.testing.assert_close(found[1, 3 * 16 + 2 * 4 + 3], cell)


def test_steady_window_stands_still_until_the_face_leaves_it() -> None:
    boxes = [box(100, 100), box(104, 97), box(100, 100), box(160, 100)]
    windows = steady_windows(boxes, margin=0.5)
    # Side 20 · 1.5 = 30; median centre (107, 110): the left edge is at 92 and the top at 95.
    assert [(w.x, w.y, w.width, w.height) for w in windows[:3]] == [(92, 95, 30, 30)] * 3
    # The last face spans 160..170: the window moves until its right edge is there.
    assert (windows[3].x, windows[3].y) == (140, 95)


def test_cut_out_repeats_the_edge_and_keeps_the_place() -> None:
    frame = np.zeros((40, 50, 3), dtype=np.uint8)
    frame[...] = np.arange(40, dtype=np.uint8)[:, None, None]
    crop = cut_out(frame, box(45, 30, width=10, height=10), margin=1.0)  # rows 25..45, 40..60
    assert crop.shape == (20, 20, 3)
    assert crop[:, 0, 0].tolist() == [*range(25, 40), *[39] * 5]
    assert (crop == crop[:, :1]).all()


def test_box_motion_is_in_box_heights() -> None:
    found = box_motion([box(0, 0), box(10, 0), box(10, 5), box(10, 0)])
    # Median centre (15, 10), size 10×20.
    np.testing.assert_allclose(
        found, [[-0.5, 0, 0, 0], [0, 0, 0, 0], [0, 0.25, 0, 0], [0, 0, 0, 0]]
    )


def test_a_short_clip_is_not_sampled_twice(man: np.ndarray, tmp_path: Path, write_frames) -> None:
    path = write_frames(man[:5], tmp_path / "five.mp4")
    assert len(sampled_frames(path, 16)) == 5
    assert len(sampled_frames(path, 3)) == 3


@pytest.fixture(scope="module")
def tiny() -> ClipFeatures:
    return ClipFeatures(FEATURES["tiny"])


def test_a_standing_picture_has_no_motion(tiny: ClipFeatures, man: np.ndarray) -> None:
    still = tiny.of_frames(np.repeat(man[:1], 4, axis=0))
    moving = tiny.of_frames(man[[10, 20, 30, 40]])
    assert still is not None
    assert moving is not None
    for block in layout(tiny.spec):
        part = slice(block.start, block.start + block.size)
        if block.statistic in ("std", "change"):
            np.testing.assert_allclose(still[part], 0, atol=1e-6)
            assert moving[part].max() > 1e-3
    np.testing.assert_allclose(still[:224], still[224:448], atol=1e-6)  # mean and maximum
    assert still.dtype == np.float32


def test_equal_clips_have_equal_vectors(tmp_path: Path, man: np.ndarray, write_frames) -> None:
    path = write_frames(man[:8], tmp_path / "clip.mp4")
    first, second = ClipFeatures(FEATURES["tiny"]), ClipFeatures(FEATURES["tiny"])
    assert first.encoder_digests == second.encoder_digests
    np.testing.assert_array_equal(first(path), second(path))


class _Decodes(ClipFeatures):
    """Counts how often it looks at frames."""

    looked = 0

    def of_frames(self, frames: np.ndarray) -> np.ndarray | None:
        self.looked += 1
        return super().of_frames(frames)


def test_a_clip_is_looked_at_once(tmp_path: Path, man: np.ndarray, write_frames) -> None:
    path = write_frames(man[:8], tmp_path / "clip.mp4")
    first = _Decodes(FEATURES["tiny"], cache=FeatureCache(tmp_path / "cache"))
    vector = first(path)
    renamed = path.rename(tmp_path / "other.mp4")  # its content names it
    again = _Decodes(FEATURES["tiny"], cache=FeatureCache(tmp_path / "cache"))
    np.testing.assert_array_equal(again(renamed), vector)
    assert (first.looked, again.looked) == (1, 0)


def test_a_clip_without_a_face_is_refused_each_time(tmp_path: Path) -> None:
    cartoon = locate(load_labels().clips["no_face.mp4"])
    features = _Decodes(FEATURES["tiny"], cache=FeatureCache(tmp_path))
    for _ in range(2):
        with pytest.raises(NoFaceError, match="no sampled frame shows one"):
            features(cartoon)
    assert features.looked == 1


def test_the_pyramid_ends_as_the_encoder_does() -> None:
    pyramid, plain = EfficientNetPyramid(), EfficientNetLite0()
    pyramid.load_embedded()
    plain.load_embedded()
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps, (last,) = pyramid.frame_maps(pixels), plain.frame_maps(pixels)
        third = torch.nn.Sequential(*pyramid.net._blocks[:5])  # strides 2 · 1, 2, 2
        eighth = third(pyramid.net._swish(pyramid.net._bn0(pyramid.net._conv_stem(pixels))))
    torch.testing.assert_close(maps[-1], last, rtol=0, atol=0)
    torch.testing.assert_close(maps[2], eighth, rtol=0, atol=0)
    assert tuple(item.shape[1] for item in maps) == pyramid.stage_channels
    assert [item.shape[-1] for item in maps] == [112, 56, 28, 14, 7]


def test_embedded_features_of_a_real_clip(man: np.ndarray) -> None:
    features = ClipFeatures(FEATURES["embedded"])
    vector = features.of_frames(man[20:60:10])
    blocks = {(item.stream, item.statistic, item.part): item for item in layout(features.spec)}
    assert vector is not None
    assert len(vector) == vector_size(features.spec)
    assert np.isfinite(vector).all()
    # Mini-XCEPTION's own classes; 3 is happy.
    block = blocks["expression", "mean", "classes"]
    classes = vector[block.start : block.start + block.size]
    assert classes.sum() == pytest.approx(1, abs=1e-4)
    assert classes.argmax() == 3
