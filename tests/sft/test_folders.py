"""Stage folders: fingerprints, atomic publishing, locks and room."""

import dataclasses
import json

import pytest

from common.errors import CheckpointError, MachineError
from corpus.schema import FacialTargets, Sample
from policy.config import PolicyConfig
from sft.config import StageConfig
from sft.folders import (
    check_room,
    finished_fingerprint,
    fresh_partial,
    policy_fingerprint,
    publish,
    stage_fingerprint,
)


def make_sample(sample_id: str, split: str = "qa") -> Sample:
    return Sample(
        sample_id=sample_id,
        video="/clips/a.mp4",
        question="What?",
        answer="That.",
        targets=FacialTargets(),
        source="test",
        split=split,
    )


@pytest.fixture
def made_from():
    return {
        "stage": StageConfig(trainable=["projector"]),
        "seed": 0,
        "samples": [make_sample("a"), make_sample("b")],
        "held_out": [make_sample("c", "held_out")],
        "start": "s",
    }


def fingerprint(made_from, **changes):
    made_from = {**made_from, **changes}
    return stage_fingerprint(made_from.pop("stage"), **made_from)


def test_the_fingerprint_changes_with_everything_a_stage_is_made_from(made_from):
    original = fingerprint(made_from)
    changed = [
        fingerprint(made_from, seed=1),
        fingerprint(made_from, start="t"),
        fingerprint(made_from, samples=[make_sample("a")]),
        fingerprint(made_from, held_out=[]),
        fingerprint(made_from, samples=[make_sample("a"), make_sample("c")]),
    ]
    for field, value in {
        "split": "summary",
        "trainable": ["projector", "low_level"],
        "epochs": 4.0,
        "batch_size": 9,
        "lr": 1e-3,
        "warmup_fraction": 0.5,
        "lora_rank": 4,
    }.items():
        stage = dataclasses.replace(made_from["stage"], **{field: value})
        changed.append(fingerprint(made_from, stage=stage))
    assert {field.name for field in dataclasses.fields(StageConfig)} == {
        "split", "trainable", "epochs", "batch_size", "lr", "warmup_fraction", "lora_rank",
    }  # fmt: skip
    assert len({original, *changed}) == 1 + len(changed)


def test_the_fingerprint_ignores_the_order_of_the_corpus_file(made_from):
    backwards = fingerprint(made_from, samples=made_from["samples"][::-1])
    assert backwards == fingerprint(made_from)


def test_the_policy_fingerprint_changes_with_the_policy():
    assert policy_fingerprint(PolicyConfig(seed=1)) != policy_fingerprint(PolicyConfig())
    roomy = PolicyConfig(feature_cache_gib=400)
    assert policy_fingerprint(roomy) == policy_fingerprint(PolicyConfig())


def test_publish_replaces_the_older_stage_and_clears_up(tmp_path):
    folder = tmp_path / "stage-1"
    for content in ("old", "new"):
        partial = fresh_partial(folder)
        (partial / "policy").mkdir()
        (partial / "policy" / "weights").write_text(content)
        assert finished_fingerprint(folder) == (None if content == "old" else "print-old")
        publish(folder, fingerprint=f"print-{content}", stage=1, metrics={"loss": content})
    assert (folder / "weights").read_text() == "new"
    assert json.loads((folder / "metrics.json").read_text()) == {"loss": "new"}
    assert finished_fingerprint(folder) == "print-new"
    assert [path.name for path in tmp_path.iterdir()] == ["stage-1"]


@pytest.mark.parametrize("killed_after", ["training", "moving the older result away"])
def test_what_a_killed_run_leaves_is_thrown_away(tmp_path, killed_after):
    folder = tmp_path / "stage-1"
    (fresh_partial(folder) / "weights").write_text("half")
    if killed_after == "moving the older result away":
        (tmp_path / "stage-1.old").mkdir()
    assert finished_fingerprint(folder) is None
    assert list(fresh_partial(folder).iterdir()) == []
    assert not (tmp_path / "stage-1.old").exists()


@pytest.mark.parametrize("marker", [None, "", "[]", "{}", '{"stage": 1'])
def test_a_folder_that_no_stage_made_is_refused_and_kept(tmp_path, marker):
    folder = tmp_path / "stage-1"
    folder.mkdir()
    if marker is not None:
        (folder / "stage.json").write_text(marker)
    with pytest.raises(CheckpointError, match=r"move .*stage-1 away"):
        finished_fingerprint(folder)
    assert folder.exists()


def test_too_little_room_is_a_machine_error_that_says_how_much(tmp_path):
    check_room(tmp_path, needed_bytes=1)
    with pytest.raises(MachineError, match="need about 1099511627776 MiB"):
        check_room(tmp_path, needed_bytes=2**60)
