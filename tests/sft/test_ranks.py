"""Two ranks on the CPU learn what one process learns: plainly, and with DeepSpeed's ZeRO 2 and 3.

Every run is the command that a user types, started by ``torchrun``. Dropout is off: ranks draw
other masks than one process does, and nothing else may differ but the order of sums.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from common.errors import ConfigError
from corpus.schema import save_samples
from sft.config import SftConfig
from sft.ranks import Ranks
from sft.run import run_stages
from sft.scale import Scale
from tests.sft.conftest import make_sample

ROOT = Path(__file__).parents[2]
LIMIT = 900  # seconds; DeepSpeed compiles its communication on CPUs once per machine
TOLERANCE = 2e-4  # of losses around 10 after six steps of AdamW, in float32

STEPS = {2: 12, 3: 6}

RECIPE = """
corpus: {{path: {corpus}}}
policy: {{language_model: tiny, general_encoder: tiny, facial_encoder: tiny, qformer: tiny,
          num_frames: 2, num_queries: 2, shared_width: 32, qformer_layers: 2}}
sft:
  evaluate: false
  checkpoint_every: 2
  stage_1: {{split: qa, epochs: 1, batch_size: 4, lr: 1e-3, trainable: [projector]}}
  stage_2: {{split: qa, epochs: 4, batch_size: 4, lr: 1e-3, trainable: [low_level, middle_level, projector]}}
  stage_3: {{split: qa, epochs: 2, batch_size: 4, lr: 1e-3, lora_rank: 2, loss: samples, max_grad_norm: 0,
             group_by_length: true, trainable: [facial_encoder, middle_level, high_level, language_model]}}
"""  # noqa: E501


@pytest.fixture(scope="module")
def recipe(videos, tmp_path_factory) -> Path:
    """Eleven samples in batches of four: the last batch of an epoch is not whole."""
    folder = tmp_path_factory.mktemp("ranks")
    samples = [
        make_sample(
            f"{name}-{number}",
            video,
            "qa",
            f"Which colour, {number}?",
            f"It is {name}" + "!" * number,
        )
        for name, video in videos.items()
        for number in range(4)
    ][:11]
    samples.append(make_sample("held-out", videos["blue"], "held_out", "Which?", "It is blue."))
    save_samples(samples, folder / "samples.jsonl")
    (folder / "recipe.yaml").write_text(RECIPE.format(corpus=folder))
    return folder / "recipe.yaml"


def command(recipe: Path, output: Path, *overrides: str, ranks: int) -> list[str]:
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    start = [sys.executable, "-m", *(launcher if ranks > 1 else ()), "degrpo.cli", "sft"]
    return [*start, "--recipe", str(recipe), f"sft.output_dir={output}", *overrides]


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    cache = tmp_path_factory.mktemp("rank-features")
    return {**os.environ, "FAVCHAT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def train(recipe, environment):
    def train(output: Path, *overrides: str, ranks: int = 2) -> str:
        done = subprocess.run(
            command(recipe, output, *overrides, ranks=ranks),
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr

    return train


@pytest.fixture(scope="module")
def first_stage(train, tmp_path_factory) -> Path:
    """Output folder with a finished stage 1 whose policy has no dropout."""
    output = tmp_path_factory.mktemp("first")
    train(output, "--stage=1", ranks=1)
    path = output / "stage-1" / "config.json"
    config = json.loads(path.read_text())
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        assert config["qformer_config"][name] == 0.1
        config["qformer_config"][name] = 0.0
    path.write_text(json.dumps(config))
    return output


@pytest.fixture(scope="module")
def alone(train, first_stage, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("alone") / "sft"
    shutil.copytree(first_stage, output)
    train(output, ranks=1)
    return output


def metrics(output: Path, number: int) -> dict:
    return json.loads((output / f"stage-{number}" / "metrics.json").read_text())


def curve(output: Path, number: int, tag: str) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = output / f"stage-{number}" / "tensorboard"
    assert len(list(folder.iterdir())) == 1  # one rank writes
    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.value for event in events.Scalars(tag)]


def assert_same_losses(output: Path, alone: Path) -> None:
    for number in (2, 3):
        ours, expected = metrics(output, number), metrics(alone, number)
        for tag in ("train/loss", "train/grad_norm", "train/mean_token_accuracy"):
            values = curve(alone, number, tag)
            assert len(values) == STEPS[number]
            assert curve(output, number, tag) == pytest.approx(values, rel=1e-3, abs=1e-6), tag
        assert ours["steps"] == expected["steps"] == STEPS[number]
        assert ours["epoch_losses"] == pytest.approx(expected["epoch_losses"], abs=TOLERANCE)
        for split in ("train", "train_swapped_clips", "held_out"):
            loss = expected[split]["loss"]
            assert ours[split]["loss"] == pytest.approx(loss, abs=TOLERANCE), split
        # It has moved by far more than the tolerance.
        first, *_, last = expected["epoch_losses"]
        assert abs(first - last) > 100 * TOLERANCE
    # The last stage's adapters are merged, and what nobody trains is what it was.
    names = load_file(output / "stage-3" / "model.safetensors")
    before = load_file(alone / "stage-1" / "model.safetensors")
    assert names.keys() == before.keys()
    frozen = [name for name in before if name.startswith("general_encoder.")]
    assert frozen
    assert all(names[name].equal(before[name]) for name in frozen)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["sft.gradient_checkpointing=true"],
        [f"sft.deepspeed={ROOT}/configs/deepspeed/zero3.json", "sft.micro_batch_size=1"],
    ],
    ids=["plain", "zero3"],
)
def test_two_ranks_lose_what_one_process_loses(overrides, train, first_stage, alone, tmp_path):
    output = tmp_path / "sft"
    shutil.copytree(first_stage, output)
    for number in (2, 3):
        said = train(output, *overrides, f"--stage={number}")
        assert said.count("policy: ") == 1  # one rank speaks
    assert_same_losses(output, alone)
    assert sorted(path.name for path in (output / "stage-3").iterdir()) == sorted(
        path.name for path in (alone / "stage-3").iterdir()
    )


@pytest.mark.slow
def test_ranks_that_were_killed_go_on(train, recipe, environment, first_stage, alone, tmp_path):
    """In mid-epoch, the second one; with ZeRO 2, whose checkpoints have pieces of every rank."""
    output = tmp_path / "sft"
    shutil.copytree(first_stage, output)
    overrides = [f"sft.deepspeed={ROOT}/configs/deepspeed/zero2.json"]
    running = subprocess.Popen(
        command(recipe, output, *overrides, "--stage=2", ranks=2),
        cwd=ROOT,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoints = output / "stage-2.partial" / "checkpoints"
    deadline = time.monotonic() + LIMIT
    while not (checkpoints / "checkpoint-4").exists():
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for process in _processes_of(output):  # the ranks have sessions of their own
        os.kill(process, signal.SIGKILL)
    running.wait()
    assert not (output / "stage-2").exists()
    said = train(output, *overrides, "--stage=2")
    assert re.search(r"goes on from step (4|6|8)\b", said)
    train(output, *overrides, "--stage=3")
    assert_same_losses(output, alone)


def _processes_of(output: Path) -> list[int]:
    """The launcher and its ranks, which name the folder that they write."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes()
        except OSError:
            continue
        if f"sft.output_dir={output}".encode() in arguments:
            found.append(int(path.parent.name))
    return sorted(found, reverse=True)


def test_batches_are_divided_evenly_or_refused():
    assert Scale().divide(16) == (16, 1)
    assert Scale(ranks=4).divide(16) == (4, 1)
    assert Scale(ranks=4, micro_batch_size=2).divide(16) == (2, 2)
    for scale in (Scale(ranks=3), Scale(ranks=32), Scale(ranks=2, micro_batch_size=3)):
        with pytest.raises(ConfigError, match="batch_size=16"):
            scale.divide(16)


def test_deepspeed_without_a_launcher_is_refused_before_anything_else(tiny, corpus, tmp_path):
    sft = SftConfig(output_dir=str(tmp_path / "sft"), deepspeed="configs/deepspeed/zero2.json")
    with pytest.raises(ConfigError, match="torchrun"):
        run_stages(sft, tiny, corpus)
    assert not (tmp_path / "sft").exists()


def test_one_process_is_the_main_rank_of_one():
    ranks = Ranks.join()
    assert (ranks.rank, ranks.size, ranks.main) == (0, 1, True)
    assert ranks.gather("x") == ["x"]
    assert ranks.share([1, 2, 3]) == [1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        ranks.on_main(lambda: 1 // 0)


def test_the_ranks_share_work_without_a_rest():
    shares = [Ranks(rank, 3).share(list("abcdefgh")) for rank in range(3)]
    assert shares == [["a", "d", "g"], ["b", "e", "h"], ["c", "f"]]
