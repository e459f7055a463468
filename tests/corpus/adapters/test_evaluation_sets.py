from __future__ import annotations

import json

import pytest

from common.errors import ConfigError
from corpus.adapters.dfec import DFEC
from corpus.adapters.dfew import DFEW
from corpus.adapters.emer import EMER
from corpus.adapters.mafw import MAFW
from corpus.adapters.ravdess import RAVDESS

SET = "EmoLabel_DataSplit/{}(single-labeled)/set_{}.csv"
DFEW_FILES = {
    SET.format("train", 1): "video_name,label\n12,1\n13,2\n14,3\n",
    SET.format("test", 1): "\ufeffvideo_name,label\r\n1,4\r\n2,5\r\n300,6\r\n4,7\r\n",
    SET.format("train", 2): "label,video_name\n7,1\n",
    SET.format("test", 2): "label,video_name\n1,12\n",
    "Clip/original/1.mp4": "",
    "Clip/original/00002.mp4": "",
    "Clip/original/300.mp4": "",
    "Clip/original/12.mp4": "",
    "Clip/original/99.mp4": "",
    "Clip/clip_224x224/00001/": "",
}


class TestDFEW:
    def test_official_labels_begin_with_one(self, tree) -> None:
        root = tree(DFEW_FILES)
        listing = DFEW(root, {}).list()

        assert [(clip.clip_id, clip.extra["label"], clip.present) for clip in listing.clips] == [
            ("dfew-00001", "angry", ("anger",)),
            ("dfew-00002", "surprise", ("surprise",)),
            ("dfew-00300", "disgust", ("disgust",)),
        ]
        clip = listing.clips[0]
        assert clip.video == str(root / "Clip/original/1.mp4")
        assert clip.absent == ("happy", "sad", "neutral", "surprise", "disgust", "fear")
        assert (clip.recording, clip.official_split) == ("dfew/1", "test/fold-1")
        assert clip.held_out
        assert listing.missing == ("00004",)
        assert listing.surplus == ("99.mp4",)  # 12 is annotated, for training

    def test_folds_parts_and_frames(self, tree) -> None:
        root = tree(DFEW_FILES)
        (clip,) = (
            DFEW(root, {"fold": 2, "split": "train", "videos": "Clip/clip_224x224"}).list().clips
        )
        assert clip.video == str(root / "Clip/clip_224x224/00001")
        assert (clip.present, clip.official_split) == (("fear",), "train/fold-2")
        assert not clip.held_out

    def test_other_lists_count_from_zero(self, tree) -> None:
        text = "DFEW/DFEW_Frame_Face/00001 144 1\nDFEW/DFEW_Frame_Face/00002 70 0\n"
        root = tree({**DFEW_FILES, "DFEW_set_3_test.txt": text})
        clips = DFEW(root, {"list": "DFEW_set_3_test.txt"}).list().clips
        assert [(clip.present, clip.official_split) for clip in clips] == [
            (("sad",), "test/fold-3"),
            (("happy",), "test/fold-3"),
        ]

    def test_a_list_that_does_not_show_its_start_needs_the_option(self, tree) -> None:
        root = tree({**DFEW_FILES, "mine.txt": "1 144 1\n"})
        with pytest.raises(ConfigError, match="first_label"):
            DFEW(root, {"list": "mine.txt"}).list()
        (clip,) = DFEW(root, {"list": "mine.txt", "first_label": 0}).list().clips
        assert clip.present == ("sad",)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("video_name,label\n1,0\n", "line 2: label '0'"),
            ("video_name,label\n1,8\n", "line 2: label '8'"),
            ("video_name,label\nabc,1\n", "line 2: clip 'abc'"),
            ("name,label\n1,1\n", "line 1: columns name, label"),
        ],
    )
    def test_wrong_lines_are_refused(self, tree, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            DFEW(tree({**DFEW_FILES, SET.format("test", 1): text}), {}).list()


MAFW_FILES = {
    "caption-label/single_label.txt": (
        "03747.mp4  anger  <br>一个男人。 <br> A man; he frowns.\n"
        "00002.mp4\tanxiety\t<br>一。\t<br>A woman waits.\n"
        "00003.mp4 neutral <br>二。<br/>A child.\n"
    ),
    "caption-label/multi_label.txt": "20045.mp4\tanger_disgust_anxiety\t<br>三。\t<br>Two.\n",
    "split/single/no_caption/set_1/train.txt": "00003.mp4 neutral\n",
    "split/single/no_caption/set_1/test.txt": "03747.mp4 anger\n00002.mp4 anxiety\n",
    "clips/03747.mp4": "",
    "clips/00002.mp4": "",
    "clips/00003.mp4": "",
    "clips/20045.mp4": "",
}


class TestMAFW:
    def test_a_fold_with_descriptions(self, tree) -> None:
        listing = MAFW(tree(MAFW_FILES), {}).list()

        anger, anxiety = listing.clips
        assert (anger.clip_id, anger.recording) == ("mafw-03747", "mafw/3747")
        assert (anger.present, anger.summary) == (("anger",), "A man; he frowns.")
        assert anger.extra == {"path": "03747", "label": "anger", "caption_zh": "一个男人。"}
        assert anxiety.present == ()
        assert anxiety.extra["label"] == "anxiety"
        assert anxiety.absent == (
            "anger", "disgust", "fear", "happy", "neutral", "sad", "surprise", "contempt",
        )  # fmt: skip
        assert anxiety.official_split == "test/fold-1"
        assert listing.surplus == ("20045.mp4",)

    def test_all_of_a_label_file(self, tree) -> None:
        clips = MAFW(tree(MAFW_FILES), {"fold": 0}).list().clips
        assert [clip.extra["label"] for clip in clips] == ["anger", "anxiety", "neutral"]

    def test_several_labels(self, tree) -> None:
        root = tree(MAFW_FILES)
        (clip,) = MAFW(root, {"fold": 0, "labels": "multi"}).list().clips
        assert clip.present == ("anger", "disgust")
        assert clip.extra["label"] == "anger_disgust_anxiety"
        with pytest.raises(ConfigError, match="set fold=0"):
            MAFW(root, {"labels": "multi"}).list()

    @pytest.mark.parametrize(
        ("order", "labels"),
        [("paper", ["anger", "neutral"]), ("dfer_clip", ["happiness", "surprise"])],
    )
    def test_integers_are_read_only_in_a_named_order(self, tree, order: str, labels) -> None:
        text = "MAFW/data/faces/03747 47 0\nMAFW/data/faces/00002 105 4\n"
        root = tree({**MAFW_FILES, "list.txt": text})
        with pytest.raises(ConfigError, match="line 1: label '0'; two orders"):
            MAFW(root, {"list": "list.txt"}).list()
        clips = MAFW(root, {"list": "list.txt", "label_order": order}).list().clips
        assert [clip.extra["label"] for clip in clips] == labels

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("03747.mp4 angr", "line 1: label 'angr'; .* did you mean anger"),
            ("clip.mp4 anger", "line 1: clip 'clip.mp4'"),
            ("03747.mp4 anger <br>only one", "line 1: .* two descriptions"),
        ],
    )
    def test_wrong_lines_are_refused(self, tree, line: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            MAFW(tree({**MAFW_FILES, "list.txt": line}), {"list": "list.txt"}).list()


RECORDS = [
    {"id": "0", "video": "DFEW/videos/2961.mp4", "caption": " A man.\nHe blinks. "},
    {"id": "1", "video": "RAVDESS/data/Actor_05/01-02-04-02-01-01-05.mp4", "caption": "Sings."},
    {"id": "3", "video": "FERV39k/Action/Happy/0015.mp4", "caption": "Smiles."},
    {"id": "4", "video": "CAER_mp4/train/Surprise/0932.mp4", "caption": "Stares."},
    {"id": "5", "video": "MAFW/videos/09068.mp4", "caption": "Gone."},
]


class TestDFEC:
    def test_captions_are_summaries_and_recordings_those_of_the_origin(self, tree) -> None:
        files = {record["video"]: "" for record in RECORDS[:4]}
        root = tree({**files, "dfec.json": json.dumps(RECORDS), "DFEW/videos/1.mp4": ""})
        listing = DFEC(root, {}).list()

        first = listing.clips[0]
        assert first.summary == "A man.\nHe blinks."
        assert first.extra == {
            "path": "DFEW/videos/2961",
            "id": "0",
            "collected_from": "dfew",
        }
        assert first.video == str(root / "DFEW/videos/2961.mp4")
        assert [clip.recording for clip in listing.clips] == [
            "dfew/2961",
            "ravdess/02-04-02-01-01-05",
            "ferv39k/Action/Happy/0015",
            "CAER_mp4/train/Surprise/0932",
        ]
        assert [clip.identity for clip in listing.clips] == [None, "ravdess/05", None, None]
        assert all(clip.held_out for clip in listing.clips)
        assert (listing.missing, listing.surplus) == (("MAFW/videos/09068",), ())

    @pytest.mark.parametrize(
        ("content", "message"),
        [({}, "line 1: dict"), ([RECORDS[0], {"id": "1"}], "item 2"), (["x"], "item 1: 'x'")],
    )
    def test_another_form_is_refused(self, tree, content, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            DFEC(tree({"dfec.json": json.dumps(content)}), {}).list()


class TestEMER:
    def test_version_one(self, tree) -> None:
        text = (
            "names,emotions,subtitles,reasons\n"
            'sample_01,angry,"Don\'t, please.","He shouts, loudly."\n'
            "sample_02,worried,Oh,She waits.\n"
        )
        listing = EMER(
            tree({"gt-eng.csv": text, "video/sample_01.mp4": "", "video/sample_02.mp4": ""}), {}
        ).list()
        first, second = listing.clips
        assert (first.present, first.summary) == (("anger",), "He shouts, loudly.")
        assert first.extra == {
            "path": "sample_01",
            "label": "angry",
            "subtitle": "Don't, please.",
        }
        assert (second.present, second.extra["label"]) == ((), "worried")

    def test_version_two(self, tree) -> None:
        text = '\ufeffname,chinese,english\r\nsample_01,"在视频中，","In the video,\nhe nods."\r\n'
        root = tree({"emer.csv": text, "video/sample_01.mp4": "", "video/sample_09.mp4": ""})
        listing = EMER(root, {}).list()
        (clip,) = listing.clips
        assert clip.summary == "In the video,\nhe nods."
        assert clip.extra == {"path": "sample_01", "caption_zh": "在视频中，"}
        assert listing.surplus == ("sample_09.mp4",)

    def test_another_table_is_refused(self, tree) -> None:
        root = tree({"emer.csv": "name,text\na,b\n", "video/a.mp4": ""})
        with pytest.raises(ConfigError, match="columns name, text; v1 has names"):
            EMER(root, {}).list()


class TestRAVDESS:
    def test_the_name_says_everything(self, tree) -> None:
        names = ("02-01-05-02-01-02-07", "02-01-02-01-01-01-12", "01-01-05-02-01-02-07")
        root = tree({f"Actor_{name[-2:]}/{name}.mp4": "" for name in names} | {"x/odd.mp4": ""})
        listing = RAVDESS(root, {}).list()

        man, woman = listing.clips
        assert man.video == str(root / f"Actor_07/{names[0]}.mp4")
        assert (man.present, man.identity) == (("anger", "male"), "ravdess/07")
        assert (woman.present, woman.extra["label"]) == (("neutral",), "calm")
        assert woman.absent == ("happy", "sad", "anger", "fear", "disgust", "surprise", "male")
        assert listing.surplus == ("x/odd.mp4",)
        both = RAVDESS(root, {"modality": "all"}).list().clips
        assert [clip.recording for clip in both].count(man.recording) == 2  # one take, two files

    @pytest.mark.parametrize(
        ("options", "num"),
        # As published: 1,440 spoken takes, 1,012 sung ones, each in two files with a picture.
        [({}, 1440), ({"channel": "song"}, 1012), ({"channel": "all", "modality": "all"}, 4904)],
    )
    def test_all_takes_are_known(self, tree, options, num: int) -> None:
        names = RAVDESS(tree({"x.txt": ""}), options).list().missing
        assert len(names) == num
        assert not [name for name in names if name[3:5] == "02" and name.endswith("-18")]

    def test_a_list(self, tree) -> None:
        text = "RAVDESS/face_aligned/Actor_01/02-01-08-01-01-01-01 3\n"
        root = tree({"test.csv": text, "face_aligned/Actor_01/02-01-08-01-01-01-01/": ""})
        (clip,) = RAVDESS(root, {"list": "test.csv"}).list().clips
        assert clip.extra["label"] == "surprised"  # by name: the integer is not read
        assert clip.official_split == "test"

    def test_a_wrong_name_is_refused(self, tree) -> None:
        root = tree({"test.csv": "Actor_01/02-01-09-01-01-01-01 3\n"})
        with pytest.raises(ConfigError, match=r"test\.csv line 1"):
            RAVDESS(root, {"list": "test.csv"}).list()
