"""What a build must never do: lose a user's files, or leave a corpus that contradicts itself."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import ConfigError, MachineError
from corpus.adapters.embedded import locate
from corpus.adapters.face_cards import FaceCards
from corpus.build import build_corpus, cut_corpus
from corpus.config import (
    CorpusConfig,
    ExtractConfig,
    FilterConfig,
    SourceConfig,
    SplitConfig,
    TrimConfig,
    WriteConfig,
)
from corpus.formats import read_manifest
from corpus.labels import load_labels
from corpus.schema import load_samples
from corpus.writers.base import Assignment, Unwritten
from corpus.writers.brief import Brief

LABELS = load_labels().clips
OTHER_SPLIT = SplitConfig(plan="stages_share", rl_samples=2, held_out_samples=0)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A user's folder: two people, labelled."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("single_face.mp4", "carphone_pristine.mp4"):
        shutil.copy(locate(LABELS[name]), folder / name)
    write_table(folder, ["single_face", "carphone_pristine"])
    return folder


def write_table(folder: Path, names: list[str], emotion: str = "happy") -> None:
    lines = [f"{name}.mp4,smile;black_hair,{emotion}" for name in names]
    (folder / "clips.csv").write_text("\n".join(["video,attributes,emotion", *lines]) + "\n")


def config_of(folder: Path, path: Path, **changes) -> CorpusConfig:
    settings = {"split": OTHER_SPLIT, "trim": TrimConfig(encoding="compact")} | changes
    source = SourceConfig(adapter="folder", root=str(folder))
    return CorpusConfig(path=str(path), sources=[source], **settings)


class OneAtATime(Brief):
    """A writer whose budget ends: only the first clip gets a text."""

    name = "one-1"

    def __init__(self, config: WriteConfig, folder: Path) -> None:
        pass

    def write(self, assignments: Iterable[Assignment]) -> Iterator:
        first, *rest = assignments
        yield from super().write([first])
        for assignment in rest:
            cut_id = assignment.cut.cut_id
            yield Unwritten(cut_id=cut_id, reason="the budget is spent", final=False)


class TestOthersFiles:
    def test_a_folder_with_files_of_others_is_refused_and_left_alone(
        self, clips: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "thesis"
        (path / "clips").mkdir(parents=True)
        (path / "clips" / "mine.mp4").write_bytes(b"mine")
        (path / "draft.tmp").write_text("chapter 1")
        with pytest.raises(ConfigError, match=r"holds clips, draft\.tmp.*set corpus\.path"):
            build_corpus(config_of(clips, path))
        assert (path / "clips" / "mine.mp4").read_bytes() == b"mine"
        assert (path / "draft.tmp").read_text() == "chapter 1"

    @pytest.mark.parametrize("place", ["the source", "below it", "above it"])
    def test_corpus_and_source_never_overlap(self, clips: Path, place: str) -> None:
        path = {"the source": clips, "below it": clips / "corpus", "above it": clips.parent}[place]
        before = sorted(clips.iterdir())
        with pytest.raises(ConfigError, match="a source in"):
            build_corpus(config_of(clips, path))
        assert sorted(clips.iterdir()) == before

    def test_what_a_user_puts_beside_the_clips_stays(self, clips: Path, tmp_path: Path) -> None:
        path = tmp_path / "corpus"
        build_corpus(config_of(clips, path))
        note = path / "clips" / "notes.txt"
        note.write_text("the second one is mislabelled")
        build_corpus(config_of(clips, path, trim=TrimConfig(encoding="compact", min_frames=60)))
        assert note.exists()


class TestNoContradiction:
    def test_a_failed_split_leaves_the_corpus_as_it_was(self, clips: Path, tmp_path: Path) -> None:
        path = tmp_path / "corpus"
        build_corpus(config_of(clips, path))
        before = {file.name for file in (path / "clips").iterdir()}
        samples = (path / "samples.jsonl").read_bytes()
        manifest = (path / "manifest.parquet").read_bytes()
        too_many = config_of(
            clips,
            path,
            trim=TrimConfig(encoding="compact", min_frames=60),
            split=replace(OTHER_SPLIT, rl_samples=999),
        )
        with pytest.raises(ConfigError, match="999"):
            build_corpus(too_many)
        assert before <= {file.name for file in (path / "clips").iterdir()}
        assert (path / "samples.jsonl").read_bytes() == samples
        assert (path / "manifest.parquet").read_bytes() == manifest
        assert all(Path(item.video).is_file() for item in load_samples(path / "samples.jsonl"))
        build_corpus(replace(too_many, split=OTHER_SPLIT))
        rows = read_manifest(path / "manifest.parquet")
        wanted = {Path(row.video).name for row in rows if row.video}
        assert {file.name for file in (path / "clips").iterdir()} == wanted
        assert not before & wanted

    def test_cutting_for_an_extractor_changes_no_corpus(self, clips: Path, tmp_path: Path) -> None:
        path = tmp_path / "corpus"
        build_corpus(config_of(clips, path))
        before = {file.name: file.stat().st_mtime_ns for file in (path / "clips").iterdir()}
        cut_corpus(config_of(clips, path, trim=TrimConfig(encoding="compact", min_frames=60)))
        after = {file.name: file.stat().st_mtime_ns for file in (path / "clips").iterdir()}
        assert before.items() <= after.items()
        assert set(build_corpus(config_of(clips, path)).worked.values()) == {0}

    def test_nothing_is_split_before_every_clip_has_its_text(
        self, clips: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "corpus"
        write = WriteConfig(writer="tests.corpus.test_build_safety:OneAtATime")
        for left in (4, 3, 2, 1):
            report = build_corpus(config_of(clips, path, write=write))
            assert len(report.unwritten) == left
            assert "the budget is spent" in str(report)
            assert not (path / "samples.jsonl").exists()
        report = build_corpus(config_of(clips, path, write=write))
        assert report.unwritten == ()
        assert load_samples(path / "samples.jsonl")

    def test_changed_labels_are_written_about_again(self, clips: Path, tmp_path: Path) -> None:
        path = tmp_path / "corpus"
        build_corpus(config_of(clips, path))
        write_table(clips, ["single_face", "carphone_pristine"], emotion="sad")
        report = build_corpus(config_of(clips, path))
        assert report.worked == {"inspected": 0, "cut": 0, "extracted": 0, "written": 5}
        emotions = {
            text for item in load_samples(path / "samples.jsonl") for text in item.targets.emotion
        }
        assert emotions == {"sad"}

    def test_a_replaced_video_is_looked_at_again(self, clips: Path, tmp_path: Path) -> None:
        path = tmp_path / "corpus"
        build_corpus(config_of(clips, path))
        shutil.copy(locate(LABELS["WolfgangLanger_Pexels.mp4"]), clips / "single_face.mp4")
        report = build_corpus(config_of(clips, path))
        assert report.worked["inspected"] == 1
        assert report.worked["cut"] == 13


class TestSources:
    def test_one_adapter_twice_under_two_names(self, clips: Path, tmp_path: Path) -> None:
        second = Path(shutil.copytree(clips, tmp_path / "other"))
        sources = [
            SourceConfig(adapter="folder", root=str(folder), name=name, options={"name": name})
            for folder, name in ((clips, "first"), (second, "second"))
        ]
        config = replace(
            config_of(clips, tmp_path / "corpus"),
            sources=sources,
            filter=FilterConfig(duplicate_distance=-1),
        )
        build_corpus(config)
        rows = read_manifest(tmp_path / "corpus" / "manifest.parquet")
        assert Counter(row.source for row in rows) == {"first": 5, "second": 5}
        with pytest.raises(ConfigError, match=r"folder twice.*name: folder_2"):
            build_corpus(replace(config, sources=[replace(sources[0], name="")] * 2))

    def test_a_source_that_is_not_there_at_all_stops_the_build(
        self, clips: Path, tmp_path: Path
    ) -> None:
        write_table(clips, ["gone", "lost"])
        with pytest.raises(ConfigError, match="none of its 2 clips is there"):
            build_corpus(config_of(clips, tmp_path / "corpus"))

    def test_a_few_bad_files_are_left_out_and_many_stop_the_build(
        self, clips: Path, tmp_path: Path
    ) -> None:
        bad = [f"bad{number}" for number in range(11)]
        for name in bad:
            (clips / f"{name}.mp4").write_text("no video")
        write_table(clips, ["single_face", "carphone_pristine", *bad[:4]])
        report = build_corpus(config_of(clips, tmp_path / "corpus"))
        assert Counter(item.stage for item in report.rejected) == {"inspect": 4}
        write_table(clips, ["single_face", "carphone_pristine", *bad])
        with pytest.raises(MachineError, match="11 of 13 clips that cannot be read"):
            build_corpus(config_of(clips, tmp_path / "corpus"))
        assert "is not a readable video" in (tmp_path / "corpus" / "report.html").read_text()

    def test_a_damaged_card_is_made_again(self, tmp_path: Path) -> None:
        config = CorpusConfig(
            path=str(tmp_path / "cards"),
            sources=[SourceConfig(adapter="face_cards", options={"count": 6})],
            split=replace(OTHER_SPLIT, emotion_share=0.0),
        )
        build_corpus(config)
        adapter = FaceCards(tmp_path / "cards" / "made" / "face_cards", {"count": 6})
        video = Path(adapter.list().clips[0].video)
        whole = video.read_bytes()
        video.write_bytes(b"")
        (tmp_path / "cards" / "stages" / "inspect.jsonl").unlink()
        report = build_corpus(config)
        assert not [item for item in report.rejected if item.stage == "inspect"]
        assert video.read_bytes() == whole


def test_a_clip_kept_whole_stays_though_an_extractor_sees_no_face(
    clips: Path, tmp_path: Path
) -> None:
    shutil.copy(locate(LABELS["no_face.mp4"]), clips / "no_face.mp4")
    write_table(clips, ["single_face", "carphone_pristine", "no_face"])
    config = config_of(clips, tmp_path / "corpus", extract=ExtractConfig(extractors=["expression"]))
    config.sources[0].options["whole"] = True
    report = build_corpus(config)
    assert report.rejected == ()
    rows = read_manifest(tmp_path / "corpus" / "manifest.parquet")
    assert {row.clip_id: row.status for row in rows} == {
        "folder-single_face": "accepted",
        "folder-carphone_pristine": "accepted",
        "folder-no_face": "accepted",
    }
