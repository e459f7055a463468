"""Recipes: what is refused, and that the refusal names value, rule and fix."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field

import pytest

from common.config import load_config, save_config
from common.errors import ConfigError, VideoError


@dataclass(kw_only=True)
class Inner:
    rate: float = 0.5
    names: list[str] = field(default_factory=list)

    def check(self) -> None:
        if self.rate <= 0:
            raise ConfigError(f"inner.rate={self.rate}", "a rate is positive", "set inner.rate=0.5")


@dataclass(kw_only=True)
class Outer:
    steps: int = 3
    inner: Inner = field(default_factory=Inner)


def test_command_line_wins_over_recipe_and_recipe_over_defaults(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("steps: 5\ninner:\n  rate: 2.0\n  names: [a, b]\n")
    config = load_config(Outer, recipe, ["inner.rate=4"])
    assert (config.steps, config.inner.rate, config.inner.names) == (5, 4.0, ["a", "b"])
    assert isinstance(config.inner, Inner)


def test_a_recipe_starts_from_its_base(tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "first.yaml").write_text("steps: 5\ninner: {rate: 2.0, names: [a, b]}\n")
    (tmp_path / "second.yaml").write_text("base: all/first.yaml\ninner: {rate: 3.0}\n")
    (tmp_path / "third.yaml").write_text("base: second.yaml\nsteps: 7\n")
    config = load_config(Outer, tmp_path / "third.yaml", ["inner.names=[c]"])
    assert (config.steps, config.inner.rate, config.inner.names) == (7, 3.0, ["c"])


def test_a_wrong_base_is_named(tmp_path):
    (tmp_path / "one.yaml").write_text("base: two.yaml\n")
    (tmp_path / "two.yaml").write_text("base: one.yaml\n")
    with pytest.raises(ConfigError, match=r"one\.yaml -> two\.yaml -> one\.yaml.*its own base"):
        load_config(Outer, tmp_path / "one.yaml")
    (tmp_path / "two.yaml").write_text("steppes: 3\n")
    with pytest.raises(ConfigError, match=r"two\.yaml"):
        load_config(Outer, tmp_path / "one.yaml")
    (tmp_path / "two.yaml").unlink()
    with pytest.raises(ConfigError, match=r"base=two\.yaml \(.*one\.yaml\).*No such file"):
        load_config(Outer, tmp_path / "one.yaml")
    (tmp_path / "one.yaml").write_text("base: [two.yaml]\n")
    with pytest.raises(ConfigError, match="name one file"):
        load_config(Outer, tmp_path / "one.yaml")


def test_saved_config_loads_unchanged(tmp_path):
    config = load_config(Outer, None, ["steps=9", "inner.names=[x]"])
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(Outer, tmp_path / "saved.yaml") == config


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("inner.rat=1", ["inner.rat", "did you mean inner.rate?"]),
        ("stepz=1", ["stepz", "did you mean steps?"]),
        ("steps=many", ["steps", "many", "Integer"]),
        ("steps", ["'steps'", "key=value"]),
        ("inner.rate=-1", ["inner.rate=-1.0", "positive"]),
        ("inner=3", ["inner"]),
    ],
)
def test_a_wrong_override_is_named(override, words):
    with pytest.raises(ConfigError) as refusal:
        load_config(Outer, None, [override])
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "word"),
    [("a: [", "YAML"), ("- 1\n", "mapping"), ("inner:\n  zzz: 1\n", "inner.zzz")],
)
def test_a_wrong_recipe_is_named(tmp_path, content, word):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(content)
    with pytest.raises(ConfigError, match=word):
        load_config(Outer, recipe)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_config(Outer, tmp_path / "none.yaml")


def test_errors_cross_process_boundaries_whole():
    error = pickle.loads(pickle.dumps(VideoError("clip.mp4", "a video has frames", "give another")))
    assert (error.received, error.rule, error.fix) == (
        "clip.mp4",
        "a video has frames",
        "give another",
    )
    assert isinstance(error, ValueError)


@dataclass(kw_only=True)
class Part:
    size: int = 1

    def check(self) -> None:
        if self.size < 1:
            raise ConfigError(f"size={self.size}", "a part has a size", "set size=1")


@dataclass(kw_only=True)
class Whole:
    parts: list[Part] = field(default_factory=list)


def test_sections_in_a_list_are_checked_like_others():
    assert load_config(Whole, None, ["parts=[{size: 3}]"]).parts == [Part(size=3)]
    with pytest.raises(ConfigError, match=r"unknown key parts\[1\]\.sise .*parts\[1\]\.size"):
        load_config(Whole, None, ["parts=[{size: 3}, {sise: 4}]"])
    with pytest.raises(ConfigError, match="a part has a size"):
        load_config(Whole, None, ["parts=[{size: 0}]"])
