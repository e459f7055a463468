"""Does the demo learn, and from the clip? The same RL run with several seeds, as a table.

    python bench/demo_seeds.py --seeds 1 2 --runs outputs/demo-1

Starts from the policy that `degrpo demo` (or `degrpo sft`) left; a finished seed is not repeated.
Finished runs named with --runs, such as the demo's own, are rows of the table, too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean, stdev

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
    print("| seed | pool before | pool after | after, clips shuffled | held-out before | after |")
    print("|---|---|---|---|---|---|")
    rows = {seed: figures(result) for seed, result in sorted(outcomes.items())}
    for seed, row in rows.items():
        print(f"| {seed} | " + " | ".join(map(_text, row)) + " |")
    columns = list(zip(*rows.values(), strict=True))
    spreads = [
        stdev(column) if None not in column and len(rows) > 1 else None for column in columns
    ]
    means = [fmean(column) if None not in column else None for column in columns]
    print("| mean | " + " | ".join(map(_text, means)) + " |")
    print("| s.d. | " + " | ".join(map(_text, spreads)) + " |")
    constant = next(iter(outcomes.values()))["best_constant"]
    print(f"\nbest constant answer: {constant['reward']:.3f} (“{constant['text']}”)")
    spread = max(spread or 0.0 for spread in spreads[:3])
    before, after, shuffled = means[:3]
    print(f"after - before {after - before:.3f}, own - shuffled {after - shuffled:.3f},")
    print(f"largest spread between seeds {spread:.3f}")


def figures(evaluation: dict) -> list[float | None]:
    before, after = evaluation["before"], evaluation["after"]
    pool = [before["pool"], after["pool"], after["pool_shuffled"]]
    return [*pool, before["held_out"], after["held_out"]]


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
