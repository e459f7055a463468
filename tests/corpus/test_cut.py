from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from common.errors import VideoError
from corpus.adapters.embedded import locate
from corpus.copying import CopyCheck, copy_packets
from corpus.cut import clip_digest, cut, cut_all, digest_options, write_clip
from corpus.labels import load_labels
from corpus.records import SourceClip
from corpus.segments import Stretch
from policy.video import Clip, Picture, crop_frame, file_sha256, iterate_pictures, read_clip


def grey_clip(levels: list[int], times: list[float], size: tuple[int, int] = (48, 64)) -> Clip:
    frames = np.stack([np.full((*size, 3), level, np.uint8) for level in levels])
    return Clip(frames=frames, times=np.asarray(times), fps=25.0, path="made")


LEVELS = [15 * index for index in range(17)]
UNEVEN = [0.0, 0.04, 0.05, 0.2, *(0.2 + 0.04 * index for index in range(1, 14))]


class TestWriteClip:
    @pytest.mark.parametrize(("first", "last"), [(0, 16), (0, 0), (3, 9), (16, 16)])
    def test_exactly_these_frames_at_their_times(self, tmp_path: Path, first: int, last) -> None:
        write_clip(grey_clip(LEVELS, UNEVEN), first, last, tmp_path / "cut.mp4")
        found = read_clip(tmp_path / "cut.mp4")
        levels = found.frames.reshape(len(found.frames), -1).mean(axis=1)
        assert levels == pytest.approx(LEVELS[first : last + 1], abs=3)
        expected = np.asarray(UNEVEN[first : last + 1]) - UNEVEN[first]
        assert found.times == pytest.approx(expected, abs=1e-4)

    def test_frames_with_one_time_stay_frames_of_their_own(self, tmp_path: Path) -> None:
        write_clip(grey_clip([50, 100, 150], [0.0, 0.0, 0.0]), 0, 2, tmp_path / "cut.mp4")
        found = read_clip(tmp_path / "cut.mp4")
        assert found.frames.reshape(3, -1).mean(axis=1) == pytest.approx([50, 100, 150], abs=3)
        assert (np.diff(found.times) > 0).all()

    def test_odd_sizes_are_kept(self, tmp_path: Path) -> None:
        write_clip(grey_clip([90], [0.0], size=(45, 63)), 0, 0, tmp_path / "cut.mp4")
        assert read_clip(tmp_path / "cut.mp4").frames.shape == (1, 45, 63, 3)

    def test_equal_input_gives_equal_bytes_and_no_leftovers(self, tmp_path: Path) -> None:
        for name in ("a.mp4", "b.mp4"):
            write_clip(grey_clip(LEVELS, UNEVEN), 2, 12, tmp_path / name)
        assert file_sha256(tmp_path / "a.mp4") == file_sha256(tmp_path / "b.mp4")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def real(name: str) -> Path:
    return locate(load_labels().clips[name])


def source(video: Path, **changes) -> SourceClip:
    fields = {"clip_id": "a", "source": "made", "video": str(video), "recording": "r"}
    return SourceClip(**{**fields, **changes})


def stretch(first: int, last: int) -> Stretch:
    return Stretch(clip_id="a", first=first, last=last, face_share=1.0)


def planes(path: Path) -> Iterator[np.ndarray]:
    """Frames in the file's own pixel format, no conversion."""
    for picture in iterate_pictures(path):
        assert picture.native is not None
        yield picture.native.to_ndarray()


def assert_same_frames(path: Path, original: Clip, first: int, last: int) -> None:
    found = read_clip(path)
    np.testing.assert_array_equal(found.frames, original.frames[first : last + 1])
    times = original.times[first : last + 1]
    np.testing.assert_allclose(found.times - found.times[0], times - times[0], atol=1e-5)


class TestCopy:
    @pytest.mark.parametrize(
        ("name", "first", "last", "method"),
        [
            ("single_face.mp4", 0, 71, "copied"),  # the whole file
            ("single_face.mp4", 36, 71, "lossless"),  # its one key frame is the first
            ("WolfgangLanger_Pexels.mp4", 72, 143, "copied"),  # from key frame to key frame
            ("WolfgangLanger_Pexels.mp4", 73, 143, "lossless"),
            ("WolfgangLanger_Pexels.mp4", 72, 110, "lossless"),  # the last leans on a later one
            ("face_noface.mov", 60, 89, "copied"),  # HEVC
            ("noface_face.mov", 96, 131, "lossless"),
            ("no_face.mp4", 0, 94, "lossless"),  # its edit list hides the first three packets
        ],
    )
    def test_the_source_s_own_frames(self, tmp_path, name: str, first: int, last, method) -> None:
        video, path = real(name), tmp_path / "cut.mp4"
        original = read_clip(video)
        found, fps = cut(source(video), stretch(first, last), path, encoding="copy")
        assert (found, fps) == (method, original.fps)
        assert_same_frames(path, original, first, last)
        assert [item.name for item in tmp_path.iterdir()] == ["cut.mp4"]

    def test_packets_are_those_of_the_source(self, tmp_path: Path) -> None:
        video, path = real("WolfgangLanger_Pexels.mp4"), tmp_path / "cut.mp4"
        cut(source(video), stretch(0, 471), path, encoding="copy")
        assert packets(path) == packets(video)

    def test_variable_frame_rates_keep_their_times(self, tmp_path: Path) -> None:
        video = encoded(tmp_path / "uneven.mp4", times=[0, 1, 2, 7, 8, 20, 21, 22, 23, 30, 31, 40])
        original = read_clip(video)
        assert original.times[5] == pytest.approx(20 / 30)
        for encoding, method in (("copy", "copied"), ("lossless", "lossless")):
            path = tmp_path / f"{encoding}.mp4"
            assert cut(source(video), stretch(4, 11), path, encoding=encoding)[0] == method
            assert_same_frames(path, original, 4, 11)

    def test_open_groups_are_not_copied_from_their_middle(self, tmp_path: Path) -> None:
        # B-frames before the second key frame lean on it and on the group before.
        video = encoded(
            tmp_path / "open.mp4",
            times=range(40),
            options={"g": "10", "bf": "3"},
            params="open-gop=1",
        )
        original = read_clip(video)
        for first in (10, 20):
            path = tmp_path / f"{first}.mp4"
            cut(source(video), stretch(first, first + 9), path, encoding="copy")
            assert_same_frames(path, original, first, first + 9)

    def test_the_plan_refuses_what_packets_do_not_allow(self, tmp_path: Path) -> None:
        spans = [(0, 71), (72, 143), (73, 143), (72, 110), (36, 71), (432, 472)]
        clip = source(real("WolfgangLanger_Pexels.mp4"))
        plan = [(first, last, tmp_path / f"{first}-{last}.mp4") for first, last in spans]
        copies = copy_packets(clip, plan)
        assert [path.name for path in copies] == ["0-71.mp4", "72-143.mp4"]
        for copy in copies.values():
            copy.discard()
        assert list(tmp_path.iterdir()) == []
        assert copy_packets(source(Path(clip.video), crop=(0.0, 0.0, 0.5, 1.0)), plan) == {}

    @pytest.mark.parametrize("change", ["none", "pixel", "time", "fewer", "more"])
    def test_a_copy_must_show_the_source_s_frames(self, tmp_path: Path, change: str) -> None:
        video, partial = encoded(tmp_path / "a.mp4", times=range(8)), tmp_path / "a.part"
        partial.write_bytes(video.read_bytes())
        check = CopyCheck(partial, tmp_path / "copy.mp4")
        for index, picture in enumerate(iterate_pictures(video)):
            image, time = picture.rgb(), picture.time
            if change == "pixel" and index == 5:
                image[3, 4, 1] ^= 1
            if change == "time" and index == 5:
                time += 0.001
            if change != "more" or index < 7:
                check.add(Picture(time=time, size=picture.size, native=None, image=image))
        if change == "fewer":
            check.add(picture)
        assert check.finish() == (change == "none")
        check.discard()
        assert (tmp_path / "copy.mp4").exists() == (change == "none")
        assert not partial.exists()

    def test_sideways_pictures_stay_upright(self, tmp_path: Path) -> None:
        video = encoded(tmp_path / "phone.mp4", times=range(12))
        content = video.read_bytes()
        upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
        clockwise = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
        start = content.index(upright, content.index(b"tkhd"))
        video.write_bytes(content[:start] + clockwise + content[start + len(clockwise) :])
        original = read_clip(video)
        assert original.frames.shape == (12, 64, 48, 3)
        for first, method in ((4, "copied"), (5, "lossless")):
            path = tmp_path / f"{first}.mp4"
            assert cut(source(video), stretch(first, 11), path, encoding="copy")[0] == method
            assert_same_frames(path, original, first, 11)

    def test_a_part_in_seconds(self, tmp_path: Path) -> None:
        video, path = real("WolfgangLanger_Pexels.mp4"), tmp_path / "cut.mp4"
        original = read_clip(video)
        clip = source(video, start_seconds=float(original.times[70]), end_seconds=10.0)
        # Frame 2 of the part is the key frame 72 of the file.
        assert cut(clip, stretch(2, 73), path, encoding="copy")[0] == "copied"
        assert_same_frames(path, original, 72, 143)

    def test_a_part_of_a_file_whose_clock_starts_late(self, tmp_path: Path) -> None:
        how = CONTAINERS["mkv"]
        video = encoded(tmp_path / "late.mkv", times=range(900, 912), container=how)
        original, path = read_clip(video), tmp_path / "cut.mp4"
        assert original.times[0] == 0
        clip = source(video, start_seconds=float(original.times[2]), end_seconds=1000.0)
        # Frame 2 of the part is the key frame 4 of the file.
        assert cut(clip, stretch(2, 9), path, encoding="copy")[0] == "copied"
        assert_same_frames(path, original, 4, 11)

    @pytest.mark.parametrize("suffix", ["mkv", "avi", "mpegts", "h264"])
    def test_other_containers(self, tmp_path: Path, suffix: str) -> None:
        video = encoded(tmp_path / f"a.{suffix}", times=range(12), container=CONTAINERS[suffix])
        path = tmp_path / "cut.mp4"
        method, _ = cut(source(video), stretch(4, 11), path, encoding="copy")
        assert_same_frames(path, read_clip(video), 4, 11)
        if suffix == "mkv":
            assert method == "copied"


CONTAINERS = {"mkv": "matroska", "avi": "avi", "mpegts": "mpegts", "h264": "h264", "mp4": "mp4"}


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def encoded(
    path: Path,
    *,
    times,
    options: dict[str, str] | None = None,
    params: str = "",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (64, 48),
    container: str = "mp4",
) -> Path:
    """Moving noise at ``times`` in 1/30 seconds; key frames every four frames, no B-frames."""
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 256, (size[1], size[0] * 2, 3), dtype=np.uint8)
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.options = options or {"g": "4", "bf": "0"}
        if params:
            stream.options = {**stream.options, "x264-params": params}
        stream.codec_context.time_base = Fraction(1, 30)
        for index, time in enumerate(times):
            image = np.ascontiguousarray(noise[:, index : index + size[0]])
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 30)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


class TestLossless:
    @pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "gray"])
    def test_every_plane_is_kept_bit_by_bit(self, tmp_path: Path, pix_fmt: str) -> None:
        video = encoded(tmp_path / "a.mp4", times=range(12), pix_fmt=pix_fmt)
        path = tmp_path / "cut.mp4"
        assert cut(source(video), stretch(3, 9), path, encoding="lossless")[0] == "lossless"
        expected = list(planes(video))[3:10]
        found = list(planes(path))
        assert len(found) == 7
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert_same_frames(path, read_clip(video), 3, 9)

    @pytest.mark.parametrize(
        ("pix_fmt", "size"), [("yuv420p10le", (64, 48)), ("yuv444p", (63, 45))]
    )
    def test_other_formats_keep_what_is_read_of_them(self, tmp_path, pix_fmt: str, size) -> None:
        video = encoded(tmp_path / "a.mp4", times=range(12), pix_fmt=pix_fmt, size=size)
        cut(source(video), stretch(3, 9), tmp_path / "cut.mp4", encoding="lossless")
        assert_same_frames(tmp_path / "cut.mp4", read_clip(video), 3, 9)

    def test_a_cropped_clip(self, tmp_path: Path) -> None:
        crop = (0.21, 0.13, 0.77, 0.9)  # odd edges, odd sizes
        video, path = real("single_face.mp4"), tmp_path / "cut.mp4"
        clip = source(video, crop=crop)
        assert cut(clip, stretch(0, 5), path, encoding="copy")[0] == "lossless"
        expected = [crop_frame(frame, crop) for frame in read_clip(video).frames[:6]]
        np.testing.assert_array_equal(read_clip(path).frames, np.stack(expected))

    def test_a_folder_of_images(self, tmp_path: Path) -> None:
        folder = tmp_path / "frames"
        folder.mkdir()
        draw = np.random.default_rng(1)
        for index in range(12):
            image = draw.integers(0, 256, (31, 41, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / f"{index}.png")
        method, fps = cut(source(folder), stretch(2, 10), tmp_path / "cut.mp4", encoding="copy")
        assert (method, fps) == ("lossless", 25.0)
        assert_same_frames(tmp_path / "cut.mp4", read_clip(folder), 2, 10)


class TestCompact:
    def test_same_bytes_as_from_memory(self, tmp_path: Path) -> None:
        video = real("face_noface.mov")
        method, _ = cut(source(video), stretch(36, 55), tmp_path / "a.mp4", encoding="compact")
        write_clip(read_clip(video), 36, 55, tmp_path / "b.mp4")
        assert method == "encoded"
        assert file_sha256(tmp_path / "a.mp4") == file_sha256(tmp_path / "b.mp4")


class TestCutAll:
    def test_decodes_the_source_once_for_all_cuts(self, tmp_path: Path, monkeypatch) -> None:
        import corpus.cut

        video = real("carphone_pristine.mp4")
        opened = []

        def counted(path, **options):
            opened.append(path)
            return iterate_pictures(path, **options)

        monkeypatch.setattr(corpus.cut, "iterate_pictures", counted)
        spans = [(80, 119), (0, 39), (20, 59)]  # in any order, overlapping too
        parts = [(stretch(*span), tmp_path / f"{span[0]}.mp4") for span in spans]
        assert (
            cut_all(source(video), parts, encoding="lossless")
            == [("lossless", read_clip(video).fps)] * 3
        )
        assert len(opened) == 1
        for span in spans:
            assert_same_frames(tmp_path / f"{span[0]}.mp4", read_clip(video), *span)

    def test_a_stretch_beyond_the_end_leaves_nothing(self, tmp_path: Path) -> None:
        for encoding in ("copy", "lossless", "compact"):
            parts = [(stretch(0, 10), tmp_path / "a.mp4"), (stretch(60, 72), tmp_path / "b.mp4")]
            with pytest.raises(VideoError, match=r"with 72 frames.*ends with frame 72"):
                cut_all(source(real("single_face.mp4")), parts, encoding=encoding)
            assert list(tmp_path.iterdir()) == []

    def test_an_unreadable_source(self, tmp_path: Path) -> None:
        video = tmp_path / "letter.mp4"
        video.write_bytes(b"a letter\n" * 100)
        with pytest.raises(VideoError, match="not a readable video"):
            cut(source(video), stretch(0, 10), tmp_path / "a.mp4", encoding="copy")
        assert list(tmp_path.iterdir()) == [video]


class TestDigest:
    def test_names_source_and_frames(self) -> None:
        digests = [clip_digest("a", 0, 35), clip_digest("b", 0, 35), clip_digest("a", 1, 35)]
        assert len(set(digests)) == 3
        # The ids of samples depend on it; it must never change for the same cut.
        assert digests[0] == "38702aee50e08ef41e7458b86bdd8bfa3280f232cefc40c49338be314ac6073d"

    def test_names_what_else_decides_the_pixels(self) -> None:
        clip = source(Path("/a.mp4"))
        assert digest_options(clip, "compact") == {}
        assert clip_digest("a", 0, 35, {}) == clip_digest("a", 0, 35)
        variants = [
            digest_options(clip, "compact"),
            digest_options(clip, "lossless"),
            digest_options(source(Path("/a.mp4"), crop=(0.0, 0.0, 0.5, 1.0)), "compact"),
            digest_options(source(Path("/a.mp4"), start_seconds=1.0), "compact"),
            digest_options(source(Path("/a.mp4"), end_seconds=1.0), "compact"),
        ]
        assert len({clip_digest("a", 0, 35, options) for options in variants}) == 5
        # Both show the source's own frames.
        assert digest_options(clip, "copy") == digest_options(clip, "lossless")
