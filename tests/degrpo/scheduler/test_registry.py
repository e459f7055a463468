"""Schedulers by name and by import path."""

from __future__ import annotations

import pytest

from common.errors import ConfigError
from degrpo.config import TrainConfig
from degrpo.scheduler import SCHEDULERS, build_scheduler
from degrpo.scheduler.uniform import UniformScheduler


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_by_name(build, name):
    assert type(build("ab", name=name)) is SCHEDULERS[name]


def test_by_import_path(build):
    assert type(build("ab", name="degrpo.scheduler.uniform:UniformScheduler")) is UniformScheduler


def test_the_recipe_names_degrpo_by_default():
    assert type(build_scheduler(TrainConfig(), ["a"])) is SCHEDULERS["degrpo"]


@pytest.mark.parametrize(
    "name", ["grpo", "no_such_module:Scheduler", "degrpo.scheduler.uniform:NoSuch", ":x", "x:", ""]
)
def test_what_leads_nowhere_is_refused(build, name):
    with pytest.raises(ConfigError, match=r"scheduler\.name"):
        build("ab", name=name)


@pytest.mark.parametrize("ids", [[], ["a", "b", "a"]])
def test_an_empty_corpus_and_repeated_ids_are_refused(build, ids):
    with pytest.raises(ConfigError, match="each once"):
        build(ids)
