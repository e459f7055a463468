"""A folder belongs to one process at a time."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from common.errors import ConfigError, MachineError
from common.folders import claim


def test_a_second_process_is_refused_until_the_first_lets_go(tmp_path):
    other = textwrap.dedent(
        f"""
        from pathlib import Path
        from common.errors import ConfigError
        from common.folders import claim
        try:
            with claim(Path({str(tmp_path)!r}), "name"):
                print("claimed")
        except ConfigError as error:
            print(error)
        """
    )

    def ask() -> str:
        return subprocess.run(
            [sys.executable, "-c", other], capture_output=True, text=True, check=True
        ).stdout

    with claim(tmp_path, "name"):
        assert f"name={tmp_path}, which another run is writing" in ask()
    assert ask() == "claimed\n"


def test_the_lock_goes_with_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), claim(tmp_path, "name"):
        raise ZeroDivisionError
    with claim(tmp_path, "name"):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(MachineError, match=r"sft\.output_dir="),
        claim(tmp_path / "file" / "sft", "sft.output_dir"),
    ):
        pass


def test_claiming_twice_in_one_process_is_refused_too(tmp_path):
    with (
        claim(tmp_path, "name"),
        pytest.raises(ConfigError, match="another run"),
        claim(tmp_path, "name"),
    ):
        pass
