from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.coverage import Item, choose, rarity


def worth(item: Item, covered: Counter[str], weights: dict[str, float]) -> float:
    """The formula of the module, item by item."""
    terms = (k * weights[name] / (1 + covered[name]) for name, k in item.attributes.items())
    return math.fsum(terms) / item.size


def test_rarity_by_hand():
    weights = rarity([{"a"}, {"a"}, {"a", "b"}])
    assert weights == pytest.approx({"a": math.log(4 / 3), "b": math.log(4)})


def test_a_rare_attribute_goes_first_until_it_is_covered_often_enough():
    items = [Item(name=f"common{i}", attributes={"common": 1}) for i in range(3)]
    items += [Item(name=f"rare{i}", attributes={"rare": 1}) for i in range(9)]
    # Rare ones are worth 6, 3, 2, 1.5, 1.2; common ones 1.7, .85.
    chosen = choose(items, weights={"common": 1.7, "rare": 6.0}, limit=6)
    assert [i.name for i in chosen] == ["rare0", "rare1", "rare2", "common0", "rare3", "rare4"]


def test_worth_counts_per_sample_and_after_what_is_covered():
    # 6/2 + 1 over 4 samples = 1; 1.5/1 over 1 sample.
    items = [
        Item(name="big", attributes={"a": 1, "b": 1}, size=4),
        Item(name="small", attributes={"c": 1}),
    ]
    weights = {"a": 6.0, "b": 1.0, "c": 1.5}
    assert choose(items, weights=weights, limit=1, covered={"a": 1})[0].name == "small"
    assert choose(items, weights=weights, limit=1, covered={"a": 0})[0].name == "big"  # 7/4


def test_limit_is_on_samples_and_all_are_taken_when_they_hold_less():
    items = [Item(name=f"{i}", size=2) for i in range(3)]
    assert len(choose(items, weights={}, limit=3)) == 2
    assert len(choose(items, weights={}, limit=99)) == 3
    assert choose(items, weights={}, limit=0) == []


@given(
    rows=st.lists(
        st.tuples(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 3)), st.integers(1, 4)),
        max_size=12,
    ),
    limit=st.integers(0, 15),
)
def test_the_choice_is_the_greedy_one(rows, limit):
    items = [Item(name=f"{i:02}", attributes=a, size=s) for i, (a, s) in enumerate(rows)]
    weights = {name: 1 + index / 3 for index, name in enumerate("abcdef")}
    covered: Counter[str] = Counter()
    left, expected, remaining = list(items), [], limit
    while left and remaining > 0:
        best = min(left, key=lambda item: (-round(worth(item, covered, weights), 9), item.name))
        left.remove(best)
        expected.append(best)
        covered.update(best.attributes)
        remaining -= best.size
    assert choose(items[::-1], weights=weights, limit=limit) == expected
