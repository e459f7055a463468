"""What the README shows works as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from common.config import load_config
from degrpo.cli import build_parser
from degrpo.config import TrainConfig

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.S)


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line[:1] == ["degrpo"]]


def test_the_reward_scores_as_its_docstring_says():
    block = next(block for block in blocks("python") if "def brevity" in block)
    scope: dict = {}
    exec(compile(block, "README.md", "exec"), scope)
    texts = [" ".join(["word"] * count) for count in (1, 10, 20, 30, 99)]
    assert scope["brevity"](["?"] * 5, texts) == [1.0, 1.0, 0.5, 0.0, 0.0]


def test_there_are_commands():
    assert len(commands()) >= 7


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_parses(command):
    options = build_parser().parse_args(command[1:])
    if hasattr(options, "overrides"):
        assert load_config(TrainConfig, ROOT / options.recipe, options.overrides).name


def test_every_linked_file_is_there():
    for target in re.findall(r"\]\(((?!http)[^)#]+)", TEXT):
        assert (ROOT / target).exists(), target
