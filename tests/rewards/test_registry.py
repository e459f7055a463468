from pathlib import Path

import pytest

from common.config import load_config
from common.errors import ConfigError
from rewards.config import RewardsConfig, RewardTerm
from rewards.facial import FacialReward
from rewards.registry import REWARDS, build_reward, build_rewards


@pytest.fixture(autouse=True)
def _user_module_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def test_every_registered_reward_builds_with_its_defaults():
    for name in REWARDS:
        reward = build_reward(RewardTerm(name=name, weight=0.5))
        assert (reward.name, reward.weight) == (name, 0.5)


def test_kwargs_reach_classes_and_functions():
    constant = build_reward(RewardTerm(name="constant", kwargs={"value": 0.25}))
    assert constant.function([""], ["a"]) == [0.25]
    scaled = build_reward(RewardTerm(name="user_rewards:scaled", kwargs={"factor": 3}))
    assert scaled.name == "scaled"
    assert scaled.function(prompts=[""], completions=["abc"]) == [9]


def test_one_embedder_serves_all():
    rewards = build_rewards(
        RewardsConfig(terms=[RewardTerm(), RewardTerm(name="user_rewards:Embeds")])
    )
    assert rewards[1].function.embedder is rewards[0].function._embed


def test_a_recipe_reaches_the_reward():
    config = load_config(
        RewardsConfig,
        overrides=["terms=[{name: facial, weight: 2.0, kwargs: {similarity: sentence}}]"],
    )
    (reward,) = build_rewards(config)
    assert isinstance(reward.function, FacialReward)
    assert reward.weight == 2.0


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("facail", {}, "did you mean facial"),
        ("no_such_module:f", {}, "no_such_module"),
        ("user_rewards:lenght", {}, "did you mean length"),
        ("user_rewards:NOT_A_REWARD", {}, "function or a class"),
        ("user_rewards:Picky", {"level": 0}, "level too low"),
        ("user_rewards:Picky", {}, "level"),
        ("constant", {"valeu": 1}, "valeu"),
        ("user_rewards:scaled", {"factor": 1, "completions": []}, "completions"),
        ("user_rewards:length", {"prompts": []}, "prompts"),
        ("facial", {"alpha": 0.9}, "sum to 1"),
    ],
)
def test_refusals_say_what_is_wrong(name, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        build_reward(RewardTerm(name=name, kwargs=kwargs))


def test_a_module_that_raises_at_import(tmp_path, monkeypatch):
    (tmp_path / "broken_reward.py").write_text("raise OSError('no disk')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="OSError: no disk"):
        build_reward(RewardTerm(name="broken_reward:f"))


def test_the_same_name_twice_is_refused():
    with pytest.raises(ConfigError, match="twice"):
        build_rewards(
            RewardsConfig(terms=[RewardTerm(name="constant"), RewardTerm(name="constant")])
        )


def test_a_recipe_in_which_nothing_counts_is_refused():
    with pytest.raises(ConfigError, match="every weight 0"):
        RewardsConfig(terms=[RewardTerm(weight=0.0)]).check()
