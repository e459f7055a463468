from __future__ import annotations

import pytest

from common.errors import ConfigError
from corpus.adapters import ADAPTERS, Adapter, describe, find_adapter
from corpus.adapters.dfew import DFEW


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_name_leads_to_its_adapter(name: str) -> None:
    adapter = find_adapter(name)
    assert issubclass(adapter, Adapter)
    assert adapter.name == name
    assert adapter.purpose in ("training", "evaluation")
    assert adapter.url or adapter.makes_clips
    for text in (adapter.title, adapter.licence, adapter.download):
        assert text
        assert text == text.strip()


def test_an_adapter_of_another_package() -> None:
    assert find_adapter("corpus.adapters.dfew:DFEW") is DFEW


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("celebvhq", "did you mean celebv_hq"),
        ("no_such_package.x:Y", "make it importable"),
        ("corpus.adapters.dfew:Nothing", "make it importable"),
        ("corpus.adapters.dfew:ORDER", "subclass corpus.adapters.base.Adapter"),
    ],
)
def test_other_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_adapter(name)


def test_the_listing_names_terms_downloads_and_options() -> None:
    text = describe()
    parts = text.split("\n\n")
    assert [part.split(":")[0] for part in parts] == list(ADAPTERS)
    celebv = next(part for part in parts if part.startswith("celebv_hq: CelebV-HQ (training)"))
    words = " ".join(celebv.split())
    assert "licence non-commercial research" in words
    assert "download Get celebvhq_info.json" in words
    assert "option layout = 'cut', one of 'cut', 'raw':" in words
    assert max(map(len, text.splitlines())) <= 100
    assert describe(["celebv_hq"]) == celebv
