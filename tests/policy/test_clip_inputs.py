"""From video files to both encoders' pixels: frames, faces, crops, and what is recorded of them."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest
import torch

from common.errors import ConfigError, NoFaceError, VideoError
from policy.clip_inputs import ClipInputs, ClipPreprocessor
from policy.encoders.tiny import TinyEncoder
from policy.faces import FaceBox, FaceDetector, crop_face, track_largest_face
from policy.video import read_clip
from tests.policy.video.making import moving, write


def preprocessor(**changes) -> ClipPreprocessor:
    return ClipPreprocessor(
        **{"general_encoder": "tiny", "facial_encoder": "tiny", "num_frames": 3, **changes}
    )


@pytest.fixture
def folder(tmp_path):
    """Five frames, each of one grey: 0, 50, …, 200."""
    for index in range(5):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((20, 30, 3), 50 * index, np.uint8))
    return tmp_path


def greys(clip: ClipInputs) -> list[int]:
    """Which grey each frame of :func:`folder` has."""
    return [round((float(frame.mean()) + 1) * 127.5) for frame in clip.general_pixels]


@pytest.fixture
def detections(monkeypatch):
    """Hands out boxes, frame by frame, in the detector's place."""

    def script(*boxes: list[FaceBox]) -> None:
        left = iter(boxes)
        monkeypatch.setattr(FaceDetector, "detect", lambda self, frame: next(left))

    return script


def box(x: float, y: float, width: float, height: float) -> FaceBox:
    return FaceBox(x=x, y=y, width=width, height=height, confidence=0.9)


class TestRealClips:
    def test_frames_and_face_crops(self, real_clip):
        path = real_clip("single_face.mp4")
        inputs = preprocessor()(path)
        clip = read_clip(path, num_frames=3)
        found = track_largest_face(clip.frames, FaceDetector())[1]
        crop = crop_face(clip.frames[1], found, enlarge=0.5)
        expected = TinyEncoder.prepare([clip.frames[1], crop])
        assert inputs.face_found
        assert inputs.faces.tolist() == [True, True, True]
        assert inputs.times.dtype == torch.float64
        assert inputs.times.tolist() == clip.times.tolist()
        torch.testing.assert_close(inputs.general_pixels[1], expected[0], rtol=0, atol=0)
        torch.testing.assert_close(inputs.facial_pixels[1], expected[1], rtol=0, atol=0)

    def test_a_clip_without_a_face_gives_whole_frames_and_says_so(self, real_clip):
        inputs = preprocessor()(real_clip("no_face.mp4"))
        assert not inputs.face_found
        assert inputs.faces.tolist() == [False, False, False]
        torch.testing.assert_close(inputs.facial_pixels, inputs.general_pixels, rtol=0, atol=0)

    def test_or_is_refused(self, tiny, real_clip):
        path = real_clip("no_face.mp4")
        with pytest.raises(NoFaceError, match=r"no_face\.mp4"):
            preprocessor(face_required=True)(path)
        with pytest.raises(NoFaceError, match=r"no_face\.mp4"):
            tiny[1].prepare_clip(path, face_required=True)
        assert not tiny[1].prepare_clip(path).face_found

    def test_several_at_a_time_are_the_same_and_in_order(self, tiny, real_clip, tmp_path):
        broken = tmp_path / "broken.mp4"
        broken.write_bytes(b"no video")
        paths = [real_clip("single_face.mp4"), broken, real_clip("no_face.mp4")] * 2
        apart = list(tiny[1].prepare_clips(paths))
        together = list(tiny[1].prepare_clips(paths, num_workers=3))
        for index, (one, other) in enumerate(zip(apart, together, strict=True)):
            if index % 3 == 1:
                assert isinstance(one, VideoError)
                assert str(one) == str(other)
                assert "broken.mp4" in str(one)
            else:
                assert torch.equal(one.facial_pixels, other.facial_pixels)
                assert one.face_found == other.face_found == (index % 3 == 0)


class TestFaces:
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 80, 3), dtype=np.uint8)

    def test_a_crop_is_the_box_and_a_quarter_of_it_on_each_side(self, detections):
        detections([box(20, 10, 32, 16)], [box(0, 0, 20, 20)], [box(64, 8, 16, 32)])
        inputs = preprocessor()(self.frames)
        crops = [
            self.frames[0, 6:30, 12:60],  # 32 wide: 8 each side; 16 high: 4 each side
            self.frames[1, 0:25, 0:25],  # five more each side, none beyond the picture
            self.frames[2, 0:40, 60:80],  # 4 and 8; clipped above, below and on the right
        ]
        expected = TinyEncoder.prepare([np.ascontiguousarray(crop) for crop in crops])
        torch.testing.assert_close(inputs.facial_pixels, expected, rtol=0, atol=0)
        torch.testing.assert_close(
            inputs.general_pixels, TinyEncoder.prepare(list(self.frames)), rtol=0, atol=0
        )

    def test_a_frame_without_a_face_takes_the_nearest_box_and_is_recorded(self, detections):
        detections([], [box(20, 10, 32, 16)], [])
        inputs = preprocessor()(self.frames)
        crops = [np.ascontiguousarray(frame[6:30, 12:60]) for frame in self.frames]
        assert inputs.faces.tolist() == [False, True, False]
        assert inputs.face_found
        assert inputs.times is None
        torch.testing.assert_close(inputs.facial_pixels, TinyEncoder.prepare(crops), rtol=0, atol=0)

    @pytest.mark.parametrize("choice", [{"face_crop": "none"}, {"facial_source": "general"}])
    def test_where_no_face_is_used_none_is_looked_for(self, monkeypatch, choice):
        monkeypatch.setattr(FaceDetector, "detect", None)  # would raise when called
        inputs = preprocessor(face_required=True, **choice)(self.frames)
        assert inputs.faces is None
        assert inputs.face_found  # nothing is missing
        if "face_crop" in choice:
            torch.testing.assert_close(inputs.facial_pixels, inputs.general_pixels)
        else:
            assert inputs.facial_pixels is None

    def test_of_several_faces_the_followed_one_is_cut_out(self, detections):
        """The large one, in the frame too where it is the smaller of two; between them a gap."""
        small, followed = box(56, 20, 14, 14), box(10, 10, 12, 12)
        detections([small, followed], [], [box(8, 8, 16, 16), small])
        inputs = preprocessor()(self.frames)
        crops = [
            self.frames[0, 7:25, 7:25],  # 12 wide: 3 each side
            self.frames[1, 7:25, 7:25],  # of the nearest boxes the earlier one
            self.frames[2, 4:28, 4:28],  # 16 wide: 4 each side
        ]
        expected = TinyEncoder.prepare([np.ascontiguousarray(crop) for crop in crops])
        torch.testing.assert_close(inputs.facial_pixels, expected, rtol=0, atol=0)
        assert inputs.faces.tolist() == [True, False, True]

    def test_large_frames_do_not_stay_in_memory(self, tmp_path, detections):
        """Sixteen of 1280×720 take 44 MB, of which two at a time and the small ones are held."""
        images = moving(16, (1280, 720))
        path = write(tmp_path / "large.mp4", images, options={"preset": "ultrafast"})
        detections(*[[box(600, 300, 40, 40)]] * 16)
        preprocess = preprocessor(num_frames=16)
        tracemalloc.start()
        inputs = preprocess(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert inputs.num_frames == 16
        assert peak < 4 * 1280 * 720 * 3

    def test_too_many_frames_in_memory(self):
        with pytest.raises(VideoError, match="at most 128 frames"):
            preprocessor()(np.zeros((129, 4, 4, 3), np.uint8))

    def test_other_arrays_than_pictures_are_refused(self):
        for wrong in (
            self.frames[0],
            self.frames.astype(np.float32),
            self.frames[..., :1],
            self.frames[:0],
        ):
            with pytest.raises(VideoError, match="uint8, red first"):
                preprocessor()(wrong)


class TestSampling:
    def test_middles_ends_or_by_the_clock(self, folder):
        # Folders count 25 frames a second: 12.5 a second is every second one.
        assert greys(preprocessor()(folder)) == [0, 100, 200]
        assert greys(preprocessor(num_frames=2)(folder)) == [50, 150]
        assert greys(preprocessor(num_frames=2, sampling="uniform")(folder)) == [0, 200]
        by_clock = preprocessor(num_frames=9, sampling="fps", fps=12.5)(folder)
        assert greys(by_clock) == [0, 100, 200]
        assert by_clock.times.tolist() == pytest.approx([0, 0.08, 0.16])

    def test_draws_are_a_function_of_the_seed(self, folder):
        draws = [
            tuple(greys(preprocessor(num_frames=2, sampling="random", seed=seed)(folder)))
            for seed in (*range(12), *range(12))
        ]
        assert draws[:12] == draws[12:]
        assert len(set(draws)) > 3

    def test_too_few_frames(self, folder):
        assert greys(preprocessor(num_frames=8, min_frames=5)(folder))[-1] == 200
        with pytest.raises(VideoError, match=r"with 5 frames to look at; .* min_frames=6"):
            preprocessor(num_frames=8, min_frames=6)(folder)
        with pytest.raises(VideoError, match="with 3 frames"):
            preprocessor(num_frames=8, min_frames=4, sampling="fps", fps=12.5)(folder)
        with pytest.raises(VideoError, match=r"raise policy\.fps=12\.5, give a longer"):
            preprocessor(num_frames=8, min_frames=4, sampling="fps", fps=12.5)(folder)
        with pytest.raises(VideoError, match=r"in memory \(1, 4, 4, 3\) with 1 frame to look at"):
            preprocessor(min_frames=2)(np.zeros((1, 4, 4, 3), np.uint8))

    def test_draws_that_miss_a_frame_do_not_make_a_video_too_short(self, folder):
        for seed in range(20):
            drawn = preprocessor(num_frames=5, min_frames=5, sampling="random", seed=seed)(folder)
            assert drawn.num_frames == 5
            preprocessor(num_frames=6, min_frames=5, sampling="random", seed=seed)(folder)


class TestName:
    """What caches go by: another name for other pixels, the same for the same."""

    default = preprocessor().name

    @pytest.mark.parametrize(
        "change",
        [
            {"sampling": "uniform"},
            {"sampling": "random"},
            {"sampling": "fps"},
            {"face_crop": "none"},
            {"facial_source": "general"},
            {"general_encoder": "efficientnet_lite0"},
            {"facial_encoder": "mini_xception"},
        ],
    )
    def test_changes_with_the_pixels(self, change):
        assert preprocessor(**change).name != self.default

    @pytest.mark.parametrize(
        "change",
        [{"num_frames": 16}, {"min_frames": 2}, {"face_required": True}, {"fps": 2.0}, {"seed": 7}],
    )
    def test_stays_with_them(self, change):
        assert preprocessor(**change).name == self.default

    def test_knows_what_a_sampling_depends_on(self):
        for sampling, key, values in (("fps", "fps", (1.0, 2.0)), ("random", "seed", (1, 2))):
            first, second = (preprocessor(sampling=sampling, **{key: v}).name for v in values)
            assert first != second

    def test_knows_the_encoders_options(self):
        white = np.full((1, 50, 50, 3), 255, np.uint8)
        names, reds = set(), []
        for normalisation in ("imagenet", "clip"):
            prepare = preprocessor(
                general_encoder="umt_l16",
                general_encoder_options={"normalisation": normalisation},
                facial_source="general",
            )
            names.add(prepare.name)
            reds.append(float(prepare(white).general_pixels[0, 0].mean()))
        assert len(names) == 2
        # White is (1 - mean) / deviation of red: .485 and .229, or .48145466 and .26862954.
        assert reds == pytest.approx([2.248908, 1.930336], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling": "every"}, "sampling=every"),
        ({"num_frames": -1}, "num_frames=-1"),
        ({"num_frames": "8"}, "num_frames='8'; it is an integer"),
        ({"num_frames": 129}, "num_frames=129; it is at most 128"),
        ({"min_frames": 0}, "min_frames=0"),
        ({"min_frames": 4}, "min_frames=4; it is at most num_frames"),
        ({"fps": 0.0}, "fps=0.0; it is positive"),
        ({"fps": float("nan")}, "fps=nan; it is positive"),
        ({"fps": float("inf")}, "fps=inf; it is positive"),
        ({"face_crop": "head"}, "face_crop=head"),
        ({"facial_source": "both"}, "facial_source=both"),
        ({"general_encoder": "vgg"}, "vgg"),
        ({"facial_encoder_options": {"colour": 1}}, "colour"),
    ],
)
def test_settings_that_cannot_be_meant(change, message):
    with pytest.raises(ConfigError, match=message):
        preprocessor(**change)
