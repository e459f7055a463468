"""What every test relies on: no network, few threads, files only under the test's own folder.

And the tiny policy, random weights that are built in a second, which many folders use.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from policy.config import PolicyConfig

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if "PYTEST_XDIST_WORKER" in os.environ:  # processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., PolicyConfig]:
    """Makes the tiny recipe with changes."""
    from policy.config import PolicyConfig

    def make(**changes) -> PolicyConfig:
        parts = ("language_model", "general_encoder", "facial_encoder", "qformer")
        sizes = {"qformer_layers": 2, "shared_width": 32, "num_queries": 4, "num_frames": 3}
        return PolicyConfig(**{**dict.fromkeys(parts, "tiny"), **sizes, **changes})

    return make


@pytest.fixture(scope="session")
def tiny(tiny_config):
    """Model and processor, shared; tests that change a model take a copy of it."""
    from policy.build import build_policy

    return build_policy(tiny_config())


@pytest.fixture(scope="session")
def tiny_folder(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny policy, saved."""
    from policy.checkpoints import save_policy

    return save_policy(*tiny, tmp_path_factory.mktemp("tiny") / "policy")
