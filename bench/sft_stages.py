"""Do the stages teach, and does the policy use its prompts, its clips and their order? As a table.

    degrpo corpus build --recipe configs/sft_cards.yaml
    python bench/sft_stages.py --seeds 0 1 2

Runs the recipe once per seed (the policy's random parts, the order of the data and dropout are
drawn anew), reads what each stage's evaluation on held-out clips found, and prints means ± standard
deviations over the seeds. A finished stage is not repeated.

A gain from stage to stage is clear when it is larger than the larger standard deviation of the two.
What the policy loses without something is compared twice: with the standard deviation of that loss
increase, seed by seed, and with that of the whole policy's loss on the same questions.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

# Python puts a script's folder first, where bench/policy.py would hide the package of its name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.config import load_config  # noqa: E402
from common.console import say  # noqa: E402
from common.errors import ConfigError, FaVChatError  # noqa: E402
from corpus.schema import Split, load_samples  # noqa: E402
from degrpo.config import TrainConfig  # noqa: E402
from sft.config import ABLATIONS  # noqa: E402
from sft.evaluation.records import Evaluation, load_evaluation  # noqa: E402
from sft.evaluation.report import scalars  # noqa: E402
from sft.run import run_stages  # noqa: E402

MEASURES: Mapping[str, str] = {
    "loss a token": "eval/all/loss",
    "token accuracy": "eval/all/token_accuracy",
    "emotion accuracy": "eval/all/emotion/accuracy",
    "attribute F1": "eval/all/attributes/f1",
    "attribute accuracy": "eval/all/attributes/accuracy",
    "low level: F1 of all facts": "eval/level_low/facts/f1",
    "mid level: F1 of all facts": "eval/level_mid/facts/f1",
    "high level: F1 of all facts": "eval/level_high/facts/f1",
}
"""Row of the table -> name of the score."""
BETTER_IS_LESS = "eval/all/loss"
MISSING = "–"


def run(config: TrainConfig, seed: int) -> list[Evaluation]:
    """The evaluations of stages 1, 2 and 3 with this seed."""
    output = Path(config.sft.output_dir, f"seed-{seed}")
    sft = dataclasses.replace(config.sft, seed=seed, output_dir=str(output))
    sft.check()
    policy = dataclasses.replace(config.policy, seed=seed)
    # What ablations cost is asked of the finished policy alone.
    run_stages(dataclasses.replace(sft, ablations=[]), policy, config.corpus, (1, 2))
    run_stages(sft, policy, config.corpus, (3,))
    return [load_evaluation(output / f"stage-{number}") for number in (1, 2, 3)]


def text(values: Sequence[float]) -> str:
    spread = f" ± {stdev(values):z.3f}" if len(values) > 1 else ""
    return f"{fmean(values):z.3f}{spread}"


def is_above(amount: float, *spreads: Sequence[float]) -> str:
    """Whether ``amount`` is larger than the standard deviation of each of ``spreads``."""
    if any(len(values) < 2 for values in spreads):
        return MISSING
    return "yes" if amount > max(map(stdev, spreads)) else "no"


def print_stages(runs: Sequence[Sequence[Evaluation]]) -> None:
    """A row per score that the held-out questions allow.

    Args:
        runs: for each seed the evaluations of stages 1, 2 and 3.
    """
    say(
        "| held-out questions | stage 1 | stage 2 | stage 3 "
        "| clear gain 1 to 2 | clear gain 2 to 3 |"
    )
    say("|---|---|---|---|---|---|")
    scores = [[scalars(evaluation) for evaluation in evaluations] for evaluations in runs]
    for label, name in MEASURES.items():
        if any(name not in stage for stages in scores for stage in stages):
            continue
        columns = [[stages[n][name] for stages in scores] for n in range(3)]
        sign = -1 if name == BETTER_IS_LESS else 1
        gains = [
            is_above(sign * (fmean(after) - fmean(before)), before, after)
            for before, after in pairwise(columns)
        ]
        say(f"| {label} | " + " | ".join([*map(text, columns), *gains]) + " |")


def print_ablations(finished: Sequence[Evaluation]) -> None:
    """A row per thing that was taken from the policy.

    Args:
        finished: for each seed the evaluation of stage 3.
    """
    say(
        "\n| stage 3's policy | questions | loss with all | increase | "
        "above the increase's s.d. | above the loss's s.d. |"
    )
    say("|---|---|---|---|---|---|")
    for name in ABLATIONS:
        found = [e.ablations[name] for e in finished if name in e.ablations]
        if len(found) < len(finished):
            continue
        increases = [scores.loss_increase.value for scores in found]
        # On the same questions: reversed frames, for one, are asked about actions alone.
        whole = [scores.loss.value - scores.loss_increase.value for scores in found]
        verdicts = [is_above(fmean(increases), spread) for spread in (increases, whole)]
        cells = [str(found[0].num_answers), text(whole), text(increases), *verdicts]
        say(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")


def compare(config: TrainConfig, seeds: Sequence[int]) -> None:
    """Train with every seed and print both tables.

    Raises:
        ConfigError: for a recipe that does not evaluate its stages, or a corpus that gives them
            nothing to evaluate on.
    """
    if not config.sft.evaluate:
        raise ConfigError(
            "sft.evaluate=false",
            "the tables are made of what each stage's evaluation finds",
            "add sft.evaluate=true, or take configs/sft_cards.yaml",
        )
    if not load_samples(Path(config.corpus.path, "samples.jsonl"), [Split.HELD_OUT]):
        raise ConfigError(
            f"corpus.path={config.corpus.path} without held-out samples",
            "the tables are made of answers to held-out questions",
            "rebuild the corpus with corpus.split.held_out_samples above 0",
        )
    runs = [run(config, seed) for seed in seeds]
    print_stages(runs)
    overall = runs[0][-1].overall
    if overall is not None and (emotion := overall.parts.get("emotion")):
        say(f"\nemotion accuracy of the best constant answer: {emotion.constant_answer:.3f}")
    print_ablations([evaluations[-1] for evaluations in runs])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="configs/sft_cards.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args()
    try:
        compare(load_config(TrainConfig, options.recipe, options.overrides), options.seeds)
    except FaVChatError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None


if __name__ == "__main__":
    main()
