from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import ConfigError
from corpus.adapters.files import Media, key_of, nearest, read_json, read_lines, read_table


def test_lines_keep_their_numbers_and_lose_mark_ends_and_blanks(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeffa 1\r\n\r\n  b 2  \rc\u20283\n".encode())

    lines = read_lines(path)

    assert [(line.place.spot, line.text) for line in lines] == [
        ("line 1", "a 1"),
        ("line 3", "b 2"),
        ("line 4", "c\u20283"),
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_are_read_whatever_separates_them(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "t.csv"
    rows = [
        [" Video ", "Text"],
        ["a.mp4", f'"two\nlines{separator} ""one"" cell"'],
        ["b.mp4", " x "],
    ]
    path.write_bytes(("\ufeff" + "\r\n".join(separator.join(row) for row in rows)).encode())

    first, second = read_table(path, required=("video",))

    assert dict(first.cells) == {"video": "a.mp4", "text": f'two\nlines{separator} "one" cell'}
    assert dict(second.cells) == {"video": "b.mp4", "text": "x"}
    assert (first.place.spot, second.place.spot) == ("line 2", "line 4")  # the first spans two


@pytest.mark.parametrize(
    ("text", "received"),
    [
        ("video,text\na,b,c\n", "line 2: 3 cells"),
        ("name,text\na,b\n", "line 1: columns name, text"),
        ("video,video\na,b\n", "line 1: two columns 'video'"),
        ("\n\n", "line 1: nothing"),
    ],
)
def test_tables_of_another_form_are_refused_by_line(
    tmp_path: Path, text: str, received: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_table(path, required=("video",))
    assert caught.value.received == f"{path} {received}"


def test_text_in_another_encoding_and_broken_json_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes("é".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_json(path)
    path.write_text('{"a": 1,\n"b": oops}')
    with pytest.raises(ConfigError, match=r"a\.json line 2: oops"):
        read_json(path)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a/b.MP4", "a/b"),
        ("a\\b.avi", "a/b"),
        ("v1.2", "v1.2"),
        (".mp4", ".mp4"),
        ("a.jpg", "a.jpg"),
    ],
)
def test_keys_lose_only_the_suffix_of_a_video(path: str, key: str) -> None:
    assert key_of(path) == key


def test_media_are_videos_and_folders_of_frames(tree) -> None:
    names = ("b/x.mp4", "b/x/", "a/y.AVI", "z/1/", "top.jpg", "n.txt", ".h.mp4", "__MACOSX/m.mp4")
    media = Media(tree(dict.fromkeys(names, "x")))

    assert media.clips == ("a/y", "b/x", "z/1")
    assert media.find("nothing", "b/x") == ("b/x", media.folder / "b/x.mp4")  # rather than frames
    assert media.find("z/1") == ("z/1", media.folder / "z/1")
    assert media.find("top") is None
    assert media.surplus(["b/x"]) == ("a/y.AVI", "z/1")
    assert media.surplus(["a/y"]) == ("b/x", "b/x.mp4", "z/1")


def test_a_link_back_to_the_folder_ends(tree) -> None:
    root = tree({"a/x.mp4": ""})
    (root / "a" / "back").symlink_to(root)
    assert Media(root).clips == ("a/x",)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        Media(tmp_path / "nowhere")


def test_the_nearest_word_is_offered() -> None:
    assert nearest("modallity", ["modality", "list"]) == "did you mean modality?"
    assert nearest("qqq", ["modality", "list"]) == "choose from modality, list"
