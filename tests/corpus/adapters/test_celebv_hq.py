from __future__ import annotations

import copy
import json

import pytest

from common.errors import ConfigError
from corpus.adapters.celebv_hq import CelebVHQ

# The form of celebvhq_info.json, with fewer names and other numbers.
INFO = {
    "meta_info": {
        "appearance_mapping": ["Male", "blonde_hair", "no_beard", "pet_on_shoulder"],
        "action_mapping": ["talk", "close_eyes"],
    },
    "clips": {
        "-ab_CD9_8": {
            "ytb_id": "-ab_CD9",
            "duration": {"start_sec": 102.6, "end_sec": 106.5},
            "bbox": {"top": 0.1, "bottom": 0.99, "left": 0.01, "right": 0.5},
            "attributes": {
                "appearance": [0, 1, 1, 1],
                "action": [0, 1],
                "emotion": {"sep_flag": False, "labels": "neutral"},
            },
            "version": "v0.1",
        },
        "_0tf2_0": {
            "ytb_id": "_0tf2",
            "duration": {"start_sec": 5, "end_sec": 9},
            "bbox": {"top": 0.0, "bottom": 0.8, "left": 0.5, "right": 1.0},
            "attributes": {
                "appearance": [1, 0, 0, 0],
                "action": [1, 0],
                "emotion": {
                    "sep_flag": True,
                    "labels": [
                        {"emotion": "surprise", "start_sec": 1.28, "end_sec": 3.28},
                        {"emotion": "happy", "start_sec": 0, "end_sec": 0.28},
                        {"emotion": "surprise", "start_sec": 3.5, "end_sec": 4},
                    ],
                },
            },
            "version": "v0.1",
        },
    },
}


@pytest.fixture
def root(tree):
    files = dict.fromkeys(("35666/-ab_CD9_8.mp4", "35666/_0tf2_0.mp4", "raw/_0tf2.mp4"), "")
    return tree({"celebvhq_info.json": json.dumps(INFO), **files})


def test_flags_become_names_by_the_files_own_mapping(root) -> None:
    first, second = CelebVHQ(root, {}).list().clips

    assert first.clip_id == "celebv_hq--ab_CD9_8"
    assert first.video == str(root / "35666/-ab_CD9_8.mp4")
    assert first.recording == "-ab_CD9"
    assert first.present == ("blond_hair", "no_beard", "close_eyes", "neutral")
    assert first.absent == (
        "male", "talk", "happy", "sad", "anger", "fear", "surprise", "contempt", "disgust",
    )  # fmt: skip
    assert first.extra["no_attribute"] == ["pet_on_shoulder"]
    assert first.whole
    assert (first.start_seconds, first.crop) == (None, None)  # cut and cropped already
    assert second.present == ("male", "talk", "happy", "surprise")
    assert "happy" not in second.absent


def test_timed_emotions_keep_their_order_and_their_seconds(root) -> None:
    emotions = CelebVHQ(root, {}).list().clips[1].extra["emotions"]
    assert emotions == [
        {"emotion": "happy", "start_sec": 0.0, "end_sec": 0.28},
        {"emotion": "surprise", "start_sec": 1.28, "end_sec": 3.28},
        {"emotion": "surprise", "start_sec": 3.5, "end_sec": 4.0},
    ]


def test_whole_videos_are_cut_and_cropped_by_the_annotation(root) -> None:
    listing = CelebVHQ(root, {"layout": "raw"}).list()

    (clip,) = listing.clips
    assert clip.clip_id == "celebv_hq-_0tf2_0"
    assert clip.video == str(root / "raw/_0tf2.mp4")
    assert (clip.start_seconds, clip.end_seconds) == (5.0, 9.0)
    # The official margin is 0.02 on every side, within the picture.
    assert clip.crop == pytest.approx((0.48, 0.0, 1.0, 0.82))
    assert listing.missing == ("-ab_CD9",)


def test_missing_and_surplus(root, tree) -> None:
    (root / "35666/-ab_CD9_8.mp4").unlink()
    tree({"35666/other_1.mp4": ""})
    listing = CelebVHQ(root, {}).list()
    assert (listing.missing, listing.surplus) == (("-ab_CD9_8",), ("other_1.mp4",))


def broken(change) -> str:
    info = copy.deepcopy(INFO)
    change(info["clips"]["_0tf2_0"])
    return json.dumps(info)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda clip: clip["attributes"]["appearance"].pop(), "appearance of 3 values"),
        (lambda clip: clip["attributes"].update(action=[2, 0]), "values are 0 or 1"),
        (lambda clip: clip["attributes"].pop("emotion"), "lacks or misspells 'emotion'"),
        (lambda clip: clip["attributes"]["emotion"].update(labels="happy"), "sep_flag"),
        (lambda clip: clip["duration"].update(end_sec="soon"), "soon"),
    ],
)
def test_records_of_another_form_are_refused_by_name(root, tree, change, message: str) -> None:
    tree({"celebvhq_info.json": broken(change)})
    with pytest.raises(ConfigError, match=f"clip _0tf2_0: .*{message}"):
        CelebVHQ(root, {}).list()


def test_a_wrong_box_is_refused(root, tree) -> None:
    tree({"celebvhq_info.json": broken(lambda clip: clip["bbox"].update(left=1.0))})
    with pytest.raises(ConfigError, match="clip _0tf2_0: bbox"):
        CelebVHQ(root, {"layout": "raw"}).list()


@pytest.mark.parametrize("text", ["[]", "{}", '{"meta_info": {}, "clips": {}}'])
def test_another_file_is_refused(root, tree, text: str) -> None:
    tree({"celebvhq_info.json": text})
    with pytest.raises(ConfigError, match="appearance_mapping"):
        CelebVHQ(root, {}).list()


def test_what_to_download_is_said_where_files_lack(tree) -> None:
    root = tree({"35666/a.mp4": ""})
    with pytest.raises(ConfigError, match=r"celebvhq_info\.json.*download_and_process\.py"):
        CelebVHQ(root, {}).list()
    with pytest.raises(ConfigError, match="no such folder"):
        CelebVHQ(root / "nowhere", {}).list()
