"""What a recipe may not say about rollouts."""

from __future__ import annotations

import pytest

from common.errors import ConfigError
from rollouts.config import RolloutConfig


def test_the_defaults_pass():
    RolloutConfig().check()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("group_size", 1),
        ("max_response_tokens", 256),  # max_model_len
        ("temperature", 0.0),
        ("dtype", "fp32"),
        ("kv_cache_gib", 0.0),
        ("timeout_seconds", -1.0),
        ("parity_max", 0.0),
        ("threads", -1),
        ("cpus_per_worker", -0.5),
        ("num_workers", 0),
    ],
)
def test_a_refusal_names_key_and_value(key, value):
    with pytest.raises(ConfigError, match=rf"rollouts\.{key}={value}"):
        RolloutConfig(**{key: value}).check()
