from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from common.errors import ConfigError
from corpus.checks import check_texts
from corpus.config import CheckConfig, WriteConfig
from corpus.writers import WRITERS, find_writer

PAGE = Path(__file__).parents[3] / "docs" / "writers.md"
WRONG = """
class Nothing:
    def __init__(self, config, cache_folder):
        pass

def broken(config, cache_folder):
    raise OSError("no disk")
"""


@pytest.fixture
def _mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (tmp_path / "my_writers.py").write_text(example + WRONG)
    (tmp_path / "my_broken_writers.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_every_writer_is_found_by_name(tmp_path) -> None:
    for name in WRITERS:
        config = WriteConfig(writer=name, base_url="http://127.0.0.1/v1", model="m")
        config.check()
        assert find_writer(config, tmp_path).name.startswith(name)


@pytest.mark.usefixtures("_mine")
def test_the_page_s_own_writer_writes_what_passes_the_check(tmp_path, assign) -> None:
    config = WriteConfig(writer="my_writers:Headline", attempts=7)
    config.check()
    writer = find_writer(config, tmp_path)
    assert (writer.name, writer.attempts) == ("headline-1", 7)
    assignment = assign(["neutral", "happy"])
    (texts,) = writer.write([assignment])
    assert texts.pairs[0].answer == "The person looks neutral, then happy."
    assert check_texts(texts, assignment.features, CheckConfig()) == []


def test_the_page_s_recipe_can_be_meant() -> None:
    (recipe,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    WriteConfig(**yaml.safe_load(recipe)["corpus"]["write"]).check()


@pytest.mark.usefixtures("_mine")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rule", "set corpus.write.writer=rules"),
        ("my_writers:Other", "has no class or function Other"),
        ("my_writers:Nothing", "Nothing, which is no writer"),
        ("my_writers:broken", "OSError: no disk"),
        ("my_broken_writers:x", "ZeroDivisionError"),
        ("no_such_module:x", "No module named"),
    ],
)
def test_what_is_no_writer(name, message, tmp_path) -> None:
    with pytest.raises(ConfigError, match=message):
        find_writer(WriteConfig(writer=name), tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"writer": "rule"},
        {"writer": "llm"},
        {
            "writer": "llm",
            "base_url": "http://127.0.0.1/v1",
            "model": "m",
            "send_features": False,
            "max_images": 0,
        },
        {"max_cost": 1.0},
        {"max_images": -1},
        {"frame_step": 0},
    ],
)
def test_recipes_that_cannot_be_meant(changes) -> None:
    with pytest.raises(ConfigError):
        WriteConfig(**changes).check()
