"""``degrpo corpus …`` as a stranger types it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from corpus.adapters.embedded import locate
from corpus.adapters.favchat_json import FaVChatJson
from corpus.formats import read_manifest
from corpus.labels import load_labels
from corpus.schema import load_samples
from degrpo.cli import main

ROOT = Path(__file__).parents[2]
ONE_CLIP = "corpus.sources=[{adapter: embedded, options: {clips: [single_face.mp4]}}]"
LABELS = load_labels().clips


def degrpo(*words: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """In a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "degrpo.cli", "corpus", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture
def corpus(monkeypatch, capsys):
    """``corpus(*words)``: exit status, output and errors of ``degrpo corpus`` in this process."""
    monkeypatch.chdir(ROOT)

    def call(*words: str) -> tuple[int, str, str]:
        return main(["corpus", *words]), *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("commands") / "corpus"
    done = degrpo("build", f"corpus.path={folder}", ONE_CLIP, "corpus.split.rl_samples=8")
    assert done.returncode == 0, done.stderr
    assert "2 summary, 8 qa, 10 emotion_qa, 8 rl, 0 held_out" in done.stdout
    return folder


def test_build_leaves_everything_it_says(built: Path) -> None:
    for name in ("samples.jsonl", "manifest.parquet", "report.html", "DATA_CARD.md"):
        assert (built / name).stat().st_size > 0, name


def test_export_to_a_dataset_that_trl_can_read(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "trl"
    done = degrpo("export", f"corpus.path={built}", "--format", "trl", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "wrote 2 summary, 8 qa, 10 emotion_qa, 8 rl: " in done.stdout
    saved = datasets.load_from_disk(str(out))
    assert isinstance(saved, datasets.DatasetDict)
    assert saved.num_rows == {"summary": 2, "qa": 8, "emotion_qa": 10, "rl": 8}
    for split, rows in saved.items():
        samples = load_samples(built / "samples.jsonl", [split])
        assert [row["prompt"][0]["content"] for row in rows] == [item.question for item in samples]


def test_export_of_one_split_is_that_split_alone(corpus, built: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    words = ("export", f"corpus.path={built}", "--split", "rl", "--out")
    status, _, errors = corpus(*words, str(tmp_path / "empty"))
    assert status == 0, errors
    assert set(datasets.load_from_disk(str(tmp_path / "empty"))["split"]) == {"rl"}
    out = tmp_path / "rl.json"
    status, _, errors = corpus(*words, str(out), "--format", "authors")
    assert status == 0, errors
    ids = {item.sample_id for item in load_samples(built / "samples.jsonl", ["rl"])}
    assert {row["problem_id"] for row in json.loads(out.read_text())} == ids
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "rl.json"]


def test_export_in_the_authors_layout_reads_back(corpus, built: Path, tmp_path: Path) -> None:
    out = tmp_path / "authors"
    words = ("export", f"corpus.path={built}", "--format", "authors", "--out", str(out))
    status, _, errors = corpus(*words, "--split", "qa", "--split", "rl")
    assert status == 0, errors
    assert sorted(path.name for path in out.iterdir()) == ["qa.json", "rl.json"]
    rows = json.loads((out / "qa.json").read_text())
    assert {"problem", "solution", "path", "facial_emotion"} <= rows[0].keys()
    options = {"file": "rl.json", "videos": str(built / "clips")}
    clips = FaVChatJson(out, options).list().clips
    assert {clip.video for clip in clips} == {
        item.video for item in load_samples(built / "samples.jsonl", ["rl"])
    }
    assert sum(len(clip.pairs) for clip in clips) == 8


def test_export_writes_over_nothing(corpus, built: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file.json").write_text("mine")
    for out, layout, message in (
        ("full", ("trl",), "is there already"),
        ("full", ("authors", "--split", "qa"), "is there already"),
        ("file.json", ("authors", "--split", "qa"), "is there already"),
        ("file.json/below", ("trl",), "cannot be written"),
        (
            "new",
            ("trl", "--split", "held_out"),
            "split held_out; the corpus has samples in summary",
        ),
    ):
        words = (f"corpus.path={built}", "--out", str(tmp_path / out), "--format", *layout)
        status, text, errors = corpus("export", *words)
        assert (status, text) == (2, ""), out
        assert message in errors
        assert "Traceback" not in errors
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    assert (tmp_path / "file.json").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.json", "full"]


def test_sources_lists_and_compares(corpus, tmp_path: Path) -> None:
    status, listed, _ = corpus("sources")
    assert status == 0
    assert "celebv_hq" in listed
    assert "licence" in listed
    (tmp_path / "clips.csv").write_text("video,emotion\na.mp4,happy\n")
    (tmp_path / "b.mp4").touch()
    status, compared, _ = corpus("sources", "folder", "--root", str(tmp_path))
    assert status == 1
    assert "annotated, but no file: 1, such as a\n" in compared
    assert "a file, but not annotated: 1, such as b.mp4" in compared


def test_a_wrong_name_is_one_line_with_a_fix(corpus) -> None:
    status, _, errors = corpus("sources", "celebvhq")
    assert status == 2
    assert "celebv_hq" in errors
    assert "Traceback" not in errors


@pytest.mark.engine
@pytest.mark.slow
def test_a_folder_of_ones_own_over_ray_with_bad_files(tmp_path: Path) -> None:
    """A user's clips: two good, one copied, one without a face, two broken, one missing."""
    clips = tmp_path / "clips"
    clips.mkdir()
    good = locate(LABELS["single_face.mp4"])
    shutil.copy(good, clips / "good.mp4")
    shutil.copy(good, clips / "copy.mp4")
    shutil.copy(locate(LABELS["carphone_pristine.mp4"]), clips / "other.mp4")
    shutil.copy(locate(LABELS["no_face.mp4"]), clips / "no_face.mp4")
    (clips / "text.mp4").write_text("this is not a video")
    (clips / "half.mp4").write_bytes(good.read_bytes()[:20_000])
    names = ["good", "other", "copy", "no_face", "text", "half", "missing"]
    lines = [f"{name}.mp4,smile;black_hair,happy" for name in names]
    (clips / "clips.csv").write_text("video,attributes,emotion\n" + "\n".join(lines) + "\n")
    folder = tmp_path / "corpus"
    words = [
        "build",
        "--recipe",
        "configs/face_cards.yaml",
        f"corpus.path={folder}",
        f"corpus.sources=[{{adapter: folder, root: {clips}}}]",
        "corpus.num_workers=2",
        "corpus.split={plan: stages_share, rl_samples: 1, held_out_samples: 0}",
        "cluster.min_memory_gib=1",
    ]
    done = degrpo(*words)
    reasons = {
        row.clip_id.split("-")[-1]: row.reason
        for row in read_manifest(folder / "manifest.parquet")
        if row.status == "rejected"
    }
    assert done.returncode == 0, done.stderr
    assert reasons.keys() == {"copy", "no_face", "text", "half", "missing"}
    assert reasons["copy"].startswith("shows the same as ")
    assert reasons["no_face"] == "no face"
    assert "is not a readable video" in reasons["text"]
    assert reasons["missing"] == "annotated, but no file"
    splits = {item.split for item in load_samples(folder / "samples.jsonl")}
    assert "rl" in splits
    assert len(splits) > 1
