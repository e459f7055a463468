"""Folders that are replaced whole, whatever happens to their writer."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from policy.folders import replaced_folder, restore_folder


def contents(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "weights").write_text("old")
    (folder / "index").write_text("old")
    return folder


def test_the_old_folder_stays_until_the_new_one_is_whole(folder):
    with replaced_folder(folder) as new:
        (new / "weights").write_text("new")
        assert (folder / "weights").read_text() == "old"
    assert contents(folder.parent) == {"policy/weights": "new"}  # no file of the old one is left


def _fail(folder: Path) -> None:
    with replaced_folder(folder) as new:
        (new / "weights").write_text("half")
        raise RuntimeError("disk full")


def test_a_writer_that_fails_changes_nothing(folder):
    with pytest.raises(RuntimeError, match="disk"):
        _fail(folder)
    assert contents(folder.parent) == {"policy/weights": "old", "policy/index": "old"}


def test_parents_are_made(tmp_path):
    with replaced_folder(tmp_path / "a" / "b") as new:
        (new / "weights").write_text("new")
    assert contents(tmp_path) == {"a/b/weights": "new"}


def test_a_writer_killed_between_both_renames_loses_nothing(folder):
    folder.rename(folder.with_name(".policy.old"))
    folder.with_name(".policy.new").mkdir()
    restore_folder(folder)
    assert contents(folder.parent) == {"policy/weights": "old", "policy/index": "old"}
    assert [p.name for p in folder.parent.iterdir()] == ["policy"]


def test_the_next_writer_clears_what_a_killed_one_left(folder):
    leftover = folder.with_name(".policy.new")
    leftover.mkdir()
    (leftover / "index").write_text("half")
    with replaced_folder(folder) as new:
        assert list(new.iterdir()) == []
        (new / "weights").write_text("new")
    assert contents(folder.parent) == {"policy/weights": "new"}


def _write(folder: Path, text: str) -> None:
    with replaced_folder(folder) as new:
        for part in ("weights", "index"):
            (new / part).write_text(text)
            time.sleep(0.02)


def test_writers_take_turns(folder):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.starmap(_write, [(folder, str(writer)) for writer in range(8)])
    written = contents(folder.parent)
    assert set(written) == {"policy/weights", "policy/index"}
    assert written["policy/weights"] == written["policy/index"] != "old"
