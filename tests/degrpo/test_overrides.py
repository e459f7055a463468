"""Overrides and options in any order; what a failing rank says."""

from __future__ import annotations

from pathlib import Path

import pytest

import sft.run
from common.errors import MachineError
from degrpo.cli import main, parse
from sft.ranks import OtherRankError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.b=1", "c=2", "--stage", "1", "--recipe", "R"],
        ["--recipe", "R", "a.b=1", "--stage", "1", "c=2"],
        ["a.b=1", "--recipe", "R", "c=2", "--stage=1"],
        ["--stage", "1", "--recipe", "R", "a.b=1", "c=2"],
    ],
    ids=" ".join,
)
def test_overrides_stand_anywhere_and_keep_their_order(arguments):
    options = parse(["sft", *arguments])
    assert (options.recipe, options.stage, options.overrides) == ("R", "1", ["a.b=1", "c=2"])


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["train"], ["--address", "A"]),
        (["demo"], ["--recipe", "R"]),
        (["model"], ["--memory"]),
        (["corpus", "build"], ["--recipe", "R"]),
        (["corpus", "fit"], ["--out", "O"]),
        (["corpus", "export"], ["--out", "O"]),
    ],
)
def test_so_in_every_command_with_a_recipe(command, option):
    assert parse([*command, "a=1", *option, "b=2"]).overrides == ["a=1", "b=2"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["sft", "a=1", "--stage", "1", "b=2", "--bogus", "3"], "--bogus"),
        (["sft", "--bogus=3"], "--bogus=3"),
        (["sft", "a=1", "-z"], "-z"),
        (["lifecycle", "outputs/demo-1", "a=1"], "a=1"),
        (["chat", "--clip", "c", "--question", "q", "a=1"], "a=1"),
    ],
)
def test_what_no_command_knows_is_still_refused(arguments, named, capsys):
    with pytest.raises(SystemExit) as end:
        parse(arguments)
    assert end.value.code == 2
    assert "unrecognized arguments" in (message := capsys.readouterr().err)
    assert named in message


@pytest.mark.parametrize(
    ("rank", "error", "said"),
    [
        ("1", OtherRankError, ""),
        ("1", MachineError, "MachineError: got this; that; so"),
        ("0", MachineError, "MachineError: got this; that; so"),
        (None, MachineError, "MachineError: got this; that; so"),
    ],
)
def test_a_rank_whose_main_rank_says_why_is_silent(rank, error, said, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise error("this", "that", "so")

    monkeypatch.setattr(sft.run, "run_stages", fail)
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert main(["sft", "--recipe", str(ROOT / "configs/tiny.yaml")]) == 2
    assert capsys.readouterr().err.strip() == said
