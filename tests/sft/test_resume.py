"""Stages that are killed at any moment and started again end where an uninterrupted run ends.

Every run here is a process of its own. It is killed from outside what is tested: by a hook of
torch's optimisers, or by one of the interpreter's audit hooks when a file is opened or moved.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from corpus.config import CorpusConfig
from corpus.schema import FacialTargets, Sample, save_samples
from policy.config import PolicyConfig
from sft.config import SftConfig, StageConfig

STEPS_PER_EPOCH, LAST_STEP, EVERY = 3, 8, 2
"""Five samples in batches of two, two epochs and two thirds: the last step is in mid-epoch."""


OURS = ["sft.run", "sft.trainer", "policy.build", "policy.checkpoints", "policy.features"]
LIBRARIES = [
    "cv2",
    "datasets",
    "deepspeed",
    "peft",
    "torch.utils.tensorboard",
    "transformers.tokenization_mistral_common",
]
"""What a run imports sooner or later."""


@dataclasses.dataclass(frozen=True)
class Kill:
    """Where a process dies: after an optimiser step of its own, or at an event about a file."""

    step: int = 0
    event: str = ""
    file: str = ""
    with_signal: signal.Signals = signal.SIGKILL


def arm(kill: Kill) -> None:
    from torch.optim.optimizer import register_optimizer_step_post_hook

    steps = 0

    def after_step(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == kill.step:
            os.kill(os.getpid(), kill.with_signal)

    def audit(event: str, arguments: tuple) -> None:
        if event == kill.event and kill.file in str(arguments[0]):
            os.kill(os.getpid(), kill.with_signal)

    if kill.step:
        register_optimizer_step_post_hook(after_step)
    if kill.event:
        sys.addaudithook(audit)


def run_in_child(
    sft: SftConfig, policy: PolicyConfig, corpus: CorpusConfig, features: Path, kill: Kill
) -> None:
    import torch

    from policy import feature_cache
    from sft.run import run_stages

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
    torch.set_num_threads(1)
    feature_cache.cache_dir = lambda name: features
    logging.basicConfig(filename=f"{sft.output_dir}.log", level=logging.INFO)
    arm(kill)
    run_stages(sft, policy, corpus, [1])


@pytest.fixture(scope="module")
def start_child():
    """Starts a run as a process; the libraries are imported once, before any thread exists."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*OURS, *LIBRARIES])

    def start(*arguments: object) -> int:
        child = context.Process(target=run_in_child, args=arguments)
        child.start()
        child.join(300)
        assert child.exitcode is not None, "the run hangs"
        return child.exitcode

    return start


@pytest.fixture(scope="module")
def corpus(videos, tmp_path_factory) -> CorpusConfig:
    """Five questions about three clips, with answers of their own."""
    clips = [videos[name] for name in ("red", "green", "blue", "red", "green")]
    samples = [
        Sample(
            sample_id=f"sample-{index}",
            video=video,
            question=f"Question {index}?",
            answer=" ".join(["word"] * index + [f"answer {index}"]),
            targets=FacialTargets(),
            source=Path(video).name,
            split="summary",
        )
        for index, video in enumerate(clips)
    ]
    folder = tmp_path_factory.mktemp("corpus")
    save_samples(samples, folder / "samples.jsonl")
    return CorpusConfig(path=str(folder))


Run = Callable[..., int]


@pytest.fixture(scope="module")
def run(start_child, tiny, corpus, cache, tmp_path_factory) -> Run:
    """Runs stage 1 in a folder's process and returns its exit status."""

    def run(output: Path, kill: Kill = Kill(), **settings) -> int:
        stage = StageConfig(
            split="summary",
            epochs=LAST_STEP / STEPS_PER_EPOCH,
            batch_size=2,
            lr=1e-3,
            trainable=["facial_encoder", "low_level", "middle_level", "projector"],
        )
        sft = SftConfig(output_dir=str(output), checkpoint_every=EVERY, seed=3)
        for name, value in settings.items():
            setattr(sft if hasattr(sft, name) else stage, name, value)
        return start_child(dataclasses.replace(sft, stage_1=stage), tiny, corpus, cache, kill)

    return run


ADAPTERS = {"trainable": ["middle_level", "projector", "language_model"], "lora_rank": 4}


@pytest.fixture(scope="module")
def uninterrupted(run, tmp_path_factory) -> Callable[[bool], Path]:
    """The finished stage of a run that nobody disturbs."""
    folders: dict[bool, Path] = {}

    def stage(adapters: bool) -> Path:
        if adapters not in folders:
            folder = tmp_path_factory.mktemp("uninterrupted") / "sft"
            assert run(folder, **(ADAPTERS if adapters else {})) == 0
            folders[adapters] = folder / "stage-1"
        return folders[adapters]

    return stage


def curve(stage: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(stage / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def metrics_of(stage: Path) -> dict:
    metrics = json.loads((stage / "metrics.json").read_text())
    clocks = ("seconds", "train_seconds", "feature_cache")
    return {name: value for name, value in metrics.items() if name not in clocks}


def assert_same(stage: Path, expected: Path) -> None:
    """The same weights bit for bit, the same metrics, and each step once in the same curves."""
    weights, wanted = (load_file(folder / "model.safetensors") for folder in (stage, expected))
    assert weights.keys() == wanted.keys()
    assert [name for name in wanted if not weights[name].equal(wanted[name])] == []
    assert metrics_of(stage) == metrics_of(expected)
    for tag in ("train/loss", "train/grad_norm", "train/learning_rate", "train/train_loss"):
        assert curve(stage, tag) == curve(expected, tag)
    assert [step for step, _ in curve(stage, "train/loss")] == list(range(1, LAST_STEP + 1))
    found = sorted(path.name for path in stage.iterdir())
    assert found == sorted(path.name for path in expected.iterdir())
    assert "checkpoints" not in found


def steps_kept(output: Path) -> list[int]:
    checkpoints = (output / "stage-1.partial" / "checkpoints").glob("checkpoint-*")
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in checkpoints)


def resumed_at(output: Path) -> Iterator[int]:
    for line in Path(f"{output}.log").read_text().splitlines():
        if "goes on from step" in line:
            yield int(line.split("goes on from step ")[1].split(":")[0])


@pytest.mark.slow
def test_a_stage_killed_at_every_kind_of_moment_ends_like_one_that_was_not(
    run, uninterrupted, tmp_path
):
    output = tmp_path / "sft"
    killed = -signal.SIGKILL
    assert run(output, Kill(step=1)) == killed  # before the first checkpoint
    assert steps_kept(output) == []
    assert run(output, Kill(step=3)) == killed
    assert steps_kept(output) == [2]
    # Weights and optimiser are written, the trainer's state is not.
    kill = Kill(event="open", file="checkpoint-4/trainer_state.json")
    assert run(output, kill) == killed
    assert steps_kept(output) == [2]
    # All files are written and not yet in place.
    assert run(output, Kill(event="os.rename", file=".writing/checkpoint-4")) == killed
    assert steps_kept(output) == [2]
    # The third checkpoint is in place, which is at the end of an epoch; the first is to go.
    kill = Kill(event="shutil.rmtree", file="checkpoints/checkpoint-2")
    assert run(output, kill) == killed
    assert steps_kept(output) == [2, 4, 6]
    # Trained and about to be published.
    assert run(output, Kill(event="open", file="stage-1.partial/stage.json")) == killed
    assert steps_kept(output) == [6, 8]
    assert run(output) == 0
    assert list(resumed_at(output)) == [2, 2, 2, 6, 8]
    assert_same(output / "stage-1", uninterrupted(adapters=False))
    assert sorted(path.name for path in output.iterdir()) == [".lock", "stage-1"]


@pytest.mark.slow
def test_adapters_go_on_from_their_checkpoint_and_are_merged(run, uninterrupted, tmp_path):
    output = tmp_path / "sft"
    assert run(output, Kill(step=5), **ADAPTERS) == -signal.SIGKILL
    assert steps_kept(output) == [2, 4]
    partial = output / "stage-1.partial"
    names = load_file(partial / "checkpoints" / "checkpoint-4" / "trained.safetensors").keys()
    assert {name.split(".")[0] for name in names} == set(ADAPTERS["trainable"])
    language = {name for name in names if name.startswith("language_model.")}
    assert all(".lora_A." in name or ".lora_B." in name for name in language)
    assert sorted(path.name for path in partial.iterdir()) == ["checkpoints", "tensorboard"]
    assert run(output, **ADAPTERS) == 0
    assert list(resumed_at(output)) == [4]
    assert_same(output / "stage-1", uninterrupted(adapters=True))


@pytest.mark.slow
def test_damage_ctrl_c_and_another_interval(run, uninterrupted, tmp_path):
    output = tmp_path / "sft"
    assert run(output, Kill(step=7, with_signal=signal.SIGINT)) == 1  # KeyboardInterrupt
    assert steps_kept(output) == [4, 6]
    optimizer = output / "stage-1.partial" / "checkpoints" / "checkpoint-6" / "optimizer.pt"
    content = bytearray(optimizer.read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    optimizer.write_bytes(content)
    assert run(output, Kill(step=2), checkpoint_every=5) == -signal.SIGKILL
    # The damaged one is gone: step 5 is the newest from which a run can go on.
    assert steps_kept(output) == [4, 5]
    assert run(output) == 0
    assert list(resumed_at(output)) == [4, 5]
    assert "optimizer.pt is not what was written" in Path(f"{output}.log").read_text()
    assert_same(output / "stage-1", uninterrupted(adapters=False))


@pytest.mark.slow
def test_another_recipe_throws_the_partial_stage_away(run, uninterrupted, tmp_path):
    output = tmp_path / "sft"
    assert run(output, Kill(step=3), lr=5e-3) == -signal.SIGKILL
    assert steps_kept(output) == [2]
    assert run(output, checkpoint_every=0) == 0
    log = Path(f"{output}.log").read_text()
    assert "checkpoint-2 is of another recipe" in log
    assert "stage-1.partial is thrown away" in log
    assert list(resumed_at(output)) == []
    assert_same(output / "stage-1", uninterrupted(adapters=False))
