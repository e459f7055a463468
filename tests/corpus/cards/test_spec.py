from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from common.errors import ConfigError
from corpus.attributes import VOCABULARY, Group
from corpus.cards.spec import (
    BEARDS,
    CHOICES,
    EMOTION_RATES,
    CardSpec,
    draw_spec,
    drawn_names,
)
from corpus.cards.truth import HIDDEN, truth

NUM = 3000


@pytest.fixture(scope="module")
def specs() -> list[CardSpec]:
    return [draw_spec(11, index) for index in range(NUM)]


def test_cards_draw_what_the_issue_asks_for() -> None:
    names = drawn_names()
    groups = Counter(VOCABULARY[name].group for name in names)
    assert len(names) == len(set(names)) >= 60
    assert groups[Group.EMOTION] == len(VOCABULARY.names(Group.EMOTION)) == 10
    assert groups[Group.ACTION] >= 15
    assert set(names) <= set(VOCABULARY.names())
    # A drawn face is no claim about anybody's gender or age.
    assert not {"male", "young"} & set(names)


def test_specs_repeat_by_seed_and_index() -> None:
    assert draw_spec(3, 4) == draw_spec(3, 4)
    assert draw_spec(3, 4) != draw_spec(3, 5)
    assert draw_spec(3, 4) != draw_spec(4, 4)


def test_no_card_contradicts_itself(specs: list[CardSpec]) -> None:
    for spec in specs:
        assert not VOCABULARY.contradictions(spec.names), spec
        assert len(set(spec.names)) == len(spec.names)
        for choice in CHOICES:
            assert len(set(choice) & set(spec.appearance)) <= 1, spec
        assert ("no_beard" in spec.appearance) == (not set(BEARDS) & set(spec.appearance))


def test_attributes_keep_their_rates(specs: list[CardSpec]) -> None:
    counts = Counter(name for spec in specs for name in spec.names)
    free = {
        "eyeglasses": 0.17,
        "wearing_hat": 0.13,
        "big_lips": 0.25,
        "chubby": 0.22,
        "bald": 0.07,
        "goatee": 0.14,
        "nod": 0.11,
        **{name: EMOTION_RATES[name] for name in ("happy", "fear")},
    }
    for name, rate in free.items():
        spread = 4 * np.sqrt(rate * (1 - rate) / NUM)
        assert counts[name] / NUM == pytest.approx(rate, abs=spread), name
    assert set(counts) == set(drawn_names())


def test_attributes_that_do_not_exclude_each_other_are_independent(specs: list[CardSpec]) -> None:
    names = (
        "eyeglasses",
        "wearing_lipstick",
        "goatee",
        "wearing_earrings",
        "chubby",
        "pale_skin",
        "black_hair",
        "wearing_necktie",
        "nod",
        "happy",
    )
    table = np.array([[name in spec.names for name in names] for spec in specs], float)
    correlations = np.corrcoef(table.T)[np.triu_indices(len(names), 1)]
    assert np.abs(correlations).max() < 4.5 / np.sqrt(NUM)
    # Nor does what is filmed depend on what is shown.
    scene = np.array(
        [
            [
                s.variation.yaw,
                s.variation.light,
                s.variation.warmth,
                s.variation.noise,
                s.hidden is not None,
            ]
            for s in specs
        ],
        float,
    )
    both = np.corrcoef(np.hstack([table, scene]).T)[: len(names), len(names) :]
    assert np.abs(both).max() < 4.5 / np.sqrt(NUM)


def test_rates_can_be_chosen() -> None:
    rates = {"wearing_hat": 1.0, "happy": 0.0, "bald": 0.0}
    chosen = [draw_spec(2, index, rates=rates) for index in range(200)]
    assert all("wearing_hat" in spec.appearance for spec in chosen)
    assert all("happy" not in spec.names and "bald" not in spec.names for spec in chosen)


@pytest.mark.parametrize(
    "rates", [{"male": 0.5}, {"no_beard": 0.5}, {"eyeglasses": 0.95}, {"bald": -0.1}]
)
def test_wrong_rates_are_refused(rates: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        draw_spec(0, 0, rates=rates)


def test_a_rate_changes_only_its_own_attribute() -> None:
    for index in range(50):
        plain = draw_spec(5, index, rates={"wearing_lipstick": 0.0})
        made_up = draw_spec(5, index, rates={"wearing_lipstick": 1.0})
        assert set(made_up.names) - set(plain.names) == {"wearing_lipstick"}
        assert plain.variation == made_up.variation


def test_fading_keeps_its_share_and_changes_nothing_else(specs: list[CardSpec]) -> None:
    some = [draw_spec(11, index, fading_share=0.3) for index in range(1500)]
    assert [replace(spec, fading=False) for spec in some] == specs[:1500]
    emotional = [spec for spec in some if spec.emotion != "neutral"]
    spread = 4 * np.sqrt(0.3 * 0.7 / len(emotional))
    assert np.mean([spec.fading for spec in emotional]) == pytest.approx(0.3, abs=spread)
    assert not any(spec.fading for spec in some if spec.emotion == "neutral")
    # Which cards fade is no clue to the emotion: each keeps the share.
    for name in set(EMOTION_RATES) - {"neutral"}:
        fades = [spec.fading for spec in emotional if spec.emotion == name]
        assert np.mean(fades) == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / len(fades))), name


def test_all_or_no_emotions_fade_at_the_ends_of_the_share() -> None:
    rates = dict.fromkeys(EMOTION_RATES, 0.0) | {"happy": 1.0}
    assert all(draw_spec(4, index, rates=rates, fading_share=1.0).fading for index in range(50))
    assert not any(draw_spec(4, index, rates=rates, fading_share=0.0).fading for index in range(50))


def test_an_emotion_that_fades_is_seen_in_the_clip(specs: list[CardSpec]) -> None:
    for spec in specs[:300]:
        if spec.emotion != "neutral":
            assert truth(replace(spec, fading=True)) == truth(spec)


def test_the_truth_sorts_every_name_once(specs: list[CardSpec]) -> None:
    for spec in specs[:500]:
        known = truth(spec)
        sets = (known.present, known.absent, known.hidden, known.unclear)
        assert sorted(name for names in sets for name in names) == sorted(drawn_names())
        assert set(known.present) | set(known.hidden) <= set(spec.names)
        assert not set(known.absent) & set(spec.names)


def test_the_truth_of_chosen_cards() -> None:
    scarf = truth(CardSpec(seed=1, appearance=("black_hair", "mustache"), hidden="lower_face"))
    assert scarf.hidden == ("mustache",)
    assert "black_hair" in scarf.present
    assert "goatee" in scarf.unclear  # nobody can see that it is not there
    laugh = truth(CardSpec(seed=1, actions=("laugh",)))
    assert "laugh" in laugh.present
    assert {"happy", "neutral", "smile"} <= set(laugh.unclear)
    assert "anger" in laugh.absent
    plain = truth(CardSpec(seed=1, appearance=("no_beard", "clean_shaven")))
    assert plain.present == ("no_beard", "clean_shaven", "neutral")
    assert not plain.hidden
    assert set(HIDDEN["neck"]) <= set(plain.absent)


@pytest.mark.parametrize(
    "fields",
    [
        {"appearance": ("male",)},
        {"emotion": "nod"},
        {"actions": ("swim",)},
        {"hidden": "nose"},
        {"fading": True},
    ],
)
def test_cards_of_what_cannot_be_drawn_are_refused(fields: dict) -> None:
    with pytest.raises(ConfigError):
        CardSpec(seed=0, **fields)
