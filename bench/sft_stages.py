"""Do the stages teach, and does the policy use its prompts, its clips and their order? As a table.

    degrpo corpus build --recipe configs/sft_cards.yaml
    python bench/sft_stages.py --seeds 0 1 2

Runs the recipe once per seed (the policy's random parts, the order of the data and dropout are
drawn anew), reads what each stage's evaluation on held-out clips found, and prints means and
standard deviations over the seeds. A finished stage is not repeated. "Clear" says that a difference
between means is larger than the larger standard deviation of the two.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

# Python puts a script's folder first, where bench/policy.py would hide the package of its name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.config import load_config  # noqa: E402
from common.console import say  # noqa: E402
from degrpo.config import TrainConfig  # noqa: E402
from sft.config import ABLATIONS  # noqa: E402
from sft.evaluation.records import Evaluation, load_evaluation  # noqa: E402
from sft.run import run_stages  # noqa: E402

MEASURES: Mapping[str, Callable[[Evaluation], float]] = {
    "loss": lambda e: e.overall.loss.value,
    "token accuracy": lambda e: e.overall.token_accuracy.value,
    "emotion accuracy": lambda e: e.overall.parts["emotion"].accuracy.value,
    "attribute F1": lambda e: e.overall.parts["attributes"].f1.value,
    "attribute accuracy": lambda e: e.overall.parts["attributes"].accuracy.value,
    **{f"{level} level F1": lambda e, level=level: e.levels[level].parts["facts"].f1.value
       for level in ("low", "mid", "high")},
}  # fmt: skip
BETTER_IS_LESS = "loss"


def run(config: TrainConfig, seed: int) -> list[Evaluation]:
    """The evaluations of stages 1, 2 and 3 with this seed."""
    output = Path(config.sft.output_dir, f"seed-{seed}")
    sft = dataclasses.replace(config.sft, seed=seed, output_dir=str(output))
    policy = dataclasses.replace(config.policy, seed=seed)
    # What ablations cost is asked of the finished policy alone.
    run_stages(dataclasses.replace(sft, ablations=[]), policy, config.corpus, (1, 2))
    run_stages(sft, policy, config.corpus, (3,))
    return [load_evaluation(output / f"stage-{number}") for number in (1, 2, 3)]


def text(values: Sequence[float]) -> str:
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{spread}"


def is_clear(before: Sequence[float], after: Sequence[float], *, less: bool = False) -> str:
    """Whether the mean has moved the right way by more than the seeds differ."""
    if len(before) < 2:
        return ""
    gain = (fmean(before) - fmean(after)) if less else (fmean(after) - fmean(before))
    return "clear" if gain > max(stdev(before), stdev(after)) else "no"


def print_stages(runs: Sequence[Sequence[Evaluation]]) -> None:
    say("| held-out cards | stage 1 | stage 2 | stage 3 | 1 → 2 | 2 → 3 |")
    say("|---|---|---|---|---|---|")
    for name, measure in MEASURES.items():
        columns = [[measure(evaluations[stage]) for evaluations in runs] for stage in range(3)]
        less = name == BETTER_IS_LESS
        steps = [is_clear(columns[n], columns[n + 1], less=less) for n in range(2)]
        say(f"| {name} | " + " | ".join([*map(text, columns), *steps]) + " |")


def print_ablations(finished: Sequence[Evaluation]) -> None:
    say("\n| the last stage's policy without | questions | loss increase | |")
    say("|---|---|---|---|")
    for name in ABLATIONS:
        found = [evaluation.ablations.get(name) for evaluation in finished]
        if any(scores is None for scores in found):
            continue
        increases = [scores.loss_increase.value for scores in found]
        verdict = is_clear([0.0] * len(increases), increases)
        say(
            f"| {name.replace('_', ' ')} | {found[0].num_answers} | {text(increases)} | {verdict} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="configs/sft_cards.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    config = load_config(TrainConfig, options.recipe, options.overrides)
    runs = [run(config, seed) for seed in options.seeds]
    constant = runs[0][-1].overall.parts["emotion"].constant_answer
    print_stages(runs)
    say(f"\nemotion accuracy of the best constant answer: {constant:.3f}")
    print_ablations([evaluations[-1] for evaluations in runs])


if __name__ == "__main__":
    main()
