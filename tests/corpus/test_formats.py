from __future__ import annotations

import json
import re
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from common.errors import ConfigError
from corpus.config import CorpusConfig, ExtractConfig
from corpus.formats import (
    ManifestRow,
    by_split,
    export_authors_json,
    manifest_rows,
    manifest_versions,
    read_manifest,
    to_dataset,
    write_manifest,
)
from corpus.records import Cut, Inspection, Rejection, SourceClip
from corpus.schema import FacialTargets, Sample, load_samples, save_samples
from corpus.stages import Stage, extract_features

DOCS = Path(__file__).parents[2] / "docs" / "corpus_formats.md"


def source(name: str, **fields) -> SourceClip:
    return SourceClip(
        clip_id=name,
        source="own",
        video=f"/v/{name}.mp4",
        recording=f"own/{name}",
        licence="CC0",
        **fields,
    )


def inspection(name: str, face: str = "1" * 100) -> Inspection:
    """``face`` as one digit per frame."""
    return Inspection(
        clip_id=name,
        sha256=f"sha-{name}",
        num_frames=len(face),
        fps=25.0,
        width=64,
        height=48,
        face=tuple(digit == "1" for digit in face),
        face_share_of_frames=face.count("1") / len(face),
        face_share_of_area=0.2,
        shots=(0,),
        num_people=1,
    )


def cut(name: str, first: int, last: int) -> Cut:
    return Cut(
        cut_id=f"{name}-{first:04}-{last:04}",
        clip_id=name,
        first=first,
        last=last,
        face_share=0.9,
        digest="d",
        video=f"clips/{name}.mp4",
        method="copied",
        file_sha256="f",
    )


def sample(number: int, folder: Path, **fields) -> Sample:
    given = {
        "sample_id": f"{number:016x}",
        "video": str(folder / "clips" / f"{number % 2}.mp4"),
        "question": f"Question {number}?",
        "answer": f"Answer <b>{number}</b>, “quoted”\u2028.",
        "targets": FacialTargets(attributes=("brown hair", "a hat"), emotion=("happy",)),
        "source": "own",
        "split": "rl",
        "extra": {"kind": "appearance", "level": "low", "clip_id": f"c-0000-003{number}"},
    }
    return Sample(**(given | fields))


# --- manifest ------------------------------------------------------------------------------------


def test_every_cut_and_every_rejection_has_one_row():
    rows = manifest_rows(
        clips=[source("a", identity="Ann"), source("b"), source("c"), source("d")],
        inspections=[
            inspection("a", "1" * 40 + "0" * 54 + "1" * 6),
            inspection("b"),
            inspection("d"),
        ],
        cuts=[cut("a", 0, 39), cut("d", 0, 49), cut("d", 50, 99)],
        rejections=[
            Rejection(clip_id="a", stage="trim", reason="no face", first=40, last=99),
            Rejection(clip_id="b", stage="filter", reason="duplicate"),
            Rejection(clip_id="c", stage="inspect", reason="not a video"),
            Rejection(clip_id="d", cut_id="d-0050-0099", stage="check", reason="contradiction"),
            Rejection(clip_id="d", stage="cut", reason="disk full", first=100, last=149),
        ],
        samples=[sample(1, Path("/"), extra={"clip_id": "a-0000-0039"})],
    )
    short = [(r.clip_id, r.cut_id, r.status, r.stage, r.first, r.last, r.num_frames) for r in rows]
    assert short == [
        ("a", "a-0000-0039", "accepted", None, 0, 39, 40),
        ("a", None, "rejected", "trim", 40, 99, 60),
        ("b", None, "rejected", "filter", None, None, 100),
        ("c", None, "rejected", "inspect", None, None, None),
        ("d", "d-0000-0049", "accepted", None, 0, 49, 50),
        ("d", "d-0050-0099", "rejected", "check", 50, 99, 50),
        ("d", None, "rejected", "cut", 100, 149, 50),
    ]
    first = rows[0]
    assert (first.face_share, first.fps, first.width, first.source_sha256) == (0.9, 25, 64, "sha-a")
    assert (first.licence, first.identity, first.splits) == ("CC0", "Ann", ("rl",))
    assert rows[1].face_share == 0.1  # of the stretch, not of the clip
    assert rows[2].face_share == 1.0


def test_a_clip_rejected_whole_takes_its_cuts_along():
    rows = manifest_rows(
        clips=[source("a")],
        cuts=[cut("a", 0, 39), cut("a", 40, 99)],
        rejections=[Rejection(clip_id="a", stage="write", reason="refused")],
    )
    assert [(row.cut_id, row.status) for row in rows] == [
        ("a-0000-0039", "rejected"),
        ("a-0040-0099", "rejected"),
    ]


def test_a_clip_that_is_named_like_a_cut_is_not_that_cut():
    """The cut of clip a and the clip of a file a-0000-0035.mp4 have the same name."""
    clips, cuts = [source("a"), source("a-0000-0035")], [cut("a", 0, 35)]
    of_clip = Rejection(clip_id="a-0000-0035", stage="filter", reason="no face")
    of_cut = Rejection(clip_id="a", cut_id="a-0000-0035", stage="check", reason="contradiction")
    rows = manifest_rows(clips=clips, cuts=cuts, rejections=[of_clip])
    assert [(row.clip_id, row.cut_id, row.status) for row in rows] == [
        ("a", "a-0000-0035", "accepted"),
        ("a-0000-0035", None, "rejected"),
    ]
    rows = manifest_rows(clips=clips, cuts=cuts, rejections=[of_cut, of_clip])
    assert [(row.clip_id, row.cut_id, row.reason) for row in rows] == [
        ("a", "a-0000-0035", "contradiction"),
        ("a-0000-0035", None, "no face"),
    ]


def test_a_cut_without_features_is_named_with_its_clip(tmp_path: Path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_text("damaged since it was cut")
    config = CorpusConfig(
        path=str(tmp_path), extract=ExtractConfig(extractors=["expression"]), num_workers=0
    )
    stage = Stage("extract", tmp_path, config)
    broken = cut("a", 0, 35)
    features, (rejection,) = extract_features([broken], {"a": source("a")}, stage, tmp_path)
    assert features == {}
    assert (rejection.clip_id, rejection.cut_id) == ("a", "a-0000-0035")
    assert (rejection.stage, rejection.first, rejection.last) == ("extract", 0, 35)
    (row,) = manifest_rows(clips=[source("a")], cuts=[broken], rejections=[rejection])
    assert (row.cut_id, row.status, row.stage) == ("a-0000-0035", "rejected", "extract")


def test_the_manifest_comes_back_as_it_was(tmp_path: Path):
    rows = [
        ManifestRow(clip_id="a", source="own", status="rejected", stage="filter", reason="“no” 面"),
        ManifestRow(
            clip_id="b", source="own", status="accepted", first=0, last=35, splits=("qa", "rl")
        ),
    ]
    path = write_manifest(rows, tmp_path / "manifest.parquet", versions={"av": "14", "b": "2"})
    assert read_manifest(path) == rows
    assert manifest_versions(path) == {"av": "14", "b": "2"}
    assert [file.name for file in tmp_path.iterdir()] == ["manifest.parquet"]


def test_the_manifest_opens_in_duckdb_and_pandas(tmp_path: Path):
    rows = [
        ManifestRow(clip_id=name, source="own", status="rejected", stage="filter", reason="no face")
        for name in "abc"
    ] + [ManifestRow(clip_id="d", source="own", status="accepted", num_frames=36, splits=("rl",))]
    path = write_manifest(rows, tmp_path / "manifest.parquet")
    query = f"select stage, reason, count(*) from '{path}' where status = 'rejected' group by all"
    assert duckdb.sql(query).fetchall() == [("filter", "no face", 3)]
    assert duckdb.sql(f"select clip_id from '{path}' where 'rl' in splits").fetchall() == [("d",)]
    frame = pd.read_parquet(path)
    assert frame["num_frames"].sum() == 36
    assert list(frame["status"]) == ["rejected"] * 3 + ["accepted"]


def test_an_empty_manifest_keeps_its_columns(tmp_path: Path):
    path = write_manifest([], tmp_path / "manifest.parquet")
    assert read_manifest(path) == []
    assert "file_sha256" in pd.read_parquet(path).columns


def test_what_is_no_manifest_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_manifest(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(ConfigError, match=r"text\.parquet"):
        read_manifest(tmp_path / "text.parquet")
    pd.DataFrame({"clip_id": ["a"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ConfigError, match="columns differ"):
        read_manifest(tmp_path / "other.parquet")
    with pytest.raises(ConfigError, match="does not say what made it"):
        manifest_versions(tmp_path / "other.parquet")


# --- Dataset -------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    samples = [sample(0, tmp_path), sample(1, tmp_path, split="qa", targets=FacialTargets())]
    save_samples(samples, tmp_path / "samples.jsonl")
    return tmp_path


def test_the_dataset_is_what_trl_calls_conversational(corpus: Path):
    from trl.data_utils import is_conversational

    dataset = to_dataset(corpus)
    assert is_conversational({"prompt": dataset[0]["prompt"]})
    assert is_conversational({"completion": dataset[0]["completion"]})
    assert dataset[0]["prompt"] == [{"role": "user", "content": "Question 0?"}]
    first = sample(0, corpus)
    assert dataset[0]["completion"] == [{"role": "assistant", "content": first.answer}]
    assert dataset[0]["video"] == str(corpus / "clips" / "0.mp4")
    assert {key: dataset[0][key] for key in first.reward_columns()} == first.reward_columns()
    assert dataset[0]["level"] == "low"
    assert json.loads(dataset[0]["extra"]) == first.extra
    assert dataset[1]["attributes"] == []


def test_the_dataset_has_the_asked_splits_and_a_schema_even_when_empty(corpus: Path):
    assert to_dataset(corpus, splits=["qa"])["split"][:] == ["qa"]
    empty = to_dataset(corpus, splits=["held_out"])
    assert len(empty) == 0
    assert empty.features == to_dataset(corpus).features


def test_samples_by_split(corpus: Path):
    samples = load_samples(corpus / "samples.jsonl")
    assert by_split(samples) == {"rl": samples[:1], "qa": samples[1:]}
    assert by_split(samples, ["qa", "qa"]) == {"qa": samples[1:]}
    with pytest.raises(ConfigError, match="split held_out; the corpus has samples in rl, qa"):
        by_split(samples, ["qa", "held_out"])
    with pytest.raises(ConfigError, match="without samples"):
        by_split([])


def test_the_dataset_goes_through_parquet(corpus: Path, tmp_path: Path):
    from datasets import load_dataset

    path = tmp_path / "export.parquet"
    to_dataset(corpus).to_parquet(path)
    back = load_dataset("parquet", data_files=str(path), split="train", cache_dir=tmp_path / "c")
    assert back.to_list() == to_dataset(corpus).to_list()


def test_trl_trains_on_the_dataset(corpus: Path, tmp_path: Path):
    """One step of GRPO with a tiny model: its reward function receives the targets by name."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    words = ["<pad>", "<unk>", "</s>", "Question", "Answer", "0", "1", "?", "user", ":"]
    vocabulary = {word: index for index, word in enumerate(words)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }} : {{ m.content }}{% endfor %}"
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=2,
        )
    )
    seen = []

    def reward(completions, attributes, emotion, kind, video, **_):
        seen.extend(zip(attributes, emotion, kind, video, strict=True))
        return [float(len(completion[0]["content"])) for completion in completions]

    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        train_dataset=to_dataset(corpus, splits=["rl"]),
        processing_class=tokenizer,
        args=GRPOConfig(
            output_dir=str(tmp_path / "run"),
            per_device_train_batch_size=2,
            num_generations=2,
            max_completion_length=4,
            max_steps=1,
            report_to=[],
            use_cpu=True,
            bf16=False,
        ),
    )
    trainer.train()
    clip = str(corpus / "clips" / "0.mp4")
    assert seen[0] == (["brown hair", "a hat"], ["happy"], "appearance", clip)


def test_the_examples_of_the_docs_run(corpus: Path, monkeypatch: pytest.MonkeyPatch):
    text = DOCS.read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```(python|sql)\n(.*?)```", text, re.DOTALL))
    (corpus / "outputs" / "corpus").mkdir(parents=True)
    (corpus / "outputs" / "corpus" / "mini").symlink_to(corpus)
    rows = [ManifestRow(clip_id="a", source="own", status="rejected", stage="trim", reason="short")]
    write_manifest(rows, corpus / "manifest.parquet")
    monkeypatch.chdir(corpus)
    names: dict[str, object] = {}
    exec(blocks["python"], names)
    assert names["dataset"]["split"][:] == ["rl"]  # type: ignore[index]
    assert duckdb.sql(blocks["sql"]).fetchall() == [("trim", "short", 1)]


# --- the authors' JSON ---------------------------------------------------------------------------


def test_the_export_has_the_authors_keys(tmp_path: Path):
    one = sample(0, tmp_path, extra={"kind": "emotion", "options": ["happy", "sad"]})
    path = export_authors_json([one], tmp_path / "exports.json")
    assert json.loads(path.read_text(encoding="utf-8")) == [
        {
            "problem_id": "0000000000000000",
            "problem": "Question 0?",
            "problem_type": "emotion",
            "data_type": "video",
            "path": "clips/0.mp4",
            "options": ["happy", "sad"],
            "process": "",
            "solution": f"<answer>{one.answer}</answer>",
            "facial_attributes": ["brown hair", "a hat"],
            "facial_emotion": ["happy"],
            "facial_action": [],
        }
    ]
