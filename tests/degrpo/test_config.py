"""A recipe that cannot run is refused before anything starts."""

from __future__ import annotations

import pytest

from common.errors import ConfigError
from degrpo.config import ClusterConfig, TrainConfig


def test_the_defaults_hold():
    ClusterConfig().check()
    TrainConfig().check()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("port", -1, "cluster.port=-1; a port lies in [0, 65535]; set cluster.port=0"),
        ("dashboard_port", 65536, "cluster.dashboard_port=65536; a port lies in [0, 65535]"),
        ("host", " ", "cluster.host=' '; it names an address of this machine"),
        ("object_store_mib", 79, "cluster.object_store_mib=79; it is at least 80"),
        ("min_memory_gib", -0.5, "cluster.min_memory_gib=-0.5; it is not negative"),
    ],
)
def test_a_cluster_that_cannot_start_is_refused(key, value, message):
    with pytest.raises(ConfigError) as refusal:
        ClusterConfig(**{key: value}).check()
    assert message in str(refusal.value)


def test_the_limits_themselves_hold():
    ClusterConfig(port=65535, dashboard_port=0, object_store_mib=80, min_memory_gib=0).check()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a b", "a\n", "é"])
def test_a_name_that_is_no_folder_is_refused(name):
    with pytest.raises(ConfigError) as refusal:
        TrainConfig(name=name).check()
    assert f"name={name!r}; a run's name is one folder's" in str(refusal.value)


@pytest.mark.parametrize("name", ["demo-1", "A_b.2", "...", "0"])
def test_a_plain_name_holds(name):
    TrainConfig(name=name).check()
