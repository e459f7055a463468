"""Videos made here, with a grey level per frame, so that every frame can be told apart."""

from __future__ import annotations

import pickle
from pathlib import Path

import av
import numpy as np
import pytest

from common.errors import VideoError
from policy.video import (
    even_indices,
    file_sha256,
    frame_rate,
    iterate_pictures,
    read_clip,
    read_frames,
)
from tests.policy.video.making import grey, levels_of, write

LEVELS = [20 + 12 * index for index in range(16)]  # far further apart than codec noise
FINE = {"crf": "10", "g": "4"}


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write(tmp_path / "levels.mp4", grey(LEVELS), options=FINE)


def test_reads_all_frames_in_order_with_their_times(video: Path) -> None:
    clip = read_clip(video)
    assert clip.frames.shape == (16, 48, 64, 3)
    assert clip.frames.dtype == np.uint8
    assert levels_of(clip.frames) == pytest.approx(LEVELS, abs=3)
    assert clip.times == pytest.approx([index / 10 for index in range(16)])
    assert clip.fps == pytest.approx(10)


def test_reads_evenly_spread_frames(video: Path) -> None:
    clip = read_clip(video, num_frames=4)
    assert levels_of(clip.frames) == pytest.approx([LEVELS[i] for i in (2, 6, 10, 14)], abs=3)
    assert clip.times == pytest.approx([0.2, 0.6, 1.0, 1.4])


def test_a_short_video_repeats_frames(tmp_path: Path) -> None:
    clip = read_clip(write(tmp_path / "two.mp4", grey([50, 200])), num_frames=4)
    assert levels_of(clip.frames) == pytest.approx([50, 50, 200, 200], abs=3)


def test_container_without_a_frame_count_gives_the_same_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "levels.mkv", grey(LEVELS), options=FINE)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0  # what this test is about
    clip = read_clip(path, num_frames=4)
    assert levels_of(clip.frames) == pytest.approx([LEVELS[i] for i in (2, 6, 10, 14)], abs=3)


def test_stream_that_changes_size_takes_the_first_size(tmp_path: Path) -> None:
    small = write(tmp_path / "a.h264", grey([40, 60]))
    large = write(tmp_path / "b.h264", grey([160, 180], (128, 96)))
    path = tmp_path / "both.h264"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    clip = read_clip(path)
    assert clip.frames.shape[1:] == (48, 64, 3)
    assert levels_of(clip.frames) == pytest.approx([40, 60, 160, 180], abs=3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_what_is_kept_of_the_frames(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"levels.{suffix}", grey(LEVELS[:3]), options=FINE)
    read = read_frames(path, lambda frame: [float(frame.mean())], num_frames=6)
    clip = read_clip(path, num_frames=6)
    assert [kept[0] for kept in read.kept] == levels_of(clip.frames)
    assert read.kept[0] is read.kept[1]
    assert (read.times.tolist(), read.fps) == (clip.times.tolist(), clip.fps)


class TestBadFiles:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(VideoError, match=r"gone\.mp4.*No such file"):
            read_clip(tmp_path / "gone.mp4")

    @pytest.mark.parametrize("name", ["a\0b.mp4", "a" * 5000])
    def test_what_can_be_no_path(self, name: str) -> None:
        for call in (read_clip, file_sha256, frame_rate, lambda path: next(iterate_pictures(path))):
            with pytest.raises(VideoError, match="cannot be read"):
                call(name)

    def test_folder_without_images(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("no frames here")
        with pytest.raises(VideoError, match="holds no frame images"):
            read_clip(tmp_path)

    def test_empty(self, tmp_path: Path) -> None:
        path = tmp_path / "empty.mp4"
        path.touch()
        with pytest.raises(VideoError, match="0 bytes"):
            read_clip(path)

    def test_cut_off_before_its_index(self, video: Path) -> None:
        video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
        with pytest.raises(VideoError, match="not a readable video"):
            read_clip(video)

    @pytest.mark.parametrize("num_frames", [None, 4])
    def test_cut_off_in_the_pictures(self, tmp_path: Path, num_frames: int | None) -> None:
        path = noisy_video(tmp_path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(VideoError, match=r"\d+ decodable frames of 40.*90%"):
            read_clip(path, num_frames=num_frames)

    def test_a_lost_tail_of_a_twentieth_is_forgiven(self, tmp_path: Path) -> None:
        path = noisy_video(tmp_path)
        assert len(read_clip(path).frames) == 40
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 95 // 100])
        whole = read_clip(path)
        assert 36 <= len(whole.frames) < 40
        # Evenly over what is left, although the container still promises 40 frames.
        chosen = read_clip(path, num_frames=4)
        indices = even_indices(len(whole.frames), 4)
        np.testing.assert_array_equal(chosen.frames, whole.frames[indices])
        np.testing.assert_array_equal(chosen.times, whole.times[indices])

    def test_no_decodable_frame(self, tmp_path: Path) -> None:
        path = noisy_video(tmp_path)
        content = path.read_bytes()
        start = content.index(b"mdat") + 4
        path.write_bytes(content[:start] + bytes(len(content) - start))
        with pytest.raises(VideoError, match=r"decod"):
            read_clip(path)

    def test_names_in_another_encoding_do_not_matter(self, video: Path) -> None:
        content = video.read_bytes()
        assert b"VideoHandler" in content
        video.write_bytes(content.replace(b"VideoHandler", b"Vid\xe9oHandler"))  # Latin-1
        assert len(read_clip(video).frames) == 16

    def test_error_survives_pickling(self, tmp_path: Path) -> None:
        with pytest.raises(VideoError) as caught:
            read_clip(tmp_path / "gone.mp4")
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (copy.received, copy.rule, copy.fix) == (
            caught.value.received,
            caught.value.rule,
            caught.value.fix,
        )


def noisy_video(folder: Path) -> Path:
    """40 frames of noise with the index in front: bytes spread evenly over the frames."""
    draw = np.random.default_rng(0)
    images = [draw.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(40)]
    return write(
        folder / "noise.mp4",
        images,
        options={"crf": "20", "bf": "0"},
        container_options={"movflags": "faststart"},
    )


def test_file_sha256_is_the_published_digest(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(VideoError):
        file_sha256(tmp_path / "gone")
