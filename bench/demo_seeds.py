"""Does the demo learn, and from the clip? The same RL run with several seeds, as a table.

    python bench/demo_seeds.py --seeds 1 2 --runs outputs/demo-1

Starts from the policy that `degrpo demo` (or `degrpo sft`) left; a finished seed is not repeated.
Finished runs named with --runs, such as the demo's own, are rows of the table, too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean, pstdev

from common.config import load_config
from degrpo.config import TrainConfig
from degrpo.launch import train


def outcome(config: TrainConfig, recipe: str, seed: int) -> Path:
    """Run one seed, unless it is finished; return its folder."""
    run = Path(config.output_dir, f"{config.name}-seed-{seed}")
    if not (run / "finished.json").exists():
        code = train(config, recipe=recipe, overrides=[f"name={run.name}", f"seed={seed}"])
        if code:
            raise SystemExit(code)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="configs/demo.yaml")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    config = load_config(TrainConfig, options.recipe)
    runs = [*options.runs, *(outcome(config, options.recipe, seed) for seed in options.seeds)]
    outcomes = {
        json.loads((run / "run.json").read_text())["seed"]: json.loads(
            (run / "evaluation.json").read_text()
        )
        for run in runs
    }
    print(
        "| seed | pool before | pool after | shuffled, after | held-out before | held-out after |"
    )
    print("|---|---|---|---|---|---|")
    rows = []
    for seed, result in sorted(outcomes.items()):
        before, after = result["before"], result["after"]
        row = [
            before["pool"],
            after["pool"],
            after["pool_shuffled"],
            before["held_out"],
            after["held_out"],
        ]
        rows.append(row)
        print(f"| {seed} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
    columns = list(zip(*rows, strict=True))
    print("| mean | " + " | ".join(f"{fmean(column):.3f}" for column in columns) + " |")
    print("| spread (s.d.) | " + " | ".join(f"{pstdev(column):.3f}" for column in columns) + " |")
    constant = next(iter(outcomes.values()))["best_constant"]
    print(f"\nbest constant answer: {constant['reward']:.3f} (“{constant['text']}”)")


if __name__ == "__main__":
    main()
