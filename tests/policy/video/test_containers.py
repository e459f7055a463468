"""A spread of containers, codecs and pixel formats; each must give every frame at its time."""

from __future__ import annotations

import os
import wave
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from common.errors import VideoError
from policy.video import (
    file_sha256,
    frame_rate,
    iterate_pictures,
    open_video,
    read_clip,
    video_stream,
)
from tests.policy.video.making import animation, grey, levels_of, moving, silence, turn, write

LEVELS = [30 + 15 * index for index in range(12)]

SPREAD = [
    ("a.mp4", "libx264", {}),
    ("a.mov", "libx264", {}),
    ("a.mkv", "libx264", {}),
    ("a.flv", "libx264", {}),
    ("a.ts", "libx264", {"container": "mpegts"}),
    ("a.h264", "libx264", {"options": {"bf": "0"}}),
    ("fragments.mp4", "libx264", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    ("hevc.mp4", "libx265", {"options": {"x265-params": "log-level=error"}}),
    ("a.webm", "libvpx-vp9", {"options": {"deadline": "realtime", "cpu-used": "8"}}),
    ("av1.mp4", "libsvtav1", {"options": {"preset": "13"}}),
    ("vp8.webm", "libvpx", {"options": {"deadline": "realtime", "cpu-used": "8"}}),
    ("a.avi", "mpeg4", {}),
    ("a.wmv", "wmv2", {"container": "asf"}),
    ("motion.avi", "mjpeg", {"pix_fmt": "yuvj420p"}),
    ("a.mpg", "mpeg2video", {"rate": 25}),
    ("a.gif", "gif", {"pix_fmt": "gray"}),
    ("grey.mkv", "ffv1", {"pix_fmt": "gray"}),
    ("alpha.mov", "png", {"pix_fmt": "rgba"}),
    ("alpha.webm", "libvpx-vp9", {"pix_fmt": "yuva420p", "options": {"cpu-used": "8"}}),
    ("ten_bit.mp4", "libx264", {"pix_fmt": "yuv420p10le"}),
    ("full_chroma.mp4", "libx264", {"pix_fmt": "yuv444p"}),
    ("interlaced.mp4", "libx264", {"options": {"x264-params": "interlaced=1:tff=1"}}),
]


@pytest.mark.parametrize(("name", "codec", "how"), SPREAD, ids=[name for name, _, _ in SPREAD])
def test_every_frame_at_its_time(tmp_path: Path, name: str, codec: str, how) -> None:
    path = write(tmp_path / name, grey(LEVELS), codec, **how)
    rate = how.get("rate", 10)
    clip = read_clip(path)
    assert clip.frames.shape == (12, 48, 64, 3)
    assert levels_of(clip.frames) == pytest.approx(LEVELS, abs=6)
    if not name.endswith("h264"):  # which stores no times
        assert clip.times == pytest.approx(np.arange(12) / rate, abs=0.002)
        assert frame_rate(path) == pytest.approx(rate, rel=0.01)
    chosen = read_clip(path, num_frames=3)
    np.testing.assert_array_equal(chosen.frames, clip.frames[[2, 6, 10]])
    np.testing.assert_array_equal(chosen.times, clip.times[[2, 6, 10]])


def test_interlaced_frames_are_woven(tmp_path: Path) -> None:
    """Both fields as stored, line by line; nothing is blended."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[::2] = 220
    options = {"x264-params": "interlaced=1:tff=1:qp=1"}
    path = write(tmp_path / "fields.mp4", [image] * 3, pix_fmt="yuv444p", options=options)
    assert next(iterate_pictures(path)).native.interlaced_frame
    frame = read_clip(path).frames[1]
    assert frame[::2].mean() == pytest.approx(220, abs=3)
    assert frame[1::2].mean() == pytest.approx(0, abs=3)


@pytest.mark.parametrize("size", [(101, 67), (1, 1), (33, 2)])
@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int], codec: str) -> None:
    pix_fmt = "yuv444p" if codec == "libx264" else "bgr0"
    image = moving(1, size)[0]
    path = write(tmp_path / "odd.mkv", [image] * 2, codec, pix_fmt=pix_fmt, options={"qp": "0"})
    frame = read_clip(path, num_frames=1).frames[0]
    assert frame.shape == (size[1], size[0], 3)
    assert np.abs(frame.astype(int) - image).max() <= (4 if codec == "libx264" else 0)


def test_odd_size_with_halved_chroma(tmp_path: Path) -> None:
    images = grey([60, 160], (101, 67))
    path = write(tmp_path / "odd.webm", images, "libvpx-vp9", options={"cpu-used": "8"})
    clip = read_clip(path)
    assert clip.frames.shape == (2, 67, 101, 3)
    assert levels_of(clip.frames) == pytest.approx([60, 160], abs=3)


@pytest.mark.parametrize(("degrees", "turns"), [(90, -1), (180, 2), (270, 1)])
def test_rotation_flags(tmp_path: Path, degrees: int, turns: int) -> None:
    """Clockwise by the flag: ``np.rot90`` turns the other way."""
    path = write(tmp_path / "phone.mp4", moving(4), options={"crf": "1"})
    stored = read_clip(path).frames
    turned = read_clip(turn(path, degrees), num_frames=4).frames
    np.testing.assert_array_equal(turned, np.rot90(stored, turns, axes=(1, 2)))


def test_a_single_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "one.mp4", grey([90]))
    for sampling in ("middle", "uniform", "random"):
        clip = read_clip(path, num_frames=3, sampling=sampling)
        assert levels_of(clip.frames) == pytest.approx([90] * 3, abs=3)
        assert clip.times.tolist() == [0.0] * 3
    assert len(read_clip(path, num_frames=3, sampling="fps").frames) == 1


def test_sound_before_the_pictures(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", grey(LEVELS), before=silence)
    with open_video(path) as container:
        assert container.streams[0].type == "audio"
    assert levels_of(read_clip(path).frames) == pytest.approx(LEVELS, abs=4)


class TestCover:
    @staticmethod
    def cover(output) -> list:
        """Add a picture of another size as an attached one, as music shops do."""
        stream = output.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        stream.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(grey([250], (32, 32))[0], format="rgb24")
        frame.pts, frame.time_base = 0, Fraction(1, 1)
        return [*stream.encode(frame), *stream.encode(None)]

    def test_beside_a_video(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.mp4", grey(LEVELS), before=self.cover)
        with open_video(path) as container:
            video, cover = container.streams.video
            assert (video.width, cover.width) == (64, 32)  # what this test is about
            # No muxer here writes the cover first, as some files have it.
            streams = SimpleNamespace(video=[cover, video])
            assert video_stream(SimpleNamespace(streams=streams), path) is video
        assert levels_of(read_clip(path).frames) == pytest.approx(LEVELS, abs=4)

    def test_of_a_song(self, tmp_path: Path) -> None:
        path = tmp_path / "song.m4a"
        with av.open(str(path), "w", format="mp4") as output:
            output.mux([*silence(output), *self.cover(output)])
        with open_video(path) as container:
            assert len(container.streams.video) == 1
        with pytest.raises(VideoError, match="no video stream"):
            read_clip(path)


def test_animated_avif(tmp_path: Path) -> None:
    """Its first stream is a still, the second one the animation."""
    path = animation(tmp_path / "a.avif", grey(LEVELS))
    with open_video(path) as container:
        assert [stream.frames for stream in container.streams.video] == [1, 12]
    assert levels_of(read_clip(path).frames) == pytest.approx(LEVELS, abs=4)


@pytest.mark.parametrize("name", ["data:1.mp4", "clip 1 #2 %03d.mp4", "käse.mp4", "-i.mp4"])
def test_names_are_only_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write(tmp_path / "a.mp4", grey(LEVELS)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert next(iterate_pictures(name)).native is not None
    assert levels_of(read_clip(name).frames) == pytest.approx(LEVELS, abs=4)


class TestOnlyOthersRead:
    """Files that PyAV does not read, and OpenCV or Pillow does."""

    @pytest.fixture
    def unknown_tag(self, tmp_path: Path) -> Path:
        """MJPEG under a codec tag that FFmpeg does not know; its name must not mean a series."""
        path = write(tmp_path / "clip_01.avi", grey(LEVELS), "mjpeg", pix_fmt="yuvj420p")
        content = bytearray(path.read_bytes())
        start = content.index(b"MJPG", content.index(b"strf"))
        content[start : start + 4] = b"QQQQ"
        path.write_bytes(content)
        with av.open(str(path)) as container, pytest.raises(av.error.FFmpegError):
            next(container.decode(video=0))  # what this test is about
        return path

    def test_motion_jpeg_of_an_unknown_tag(self, unknown_tag: Path) -> None:
        clip = read_clip(unknown_tag)
        assert levels_of(clip.frames) == pytest.approx(LEVELS, abs=4)
        assert clip.times == pytest.approx(np.arange(12) / 10)
        assert clip.fps == frame_rate(unknown_tag) == pytest.approx(10)
        part = read_clip(unknown_tag, num_frames=2, start_seconds=0.3, end_seconds=0.7)
        np.testing.assert_array_equal(part.frames, clip.frames[[4, 6]])
        assert next(iterate_pictures(unknown_tag)).native is None

    def test_a_part_beyond_its_end(self, unknown_tag: Path) -> None:
        with pytest.raises(VideoError, match=r"between 7\.0 and 9\.0 seconds"):
            read_clip(unknown_tag, start_seconds=7.0, end_seconds=9.0)

    def test_colours_are_not_swapped(self, tmp_path: Path) -> None:
        image = np.zeros((48, 64, 3), np.uint8)
        image[..., 0] = 200
        path = write(tmp_path / "red.avi", [image] * 2, "mjpeg", pix_fmt="yuvj444p")
        before = read_clip(path).frames
        path.write_bytes(path.read_bytes().replace(b"MJPG", b"QQQQ").replace(b"QQQQ", b"MJPG", 1))
        assert next(iterate_pictures(path)).native is None
        assert np.abs(read_clip(path).frames.astype(int) - before).max() <= 4

    def test_animated_webp(self, tmp_path: Path) -> None:
        images = moving(12)
        path = animation(tmp_path / "a.webp", images)
        clip = read_clip(path)
        np.testing.assert_array_equal(clip.frames, images)
        assert clip.times == pytest.approx(np.arange(12) / 10)
        np.testing.assert_array_equal(read_clip(path, num_frames=3).frames, clip.frames[[2, 6, 10]])

    def test_webp_of_frames_that_stay_differently_long(self, tmp_path: Path) -> None:
        first, *others = [Image.fromarray(image) for image in grey([50, 120, 200])]
        path = tmp_path / "a.webp"
        first.save(path, save_all=True, append_images=others, duration=[100, 700, 200])
        assert read_clip(path).times == pytest.approx([0.0, 0.1, 0.8])

    def test_damaged_webp(self, tmp_path: Path) -> None:
        path = animation(tmp_path / "a.webp", moving(12))
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(VideoError):
            read_clip(path)

    def test_what_opencv_reads_is_what_pyav_reads(self, tmp_path: Path) -> None:
        """The same file through both: order, times and orientation must not depend on it."""
        from policy.video.clip import Part
        from policy.video.fallback import find_reader

        path = turn(write(tmp_path / "a.mp4", moving(30), options={"bf": "2"}), 90)
        clip = read_clip(path)
        reader = find_reader(path)
        assert reader is not None
        assert (reader.fps, reader.num_frames) == (pytest.approx(10), 30)
        pictures = list(reader.pictures(Part(0.5, 2.0)))
        assert [picture.time for picture in pictures] == pytest.approx(clip.times[5:20])
        for picture, frame in zip(pictures, clip.frames[5:20], strict=True):
            assert np.abs(picture.rgb().astype(int) - frame).max() <= 8  # two colour conversions

    def test_no_more_than_a_tenth_may_be_missing(self, tmp_path: Path) -> None:
        from policy.video.clip import Part
        from policy.video.fallback import find_reader

        options = {"movflags": "faststart"}
        path = write(tmp_path / "a.mp4", moving(40), container_options=options)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        reader = find_reader(path)
        assert reader is not None
        with pytest.raises(VideoError, match="decodable frames of 40"):
            list(reader.pictures(Part()))
        assert len(list(reader.pictures(Part(None, 1.0)))) == 10


class TestNoVideo:
    @pytest.mark.parametrize("content", [b"this is a letter, not a film\n" * 50, bytes(4096)])
    def test_other_content(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "letter.mp4"
        path.write_bytes(content)
        for call in (read_clip, frame_rate, lambda path: next(iterate_pictures(path))):
            with pytest.raises(VideoError, match=r"letter\.mp4.*not a readable video"):
                call(path)

    def test_sound_only(self, tmp_path: Path) -> None:
        path = tmp_path / "sound.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(bytes(1600))
        with pytest.raises(VideoError, match="no video stream"):
            read_clip(path)

    def test_a_pipe_is_refused_and_not_waited_for(self, tmp_path: Path) -> None:
        path = tmp_path / "pipe.mp4"
        os.mkfifo(path)
        for call in (read_clip, file_sha256):
            with pytest.raises(VideoError, match="neither a file nor a folder"):
                call(path)

    def test_a_still_is_a_video_of_one_frame(self, tmp_path: Path) -> None:
        path = tmp_path / "photo_01.png"
        cv2.imwrite(str(path), grey([77])[0])
        clip = read_clip(path, num_frames=2)
        assert levels_of(clip.frames) == [77, 77]


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "avi", "flv"])
@pytest.mark.parametrize("share", [0.5, 0.97])
def test_cut_off_tails(tmp_path: Path, container: str, share: float) -> None:
    """Refused past a tenth. A transport stream does not know its length and gives what it has."""
    path = tmp_path / "cut"
    options = {"movflags": "faststart"} if container == "mp4" else {}
    how = {"options": {"g": "10", "bf": "0"}, "container_options": options}
    write(path, moving(60), container=container, **how)
    whole = read_clip(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    if share == 0.5 and container != "mpegts":
        counts = container in ("mp4", "avi")  # the others state their length only
        words = "decodable frames of 60" if counts else "seconds of 6.00"
        for num_frames in (None, 4):
            with pytest.raises(VideoError, match=f"{words}.*90%"):
                read_clip(path, num_frames=num_frames)
        return
    left = read_clip(path)
    assert 60 * (share - 0.15) < len(left.frames) <= 60
    np.testing.assert_allclose(left.times, whole.times[: len(left.times)], atol=0.002)
    chosen = read_clip(path, num_frames=1)
    np.testing.assert_array_equal(chosen.frames[0], left.frames[len(left.frames) // 2])


class TestStatedLength:
    """Containers that state no number of frames, but their length in seconds."""

    @staticmethod
    def cut(path: Path, share: float) -> Path:
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        return path

    @pytest.mark.parametrize(
        ("name", "codec", "options"),
        [
            ("a.mkv", "libx264", {"g": "30"}),
            ("a.webm", "libvpx-vp9", {"g": "30", "deadline": "realtime", "cpu-used": "8"}),
            ("a.flv", "libx264", {"g": "30"}),
        ],
    )
    def test_a_tenth_of_a_long_file_is_refused(self, tmp_path, name, codec, options) -> None:
        """Long enough to be read by jumps, were it whole."""
        path = write(tmp_path / name, moving(420), codec, options=options)
        assert len(read_clip(path, num_frames=2).frames) == 2
        self.cut(path, 0.1)
        with pytest.raises(VideoError, match=r"seconds of 4[12]\.\d+; a damaged or cut-off"):
            read_clip(path, num_frames=2)
        assert len(read_clip(path, num_frames=2, end_seconds=1.0).frames) == 2  # this is there
        with pytest.raises(VideoError, match="cut-off"):
            read_clip(path, start_seconds=20.0)

    def test_where_the_clock_starts_late(self, tmp_path: Path) -> None:
        """The header states when it ends; of the ten seconds before, three are left."""
        times = [1000 + index / 10 for index in range(100)]
        path = self.cut(write(tmp_path / "a.mkv", moving(100), times=times), 0.3)
        with pytest.raises(VideoError, match=r"seconds of 10\.00"):
            read_clip(path)

    @pytest.mark.parametrize("num", [5, 20])
    def test_a_picture_that_stays_long_at_the_end(self, tmp_path: Path, num: int) -> None:
        """As in a slide show: the last one begins well before nine tenths of the length."""
        times = [2.0 * index for index in range(num)]
        path = tmp_path / "slides.mkv"
        with av.open(str(path), "w") as output:
            stream = output.add_stream("libx264", rate=10, options={"bf": "0"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000)
            for time, image in zip(times, grey([10 * i for i in range(num)]), strict=True):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base, frame.duration = (
                    round(1000 * time),
                    Fraction(1, 1000),
                    2000,
                )
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        assert read_clip(path).times.tolist() == times

    @pytest.mark.parametrize("name", ["a.mkv", "a.flv"])
    def test_sound_that_goes_on_longer(self, tmp_path: Path, name: str) -> None:
        """Twelve pictures in 1.2 seconds, with 6 seconds of sound."""

        def sound(output) -> list:
            stream = output.add_stream("aac", rate=22050)
            packets = []
            for index in range(6 * 22050 // 1024):
                frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
                frame.planes[0].update(bytes(4 * 1024))
                frame.rate, frame.pts, frame.time_base = 22050, 1024 * index, Fraction(1, 22050)
                packets += stream.encode(frame)
            return packets + stream.encode(None)

        path = write(tmp_path / name, grey(LEVELS), before=sound)
        with open_video(path) as container:
            assert container.duration > 5_000_000  # what this test is about
        assert levels_of(read_clip(path).frames) == pytest.approx(LEVELS, abs=4)
        with pytest.raises(VideoError, match="cut-off"):
            read_clip(self.cut(path, 0.6))


class TestClock:
    """Times count from the first frame, whatever time the file's clock shows there."""

    @pytest.mark.parametrize(
        ("name", "how"),
        [
            ("a.mkv", {}),
            ("a.mp4", {}),
            ("a.flv", {}),
            ("a.ts", {"container": "mpegts"}),
            ("a.webm", {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "g": "12"}}),
        ],
    )
    def test_that_starts_late(self, tmp_path: Path, name: str, how: dict) -> None:
        how = {"options": {"g": "12", "bf": "2"}, **how}
        images = moving(400)
        plain = write(tmp_path / f"0{name}", images, times=[i / 10 for i in range(400)], **how)
        late = write(tmp_path / name, images, times=[1000 + i / 10 for i in range(400)], **how)
        for part in ({}, {"start_seconds": 13.3, "end_seconds": 20.0}, {"start_seconds": 39.0}):
            for num_frames in (None, 2):  # all of them; by jumps where the part is long
                expected = read_clip(plain, num_frames=num_frames, **part)
                clip = read_clip(late, num_frames=num_frames, **part)
                np.testing.assert_allclose(clip.times, expected.times, atol=1e-6)
                np.testing.assert_array_equal(clip.frames, expected.frames)
        assert read_clip(late).times == pytest.approx(np.arange(400) / 10, abs=1e-6)
        with pytest.raises(VideoError, match=r"covers 0 to (39\.9|40\.|40\.1)\d* seconds"):
            read_clip(late, start_seconds=1000.0, end_seconds=1002.0)
