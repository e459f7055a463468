"""Parts of videos, folders of frame images, and reading frame by frame."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import VideoError
from policy.video import (
    crop_frame,
    even_indices,
    file_sha256,
    frame_rate,
    iterate_frames,
    iterate_pictures,
    read_clip,
)
from policy.video.folders import natural_key, read_image
from tests.policy.video.making import grey, levels_of, moving, write

LEVELS = [20 + 4 * index for index in range(50)]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 frames at 10 a second, a grey level each, key frames every 10 frames, B-frames between."""
    path = tmp_path_factory.mktemp("video") / "levels.mp4"
    return write(path, grey(LEVELS), options={"crf": "5", "g": "10", "bf": "2"})


class TestParts:
    @pytest.mark.parametrize(
        ("start", "end", "first", "stop"),
        [
            (None, None, 0, 50),
            (0.0, 5.0, 0, 50),
            (1.0, 2.0, 10, 20),  # the start belongs to the part, the end does not
            (1.05, 2.05, 11, 21),
            (2.7, None, 27, 50),  # between key frames
            (None, 0.31, 0, 4),
            (4.9, 99.0, 49, 50),
        ],
    )
    def test_only_these_frames(self, video: Path, start, end, first: int, stop: int) -> None:
        clip = read_clip(video, start_seconds=start, end_seconds=end)
        assert levels_of(clip.frames) == pytest.approx(LEVELS[first:stop], abs=2)
        assert clip.times == pytest.approx([index / 10 for index in range(first, stop)])
        assert clip.fps == pytest.approx(10)

    def test_evenly_spread_over_the_part(self, video: Path) -> None:
        clip = read_clip(video, num_frames=3, start_seconds=1.0, end_seconds=4.0)
        # 30 frames from 10 on; middles of thirds: 5, 15, 25.
        assert levels_of(clip.frames) == pytest.approx([LEVELS[i] for i in (15, 25, 35)], abs=2)

    @pytest.mark.parametrize("suffix", ["h264", "mkv", "avi"])
    def test_containers_without_times_or_index(self, video: Path, tmp_path: Path, suffix) -> None:
        path = tmp_path / f"levels.{suffix}"
        write(path, grey(LEVELS), options={"crf": "5", "g": "10", "bf": "0"})
        whole = read_clip(path)
        start = float(whole.times[23])
        part = read_clip(path, start_seconds=start)
        np.testing.assert_array_equal(part.frames, whole.frames[23:])
        np.testing.assert_array_equal(part.times, whole.times[23:])

    @pytest.mark.parametrize("name", ["WolfgangLanger_Pexels.mp4", "noface_face.mov"])
    def test_parts_of_real_clips_are_slices_of_the_whole(self, real_clip, name: str) -> None:
        whole = read_clip(real_clip(name))
        for first, stop in ((1, 20), (75, 100), (100, 160)):
            part = read_clip(
                real_clip(name),
                start_seconds=float(whole.times[first]),
                end_seconds=float(whole.times[stop]),
            )
            np.testing.assert_array_equal(part.times, whole.times[first:stop])
            np.testing.assert_array_equal(part.frames, whole.frames[first:stop])

    @pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
    def test_parts_that_begin_between_open_groups(self, tmp_path: Path, container: str) -> None:
        """There the frames shown before a key frame lean on it and on the group before."""
        path = tmp_path / "open"
        options = {"g": "10", "bf": "3", "x264-params": "open-gop=1:b-adapt=0"}
        write(path, moving(40), container=container, options=options)
        whole = read_clip(path)
        for first in range(5, 30):
            part = read_clip(path, start_seconds=float(whole.times[first]))
            np.testing.assert_array_equal(part.frames, whole.frames[first:])

    @pytest.mark.parametrize(("start", "end"), [(-1.0, None), (3.0, 3.0), (3.0, 1.0), (None, 0.0)])
    def test_a_part_must_be_one(self, video: Path, start, end) -> None:
        with pytest.raises(VideoError, match="ends after it starts"):
            read_clip(video, start_seconds=start, end_seconds=end)

    def test_a_part_beyond_the_end(self, video: Path) -> None:
        with pytest.raises(VideoError, match=r"covers 0 to 5\.00 .* between 7\.0 and 9\.0 seconds"):
            read_clip(video, start_seconds=7.0, end_seconds=9.0)

    def test_a_part_that_a_cut_off_file_lacks(self, tmp_path: Path) -> None:
        path = tmp_path / "noise.mp4"
        draw = np.random.default_rng(0)
        images = [draw.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(40)]
        write(path, images, container_options={"movflags": "faststart"})
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert len(read_clip(path, end_seconds=1.0).frames) == 10  # this part is whole
        with pytest.raises(VideoError, match="decodable frames of 30"):
            read_clip(path, start_seconds=1.0, end_seconds=4.0)


class TestOneByOne:
    def test_same_as_all_at_once(self, video: Path) -> None:
        clip = read_clip(video)
        times, frames = zip(*iterate_frames(video), strict=True)
        np.testing.assert_array_equal(np.stack(frames), clip.frames)
        np.testing.assert_array_equal(times, clip.times)

    def test_memory_does_not_grow_with_length(self, real_clip) -> None:
        frame = 640 * 360 * 3
        tracemalloc.start()
        count = sum(1 for _ in iterate_frames(real_clip("WolfgangLanger_Pexels.mp4")))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == 472
        assert peak < 5 * frame

    def test_damage_is_told_after_the_last_good_frame(self, real_clip, tmp_path: Path) -> None:
        data = bytearray(real_clip("single_face.mp4").read_bytes())
        start = data.index(b"mdat")
        data[start + len(data) // 3 : start + 2 * len(data) // 3] = bytes(len(data) // 3)
        path = tmp_path / "half.mp4"
        path.write_bytes(data)
        seen = []
        with pytest.raises(VideoError):
            seen.extend(time for time, _ in iterate_frames(path))
        assert seen

    def test_pictures_keep_the_format_of_the_file(self, video: Path) -> None:
        picture = next(iterate_pictures(video))
        assert picture.native is not None
        assert (picture.native.format.name, picture.size) == ("yuv420p", (64, 48))

    def test_frame_rate(self, video: Path, tmp_path: Path) -> None:
        assert frame_rate(video) == pytest.approx(10)
        with pytest.raises(VideoError):
            frame_rate(tmp_path / "gone.mp4")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images 1.png, 2.png, ..., 12.png, of one grey level each, and a note."""
    path = tmp_path / "frames"
    path.mkdir()
    for index in range(12):
        image = Image.fromarray(np.full((30, 40, 3), 10 * index, np.uint8))
        image.save(path / f"{index + 1}.png")
    (path / "notes.txt").write_text("not a frame")
    return path


class TestFolder:
    def test_natural_order_at_25_frames_a_second(self, folder: Path) -> None:
        clip = read_clip(folder)
        assert levels_of(clip.frames) == [10.0 * index for index in range(12)]
        assert clip.times == pytest.approx([index / 25 for index in range(12)])
        assert (clip.fps, frame_rate(folder)) == (25.0, 25.0)

    def test_natural_key(self) -> None:
        names = ["b2", "a10", "a9", "A1", "b02x", "10", "9"]
        assert sorted(names, key=natural_key) == ["9", "10", "A1", "a9", "a10", "b2", "b02x"]

    def test_spread_and_part(self, folder: Path) -> None:
        assert levels_of(read_clip(folder, num_frames=3).frames) == [20, 60, 100]
        part = read_clip(folder, start_seconds=0.08, end_seconds=0.2)
        assert levels_of(part.frames) == [20, 30, 40]
        assert part.times == pytest.approx([0.08, 0.12, 0.16])

    def test_a_broken_image_of_twelve_is_left_out(self, folder: Path) -> None:
        (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:60])
        clip = read_clip(folder)
        assert levels_of(clip.frames) == [10.0 * index for index in range(12) if index != 4]
        assert clip.times[4] == pytest.approx(5 / 25)  # the others keep their times

    @pytest.mark.parametrize("content", [b"", b"no picture", None])
    def test_two_broken_images_of_twelve_are_too_many(self, folder: Path, content) -> None:
        for name in ("3.png", "4.png"):
            data = (folder / name).read_bytes()
            (folder / name).write_bytes(data[:-30] if content is None else content)
        with pytest.raises(VideoError, match="10 decodable frames of 12"):
            read_clip(folder)

    def test_only_the_chosen_are_decoded(self, folder: Path, monkeypatch) -> None:
        expected = read_clip(folder)
        decoded = []

        def counted(path: Path) -> np.ndarray | None:
            decoded.append(path.name)
            return read_image(path)

        monkeypatch.setattr("policy.video.folders.read_image", counted)
        clip = read_clip(folder, num_frames=3, start_seconds=0.08)
        np.testing.assert_array_equal(clip.frames, expected.frames[[3, 7, 10]])
        np.testing.assert_array_equal(clip.times, expected.times[[3, 7, 10]])
        # Of frames 2..11 the middles of thirds, and the first one, which gives the size.
        assert decoded == ["3.png", "4.png", "8.png", "11.png"]

    def test_a_broken_one_among_the_chosen(self, folder: Path) -> None:
        """Then the choice is among those that are left, as in a reading of the whole."""
        (folder / "3.png").write_bytes(b"no picture")
        left = [10.0 * index for index in range(12) if index != 2]
        chosen = read_clip(folder, num_frames=3)
        assert levels_of(chosen.frames) == [left[index] for index in even_indices(11, 3)]

    def test_hidden_files_and_folders_are_no_frames(self, folder: Path) -> None:
        before, name = read_clip(folder), file_sha256(folder)
        for index in range(1, 13):
            (folder / f"._{index}.png").write_bytes(b"left by a Mac")
        (folder / "thumb.png").mkdir()
        np.testing.assert_array_equal(read_clip(folder).frames, before.frames)
        assert file_sha256(folder) == name

    def test_no_image_decodes(self, folder: Path) -> None:
        for image in folder.glob("*.png"):
            image.write_bytes(b"no picture")
        with pytest.raises(VideoError, match="none of its frames"):
            read_clip(folder)

    def test_all_take_the_first_size_and_stand_upright(self, tmp_path: Path) -> None:
        left_dark = np.zeros((20, 40, 3), np.uint8)
        left_dark[:, 20:] = 250
        Image.fromarray(left_dark).save(tmp_path / "1.png")
        exif = Image.Exif()
        exif[0x0112] = 6  # "rotate 90 degrees clockwise to show"
        turned = Image.fromarray(np.rot90(left_dark, 1))  # so that turning it back gives left_dark
        turned.resize((40, 80)).save(tmp_path / "2.jpg", exif=exif, quality=95)
        clip = read_clip(tmp_path)
        assert clip.frames.shape == (2, 20, 40, 3)
        assert np.abs(clip.frames[1].astype(int) - left_dark)[:, [5, 35]].max() < 10

    def test_hash_is_of_the_images_in_natural_order(self, folder: Path) -> None:
        digests = [
            hashlib.sha256((folder / f"{index}.png").read_bytes()).digest()
            for index in range(1, 13)
        ]
        before = file_sha256(folder)
        assert before == hashlib.sha256(b"".join(digests)).hexdigest()
        (folder / "notes.txt").write_text("still not a frame")
        assert file_sha256(folder) == before
        (folder / "1.png").rename(folder / "13.png")
        assert file_sha256(folder) != before


class TestCrop:
    picture = np.arange(100 * 200 * 3).reshape(100, 200, 3)

    def test_by_hand(self) -> None:
        crop = crop_frame(self.picture, (0.25, 0.1, 0.75, 0.6))
        np.testing.assert_array_equal(crop, self.picture[10:60, 50:150])

    def test_none_is_the_whole(self) -> None:
        assert crop_frame(self.picture, None) is self.picture

    def test_clipped_and_never_empty(self) -> None:
        assert crop_frame(self.picture, (-1.0, -1.0, 2.0, 2.0)).shape == (100, 200, 3)
        assert crop_frame(self.picture, (1.0, 0.5, 1.0, 0.5)).shape == (1, 1, 3)


def test_the_middles_of_an_iterated_part_are_those_of_the_clip(video: Path) -> None:
    frames = [frame for _, frame in iterate_frames(video, start_seconds=0.5, end_seconds=3.1)]
    clip = read_clip(video, num_frames=4, start_seconds=0.5, end_seconds=3.1)
    expected = np.stack([frames[index] for index in even_indices(len(frames), 4)])
    np.testing.assert_array_equal(clip.frames, expected)
