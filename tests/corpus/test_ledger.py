from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from corpus.ledger import Ledger, key_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stages" / "stage.jsonl"


def test_what_was_put_is_there_for_the_same_key_only(path: Path) -> None:
    ledger = Ledger(path)
    ledger.put("a", "1", {"x": 1})
    assert ledger.get("a", "1") == {"x": 1}
    assert ledger.get("a", "2") is None
    assert ledger.get("b", "1") is None


def test_another_process_takes_up_what_is_there(path: Path) -> None:
    first = Ledger(path)
    first.put("a", "1", {"x": 1})  # not closed: as after a kill
    first.put("b", "1", {"umlaut": "ä\u2028"})
    again = Ledger(path)
    assert (again.get("a", "1"), again.get("b", "1")) == ({"x": 1}, {"umlaut": "ä\u2028"})


@pytest.mark.parametrize("torn", [5, 1])
def test_a_torn_last_line_costs_its_own_item_only(path: Path, torn: int) -> None:
    ledger = Ledger(path)
    for item in "abc":
        ledger.put(item, "1", {"of": item})
    ledger.close()
    path.write_bytes(path.read_bytes()[:-torn])
    again = Ledger(path)
    # Cut by one byte the line has lost its end of line, not its content.
    assert again.get("c", "1") == ({"of": "c"} if torn == 1 else None)
    again.put("d", "1", {"of": "d"})
    again.close()
    last = Ledger(path)
    assert [last.get(item, "1") for item in "abd"] == [{"of": item} for item in "abd"]


def test_damage_in_the_middle_is_skipped(path: Path) -> None:
    ledger = Ledger(path)
    ledger.put("a", "1", {})
    ledger.close()
    with path.open("ab") as file:
        file.write(b'\xff\xfe garbage\n["a list"]\n{"item": "x"}\n')
    Ledger(path).put("b", "1", {"y": 2})
    assert Ledger(path).get("b", "1") == {"y": 2}


def test_keep_forgets_the_rest_on_disk_too(path: Path) -> None:
    ledger = Ledger(path)
    for key in "12":
        ledger.put("a", key, {"key": key})
    ledger.keep([("a", "2"), ("not", "there")])
    ledger.put("b", "1", {})
    ledger.close()
    assert [json.loads(line)["item"] for line in path.read_text().splitlines()] == ["a", "b"]
    assert Ledger(path).get("a", "1") is None


def test_keys_name_their_inputs() -> None:
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1})
    assert len({key_of(1), key_of("1"), key_of([1]), key_of(1, 2), key_of(12), key_of()}) == 6


def test_nothing_that_was_put_is_lost_by_a_kill(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from corpus.ledger import Ledger\n"
        f"ledger = Ledger(Path({str(path)!r}))\n"
        "for number in range(10**6):\n"
        "    ledger.put(str(number), 'k', {'padding': 'x' * 500})\n"
        "    print(number, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    deadline = time.monotonic() + 60
    while int(process.stdout.readline()) < 300 and time.monotonic() < deadline:
        pass
    os.kill(process.pid, signal.SIGKILL)
    said = [int(line) for line in process.stdout.read().splitlines() if line.isdecimal()]
    process.wait()
    ledger = Ledger(path)
    # The last number read may itself have been torn by the kill.
    assert all(ledger.get(str(number), "k") for number in range(max([300, *said[:-1]]) + 1))
