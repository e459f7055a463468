"""Jumps must give the very frames of a reading of the whole, or be given up."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from policy.video import Clip, even_indices, iterate_frames, open_video, read_clip
from policy.video.clip import Part
from policy.video.container import decoded_frames
from policy.video.seeking import MIN_FRAMES, Decoded, read_by_seeking
from tests.policy.video.making import moving, write

NUM = 130
OPEN_GROUPS = {"g": "12", "bf": "3", "x264-params": "open-gop=1:b-adapt=0:scenecut=0"}
HEVC = {"x265-params": "keyint=12:min-keyint=12:open-gop=1:bframes=3:log-level=error"}
VPX = {"g": "12", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "8"}
CLOSED = {"g": "12", "bf": "3"}

TRUSTED = [
    ("closed.mp4", "libx264", {"options": CLOSED}),
    ("closed.mov", "libx264", {"options": CLOSED}),
    ("closed.mkv", "libx264", {"options": CLOSED}),
    ("closed.ts", "libx264", {"options": CLOSED, "container": "mpegts"}),
    ("closed.flv", "libx264", {"options": CLOSED}),
    ("closed.nut", "libx264", {"options": CLOSED}),
    ("open.mp4", "libx264", {"options": OPEN_GROUPS}),
    ("open.mkv", "libx264", {"options": OPEN_GROUPS}),
    ("open.ts", "libx264", {"options": OPEN_GROUPS, "container": "mpegts"}),
    ("interlaced.mp4", "libx264", {"options": CLOSED | {"x264-params": "interlaced=1:tff=1"}}),
    ("broken.mp4", "libx264", {"options": CLOSED, "rate": Fraction(30000, 1001)}),
    (
        "fragments.mp4",
        "libx264",
        {"options": CLOSED, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    ),
    ("hevc.mp4", "libx265", {"options": HEVC}),
    ("hevc.mkv", "libx265", {"options": HEVC}),
    ("hevc.ts", "libx265", {"options": HEVC, "container": "mpegts"}),
    ("mpeg2.ts", "mpeg2video", {"options": {"g": "12", "bf": "2"}, "rate": 25}),
    ("mpeg2.mkv", "mpeg2video", {"options": {"g": "12", "bf": "2"}, "rate": 25}),
    ("vp9.webm", "libvpx-vp9", {"options": VPX}),
    ("vp9.mp4", "libvpx-vp9", {"options": VPX}),
    ("av1.mp4", "libsvtav1", {"options": {"g": "12", "preset": "13"}}),
]

DOUBTED = [
    ("guessed.avi", "libx264", {"options": CLOSED}),
    ("guessed.mpg", "mpeg2video", {"options": {"g": "12", "bf": "2"}, "rate": 25}),
    ("timeless.h264", "libx264", {"options": CLOSED}),
    ("unlisted.mkv", "ffv1", {}),
    ("mpeg4.mp4", "mpeg4", {"options": {"g": "12", "bf": "2"}}),
    ("vp8.webm", "libvpx", {"options": VPX | {"auto-alt-ref": "1"}}),
]


def by_seeking(path: Path, indices: list[int]) -> Decoded | None:
    def choose(times: np.ndarray) -> np.ndarray:
        return np.array(indices)

    return read_by_seeking(path, Part(), choose, min_frames=1)


def assert_slices(path: Path, whole: Clip, *, is_used: bool | None) -> None:
    """A few frames here and there, and every seventh by itself; None: used or not."""
    draw = np.random.default_rng(0)
    picks = [sorted(draw.choice(len(whole.times), 3).tolist()) for _ in range(6)]
    picks += [[index] for index in range(0, len(whole.times), 7)]
    used = 0
    for indices in picks:
        decoded = by_seeking(path, indices)
        if decoded is None:
            continue
        used += 1
        assert decoded.times == whole.times.tolist()
        assert sorted(decoded.frames) == sorted(set(indices))
        for index, frame in decoded.frames.items():
            np.testing.assert_array_equal(frame, whole.frames[index])
    if is_used is not None:
        assert used == (len(picks) if is_used else 0)


@pytest.mark.parametrize(("name", "codec", "how"), TRUSTED, ids=[name for name, _, _ in TRUSTED])
def test_same_frames_as_of_a_whole_reading(tmp_path: Path, name: str, codec: str, how) -> None:
    path = write(tmp_path / name, moving(NUM), codec, **how)
    assert_slices(path, read_clip(path), is_used=True)


@pytest.mark.parametrize(("name", "codec", "how"), DOUBTED, ids=[name for name, _, _ in DOUBTED])
def test_given_up_where_it_cannot_be_trusted(tmp_path: Path, name: str, codec: str, how) -> None:
    path = write(tmp_path / name, moving(NUM), codec, **how)
    assert_slices(path, read_clip(path), is_used=False)


def test_a_picture_that_is_refreshed_bit_by_bit(tmp_path: Path) -> None:
    """Marked as key frames are the places where the refreshing begins, not where it is done."""
    options = {"g": "12", "bf": "0", "intra-refresh": "1"}
    path = write(tmp_path / "refresh.mp4", moving(NUM), options=options)
    assert_slices(path, read_clip(path), is_used=None)
    assert by_seeking(path, [NUM - 1]) is None


@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv"])
def test_variable_frame_rate(tmp_path: Path, name: str) -> None:
    times = np.cumsum(np.random.default_rng(1).choice([0.01, 0.04, 0.5], NUM)).tolist()
    path = write(tmp_path / name, moving(NUM), times=times, options=CLOSED)
    assert_slices(path, read_clip(path), is_used=True)


def test_frames_hidden_by_an_edit_list(tmp_path: Path) -> None:
    """As by cutting in a phone: the packets before the cut stay, and are not shown."""
    source = write(tmp_path / "source.mp4", moving(NUM), options=CLOSED)
    path = tmp_path / "cut.mp4"
    with open_video(source) as container, av.open(str(path), "w") as output:
        stream = container.streams.video[0]
        copy = output.add_stream_from_template(stream)
        late = round(0.7 / stream.time_base)  # seven frames
        for packet in container.demux(stream):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - late, packet.dts - late, copy
                output.mux(packet)
    whole = read_clip(path)
    with open_video(path) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert sum(packet.is_discard for packet in packets) == NUM - len(whole.times) == 7
    assert_slices(path, whole, is_used=True)


class TestDamage:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        how = {"options": CLOSED, "container_options": {"movflags": "faststart"}}
        return write(tmp_path / "video.mp4", moving(NUM), **how)

    def test_a_hole(self, path: Path) -> None:
        content = bytearray(path.read_bytes())
        start = content.index(b"mdat") + len(content) // 2
        content[start : start + 4000] = bytes(4000)
        path.write_bytes(content)
        whole = read_clip(path)
        assert len(whole.times) < NUM
        assert_slices(path, whole, is_used=False)

    def test_a_lost_tail(self, path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 96 // 100])
        whole = read_clip(path)
        assert len(whole.times) < NUM
        assert_slices(path, whole, is_used=False)

    def test_a_lost_head(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.ts", moving(NUM), container="mpegts", options=OPEN_GROUPS)
        content = path.read_bytes()
        path.write_bytes(content[len(content) // 5 // 188 * 188 :])
        whole = read_clip(path)
        assert_slices(path, whole, is_used=False)

    def test_a_head_lost_up_to_an_open_group(self, tmp_path: Path) -> None:
        """The first frames shown are decoded after the first key frame, and lean on lost ones."""
        source = write(tmp_path / "source.mkv", moving(NUM), options=OPEN_GROUPS)
        path = tmp_path / "cut.mkv"
        with open_video(source) as container, av.open(str(path), "w") as output:
            stream = container.streams.video[0]
            copy = output.add_stream_from_template(stream)
            packets = [packet for packet in container.demux(stream) if packet.size]
            second = [packet.is_keyframe for packet in packets].index(True, 1)
            assert packets[second + 1].pts < packets[second].pts  # what this test is about
            for packet in packets[second:]:
                packet.stream = copy
                output.mux(packet)
        assert_slices(path, read_clip(path), is_used=False)

    def test_cut_off_between_two_frames(self, path: Path) -> None:
        """Nothing that is left is damaged; the file only declares more than it has."""
        with open_video(path) as container:
            positions = [packet.pos for packet in container.demux(video=0) if packet.size]
        path.write_bytes(path.read_bytes()[: positions[NUM - 5]])
        assert_slices(path, read_clip(path), is_used=False)

    def test_two_recordings_in_one_file(self, tmp_path: Path) -> None:
        """Joined as bytes, with the clock starting again and pictures of another size."""
        small = write(tmp_path / "a.ts", moving(40), container="mpegts", options=CLOSED)
        large = write(tmp_path / "b.ts", moving(40, (96, 64)), container="mpegts", options=CLOSED)
        path = tmp_path / "both.ts"
        path.write_bytes(small.read_bytes() + large.read_bytes())
        assert by_seeking(path, [10]) is None
        assert read_clip(path, num_frames=1).frames.shape == (1, 48, 64, 3)


@pytest.fixture(scope="module", params=["mp4", "mkv", "avi"])
def long(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In AVI without trusted times: decoded whole."""
    path = tmp_path_factory.mktemp("long") / f"long.{request.param}"
    assert MIN_FRAMES < 600
    return write(path, moving(600), rate=25, options={"g": "25", "preset": "ultrafast"})


class TestReadClip:
    @pytest.mark.parametrize("sampling", ["middle", "uniform", "random", "fps"])
    def test_chosen_frames_equal_brute_force(self, long: Path, sampling: str) -> None:
        how = {"num_frames": 5, "sampling": sampling, "fps": 0.25, "seed": 2}
        seconds = {"start_seconds": 3.1, "end_seconds": 21.7}
        for part in ({}, seconds):
            clip = read_clip(long, **how, **part)
            times = np.array([time for time, _ in iterate_frames(long, **part)])
            frames = dict(iterate_frames(long, **part))
            assert len(clip.times) == 5
            assert set(clip.times.tolist()) <= set(times.tolist())
            for time, frame in zip(clip.times.tolist(), clip.frames, strict=True):
                np.testing.assert_array_equal(frame, frames[time])
            if sampling == "middle":
                assert clip.times.tolist() == times[even_indices(len(times), 5)].tolist()

    def test_jumps_where_they_can_be_trusted(self, long: Path) -> None:
        decoded = read_by_seeking(long, Part(), lambda times: even_indices(len(times), 5))
        assert (decoded is None) == (long.suffix == ".avi")

    def test_many_frames_are_not_worth_jumps(self, long: Path) -> None:
        assert read_by_seeking(long, Part(), lambda times: even_indices(len(times), 64)) is None

    def test_memory_is_that_of_the_chosen_frames(self, long: Path) -> None:
        frame = 64 * 48 * 3
        tracemalloc.start()
        read_clip(long, num_frames=5)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 60 * frame  # of 600; twice the chosen ones, and a few numbers for each frame


@pytest.mark.slow
def test_ten_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight of 15,000 frames cost their eight groups of pictures, not the video."""
    options = {"preset": "ultrafast", "g": "250", "bf": "2"}
    path = write(tmp_path / "long.mp4", moving(15_000, (64, 64)), rate=25, options=options)
    expected = even_indices(15_000, 8).tolist()
    frames = {}
    for index, (time, frame) in enumerate(iterate_frames(path)):
        assert time == pytest.approx(index / 25)
        if index in expected:
            frames[index] = frame
    decoded = 0

    def counted(*arguments):
        nonlocal decoded
        for frame in decoded_frames(*arguments):
            decoded += 1
            yield frame

    monkeypatch.setattr("policy.video.seeking.decoded_frames", counted)
    monkeypatch.setattr("policy.video.container.decoded_frames", counted)
    tracemalloc.start()
    clip = read_clip(path, num_frames=8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(clip.frames, [frames[index] for index in expected])
    assert clip.times == pytest.approx([index / 25 for index in expected])
    assert 8 < decoded < 8 * 250
    assert peak < 400 * 64 * 64 * 3
