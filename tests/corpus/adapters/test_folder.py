from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from common.errors import ConfigError
from corpus.adapters.folder import LAST_FRAME, Folder
from corpus.labels import Interval
from corpus.records import Pair, SourceClip, from_row, to_row
from corpus.schema import FacialTargets, Level, QuestionKind

VIDEOS = {"a.mp4": "", "sub/b c.mov": "", "frames/": ""}


def listed(tree, text: str, table: str = "labels.csv", **options):
    return Folder(tree({**VIDEOS, table: text}), options).list()


def test_a_table_of_names(tree) -> None:
    listing = listed(
        tree,
        "video,attributes,emotion,action,absent,identity,recording,split,summary,box,subject\n"
        "a.mp4,Blonde hair; glasses,surprised|happiness,smile,hat,ann,tape 1,test,She; smiles."
        ",0.1;0;0.6;0.9,woman\n"
        "gone.mp4,,,,,,,,,,\n"
        "frames,,calm,,,,,,,,\n",
        licence="CC0",
    )

    first, second = listing.clips
    assert first.clip_id == "folder-a"
    assert first.present == ("blond_hair", "eyeglasses", "surprise", "happy", "smile")
    assert first.absent == ("wearing_hat",)
    assert (first.identity, first.recording) == ("folder/ann", "folder/tape 1")
    assert (first.official_split, first.summary) == ("test", "She; smiles.")
    assert (first.crop, first.subject) == ((0.1, 0.0, 0.6, 0.9), "woman")
    assert first.licence == "CC0"
    assert (first.whole, first.held_out, second.held_out) == (False, True, False)
    assert second.video.endswith("/frames")
    assert (second.present, second.recording) == (("neutral",), "folder/frames")
    assert listing.missing == ("gone",)
    assert listing.surplus == ("sub/b c.mov",)


def test_rows_of_one_clip_are_put_together(tree) -> None:
    listing = listed(
        tree,
        "video;attributes;emotion;question;answer;kind;level;options\n"
        'a.mp4;"beard";sad;How does he feel?;He looks sad.;emotion;;"sad|happy"\n'
        "sub/b c.mov;;;;;;;\n"
        "a.mp4;;;What does he look like?;He has a beard.;appearance;mid;\n"
        "a.mp4;beard;;Describe him.;A sad man with a beard.;;;\n",
    )

    assert len(listing.clips) == 2
    assert listing.clips[0].clip_id == "folder-a"
    assert listing.clips[0].pairs == (
        Pair(
            question="How does he feel?",
            answer="He looks sad.",
            targets=FacialTargets(emotion=("sad",)),
            kind=QuestionKind.EMOTION,
            options=("sad", "happy"),
        ),
        Pair(
            question="What does he look like?",
            answer="He has a beard.",
            targets=FacialTargets(attributes=("facial hair",)),
            kind=QuestionKind.APPEARANCE,
            level=Level.MID,
        ),
        Pair(
            question="Describe him.",
            answer="A sad man with a beard.",
            targets=FacialTargets(attributes=("facial hair",), emotion=("sad",)),
            kind=QuestionKind.DESCRIPTION,
        ),
    )


def test_parts_of_a_video_are_clips_of_one_recording(tree) -> None:
    rows = [
        {"video": "a.mp4", "start": 0, "end": 2.5, "emotion": ["happy"]},
        {"video": "a.mp4", "start": 2.5, "emotion": ["sad"], "box": [0, 0, 1, 1]},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    first, second = listed(tree, text, "labels.jsonl", name="lab").clips

    assert (first.start_seconds, first.end_seconds) == (0.0, 2.5)
    assert (second.start_seconds, second.end_seconds) == (2.5, None)
    assert first.clip_id != second.clip_id
    assert first.clip_id.startswith("folder-lab-a_0-2.5")
    assert first.recording == second.recording == "lab/a"
    assert second.crop == (0.0, 0.0, 1.0, 1.0)


def test_json_and_absolute_paths(tree) -> None:
    root = tree(VIDEOS)
    text = json.dumps([{"video": str(root / "sub" / "b c.mov"), "action": "nod; wink"}])
    (clip,) = listed(tree, text, "labels.json", whole=True).clips
    assert clip.video == str(root / "sub" / "b c.mov")
    assert clip.present == ("nod", "wink")
    assert clip.whole


def test_free_phrases_hold_over_the_whole_clip(tree) -> None:
    text = "video,attributes,emotion\na.mp4,a scar on the chin;beard,sad\nframes,beard,happy\n"
    with pytest.raises(ConfigError, match=r"line 2: 'a scar on the chin'.* free_phrases: true"):
        listed(tree, text)

    free, known = listed(tree, text, free_phrases=True).clips

    throughout = {"first": 0, "last": LAST_FRAME}
    assert free.timeline == {
        "attributes": (
            Interval(**throughout, phrases=("a scar on the chin",)),
            Interval(**throughout, phrases=("facial hair",)),
        ),
        "emotion": (Interval(**throughout, phrases=("sad",)),),
    }
    assert free.present == ()
    assert free.timeline["emotion"][0].overlap(30, 65) == 36
    assert (known.timeline, known.present) == ({}, ("facial_hair", "happy"))
    assert from_row(SourceClip, json.loads(json.dumps(to_row(free)))) == free


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,emotion\na.mp4,hapy\n", "line 2: 'hapy'; .* did you mean happy"),
        ("video,emotions\na.mp4,happy\n", "column 'emotions'; .* did you mean emotion"),
        ("video,absent\na.mp4,xyzzy\n", "line 2: 'xyzzy'"),
        ("video,emotion,absent\na.mp4,sad,sadness\n", "sad present and absent"),
        ("video,emotion\n ,sad\n", "line 2: no video"),
        ("video,start,end\na.mp4,3,3\n", "ends after its start"),
        ("video,end\na.mp4,0\n", "ends after its start"),
        ("video,start\na.mp4,-1\n", "start '-1'"),
        ("video,start\na.mp4,nan\n", "start 'nan'"),
        ("video,start\na.mp4,0:30\n", "a number of seconds"),
        ("video,box\na.mp4,0;0;2;1\n", "box 0; 0; 2; 1"),
        ("video,box\na.mp4,0;0;1\n", "left; top; right; bottom"),
        ("video,subject\na.mp4,men\n", "did you mean man"),
        ("video,question\na.mp4,Who?\n", "half a pair"),
        ("video,question,answer,kind\na.mp4,Who?,He.,emotional\n", "did you mean emotion"),
        ("video,identity\na.mp4,ann\na.mp4,bob\n", "line 3: identity 'bob'; line 2 says 'ann'"),
    ],
)
def test_wrong_rows_are_refused_by_line(tree, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        listed(tree, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}", "line 1: dict"), ("[1]", "item 1: 1"), ("[{}]", "item 1: no video")],
)
def test_wrong_json_is_refused(tree, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        listed(tree, text, "labels.json")


def test_a_broken_line_of_json_lines_is_named(tree) -> None:
    with pytest.raises(ConfigError, match=r"labels\.jsonl line 3: oops"):
        listed(tree, '{"video": "a.mp4"}\n\noops\n', "labels.jsonl")


def test_which_table_must_be_clear(tree) -> None:
    root = tree({**VIDEOS, "a.csv": "video\na.mp4\n", "b.csv": "video\nframes\n"})
    with pytest.raises(ConfigError, match=r"a\.csv, b\.csv"):
        Folder(root, {}).list()
    (clip,) = Folder(root, {"annotations": "b.csv"}).list().clips
    assert clip.clip_id == "folder-frames"


def test_the_example_of_the_documentation(tree) -> None:
    page = (Path(__file__).parents[3] / "docs/datasets.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"<!-- labels\.csv -->\n```csv\n(.*?)```", page, re.DOTALL)
    listing = Folder(tree({"ann/first.mp4": "", "second/": "", "labels.csv": table}), {}).list()

    ann, second = listing.clips
    assert ann.present == ("blond_hair", "eyeglasses", "neutral", "happy", "smile")
    assert ann.absent == ("wearing_hat",)
    assert [pair.targets for pair in ann.pairs] == [
        FacialTargets(emotion=("neutral", "happy")),
        FacialTargets(attributes=("blond hair", "eyeglasses")),
    ]
    assert second.present == ("facial_hair", "sad")
    assert (listing.missing, listing.surplus) == ((), ())


@pytest.mark.parametrize(
    ("word", "held_out"),
    [
        ("test", True),
        ("val", True),
        ("valid", True),
        ("Validation", True),
        ("dev", True),
        ("eval", True),
        ("held_out", True),
        ("train", False),
        ("Train", False),
        ("", False),
    ],
)
def test_a_split_other_than_train_is_held_out(tree, word: str, held_out: bool) -> None:
    (clip,) = listed(tree, f"video,split\na.mp4,{word}\n").clips
    assert (clip.held_out, clip.official_split) == (held_out, word.lower() or None)


def test_another_word_for_a_split_is_refused(tree) -> None:
    rule = "split 'holdout'; it is one of train, test, val, valid, validation, dev, eval, held_out"
    with pytest.raises(ConfigError, match=rf"labels\.csv line 3: {rule}.*leave the column out"):
        listed(tree, "video,split\na.mp4,train\nframes,holdout\n")
