"""The embedded clips with their known stretches, and scenes composed of their faces."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby, pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from common.errors import VideoError
from corpus.adapters.embedded import locate
from corpus.config import FilterConfig, TrimConfig
from corpus.filtering import accept
from corpus.inspection import inspect
from corpus.labels import load_labels
from corpus.records import Inspection, SourceClip, from_row, to_row
from corpus.segments import segments
from policy.faces import FaceDetector, track_largest_face
from policy.video import file_sha256, read_clip

TRUTH = {  # face from, to; changes of shot: read off single frames by eye
    "single_face.mp4": ((0, 71), ()),
    "face_noface.mov": ((0, 71), (73,)),
    "noface_face.mov": ((96, 167), (96,)),
    "WolfgangLanger_Pexels.mp4": ((0, 471), ()),
    "carphone_pristine.mp4": ((0, 119), ()),
}


def source(video: Path, **changes) -> SourceClip:
    fields = {"clip_id": video.stem, "source": "made", "video": str(video), "recording": "r"}
    return SourceClip(**{**fields, **changes})


def real(name: str) -> SourceClip:
    return source(locate(load_labels().clips[name]))


@pytest.fixture(scope="module")
def look() -> Callable[[str], Inspection]:
    """Inspects every embedded clip once."""
    known: dict[str, Inspection] = {}

    def inspected(name: str) -> Inspection:
        if name not in known:
            known[name] = inspect(real(name), sample_every=1)
        return known[name]

    return inspected


class TestRealClips:
    @pytest.mark.parametrize("name", TRUTH)
    def test_face_stretches_within_three_frames_of_the_truth(self, look, name: str) -> None:
        (first, last), _ = TRUTH[name]
        kept, _ = segments(look(name), real(name), TrimConfig())
        assert abs(kept[0].first - first) <= 3
        assert abs(kept[-1].last - last) <= 3
        assert all(after.first == before.last + 1 for before, after in pairwise(kept))

    @pytest.mark.parametrize("name", TRUTH)
    def test_cuts_are_found_and_motion_is_none(self, look, name: str) -> None:
        _, cuts = TRUTH[name]
        found = look(name).shots
        assert found[0] == 0
        for cut in cuts:
            assert min(abs(cut - shot) for shot in found[1:]) <= 1
        if not cuts:
            assert found == (0,)

    @pytest.mark.parametrize("name", ["face_noface.mov", "noface_face.mov", "single_face.mp4"])
    def test_faces_are_those_of_the_largest_face_track(self, look, name: str) -> None:
        frames = read_clip(real(name).video).frames
        track = track_largest_face(frames, FaceDetector())
        found = look(name)
        assert list(found.face) == [box is not None for box in track]
        assert found.face_share_of_frames == sum(found.face) / len(frames)
        assert (found.num_people, found.other_faces) == (1, ())

    def test_no_face_is_rejected(self, look) -> None:
        found = look("no_face.mp4")
        assert (found.num_people, found.face_share_of_frames, found.face_share_of_area) == (0, 0, 0)
        kept, rejected = segments(found, real("no_face.mp4"), TrimConfig())
        assert (kept, [(item.first, item.last) for item in rejected]) == ([], [(0, 94)])
        assert accept(found, real("no_face.mp4"), FilterConfig()) is not None

    def test_shares_by_both_readings(self, look) -> None:
        # 72 of 169 frames show the face; some frame shows none of it.
        found = look("face_noface.mov")
        assert found.face_share_of_frames == pytest.approx(72 / 169)
        assert found.face_share_of_area == 0.0
        # By eye the face takes 152 x 205 of 640 x 360 pixels in the first frame.
        assert look("single_face.mp4").face_share_of_area == pytest.approx(0.135, abs=0.03)

    @pytest.mark.parametrize("name", ["face_noface.mov", "noface_face.mov"])
    @pytest.mark.parametrize("every", [4, 16])
    def test_sampled_faces_stay_within_three_frames(self, name: str, every: int) -> None:
        (first, last), _ = TRUTH[name]
        face = inspect(real(name), sample_every=every).face
        runs = [(seen, len(list(members))) for seen, members in groupby(face)]
        start = face.index(True)
        assert abs(start - first) <= 3
        assert abs(start + dict(runs)[True] - 1 - last) <= 3
        assert len([seen for seen, _ in runs if seen]) == 1

    def test_file_facts_and_the_way_through_json(self, look) -> None:
        found = look("noface_face.mov")
        assert (found.num_frames, found.width, found.height) == (169, 960, 540)
        assert found.fps == pytest.approx(26.495, abs=0.01)
        assert found.sha256 == load_labels().clips["noface_face.mov"].sha256
        assert [len(code) for code in found.hashes] == [16] * 10
        assert from_row(Inspection, to_row(found)) == found

    def test_a_part_of_the_file_is_a_clip_of_its_own(self) -> None:
        clip = real("noface_face.mov")
        times = read_clip(clip.video).times
        part = inspect(
            source(Path(clip.video), start_seconds=times[90], end_seconds=times[110]),
            sample_every=1,
        )
        assert part.num_frames == 20
        assert part.face == (False,) * 6 + (True,) * 14
        assert part.shots == (0, 6)


@pytest.fixture(scope="module")
def men() -> tuple[np.ndarray, np.ndarray]:
    """Forty frames of a man close up [270, 480], and of another, in a car, far off [108, 132]."""
    near = read_clip(real("single_face.mp4").video).frames[:40]
    far = read_clip(real("carphone_pristine.mp4").video).frames[:40]
    return (
        np.stack([cv2.resize(frame, (480, 270), interpolation=cv2.INTER_AREA) for frame in near]),
        np.stack([cv2.resize(frame, (132, 108), interpolation=cv2.INTER_AREA) for frame in far]),
    )


def folder(path: Path, frames: np.ndarray) -> Path:
    path.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{index}.png", compress_level=1)
    return path


@pytest.fixture(scope="module")
def scene(men, tmp_path_factory: pytest.TempPathFactory) -> Path:
    near, far = men
    frames = np.full((40, 270, 640, 3), 128, np.uint8)
    frames[:, :, :480] = near
    frames[25:, 40:245, 140:300] = 128  # the face is gone, the rest stays: no cut
    frames[10:, 80:188, 500:632] = far[10:]
    return folder(tmp_path_factory.mktemp("scene") / "frames", frames)


class TestSeveralPeople:
    """The near man in frames 0-24, the far one, right of him, in frames 10-39; one shot."""

    def test_the_largest_is_the_main_one_and_the_rest_recorded(self, scene: Path) -> None:
        found = inspect(source(scene, clip_id="scene"), sample_every=1)
        assert (found.num_people, found.shots) == (2, (0,))
        assert found.face == (True,) * 25 + (False,) * 15  # the other does not take over
        assert found.face_share_of_frames == pytest.approx(25 / 40)
        (other,) = found.other_faces
        assert (other["first"], other["last"]) == (10, 39)
        boxes = [FaceDetector().detect(frame)[-1] for frame in read_clip(scene).frames[25:]]
        expected = np.mean([box.area for box in boxes]) / (270 * 640)
        assert other["area_share"] == pytest.approx(expected, rel=0.1)
        assert (found.fps, found.width, found.height) == (25.0, 640, 270)

    @pytest.mark.parametrize("every", [2, 3])
    def test_frames_between_samples(self, scene: Path, every: int) -> None:
        found = inspect(source(scene), sample_every=every)
        # Samples 0, 2, ... 24 | 26 or 0, 3, ... 24 | 27: 25 and, at every third, 26 lie between a
        # sighting and a miss and so count as missed.
        assert found.face == (True,) * 25 + (False,) * 15
        samples = range(0, 40, every)
        seen = sum(index < 25 for index in samples)
        assert found.face_share_of_frames == pytest.approx(seen / len(samples))

    def test_only_the_cropped_part_counts(self, scene: Path) -> None:
        found = inspect(source(scene, crop=(490 / 640, 0.0, 1.0, 1.0)), sample_every=1)
        assert (found.width, found.height) == (150, 270)
        assert found.num_people == 1
        assert found.face == (False,) * 10 + (True,) * 30
        whole = inspect(source(scene), sample_every=1)
        assert whole.hashes != found.hashes

    def test_the_main_person_is_chosen_shot_by_shot(self, men, tmp_path: Path) -> None:
        near, far = men
        frames = np.full((40, 270, 480, 3), 20, np.uint8)
        frames[:20] = near[:20]
        frames[20:] = 235
        frames[20:, 80:188, 200:332] = far[20:]
        found = inspect(source(folder(tmp_path / "cut", frames)), sample_every=1)
        assert found.shots == (0, 20)
        assert found.face == (True,) * 40
        assert (found.num_people, found.other_faces) == (1, ())


def test_a_still_picture_has_no_motion_to_hash(men, tmp_path: Path) -> None:
    frames = np.repeat(men[0][:1], 12, axis=0)
    found = inspect(source(folder(tmp_path / "still", frames)), sample_every=4)
    assert found.hashes[:5] == found.hashes[:1] * 5
    assert found.hashes[5:] == ("0" * 16,) * 5
    assert found.sha256 == file_sha256(tmp_path / "still")


def test_sample_every_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        inspect(source(tmp_path / "a.mp4"), sample_every=0)


class TestBadFiles:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(VideoError, match="No such file"):
            inspect(source(tmp_path / "gone.mp4"))

    @pytest.mark.parametrize("content", [b"", b"a letter\n" * 500, bytes(5000)])
    def test_no_video(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "bad.mp4"
        path.write_bytes(content)
        with pytest.raises(VideoError, match=r"0 bytes|not a readable video"):
            inspect(source(path))

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    def test_truncated(self, tmp_path: Path, share: float) -> None:
        data = Path(real("single_face.mp4").video).read_bytes()
        path = tmp_path / "cut.mp4"
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(VideoError, match="video"):
            inspect(source(path))

    def test_half_of_the_packets_damaged(self, tmp_path: Path) -> None:
        path = noisy_packets(tmp_path)
        with pytest.raises(VideoError, match=r"decodable frames of 60.*90%"):
            inspect(source(path))

    @pytest.mark.parametrize("seed", range(10))
    def test_damage_anywhere_ends_in_a_result_or_a_reason(self, tmp_path: Path, seed: int) -> None:
        draw = np.random.default_rng(seed)
        data = bytearray(Path(real("carphone_pristine.mp4").video).read_bytes())
        header = data.index(b"moov")
        places = (
            draw.integers(header, min(header + 6000, len(data)), 20)
            if seed % 2
            else draw.integers(0, len(data), 500)
        )
        for place in places.tolist():
            data[place] = int(draw.integers(256))
        path = tmp_path / "damaged.mp4"
        path.write_bytes(data)
        try:
            found = inspect(source(path), sample_every=1000)
        except VideoError as error:
            assert error.received  # noqa: PT017 (either outcome is right)
        else:
            assert found.num_frames >= 0.9 * 120


def noisy_packets(folder: Path) -> Path:
    """60 frames of a real face; every packet of the second half overwritten."""
    path = folder / "damaged.mp4"
    frames = read_clip(real("single_face.mp4").video).frames[:60]
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.options = {"g": "1"}
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    for position, size in packets[30:]:
        data[position : position + size] = b"\xff" * size
    path.write_bytes(data)
    return path
