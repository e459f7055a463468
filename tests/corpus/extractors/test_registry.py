"""The paper's three classifiers, and one answer out of several."""

from __future__ import annotations

import pytest

from common.errors import ConfigError
from corpus.attributes import VOCABULARY
from corpus.extractors.registry import Reading, classifiers, find_names, merge


def reading(extractor: str, present: str = "", **scores: float) -> Reading:
    return Reading(extractor=extractor, scores=scores, present=tuple(present.split()))


def test_counts_are_the_papers() -> None:
    found = classifiers()
    assert {name: len(item.names) for name, item in found.items()} == {
        "celebvhq_83": 83, "others_42": 42, "micro_12": 12,
    }  # fmt: skip
    assert [item.training_clips for item in found.values()] == [1000, 1000, 452]
    assert {name for item in found.values() for name in item.names} == set(VOCABULARY.names())
    assert len(VOCABULARY) == 103


def test_the_34_repeated_names_are_celebvhqs() -> None:
    celebv, others, micro = classifiers().values()
    assert len(set(others.repeats)) == 34
    assert set(others.repeats) == set(others.names) & set(celebv.names)
    assert not set(micro.names) & (set(celebv.names) | set(others.names))
    ferv = {"happy", "sad", "surprise", "neutral", "anger", "disgust", "fear"}
    assert {*ferv, "drink", "kiss", "eyeglasses", "male"} <= set(others.repeats)


def test_find_names() -> None:
    assert len(find_names("celebvhq_83")) == 83
    assert len(find_names("emotion")) == 10
    assert len(find_names("all")) == 103
    assert find_names("smile, Happiness") == ("smile", "happy")
    with pytest.raises(ConfigError, match="'wings' is none"):
        find_names("smile,wings")


def test_the_most_certain_extractor_answers() -> None:
    merged = merge(
        [
            reading("first", "smile", smile=0.7, talk=0.25),
            reading("second", "talk", smile=0.1, talk=0.75, eat=0.2),
        ]
    )
    # smile: |0.1 - 0.5| > |0.7 - 0.5|, so second says no. talk: equally certain, first says no.
    assert merged.scores == {"eat": 0.2, "smile": 0.1, "talk": 0.25}
    assert merged.origins == {"eat": "second", "smile": "second", "talk": "first"}
    assert merged.present == ()


def test_contradictions_go_to_the_more_probable() -> None:
    merged = merge([reading("x", "black_hair brown_hair", black_hair=0.6, brown_hair=0.8)])
    assert merged.present == ("brown_hair",)
    merged = merge(
        [
            reading("x", "bald bangs", bald=0.9, bangs=0.8),
            reading("y", "wavy_hair", wavy_hair=0.95, bangs=0.3),
        ]
    )
    # wavy hair 0.95 before bald 0.9, which excludes it; bangs 0.8 stay beside wavy hair.
    assert merged.present == ("bangs", "wavy_hair")


def test_equal_probabilities_go_to_the_earlier_name() -> None:
    merged = merge([reading("x", "brown_hair black_hair", brown_hair=0.8, black_hair=0.8)])
    assert merged.present == ("black_hair",)


def test_labels_are_settled() -> None:
    answers = reading("x", "bald black_hair smile", bald=0.9, black_hair=0.99, smile=0.8, talk=0.1)
    merged = merge([answers], present=["brown_hair", "talk"], absent=["smile"])
    # black hair and bald contradict the label, smile was seen not to be there, talk is labelled.
    assert merged.present == ()
    assert merged.scores == {"bald": 0.9, "black_hair": 0.99}
