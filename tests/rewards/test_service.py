"""The service on a real Ray, with functions that hang and die."""

import os
import sys
from pathlib import Path

import pytest

from common.errors import ConfigError
from rewards.config import RewardsConfig, RewardTerm
from rewards.service import RewardClient
from rewards.types import RewardRequest

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module", autouse=True)
def _ray():
    import ray

    if ray.is_initialized():
        yield
        return
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},
    )
    yield
    ray.shutdown()
    sys.modules.pop("user_rewards", None)


def config(name, **kwargs):
    return RewardsConfig(
        terms=[RewardTerm(name=name, kwargs=kwargs)],
        timeout_seconds=3.0,
    )


def request(*completions, **columns):
    return RewardRequest(sample_id="s", prompt="?", completions=completions, columns=columns)


def test_facial_scores_come_back():
    with RewardClient(RewardsConfig()) as rewards:
        ((happy, sad),) = rewards.score(
            [request("He looks happy.", "He looks sad.", emotion=["happy"])]
        )
        assert (happy.total, sad.total) == (1.0, 0.0)
        assert rewards.restarts == 0
        assert rewards.process_id != os.getpid()
        assert rewards.score([]) == []


@pytest.mark.parametrize("name", ["hangs_on_bad", "dies_on_bad"])
def test_a_function_that_hangs_or_dies_costs_its_own_sample(name):
    with RewardClient(config(f"user_rewards:{name}")) as rewards:
        rows = rewards.score([request("a", "b"), request("bad", "a"), request("c")])
        assert [[breakdown.total for breakdown in row] for row in rows] == [
            [1, 1],
            [None, None],
            [1],
        ]
        assert ("no answer within" if name.startswith("hangs") else "died") in rows[1][0].error
        assert rewards.restarts == 2  # after the batch, and after the sample
        assert [row[0].total for row in rewards.score([request("a")])] == [1.0]


def test_a_death_is_made_good_by_scoring_again(tmp_path):
    with RewardClient(config("user_rewards:dies_once")) as rewards:
        flag = str(tmp_path / "died")
        rows = rewards.score([request("a", flag=flag), request("b", flag=flag)])
        assert [[breakdown.total for breakdown in row] for row in rows] == [[1.0], [1.0]]
        assert rewards.restarts == 1


def test_a_service_killed_between_batches_is_replaced():
    import ray

    with RewardClient(config("constant", value=0.5)) as rewards:
        ray.kill(rewards._actor)
        assert rewards.score([request("a")])[0][0].total == 0.5
        assert rewards.restarts == 1


def test_a_wrong_recipe_is_refused_as_such():
    with pytest.raises(ConfigError, match="did you mean constant"):
        RewardClient(config("constnat")).start()
