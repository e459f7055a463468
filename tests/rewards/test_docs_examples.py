"""The examples of docs/rewards.md, as they are printed there."""

import re
from pathlib import Path

import pytest
import yaml

from rewards.config import RewardsConfig, RewardTerm
from rewards.registry import build_rewards
from rewards.scoring import score
from rewards.types import RewardRequest

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_plug_in_with_its_recipe(tmp_path, monkeypatch):
    plug_in = blocks("python")[0]
    recipe = yaml.safe_load(blocks("yaml")[0])["rewards"]
    (tmp_path / "my_rewards.py").write_text(plug_in)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = RewardsConfig(**{**recipe, "terms": [RewardTerm(**term) for term in recipe["terms"]]})
    config.check()
    long = "The man looks happy " * 6  # 24 words
    request = RewardRequest(
        sample_id="demo",
        prompt="?",
        completions=("The man looks happy.", long),
        columns={"emotion": ["happy"], "kind": "emotion"},
    )
    ((short, wordy),) = score(build_rewards(config), [request])
    assert short.parts == {"facial": 1.0, "facial/emotion": 1.0, "Brevity": 1.0}
    assert short.total == pytest.approx(1.2)
    assert wordy.parts["Brevity"] == 0.0  # twice the 12 words of the recipe


def test_trying_a_reward_without_a_run():
    exec(compile(blocks("python")[1], "docs/rewards.md", "exec"), {})


def test_the_table_of_scores(facial, embedder):
    from rewards.facial import FacialReward

    sentence = FacialReward(similarity="sentence", embedder=embedder)
    rows = re.findall(r"^\| (.+?) \| (\d?\.\d\d) \| (\d?\.\d\d) \|$", PAGE, flags=re.MULTILINE)
    assert len(rows) == 8
    for answer, phrase_score, sentence_score in rows:
        text = " ".join([answer.removesuffix(" (twice)")] * (1 + answer.endswith(" (twice)")))
        for reward, printed in ((facial, phrase_score), (sentence, sentence_score)):
            (value,) = reward(["?"], [text], emotion=[["happy"]], action=[["smiling"]])
            assert value == pytest.approx(float(printed), abs=0.0051), (answer, printed)
