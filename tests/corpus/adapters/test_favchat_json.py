from __future__ import annotations

import json
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import ConfigError
from corpus.adapters import find_adapter
from corpus.adapters.favchat_json import FaVChatJson
from corpus.formats import export_authors_json
from corpus.schema import FacialTargets, QuestionKind, Sample

TEXT = st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable())
PHRASES = st.lists(st.text(string.ascii_lowercase + " ,", min_size=1), max_size=3).map(tuple)


def write(root: Path, rows: object, name: str = "train.json") -> Path:
    root.mkdir(exist_ok=True)
    (root / name).write_text(json.dumps(rows), encoding="utf-8")
    return root


def clip_file(root: Path, path: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(b"not opened here")


def row(path: str = "clips/a.mp4", **fields) -> dict:
    return {"path": path, "problem": "What?", "solution": "<answer>This.</answer>"} | fields


def read(root: Path, **options):
    return FaVChatJson(root, options).list()


@st.composite
def written(draw) -> Sample:
    targets = FacialTargets(attributes=draw(PHRASES), emotion=draw(PHRASES), action=draw(PHRASES))
    options = draw(st.lists(TEXT, max_size=3))
    extra = {"kind": draw(st.sampled_from(QuestionKind)).value, "level": "high"}
    return Sample(
        sample_id=f"{draw(st.integers(0, 2**64 - 1)):016x}",
        video=draw(st.sampled_from(["clips/a.mp4", "clips/b.mp4"])),
        question=draw(TEXT),
        answer=draw(TEXT | st.just("<answer>nested</answer>") | st.just(" two\nlines ")),
        targets=targets,
        source="own",
        split="rl",
        extra=extra | ({"options": options} if options else {}),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(samples=st.lists(written(), min_size=1, max_size=6))
def test_what_is_exported_comes_back_exactly(samples: list[Sample], tmp_path: Path):
    for name in ("a", "b"):
        clip_file(tmp_path, f"clips/{name}.mp4")
    placed = [
        Sample(
            **{name: getattr(s, name) for name in s.__slots__} | {"video": str(tmp_path / s.video)}
        )
        for s in samples
    ]
    export_authors_json(placed, tmp_path / "train.json")
    found = [
        (clip.video, pair.question, pair.answer, pair.targets, pair.kind.value, pair.options,
         pair.extra["problem_id"])
        for clip in read(tmp_path).clips
        for pair in clip.pairs
    ]  # fmt: skip
    expected = [
        (s.video, s.question, s.answer, s.targets, s.extra["kind"],
         tuple(s.extra.get("options", ())), s.sample_id)
        for s in sorted(placed, key=lambda s: s.video)
    ]  # fmt: skip
    assert found == expected


def test_the_registry_knows_it():
    assert find_adapter("favchat_json") is FaVChatJson


def test_one_clip_per_path_with_everything_known_of_it(tmp_path: Path):
    rows = [
        row(facial_attributes=["a hat", "unheard-of"], problem_id=7),
        row("clips/b.mp4"),
        row(facial_emotion=["sad", "happy"], facial_action=["smiling"], options=["sad", "happy"]),
    ]
    for name in ("a", "b", "c"):
        clip_file(tmp_path, f"clips/{name}.mp4")
    listing = read(write(tmp_path, rows), licence="mine", held_out=True)
    first, second = listing.clips
    assert first.clip_id == "favchat_json-clips-a"
    assert first.present == ("wearing_hat", "sad", "happy", "smile")
    assert [pair.kind for pair in first.pairs] == ["appearance", "description"]
    assert first.pairs[0].extra == {"problem_id": 7}
    assert first.pairs[1].options == ("sad", "happy")
    assert first.pairs[1].targets == FacialTargets(emotion=("sad", "happy"), action=("smiling",))
    assert (first.whole, first.held_out, first.licence) == (True, True, "mine")
    assert first.video == str(tmp_path / "clips" / "a.mp4")
    assert first.recording != second.recording
    assert listing.missing == ()
    assert listing.surplus == ("clips/c.mp4",)


def test_missing_clips_are_named(tmp_path: Path):
    clip_file(tmp_path, "clips/a.mp4")
    listing = read(write(tmp_path, [row(), row("clips/gone.mp4")]))
    assert [clip.clip_id for clip in listing.clips] == ["favchat_json-clips-a"]
    assert listing.missing == ("clips/gone.mp4",)


def test_clips_beside_the_root_and_equal_names_are_told_apart(tmp_path: Path):
    clip_file(tmp_path, "clips/a.mp4")
    clip_file(tmp_path, "data/clips/a.mp4")
    rows = [row(), row("../clips/a.mp4"), row("./clips/a.mp4")]
    listing = read(write(tmp_path / "data", rows), videos="../clips")
    assert len({clip.clip_id for clip in listing.clips}) == 2
    assert {clip.video for clip in listing.clips} == {
        str(tmp_path / "clips" / "a.mp4"),
        str(tmp_path / "data" / "clips" / "a.mp4"),
    }


@pytest.mark.parametrize("path", ["/etc/hostname", "../secret.mp4", "clips/../../secret.mp4"])
def test_a_path_that_leads_elsewhere_is_refused_by_name(tmp_path: Path, path: str):
    clip_file(tmp_path, "secret.mp4")
    clip_file(tmp_path, "data/clips/a.mp4")
    clip_file(tmp_path, "more/b.mp4")
    root = write(tmp_path / "data", [row(), row(path)])
    with pytest.raises(ConfigError, match=rf"item 2: .*{Path(path).name}; clips lie in .*videos"):
        read(root)
    with pytest.raises(ConfigError, match="item 2: "):
        read(root, videos=str(tmp_path / "more"))


def test_absolute_paths_links_and_option_videos(tmp_path: Path):
    clip_file(tmp_path, "data/clips/a.mp4")
    clip_file(tmp_path, "more/b.mp4")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "more")
    (tmp_path / "alias").symlink_to(tmp_path / "data")
    inside = [row(str(tmp_path / "data/clips/a.mp4")), row("linked/b.mp4")]
    write(tmp_path / "data", inside)
    expected = {str(tmp_path / "data/clips/a.mp4"), str(tmp_path / "more/b.mp4")}
    assert {clip.video for clip in read(tmp_path / "data").clips} == expected
    assert {clip.video for clip in read(tmp_path / "alias").clips} == expected
    write(tmp_path / "data", [row(str(tmp_path / "more/b.mp4")), row("../more/b.mp4")])
    (clip, *_) = read(tmp_path / "data", videos=str(tmp_path / "more")).clips
    assert clip.video == str(tmp_path / "more/b.mp4")
    write(tmp_path / "data" / "lists", [row("../clips/a.mp4")])
    (clip,) = read(tmp_path / "data", file="lists/train.json").clips
    assert clip.video == str(tmp_path / "data/clips/a.mp4")


@pytest.mark.parametrize(
    ("solution", "expected"),
    [
        ("<answer>A man.</answer>", "A man."),
        ("A man.", "A man."),
        ("<think>Hm.</think>\n<answer>A man.</answer>\n", "A man."),
    ],
)
def test_solutions_with_and_without_tags(tmp_path: Path, solution: str, expected: str):
    clip_file(tmp_path, "clips/a.mp4")
    (clip,) = read(write(tmp_path, [row(solution=solution)])).clips
    assert clip.pairs[0].answer == expected


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"problem_type": "reasoning", "facial_emotion": ["sad"]}, "reasoning"),
        ({"problem_type": "multiple choice", "facial_emotion": ["sad"]}, "emotion"),
        ({"facial_action": "nodding, talking"}, "action"),
        ({"facial_attributes": ["a hat"], "facial_emotion": None}, "appearance"),
        ({"facial_attributes": ["a hat"], "facial_emotion": ["sad"]}, "description"),
        ({}, "description"),
    ],
)
def test_kinds(tmp_path: Path, fields: dict, kind: str):
    clip_file(tmp_path, "clips/a.mp4")
    (clip,) = read(write(tmp_path, [row(**fields)])).clips
    assert clip.pairs[0].kind == kind
    if kind == "action":
        assert clip.pairs[0].targets.action == ("nodding", "talking")


def test_option_recording_keeps_cuts_together(tmp_path: Path):
    rows = [row("clips/x-0000-0035.mp4"), row("clips/x-0036-0071.mp4")]
    for item in rows:
        clip_file(tmp_path, item["path"])
    write(tmp_path, rows)
    clips = read(tmp_path, recording=r"([^/]+)-\d+-\d+\.mp4$").clips
    assert {clip.recording for clip in clips} == {"favchat_json/x"}
    with pytest.raises(ConfigError, match="finds nothing"):
        read(tmp_path, recording=r"(nowhere)")
    with pytest.raises(ConfigError, match="one group"):
        read(tmp_path, recording=r"no group|clips")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"path": "a"}, "list of questions"),
        (["text"], "item 1"),
        ([row(), {"path": "clips/a.mp4", "problem": "What?"}], "item 2.*solution"),
        ([row(facial_emotion=[1])], "item 1.*phrase"),
        ([row(problem="")], "item 1.*problem"),
    ],
)
def test_other_layouts_are_refused_with_their_place(tmp_path: Path, rows: object, message: str):
    clip_file(tmp_path, "clips/a.mp4")
    with pytest.raises(ConfigError, match=message):
        read(write(tmp_path, rows))


def test_which_file_and_which_options(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="none"):
        read(tmp_path)
    clip_file(tmp_path, "clips/a.mp4")
    write(tmp_path, [row()])
    write(tmp_path, [row(problem="Other?")], name="test.json")
    with pytest.raises(ConfigError, match=r"test\.json, train\.json"):
        read(tmp_path)
    (clip,) = read(tmp_path, file="test.json").clips
    assert clip.pairs[0].question == "Other?"
    with pytest.raises(ConfigError, match="option files"):
        read(tmp_path, files="test.json")
