"""Stage folders: fingerprints, atomic publishing, locks and room."""

import dataclasses
import errno
import json
import math
import os
import resource
import shutil

import pytest

from common.errors import CheckpointError, MachineError, TrainingError
from corpus.schema import FacialTargets, Sample
from policy.config import PolicyConfig
from sft.checkpoints import CheckpointWriter
from sft.config import StageConfig
from sft.folders import (
    check_room,
    check_weights,
    clear_away,
    finished_fingerprint,
    open_partial,
    policy_fingerprint,
    publish,
    stage_fingerprint,
    training_fingerprint,
    writable,
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
    fields = {
        "split": "summary",
        "trainable": ["projector", "low_level"],
        "epochs": 4.0,
        "batch_size": 9,
        "lr": 1e-3,
        "warmup_fraction": 0.5,
        "lora_rank": 4,
        "schedule": "linear",
        "weight_decay": 0.1,
        "max_grad_norm": 0.0,
        "loss": "samples",
        "turns": 2,
        "group_by_length": True,
    }
    for field, value in fields.items():
        stage = dataclasses.replace(made_from["stage"], **{field: value})
        changed.append(fingerprint(made_from, stage=stage))
    assert {field.name for field in dataclasses.fields(StageConfig)} == fields.keys()
    assert len({original, *changed}) == 1 + len(changed)


def test_the_fingerprint_ignores_the_order_of_the_corpus_file(made_from):
    backwards = fingerprint(made_from, samples=made_from["samples"][::-1])
    assert backwards == fingerprint(made_from)


def test_the_policy_fingerprint_changes_with_the_policy():
    assert policy_fingerprint(PolicyConfig(seed=1)) != policy_fingerprint(PolicyConfig())
    roomy = PolicyConfig(feature_cache_gib=400)
    assert policy_fingerprint(roomy) == policy_fingerprint(PolicyConfig())


def test_the_steps_of_a_stage_depend_on_the_order_of_its_usable_samples():
    samples = [make_sample("a"), make_sample("b")]
    original = training_fingerprint("stage", samples)
    assert training_fingerprint("stage", list(samples)) == original
    others = [
        training_fingerprint("stage", samples[::-1]),
        training_fingerprint("stage", samples[:1]),
        training_fingerprint("other", samples),
    ]
    assert len({original, *others}) == 4


def write_checkpoint(partial, step, fingerprint="f"):
    writer = CheckpointWriter(partial, fingerprint=fingerprint, every=1, seconds=100)
    with writer.writing(step):
        (writer.staging / f"checkpoint-{step}" / "weights").write_text(f"of step {step}")


def test_publish_replaces_the_older_stage_and_clears_up(tmp_path):
    folder = tmp_path / "stage-1"
    for content in ("old", "new"):
        partial, _ = open_partial(folder, fingerprint="f")
        write_checkpoint(partial, 1)
        (partial / "policy").mkdir()
        (partial / "policy" / "weights").write_text(content)
        assert finished_fingerprint(folder) == (None if content == "old" else "print-old")
        publish(folder, fingerprint=f"print-{content}", stage=1, metrics={"loss": content})
    assert (folder / "weights").read_text() == "new"
    assert json.loads((folder / "metrics.json").read_text()) == {"loss": "new"}
    assert finished_fingerprint(folder) == "print-new"
    assert [path.name for path in tmp_path.iterdir()] == ["stage-1"]
    assert not (folder / "checkpoints").exists()


def publish_weights(folder, content="abc", **metrics):
    partial, _ = open_partial(folder, fingerprint="f")
    (partial / "policy").mkdir()
    (partial / "policy" / "model.safetensors").write_text(content)
    publish(folder, fingerprint="print", stage=1, metrics={"stage": 1, **metrics})
    return folder / "model.safetensors"


def test_the_marker_tells_damaged_weights(tmp_path):
    folder = tmp_path / "stage-1"
    weights = publish_weights(folder)
    # SHA-256 of "abc": FIPS 180-2, appendix B.1
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    marker = json.loads((folder / "stage.json").read_text())
    assert marker["weights"] == {"model.safetensors": {"bytes": 3, "sha256": digest}}
    assert finished_fingerprint(folder) == "print"
    check_weights(folder)

    weights.write_text("abd")
    assert finished_fingerprint(folder) == "print"
    with pytest.raises(CheckpointError, match=r"not what was written.*delete .*stage-1 and run"):
        check_weights(folder)
    weights.write_text("ab")
    with pytest.raises(CheckpointError, match=r"has 2 of 3 bytes.*delete .*stage-1 and run"):
        finished_fingerprint(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="has 0 of 3 bytes"):
        finished_fingerprint(folder)
    with pytest.raises(CheckpointError, match="not what was written"):
        check_weights(folder)

    del marker["weights"]
    (folder / "stage.json").write_text(json.dumps(marker))
    assert finished_fingerprint(folder) == "print"
    check_weights(folder)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_metrics_that_are_not_finite_are_not_published(tmp_path, number):
    folder = tmp_path / "stage-1"
    with pytest.raises(TrainingError, match=r"lower sft\.stage_1\.lr"):
        publish_weights(folder, train={"loss": number})
    assert not folder.exists()
    publish_weights(folder, train={"loss": 1.5})
    assert json.loads((folder / "metrics.json").read_text())["train"] == {"loss": 1.5}


def test_a_disk_that_fills_while_a_stage_is_published_keeps_the_older_one(tmp_path):
    """The limit on a file's size makes the system refuse to write, as a full disk does."""
    folder = tmp_path / "stage-1"
    publish_weights(folder, "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(MachineError, match=r"too large.*free some room and run the same"):
            publish_weights(folder, "new", note="x" * 200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (folder / "model.safetensors").read_text() == "old"
    assert finished_fingerprint(folder) == "print"


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        (errno.ENOSPC, "free some room"),
        (errno.EDQUOT, "free some room"),
        (errno.EACCES, "set its permissions right"),
        (errno.EROFS, "set its permissions right"),
    ],
)
def test_want_of_room_and_want_of_permission_have_their_own_fix(tmp_path, code, fix):
    with pytest.raises(MachineError) as caught, writable(tmp_path):
        raise OSError(code, os.strerror(code))
    assert caught.value.fix.startswith(fix)
    assert caught.value.received == f"{tmp_path} ({os.strerror(code)})"


def test_a_tokenizer_that_does_not_fit_is_want_of_room_and_other_errors_pass(tmp_path):
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.WordLevel({f"word {n}": n for n in range(2**14)}, "word 0"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        with pytest.raises(MachineError, match="free some room"), writable(tmp_path):
            tokenizer.save(str(tmp_path / "tokenizer.json"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    own = CheckpointError("x (os error 28)", "a", "b")
    for error in (ValueError("no number"), own):
        with pytest.raises(type(error)) as caught, writable(tmp_path):
            raise error
        assert caught.value is error


def test_a_finished_stage_loses_the_checkpoints_that_a_killed_run_left_in_it(tmp_path):
    folder = tmp_path / "stage-1"
    (folder / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    (tmp_path / "stage-1.old").mkdir()
    (folder / "weights").write_text("new")
    clear_away(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["stage-1"]
    assert [path.name for path in folder.iterdir()] == ["weights"]


@pytest.mark.parametrize("killed_after", ["training", "moving the older result away"])
def test_without_a_checkpoint_what_a_killed_run_leaves_is_thrown_away(
    tmp_path, killed_after, caplog
):
    folder = tmp_path / "stage-1"
    partial, checkpoint = open_partial(folder, fingerprint="f")
    assert checkpoint is None
    assert not caplog.records
    (partial / "weights").write_text("half")
    if killed_after == "moving the older result away":
        (tmp_path / "stage-1.old").mkdir()
    assert finished_fingerprint(folder) is None
    partial, checkpoint = open_partial(folder, fingerprint="f")
    assert checkpoint is None
    assert list(partial.iterdir()) == []
    assert not (tmp_path / "stage-1.old").exists()
    assert "stage-1.partial is thrown away" in caplog.text


def test_with_a_checkpoint_only_it_and_the_curves_are_kept(tmp_path):
    """Files of a run killed while it published, and a checkpoint half written."""
    folder = tmp_path / "stage-1"
    partial, _ = open_partial(folder, fingerprint="f")
    for step in (1, 2, 3):
        write_checkpoint(partial, step)
    (partial / "checkpoints" / "checkpoint-3" / "weights").write_text("short")
    (partial / "checkpoints" / ".writing" / "checkpoint-4").mkdir(parents=True)
    for name in ("policy", "tensorboard"):
        (partial / name).mkdir()
    (partial / "metrics.json").write_text("{}")
    same, checkpoint = open_partial(folder, fingerprint="f")
    assert same == partial
    assert checkpoint.step == 2
    assert 100 <= checkpoint.seconds < 110
    assert sorted(path.name for path in partial.iterdir()) == ["checkpoints", "tensorboard"]
    kept = [path.name for path in (partial / "checkpoints").iterdir()]
    assert kept == ["checkpoint-2"]


def test_checkpoints_of_another_recipe_are_thrown_away_with_a_message(tmp_path, caplog):
    folder = tmp_path / "stage-1"
    partial, _ = open_partial(folder, fingerprint="f")
    write_checkpoint(partial, 1)
    assert open_partial(folder, fingerprint="g") == (partial, None)
    assert list(partial.iterdir()) == []
    assert "checkpoint-1 is of another recipe" in caplog.text


def test_a_folder_that_cannot_be_written_is_a_machine_error(tmp_path):
    folder = tmp_path / "stage-1"
    (tmp_path / "stage-1.partial").write_text("a file where a folder belongs")
    with pytest.raises(MachineError, match=r"stage-1\.partial .*set its permissions right"):
        open_partial(folder, fingerprint="f")
    with pytest.raises(MachineError, match="created, written"):
        check_room(tmp_path / "stage-1.partial", needed_bytes=1)


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


def test_what_an_interrupted_run_has_written_counts_as_room(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("usage", (), {"free": 100}))
    partial = tmp_path / "stage-1.partial"
    check_room(tmp_path, needed_bytes=100, partial=partial)
    with pytest.raises(MachineError):
        check_room(tmp_path, needed_bytes=150, partial=partial)
    (partial / "checkpoints").mkdir(parents=True)
    (partial / "checkpoints" / "weights").write_bytes(bytes(50))
    check_room(tmp_path, needed_bytes=150, partial=partial)
