from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corpus.cut import clip_digest, write_clip
from corpus.labels import load_labels
from corpus.sources import locate
from policy.video import Clip, file_sha256, read_clip


def grey_clip(levels: list[int], times: list[float], size: tuple[int, int] = (48, 64)) -> Clip:
    frames = np.stack([np.full((*size, 3), level, np.uint8) for level in levels])
    return Clip(frames=frames, times=np.asarray(times), fps=25.0, path="made")


LEVELS = [15 * index for index in range(17)]
UNEVEN = [0.0, 0.04, 0.05, 0.2, *(0.2 + 0.04 * index for index in range(1, 14))]


@pytest.mark.parametrize(("first", "last"), [(0, 16), (0, 0), (3, 9), (16, 16)])
def test_cuts_exactly_these_frames_at_their_times(tmp_path: Path, first: int, last: int) -> None:
    write_clip(grey_clip(LEVELS, UNEVEN), first, last, tmp_path / "cut.mp4")
    cut = read_clip(tmp_path / "cut.mp4")
    levels = cut.frames.reshape(len(cut.frames), -1).mean(axis=1)
    assert levels == pytest.approx(LEVELS[first : last + 1], abs=3)
    expected = np.asarray(UNEVEN[first : last + 1]) - UNEVEN[first]
    assert cut.times == pytest.approx(expected, abs=1e-4)


def test_frames_with_one_time_stay_frames_of_their_own(tmp_path: Path) -> None:
    write_clip(grey_clip([50, 100, 150], [0.0, 0.0, 0.0]), 0, 2, tmp_path / "cut.mp4")
    cut = read_clip(tmp_path / "cut.mp4")
    assert cut.frames.reshape(3, -1).mean(axis=1) == pytest.approx([50, 100, 150], abs=3)
    assert (np.diff(cut.times) > 0).all()


def test_odd_sizes_are_kept(tmp_path: Path) -> None:
    write_clip(grey_clip([90], [0.0], size=(45, 63)), 0, 0, tmp_path / "cut.mp4")
    assert read_clip(tmp_path / "cut.mp4").frames.shape == (1, 45, 63, 3)


def test_equal_input_gives_equal_bytes_and_no_leftovers(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_clip(grey_clip(LEVELS, UNEVEN), 2, 12, tmp_path / name)
    assert file_sha256(tmp_path / "a.mp4") == file_sha256(tmp_path / "b.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_real_pictures_give_equal_bytes(tmp_path: Path) -> None:
    source = read_clip(locate(load_labels().clips["face_noface.mov"]))
    for name in ("a.mp4", "b.mp4"):
        write_clip(source, 0, 19, tmp_path / name)
    assert file_sha256(tmp_path / "a.mp4") == file_sha256(tmp_path / "b.mp4")


def test_digest_names_source_and_frames() -> None:
    digests = [clip_digest("a", 0, 35), clip_digest("b", 0, 35), clip_digest("a", 1, 35)]
    assert len(set(digests)) == 3
    assert clip_digest("a", 0, 35) == digests[0]
