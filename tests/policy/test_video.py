"""Videos made here, with a grey level per frame, so that every frame can be told apart."""

from __future__ import annotations

import pickle
import struct
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from common.errors import VideoError
from policy.video import even_indices, file_sha256, read_clip

LEVELS = [20 + 12 * index for index in range(16)]  # far further apart than codec noise


def write_video(
    path: Path,
    levels: list[int],
    *,
    size: tuple[int, int] = (64, 48),
    options: dict[str, str] | None = None,
    container: str | None = None,
) -> Path:
    """Frames of one grey level each, 10 frames a second."""
    with av.open(str(path), "w", format=container, options=options or {}) as output:
        stream = output.add_stream("libx264", rate=10)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "10", "g": "4"}
        for level in levels:
            image = np.full((size[1], size[0], 3), level, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode(None))
    return path


def grey_levels(frames: np.ndarray) -> list[float]:
    return frames.reshape(len(frames), -1).mean(axis=1).tolist()


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "levels.mp4", LEVELS)


def test_reads_all_frames_in_order_with_their_times(video: Path) -> None:
    clip = read_clip(video)
    assert clip.frames.shape == (16, 48, 64, 3)
    assert clip.frames.dtype == np.uint8
    assert grey_levels(clip.frames) == pytest.approx(LEVELS, abs=3)
    assert clip.times == pytest.approx([index / 10 for index in range(16)])
    assert clip.fps == pytest.approx(10)


@pytest.mark.parametrize(
    ("total", "num", "expected"),
    [
        (10, 4, [1, 3, 6, 8]),  # middles of [0,2.5) [2.5,5) [5,7.5) [7.5,10): 1.25 3.75 6.25 8.75
        (16, 8, [1, 3, 5, 7, 9, 11, 13, 15]),
        (7, 1, [3]),
        (5, 5, [0, 1, 2, 3, 4]),
        (2, 5, [0, 0, 1, 1, 1]),  # 0.2 0.6 1.0 1.4 1.8
    ],
)
def test_even_indices(total: int, num: int, expected: list[int]) -> None:
    assert even_indices(total, num).tolist() == expected


def test_reads_evenly_spread_frames(video: Path) -> None:
    clip = read_clip(video, num_frames=4)
    assert grey_levels(clip.frames) == pytest.approx([LEVELS[i] for i in (2, 6, 10, 14)], abs=3)
    assert clip.times == pytest.approx([0.2, 0.6, 1.0, 1.4])


def test_a_short_video_repeats_frames(tmp_path: Path) -> None:
    clip = read_clip(write_video(tmp_path / "two.mp4", [50, 200]), num_frames=4)
    assert grey_levels(clip.frames) == pytest.approx([50, 50, 200, 200], abs=3)


def test_container_without_a_frame_count_gives_the_same_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "levels.mkv", LEVELS)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0  # what this test is about
    clip = read_clip(path, num_frames=4)
    assert grey_levels(clip.frames) == pytest.approx([LEVELS[i] for i in (2, 6, 10, 14)], abs=3)


def test_stream_that_changes_size_takes_the_first_size(tmp_path: Path) -> None:
    small = write_video(tmp_path / "a.h264", [40, 60], size=(64, 48), container="h264")
    large = write_video(tmp_path / "b.h264", [160, 180], size=(128, 96), container="h264")
    path = tmp_path / "both.h264"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    clip = read_clip(path)
    assert clip.frames.shape[1:] == (48, 64, 3)
    assert grey_levels(clip.frames) == pytest.approx([40, 60, 160, 180], abs=3)


def test_sideways_pictures_are_turned_upright(tmp_path: Path) -> None:
    path = tmp_path / "phone.mp4"
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24] = 200  # bright upper half as stored
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(3):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode(None))
    # A phone held upright stores "turn by 90 degrees clockwise" in the track header's matrix.
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    clockwise = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    content = path.read_bytes()
    start = content.index(upright, content.index(b"tkhd"))
    path.write_bytes(content[:start] + clockwise + content[start + len(clockwise) :])
    frame = read_clip(path).frames[0]
    assert frame.shape == (64, 48, 3)
    # Turned clockwise, what was on top lies on the right.
    assert frame[:, :20].mean() == pytest.approx(0, abs=5)
    assert frame[:, -20:].mean() == pytest.approx(200, abs=5)


class TestBadFiles:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(VideoError, match=r"gone\.mp4.*No such file"):
            read_clip(tmp_path / "gone.mp4")

    def test_folder_without_images(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("no frames here")
        with pytest.raises(VideoError, match="holds no frame images"):
            read_clip(tmp_path)

    def test_empty(self, tmp_path: Path) -> None:
        path = tmp_path / "empty.mp4"
        path.touch()
        with pytest.raises(VideoError, match="0 bytes"):
            read_clip(path)

    @pytest.mark.parametrize("content", [b"this is a letter, not a film\n" * 50, bytes(4096)])
    def test_not_a_video(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "letter.mp4"
        path.write_bytes(content)
        with pytest.raises(VideoError, match="not a readable video"):
            read_clip(path)

    def test_sound_only(self, tmp_path: Path) -> None:
        path = tmp_path / "sound.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(bytes(1600))
        with pytest.raises(VideoError, match="no video stream"):
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
    path = folder / "noise.mp4"
    draw = np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as output:
        stream = output.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"crf": "20", "bf": "0"}
        for _ in range(40):
            image = draw.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode(None))
    return path


def test_num_frames_must_be_positive(video: Path) -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        read_clip(video, num_frames=0)


def test_file_sha256_is_the_published_digest(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(VideoError):
        file_sha256(tmp_path / "gone")
