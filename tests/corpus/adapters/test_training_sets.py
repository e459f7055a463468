from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import ConfigError
from corpus.adapters.ferv39k import FERV39K
from corpus.adapters.hmdb51 import BODY_CLASSES, FACIAL_CLASSES, HMDB51
from corpus.adapters.youtube_faces import FacePair, YouTubeFaces, read_pairs
from corpus.attributes import VOCABULARY

FERV = {
    "4_setups/All_scenes/train_All.csv": "Action/Happy/0267 Happy\r\nWar/Angry/0003 Angry\r\n",
    "4_setups/All_scenes/test_All.csv": "Action/Happy/0001 Happy\n",
    "2_ClipsforFaceCrop/Action/Happy/0267/": "",
    "2_ClipsforFaceCrop/Action/Happy/0001/": "",
    "2_ClipsforFaceCrop/War/Angry/0003.mp4": "",
    "2_ClipsforFaceCrop/War/Sad/0004/": "",
}


class TestFERV39K:
    def test_the_training_part_is_taken_and_the_test_part_is_no_surplus(self, tree) -> None:
        root = tree(FERV)
        listing = FERV39K(root, {}).list()

        frames, video = listing.clips
        assert frames.video == str(root / "2_ClipsforFaceCrop/Action/Happy/0267")
        assert video.video == str(root / "2_ClipsforFaceCrop/War/Angry/0003.mp4")
        assert (frames.present, video.present) == (("happy",), ("anger",))
        assert video.absent == ("happy", "sad", "neutral", "surprise", "disgust", "fear")
        assert video.extra == {"path": "War/Angry/0003", "label": "Angry"}
        assert video.recording == "ferv39k/War/Angry/0003"
        assert {clip.official_split for clip in listing.clips} == {"train"}
        assert listing.missing == ()
        assert listing.surplus == ("War/Sad/0004",)

    def test_all_parts(self, tree) -> None:
        clips = FERV39K(tree(FERV), {"split": "all"}).list().clips
        assert [clip.official_split for clip in clips] == ["train", "train", "test"]

    def test_lists_with_integers_are_read_by_the_names_of_folders(self, tree) -> None:
        text = "FERV39K/2_ClipsforFaceCrop/War/Angry/0003 25 0\n/data/War/Sad/9999 9 3\n"
        listing = FERV39K(tree({**FERV, "FERV39K_test.txt": text}), {"list": "FERV39K_test.txt"})
        listing = listing.list()
        assert [(clip.present, clip.official_split) for clip in listing.clips] == [
            (("anger",), "test")
        ]
        assert listing.missing == ("War/Sad/9999",)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("Action/Happy/0267 Sad", "line 3: label 'Sad' of Action/Happy/0267"),
            ("Action/Hapy/0267 Hapy", "line 3: label 'Hapy'; .* did you mean happy"),
            ("0267 Happy", "line 3: 0267"),
            ("War/Angry/0003", "line 3: 'War/Angry/0003'"),
        ],
    )
    def test_lines_of_another_form_are_refused(self, tree, line: str, message: str) -> None:
        root = tree({**FERV, "4_setups/All_scenes/train_All.csv": f"War/Sad/1 Sad\n\n{line}\n"})
        with pytest.raises(ConfigError, match=message):
            FERV39K(root, {}).list()


SMILE = "Show_Your_smile_-)_smile_h_nm_np1_fr_med_0.avi"
HMDB = {
    f"smile/{SMILE}": "",
    "smile/surplus_smile_h_nm_np1_fr_med_1.avi": "",
    "talk/A_talk_u_cm_np1_le_goo_2.avi": "",
    "wave/A_wave_u_cm_np1_le_goo_0.avi": "",
    "testTrainMulti_7030_splits/smile_test_split1.txt": f"{SMILE} 1 \n",
    "testTrainMulti_7030_splits/talk_test_split1.txt": (
        "A_talk_u_cm_np1_le_goo_2.avi 2\nB_talk_f_cm_np1_le_goo_0.avi 0\n"
    ),
    "testTrainMulti_7030_splits/wave_test_split1.txt": "A_wave_u_cm_np1_le_goo_0.avi 1\n",
}


class TestHMDB51:
    def test_the_faces_classes_are_attributes(self) -> None:
        assert len(FACIAL_CLASSES + BODY_CLASSES) == len({*FACIAL_CLASSES, *BODY_CLASSES}) == 51
        assert all(name in VOCABULARY for name in FACIAL_CLASSES)

    def test_clips_of_the_chosen_classes(self, tree) -> None:
        root = tree(HMDB)
        listing = HMDB51(root, {"classes": ["talk", "smile"]}).list()

        smile, talk = listing.clips
        assert smile.video == str(root / "smile" / SMILE)
        assert (smile.present, talk.present) == (("smile",), ("talk",))
        assert smile.absent == ()  # who smiles may talk: only one class was given
        assert smile.recording == "hmdb51/Show_Your_smile_-)"
        assert (smile.extra["visible"], talk.extra["visible"]) == ("head", "upper body")
        assert (smile.official_split, talk.official_split) == ("train/fold-1", "test/fold-1")
        assert listing.missing == ("talk/B_talk_f_cm_np1_le_goo_0",)
        assert listing.surplus == ("smile/surplus_smile_h_nm_np1_fr_med_1.avi",)

    def test_a_part_of_the_division(self, tree) -> None:
        listing = HMDB51(tree(HMDB), {"classes": ["talk"], "split": "test"}).list()
        assert [clip.official_split for clip in listing.clips] == ["test/fold-1"]
        assert listing.missing == ()

    def test_a_class_of_the_body_keeps_its_label(self, tree) -> None:
        (clip,) = HMDB51(tree(HMDB), {"classes": ["wave"]}).list().clips
        assert (clip.present, clip.extra["label"]) == ((), "wave")

    def test_unknown_classes_and_lines_are_refused(self, tree) -> None:
        root = tree({**HMDB, "testTrainMulti_7030_splits/smile_test_split1.txt": f"{SMILE} 3\n"})
        with pytest.raises(ConfigError, match="did you mean smile"):
            HMDB51(root, {"classes": ["smil"]}).list()
        with pytest.raises(ConfigError, match=r"smile_test_split1\.txt line 1"):
            HMDB51(root, {"classes": ["smile"]}).list()


PAIRS = """split number, first name, second name, is same
1, Ann_Lee/0, Ann_Lee/3, 1
1 , Ann_Lee/0 , Bob_O'Hara/1 , 0
10, Cid/2, Dee/0, 0
"""
YTF = {
    "frame_images_DB/Ann_Lee/0/": "",
    "frame_images_DB/Ann_Lee/5/": "",
    "frame_images_DB/Bob_O'Hara/1/": "",
    "frame_images_DB/Dee/0/": "",
    "frame_images_DB/Dee/1/": "",
    "frame_images_DB/Ann_Lee.labeled_faces.txt": (
        "Ann_Lee\\0\\0.5.jpg,0,202,152,88,88,0,0\nAnn_Lee\\0\\0.6.jpg,0,202,152,88,88,0,0\n"
        "Ann_Lee\\5\\5.1.jpg,0,1,1,88,88,0,0\n"
    ),
    "splits.txt": PAIRS,
}


class TestYouTubeFaces:
    def test_identity_and_fold(self, tree) -> None:
        root = tree(YTF)
        listing = YouTubeFaces(root, {}).list()

        assert [
            (clip.extra["path"], clip.identity, clip.official_split) for clip in listing.clips
        ] == [
            ("Ann_Lee/0", "youtube_faces/Ann_Lee", "fold-1"),
            ("Ann_Lee/5", "youtube_faces/Ann_Lee", None),
            ("Bob_O'Hara/1", "youtube_faces/Bob_O'Hara", "fold-1"),
            ("Dee/0", "youtube_faces/Dee", "fold-10"),
        ]
        assert listing.clips[0].video == str(root / "frame_images_DB/Ann_Lee/0")
        assert listing.missing == ("Ann_Lee/3", "Cid/2")
        assert listing.surplus == ("Dee/1",)

    def test_without_pairs(self, tree) -> None:
        clips = YouTubeFaces(tree(YTF), {"pairs": ""}).list().clips
        assert [clip.extra["path"] for clip in clips] == ["Ann_Lee/0", "Ann_Lee/5"]

    def test_pairs(self, tree) -> None:
        assert read_pairs(tree(YTF) / "splits.txt") == [
            FacePair(fold=1, first="Ann_Lee/0", second="Ann_Lee/3", same=True),
            FacePair(fold=1, first="Ann_Lee/0", second="Bob_O'Hara/1", same=False),
            FacePair(fold=10, first="Cid/2", second="Dee/0", same=False),
        ]

    @pytest.mark.parametrize(
        "line", ["1, Ann_Lee/0, Ann_Lee/3", "1, Ann/0, Ann/1, 0", "1, Ann/0, Bob/1, 1", "x"]
    )
    def test_wrong_pairs_are_refused(self, tmp_path: Path, line: str) -> None:
        path = tmp_path / "splits.txt"
        path.write_text(f"header\n{line}\n")
        with pytest.raises(ConfigError, match=r"splits\.txt line 2"):
            read_pairs(path)
