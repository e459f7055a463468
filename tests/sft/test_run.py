"""The three stages from end to end on a tiny policy: trained, kept, repeated and refused."""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.errors import CheckpointError, ConfigError, MachineError, SampleError, TrainingError
from corpus.schema import load_samples, save_samples
from sft.evaluation.records import load_evaluation
from sft.evaluation.stage import spread
from sft.run import run_stages


@pytest.fixture
def run(sft, tiny, corpus):
    def run(stages=(1,), **changes):
        return run_stages(dataclasses.replace(sft, **changes), tiny, corpus, stages)

    return run


def modified(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_mtime_ns


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.slow
def test_three_stages_end_in_a_policy_that_answers(sft, tiny, corpus, videos):
    from policy.checkpoints import load_policy
    from policy.prompts import answer

    sft.tensorboard = True
    folder = run_stages(sft, tiny, corpus)
    assert folder == Path(sft.output_dir) / "stage-3"
    for number, split in enumerate(("summary", "qa", "emotion_qa"), start=1):
        stage = folder.with_name(f"stage-{number}")
        metrics = metrics_of(stage)
        assert (metrics["stage"], metrics["split"], metrics["samples"]) == (number, split, 2)
        assert len(metrics["epoch_losses"]) == metrics["steps"] == 1
        assert list((stage / "tensorboard").glob("events*"))
    assert sorted(path.name for path in Path(sft.output_dir).iterdir()) == [
        ".lock",
        "evaluation.md",
        "stage-1",
        "stage-2",
        "stage-3",
    ]
    model, processor = load_policy(folder)
    said = answer(model, processor, video=videos["red"], question="What?", max_new_tokens=3)
    assert sum(said.stream_weights) == pytest.approx(1)


@pytest.mark.parametrize(
    ("at_most", "expected"), [(0, [*range(10)]), (10, [*range(10)]), (4, [0, 2, 5, 7]), (1, [0])]
)
def test_samples_to_look_at_are_spread_evenly(at_most, expected):
    assert spread(range(10), at_most) == expected


@pytest.mark.slow
def test_a_finished_stage_is_not_repeated_and_a_changed_one_is(run, sft, caplog):
    first, second = run((1, 2)).with_name("stage-1"), run((1, 2))
    times = modified(first), modified(second)
    run((1, 2))
    assert (modified(first), modified(second)) == times

    # Stage 2's recipe changes: stage 2 alone is trained again, and the log says so.
    run((1, 2), stage_2=dataclasses.replace(sft.stage_2, lr=2e-2))
    assert modified(first) == times[0]
    assert modified(second) != times[1]
    assert "stage 2" in caplog.text
    assert "training it again" in caplog.text

    # Stage 1's recipe changes: both are.
    run((1, 2))
    times = modified(first), modified(second)
    run((1, 2), stage_1=dataclasses.replace(sft.stage_1, lr=2e-2))
    assert modified(first) != times[0]
    assert modified(second) != times[1]


@pytest.mark.slow
def test_each_stage_starts_from_the_one_before(run):
    """A part that stage 2 does not train is bit for bit stage 1's."""
    second = run((1, 2))
    before = load_file(second.with_name("stage-1") / "model.safetensors")
    after = load_file(second / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name.split(".")[0] for name in before if not before[name].equal(after[name])}
    assert changed == {"low_level", "middle_level", "projector"}


def test_two_runs_with_one_seed_give_identical_weights(run, sft, tmp_path):
    stage = dataclasses.replace(sft.stage_1, epochs=2.0, batch_size=1)
    weights = [
        load_file(run(stage_1=stage, output_dir=str(tmp_path / name), seed=seed) / file)
        for file in ["model.safetensors"]
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    assert len(metrics_of(tmp_path / "a" / "stage-1")["epoch_losses"]) == 2
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    assert any(not weights[0][name].equal(weights[2][name]) for name in weights[0])


@pytest.mark.slow
def test_adapters_start_the_same_whether_or_not_this_run_trained_the_stage_before(
    run, sft, tmp_path
):
    stage = dataclasses.replace(sft.stage_3, lora_rank=2)
    changes = {"output_dir": str(tmp_path / "at-once"), "stage_2": stage}
    at_once = run((1, 2), **changes)
    before = (at_once / "model.safetensors").read_bytes()
    shutil.rmtree(at_once)
    assert (run((1, 2), **changes) / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_training_lowers_the_loss_and_uses_the_clip(run, sft):
    """Two clips with the same question and different answers can only be told apart by sight."""
    stage = dataclasses.replace(
        sft.stage_3,
        split="qa",
        trainable=[*sft.stage_2.trainable, "language_model"],
        epochs=250.0,
        lr=1e-3,
    )
    metrics = metrics_of(run(stage_1=stage))
    assert metrics["epoch_losses"][-1] < 0.1 * metrics["epoch_losses"][0]
    assert metrics["train"]["token_accuracy"] == 1
    assert metrics["train"]["loss"] < 0.1
    assert metrics["train_swapped_clips"]["loss"] > 1


def with_bad_clips(corpus, samples, tmp_path, *names):
    """Give the training samples of the named clips a video that is no video."""
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"this is no video" * 100)
    path = Path(corpus.path) / "samples.jsonl"
    broken = [
        dataclasses.replace(sample, video=str(bad)) if Path(sample.video).stem in names else sample
        for sample in samples
    ]
    save_samples(broken, path)


def test_an_undecodable_clip_is_skipped_and_counted(run, corpus, samples, tmp_path):
    with_bad_clips(corpus, samples, tmp_path, "green")
    metrics = metrics_of(run(max_skipped_fraction=0.5))
    assert metrics["samples"] == 1
    assert list(metrics["skipped"]) == ["summary-green"]
    assert "bad.mp4" in metrics["skipped"]["summary-green"]


def test_too_many_undecodable_clips_stop_before_training_and_leave_no_stage(
    run, corpus, samples, tmp_path, sft
):
    with_bad_clips(corpus, samples, tmp_path, "green")
    with pytest.raises(SampleError, match=r"1 of 2 samples .*summary-green.*bad\.mp4.*20%"):
        run()
    assert not (Path(sft.output_dir) / "stage-1").exists()
    save_samples(samples, Path(corpus.path) / "samples.jsonl")
    assert run().exists()  # what the stopped run left does not disturb the next


def test_an_undecodable_held_out_clip_costs_its_metric_alone(run, corpus, samples, tmp_path):
    with_bad_clips(corpus, samples, tmp_path, "blue")
    metrics = metrics_of(run())
    assert metrics["held_out"] is None
    assert list(metrics["skipped"]) == ["held-out"]
    assert metrics["samples"] == 2


def test_a_stage_without_its_start_is_refused(run):
    with pytest.raises(CheckpointError, match=r"stages from 2 without .*stage-1"):
        run((2, 3))


def test_a_split_without_samples_is_refused_with_the_splits_there_are(run, sft):
    stage = dataclasses.replace(sft.stage_1, split="sumary")
    with pytest.raises(
        ConfigError, match=r"stage_1\.split=sumary.*emotion_qa, held_out, qa, summary"
    ):
        run(stage_1=stage)


def test_too_little_room_is_noticed_before_training(run, monkeypatch, sft):
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(MachineError, match="0 MiB free"):
        run()
    assert not list(Path(sft.output_dir).glob("stage-1*"))


def test_the_room_for_checkpoints_of_later_stages_is_asked_for_before_the_first(
    run, sft, tiny, monkeypatch
):
    from policy.build import build_policy
    from policy.parameter_table import Training, count_parameters

    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("usage", (), {"free": 0}))

    def needed(stages, **changes) -> int:
        with pytest.raises(MachineError) as caught:
            run(stages, **changes)
        return int(caught.value.rule.split(" about ")[1].split()[0])

    one, three = needed((1,), checkpoint_every=0), needed((1, 2, 3), checkpoint_every=0)
    assert three == pytest.approx(2 * one, abs=1)  # one policy per stage, one being replaced
    # Two checkpoints and the one being written: float32 weights and the two moments of AdamW.
    phases = {"stage 3": Training(parts=tuple(sft.stage_3.trainable))}
    counts = count_parameters(build_policy(tiny)[0], phases)
    largest = 3 * 3 * 4 * sum(count.trainable["stage 3"] for count in counts) / 2**20
    assert needed((1, 2, 3)) - three == pytest.approx(largest, abs=1)
    assert needed((1,)) - one < largest / 2


def test_a_changed_corpus_is_a_changed_stage(run, corpus):
    folder = run()
    path = Path(corpus.path) / "samples.jsonl"
    samples = load_samples(path)
    save_samples([s for s in samples if s.sample_id != "summary-green"], path)
    run()
    assert metrics_of(folder)["samples"] == 1


@pytest.mark.parametrize("stage", [1, 3])
def test_what_a_later_stage_cannot_do_is_found_before_the_first_trains(run, sft, stage):
    field = f"stage_{stage}"
    recipe = getattr(sft, field)
    with pytest.raises(ConfigError, match=rf"sft\.stage_{stage}\.split=foo"):
        run((1, 2, 3), **{field: dataclasses.replace(recipe, split="foo")})
    with pytest.raises(ConfigError, match=r"batch_size=5, .*sft\.micro_batch_size=2"):
        run((1, 2, 3), micro_batch_size=2, **{field: dataclasses.replace(recipe, batch_size=5)})
    assert [path.name for path in Path(sft.output_dir).iterdir()] == [".lock"]


def test_deepspeed_trains_one_stage_in_a_process(run, sft, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    config = str(Path(__file__).parents[2] / "configs" / "deepspeed" / "zero2.json")
    with pytest.raises(ConfigError, match=r"stages 1, 2, 3 to train.*`--stage 1`, then 2, then 3"):
        run((1, 2, 3), deepspeed=config)
    assert [path.name for path in Path(sft.output_dir).iterdir()] == [".lock"]


def test_several_gpus_want_a_launcher(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(ConfigError, match=r"4 visible GPUs.*-per-node 4 .*CUDA_VISIBLE_DEVICES=0"):
        run((2,))
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(CheckpointError, match="stages from 2 without"):  # the next check
        run((2,))


def test_a_stage_whose_weights_are_not_finite_is_not_published(run, sft):
    stage = dataclasses.replace(sft.stage_1, lr=1e38, schedule="constant", max_grad_norm=0.0)
    with pytest.raises(
        TrainingError, match=r"stage 1 with .*not finite \(.*lower sft\.stage_1\.lr"
    ):
        run(stage_1=stage)
    assert not (Path(sft.output_dir) / "stage-1").exists()


def test_a_disk_that_fills_while_the_policy_is_saved_is_a_machine_error(run, sft, tmp_path):
    """The limit on a file's size makes the system refuse to write, as a full disk does."""
    size = (run() / "model.safetensors").stat().st_size
    again = {"output_dir": str(tmp_path / "again"), "evaluate": False, "checkpoint_every": 0}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, limits[1]))
    try:
        with pytest.raises(
            MachineError, match=r"stage-1\.partial .*free some room and run the same"
        ):
            run(**again)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "again" / "stage-1").exists()
    assert run(**again).exists()


def assert_same_evaluation(folder: Path, expected: Path) -> None:
    """But for the last bits of sums: weights that were read lie elsewhere in memory."""
    found, wanted = load_evaluation(folder), load_evaluation(expected)
    assert found.settings == wanted.settings
    assert [record.answer for record in found.answers] == [r.answer for r in wanted.answers]
    metrics, wanted_metrics = metrics_of(folder), metrics_of(expected)
    assert metrics["evaluation"] == pytest.approx(wanted_metrics["evaluation"], abs=2e-4)
    assert metrics["held_out"] == pytest.approx(wanted_metrics["held_out"], abs=2e-4)
    assert metrics["measured"] == wanted_metrics["measured"] == {"train": 2, "held_out": 1}
    assert metrics["held_out"] == {
        "loss": round(found.overall.loss.value, 4),
        "token_accuracy": round(found.overall.token_accuracy.value, 4),
    }


@pytest.mark.slow
def test_a_finished_stage_is_evaluated_when_its_evaluation_does_not_serve(
    run, sft, tmp_path, caplog
):
    short = {"max_answer_tokens": 3, "ablations": ["swapped_clips", "no_prompt"]}
    expected = run(output_dir=str(tmp_path / "at-once"), **short)
    folder = run(evaluate=False, **short)
    before, trained = metrics_of(folder), modified(folder)
    assert "evaluation" not in before
    assert not (folder / "evaluation.json").exists()
    losses = metrics_of(expected)["held_out"]
    assert before["held_out"] == pytest.approx(losses, abs=2e-4)

    run(**short)
    assert_same_evaluation(folder, expected)
    changed = ("evaluation", "held_out")
    kept = {name: value for name, value in metrics_of(folder).items() if name not in changed}
    assert kept == {name: value for name, value in before.items() if name not in changed}

    # How many questions are answered at a time changes nothing, nor does the ablations' order.
    time = (folder / "evaluation.json").stat().st_mtime_ns
    run(evaluation_batch_size=1, **{**short, "ablations": short["ablations"][::-1]})
    assert (folder / "evaluation.json").stat().st_mtime_ns == time

    (folder / "evaluation.json").write_text("{")
    run(evaluate=False, **short)
    assert "stage 1 is left out of the table" in caplog.text
    assert (folder / "evaluation.json").read_text() == "{"
    run(**short)
    assert_same_evaluation(folder, expected)

    for name, value in (("max_answer_tokens", 2), ("max_evaluated", 1), ("ablations", [])):
        short[name] = value
        run(**short)
        assert load_evaluation(folder).settings[name] == value
    assert not load_evaluation(folder).ablations
    assert modified(folder) == trained


def test_a_corpus_without_held_out_samples_is_said_not_to_be_evaluated(
    run, corpus, samples, caplog
):
    rest = [sample for sample in samples if sample.split != "held_out"]
    save_samples(rest, Path(corpus.path) / "samples.jsonl")
    for _ in range(2):  # trained, and finished
        caplog.clear()
        assert metrics_of(run())["held_out"] is None
        assert (
            "stage 1 is not evaluated: none of the 0 samples of the split held_out" in caplog.text
        )


@pytest.mark.slow
def test_no_stage_starts_from_damaged_weights(run):
    folder = run()
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    path.write_bytes(flipped)
    run()  # the size is right, and nothing starts from it
    with pytest.raises(CheckpointError, match=r"safetensors is not what.*delete .*stage-1 and run"):
        run((1, 2))
    path.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=rf"has {len(whole) - 1} of {len(whole)} bytes"):
        run((1, 2))
    path.write_bytes(whole)
    marker = json.loads((folder / "stage.json").read_text())
    del marker["weights"]
    (folder / "stage.json").write_text(json.dumps(marker))
    time = modified(folder)
    assert run((1, 2)).name == "stage-2"
    assert modified(folder) == time
