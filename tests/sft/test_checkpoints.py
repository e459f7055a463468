"""What a checkpoint holds, how large it gets, and that it appears whole or not at all."""

from __future__ import annotations

import copy
import json
import resource

import pytest
import torch
from torch import nn

from common.errors import CheckpointError, MachineError, TrainingError
from sft.checkpoints import (
    Checkpoint,
    CheckpointWriter,
    checkpoints_bytes,
    load_trained,
    newest_checkpoint,
    save_trained,
    trained_tensors,
)
from sft.stages import trainable
from tests.sft.conftest import small_stage


def write(partial, step, *, fingerprint="f", content="weights"):
    writer = CheckpointWriter(partial, fingerprint=fingerprint, every=1)
    with writer.writing(step):
        (writer.staging / f"checkpoint-{step}" / "nested").mkdir()
        (writer.staging / f"checkpoint-{step}" / "nested" / "file").write_text(content)


def steps(partial):
    return sorted(int(p.name.split("-")[1]) for p in (partial / "checkpoints").glob("checkpoint-*"))


def newest(partial) -> Checkpoint | None:
    return newest_checkpoint(partial, fingerprint="f")


def test_the_last_two_by_step_are_kept(tmp_path):
    assert newest(tmp_path) is None
    for step in (8, 9, 10, 11):  # by number, not by name
        write(tmp_path, step)
    assert steps(tmp_path) == [10, 11]
    assert newest(tmp_path).step == 11


def test_a_checkpoint_that_fails_leaves_those_before_and_the_next_can_be_written(tmp_path):
    write(tmp_path, 1)
    writer = CheckpointWriter(tmp_path, fingerprint="f", every=1)

    def interrupted():
        with writer.writing(2):
            (writer.staging / "checkpoint-2" / "file").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert steps(tmp_path) == [1]
    assert newest(tmp_path).step == 1
    write(tmp_path, 2)
    assert newest(tmp_path).step == 2
    assert not (writer.staging / "checkpoint-2").exists()


@pytest.mark.parametrize("damage", ["flipped", "short", "missing", "no marker", "empty marker"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, damage, caplog):
    write(tmp_path, 1)
    write(tmp_path, 2)
    folder = tmp_path / "checkpoints" / "checkpoint-2"
    file, marker = folder / "nested" / "file", folder / "checkpoint.json"
    match damage:
        case "flipped":
            file.write_text("weightz")
        case "short":
            file.write_text("weight")
        case "missing":
            file.unlink()
        case "no marker":
            marker.unlink()
        case "empty marker":  # as after a power cut
            marker.write_text("")
    assert newest(tmp_path).step == 1
    assert "checkpoint-2 that is damaged" in caplog.text


def test_a_full_disk_is_a_machine_error_and_the_checkpoint_before_stays(tmp_path):
    """The limit on a file's size makes the system refuse to write, as a full disk does."""
    write(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = CheckpointWriter(tmp_path, fingerprint="f", every=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with (
            pytest.raises(MachineError, match=r"step 2 that cannot be written.*free some room"),
            writer.writing(2),
        ):
            torch.save(torch.zeros(2**16), writer.staging / "checkpoint-2" / "optimizer.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert newest(tmp_path).step == 1


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Linear(3, 4, bias=False)
        self.norm = nn.BatchNorm1d(3)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.head = nn.Linear(3, 4, bias=False)
        self.head.weight = self.words.weight


def test_trained_tensors_are_parameters_with_gradients_once_each_and_buffers(tmp_path):
    model = Tied()
    assert set(trained_tensors(model)) == {
        "words.weight",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    }
    model.norm(torch.randn(5, 3))
    save_trained(model, tmp_path)
    other = Tied()
    frozen = copy.deepcopy(other.frozen.state_dict())
    load_trained(other, tmp_path)
    for name, tensor in trained_tensors(model).items():
        assert trained_tensors(other)[name].equal(tensor)
    assert other.head.weight is other.words.weight
    assert other.frozen.weight.equal(frozen["weight"])


def test_tensors_of_another_stage_are_refused_by_name(tmp_path):
    model = Tied()
    save_trained(model, tmp_path)
    model.norm.requires_grad_(False)
    with pytest.raises(CheckpointError, match=r"2 other tensors \(norm.bias, norm.weight\)"):
        load_trained(model, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_kept(tmp_path, value):
    model = Tied()
    with torch.no_grad():
        model.norm.weight[0] = value
    with pytest.raises(TrainingError, match=r"1 of \d+ tensors that are not finite \(norm.weight"):
        save_trained(model, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def model(tiny):
    from policy.build import build_policy

    return build_policy(tiny)[0]


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_the_estimate_is_the_size_of_three_checkpoints(model, lora_rank, tmp_path):
    """Measured on files of weights and of AdamW's state after a step; headers are the rest."""
    model = copy.deepcopy(model)
    stage = small_stage("qa", "projector", "middle_level", "language_model", lora_rank=lora_rank)
    smaller = small_stage("qa", "projector")
    estimate = checkpoints_bytes(model, [smaller, stage], deepspeed=False)
    assert estimate == checkpoints_bytes(model, [stage], deepspeed=False)
    with trainable(model, stage):
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        save_trained(model, tmp_path)
        torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    tensors = sum(3 * parameter.nbytes for parameter in parameters)
    assert estimate == 3 * tensors
    assert tensors < written < 1.25 * tensors + 2**18


def test_the_marker_names_every_file(tmp_path):
    write(tmp_path, 1, content="abc")
    marker = json.loads((tmp_path / "checkpoints" / "checkpoint-1" / "checkpoint.json").read_text())
    assert marker["fingerprint"] == "f"
    # SHA-256 of "abc": FIPS 180-2, appendix B.1
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert marker["files"] == {"nested/file": {"bytes": 3, "sha256": digest}}
