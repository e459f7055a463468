from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import ConfigError
from corpus.adapters.dataset import (
    Dataset,
    Entry,
    ListRow,
    Option,
    class_of,
    item_of,
    list_row,
    named_labels,
    one_class,
    safe_id,
    split_of_list,
)
from corpus.adapters.files import Line, Media, Place

PLACE = Place(Path("list.txt"), "line 7")
ORDER = ("happy", "sad", "anxiety")


class Small(Dataset):
    name, title, url, licence, download = "small", "Small", "", "free", "get it"
    purpose = "training"
    OPTIONS = (
        Option(name="fold", default=1, help="", choices=(1, 2)),
        Option(name="classes", default=["a"], help=""),
    )

    def list(self):
        raise NotImplementedError


class Evaluated(Small):
    purpose = "evaluation"


def rows(*labels: str) -> list[ListRow]:
    return [ListRow(Place(Path("l"), f"line {i}"), "a", label) for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flod": 1}, "got option flod of source small; .* did you mean fold"),
        ({"fold": "1"}, "type is int"),
        ({"fold": True}, "type is int"),
        ({"fold": 3}, "one of 1, 2"),
        ({"classes": "a"}, "type is list"),
    ],
)
def test_wrong_options_are_refused(options, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Small(Path(), options)


def test_options_have_defaults() -> None:
    assert Small(Path(), {"classes": ("b", "c")}).options == {"fold": 1, "classes": ("b", "c")}


def test_annotations_are_compared_with_files(tree) -> None:
    media = Media(tree(dict.fromkeys(("a/1.mp4", "a/2.mp4", "b c.mp4", "more.mp4"), "")))
    entries = [
        Entry(place=PLACE, path="b c.mp4"),
        Entry(place=PLACE, path="gone.mp4"),
        Entry(place=PLACE, path="a/1.mp4", fields={"identity": "ann", "extra": {"n": 1}}),
        Entry(place=PLACE, path="a/2", wanted=False),
        Entry(place=PLACE, path="gone too", wanted=False),
        Entry(place=PLACE, path="b c.mp4"),  # said twice, in the same words
    ]

    listing = Small(Path(), {}).compare(entries, media)

    assert [clip.clip_id for clip in listing.clips] == [safe_id("small-b c"), "small-a-1"]
    assert listing.missing == ("gone",)
    assert listing.surplus == ("more.mp4",)
    clip = listing.clips[1]
    assert clip.video == str(media.folder / "a/1.mp4")
    assert (clip.source, clip.recording, clip.identity) == ("small", "small/a/1", "ann")
    assert clip.extra == {"path": "a/1.mp4", "n": 1}
    assert clip.licence == "Small: free"


def test_equal_ids_of_different_clips_are_told_apart(tree) -> None:
    media = Media(tree({"a/b-c.mp4": "", "a-b/c.mp4": ""}))
    entries = [Entry(place=PLACE, path=path) for path in ("a/b-c", "a-b/c")]
    ids = [clip.clip_id for clip in Small(Path(), {}).compare(entries, media).clips]
    assert ids[0] == "small-a-b-c"
    assert ids[1].startswith("small-a-b-c-")


def test_two_different_annotations_of_a_clip_are_refused(tree) -> None:
    entries = [
        Entry(place=PLACE, path="a"),
        Entry(place=Place(Path("list.txt"), "line 9"), path="a", fields={"identity": "x"}),
    ]
    with pytest.raises(ConfigError, match=r"list.txt line 9: a; .* list.txt line 7"):
        Small(Path(), {}).compare(entries, Media(tree({"a.mp4": ""})))


@pytest.mark.parametrize(
    ("adapter", "split", "held_out"),
    [
        (Small, "test", False),
        (Evaluated, "test/fold-1", True),
        (Evaluated, None, True),
        (Evaluated, "train", False),
    ],
)
def test_evaluation_sets_are_held_out_but_for_their_training_part(
    tree, adapter, split: str | None, held_out: bool
) -> None:
    entry = Entry(place=PLACE, path="a", fields={"official_split": split})
    (clip,) = adapter(Path(), {}).compare([entry], Media(tree({"a.mp4": ""}))).clips
    assert clip.held_out is held_out


def test_ids_are_names_of_files() -> None:
    ids = [safe_id(text) for text in ("a b", "a_b", "a?b", "é" * 300, "a/b", "-x_1.2")]
    assert len(set(ids)) == 6
    assert all(set(text) <= set("abcdefx0123456789-_.") for text in ids)
    assert max(map(len, ids)) < 140
    assert ids[1] == "a_b"
    assert ids[4:] == ["a-b", "-x_1.2"]


def test_an_item_has_one_name_in_its_dataset_and_in_collections() -> None:
    assert item_of("mafw", "MAFW/videos/09068.mp4") == item_of("mafw", "9068") == "mafw/9068"
    assert item_of("dfew", "00000") == "dfew/0"
    sound, picture = "01-02-04-02-01-01-05", "RAVDESS/data/Actor_05/02-02-04-02-01-01-05.mp4"
    assert item_of("ravdess", sound) == item_of("ravdess", picture)
    assert item_of("other", "a/b.mp4") == "other/a/b"


def test_a_class_excludes_the_others_and_the_label_stays() -> None:
    fields = one_class("happy_anxiety", ("happy", "calm", "anxiety", "neutral", "joyful"))
    assert fields == {
        "present": ("happy",),
        "absent": ("neutral",),  # calm is neutral's alias, joyful is happy's
        "extra": {"label": "happy_anxiety"},
    }


def test_classes_are_named_by_alias_too() -> None:
    assert class_of(PLACE, "Happiness", ORDER) == "happy"
    assert class_of(PLACE, "ANXIETY", ORDER) == "anxiety"
    for wrong in ("fear", "unknown"):
        with pytest.raises(ConfigError, match=f"list.txt line 7: label '{wrong}'"):
            class_of(PLACE, wrong, ORDER)
    with pytest.raises(ConfigError, match="did you mean anxiety"):
        class_of(PLACE, "anxious", ORDER)


@pytest.mark.parametrize(
    ("text", "path", "label"),
    [
        ("a/b 12 3", "a/b", "3"),
        ("my data/b\t12\t3", "my data/b", "3"),
        ("my data/b sad", "my data/b", "sad"),
        ("a\\b 0", "a/b", "0"),
    ],
)
def test_list_rows(text: str, path: str, label: str) -> None:
    row = list_row(Line(PLACE, text))
    assert (row.path, row.label) == (path, label)


def test_a_list_row_without_a_label_is_refused() -> None:
    with pytest.raises(ConfigError, match="line 7: 'alone'"):
        list_row(Line(PLACE, "alone"))


@pytest.mark.parametrize(
    ("labels", "first", "names"),
    [
        (("0", "1"), -1, ["happy", "sad"]),
        (("3", "1"), -1, ["anxiety", "happy"]),
        (("1", "2"), 0, ["sad", "anxiety"]),
        (("1", "2"), 1, ["happy", "sad"]),
    ],
)
def test_integers_are_named_once_their_start_is_known(labels, first: int, names) -> None:
    assert [name for _, name in named_labels(rows(*labels), ORDER, first)] == names


@pytest.mark.parametrize(
    ("labels", "first", "message"),
    [
        (("1", "2"), -1, "first_label to 0 or 1"),  # 0..2 or 1..3?
        (("0", "3"), -1, "counted 0 to 2 or 1 to 3"),
        (("0", "4"), -1, "line 1: label '4'"),
        (("0",), 1, "line 0: label '0'"),
        (("1", "sad"), 1, "line 1: label 'sad'"),
    ],
)
def test_integers_that_could_mean_two_things_are_refused(labels, first: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        named_labels(rows(*labels), ORDER, first)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("MAFW_set_2_test.txt", "test/fold-2"),
        ("dfew_set1_train.txt", "train/fold-1"),
        ("test_All.csv", "test"),
        ("mine.txt", None),
    ],
)
def test_a_lists_name_says_its_split(name: str, split: str | None) -> None:
    assert split_of_list(Path(name)) == split
