"""What the commands do: start a cluster and submit the run, find a policy, study a run."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from common.console import say
from common.errors import ConfigError
from degrpo.config import TrainConfig

RUN_SCRIPT = Path(__file__).with_name("run.py")


def train(
    config: TrainConfig, *, recipe: str, overrides: Sequence[str], address: str | None = None
) -> int:
    """Submit ``degrpo/run.py`` with ``ray job submit``; return the job's exit code.

    Without ``address`` a cluster is started for the job and stopped after it. Either way the job
    is stopped when the command is interrupted.
    """
    from degrpo.cluster import Cluster, start_cluster

    entrypoint = ["python", _relative(RUN_SCRIPT), "--recipe", recipe, *overrides]
    submission_id = f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    if address is not None:
        running = Cluster(address=address, environment=dict(os.environ))
        return running.submit(entrypoint, submission_id=submission_id)
    with start_cluster(config.cluster, working_dir=Path.cwd()) as cluster:
        return cluster.submit(entrypoint, submission_id=submission_id)


def find_policy(given: Path | None, outputs: Path = Path("outputs")) -> Path:
    """The folder of a policy: as given, inside the run given, or of the newest finished run.

    Raises:
        ConfigError: when there is none.
    """
    if given is None:
        finished = sorted(outputs.glob("*/finished.json"), key=lambda path: path.stat().st_mtime)
        candidates = [path.parent / "policy" for path in finished[::-1]]
    else:
        candidates = [given, given / "policy"]
    for folder in candidates:
        if (folder / "config.json").exists():
            return folder
    raise ConfigError(
        f"policy folder {given}" if given else f"no finished run under {outputs}/",
        "a policy's folder holds config.json and safetensors",
        "train one with `degrpo sft` or `degrpo demo`, or name a folder such as outputs/demo-1",
    )


def print_lifecycle(run_folder: Path, sample: str | None) -> int:
    """Print what the log says, audit it, and write the report."""
    from degrpo.lifecycle import queries
    from degrpo.lifecycle.report import write_report
    from degrpo.run_folder import existing_run

    folder, _ = existing_run(run_folder)
    if sample is not None:
        history = queries.sample_history(folder.path, sample)
        if not history:
            raise ConfigError(
                f"--sample {sample}",
                f"no event of {folder.path} has such an id",
                "take an id from the report's table",
            )
        for event in history:
            state = "" if event["state"] is None else f"state {event['state']:.2f}"
            say(
                f"step {event['step']:>4}  {event['event']:<10} {state:<11} "
                f"{event['reason'] or event['detail']}"
            )
        return 0
    for kind, count in queries.event_counts(folder.path).items():
        say(f"{kind:<10} {count:>6}")
    problems = queries.audit(folder.path)
    say(
        "audit: "
        + ("; ".join(problems) if problems else "complete: seq has no gap, every visit has its end")
    )
    say(f"report: {write_report(folder.path)}")
    return 1 if problems else 0


def _relative(path: Path) -> str:
    return os.path.relpath(path, Path.cwd())
