from __future__ import annotations

from collections import Counter

import pytest

from common.errors import ConfigError
from corpus.attributes import VOCABULARY
from corpus.cards import CardSpec, draw_spec
from corpus.cards.questions import (
    DEFAULT_SHARES,
    draw_strata,
    join,
    with_hidden,
    write_pairs,
)
from corpus.cards.spec import drawn_names
from corpus.cards.topics import TOPICS, Stratum
from corpus.cards.truth import HIDDEN, truth
from corpus.records import Pair

NUM = 400


def specs_with(stratum: Stratum) -> list[CardSpec]:
    if stratum != Stratum.IMPOSSIBLE:
        return [draw_spec(3, index) for index in range(NUM)]
    found = [
        with_hidden(lambda part, i=index: draw_spec(3, i, hidden=part), 3, index)
        for index in range(NUM)
    ]
    return [spec for spec in found if spec is not None]


def names_of(pair: Pair) -> set[str]:
    targets = pair.targets
    phrases = (*targets.attributes, *targets.emotion, *targets.action)
    return {VOCABULARY.require(phrase) for phrase in phrases}


@pytest.fixture(scope="module", params=list(Stratum))
def asked(request: pytest.FixtureRequest) -> tuple[Stratum, list[tuple[CardSpec, Pair]]]:
    stratum = request.param
    rows = [(s, p) for s in specs_with(stratum) for p in write_pairs(s, [stratum])]
    assert len(rows) > 0.9 * NUM
    return stratum, rows


def test_every_pair_is_short_and_says_its_targets(asked) -> None:
    stratum, rows = asked
    for _, pair in rows:
        assert pair.extra["stratum"] == stratum.value
        assert len(pair.answer.split()) <= 24
        assert pair.answer.endswith(".")
        assert names_of(pair)
        for phrases in (pair.targets.attributes, pair.targets.emotion, pair.targets.action):
            assert all(phrase in pair.answer for phrase in phrases)
        text = f"{pair.question} {pair.answer}".lower()
        assert not any(
            word in text for word in ("stratum", "noisy", "impossible", "card", "hidden")
        )


def test_targets_are_true_and_visible_but_where_they_must_not_be(asked) -> None:
    stratum, rows = asked
    for spec, pair in rows:
        known, names = truth(spec), names_of(pair)
        if stratum == Stratum.IMPOSSIBLE:
            assert names <= set(known.hidden)
            assert names <= set(HIDDEN[spec.hidden])
        elif stratum == Stratum.NOISY:
            assert names <= set(known.absent)
            assert not names & set(spec.names)
        else:
            assert names <= set(known.present)


def test_trivial_questions_hold_their_answer_and_others_do_not(asked) -> None:
    stratum, rows = asked
    for _, pair in rows:
        told = all(
            phrase in pair.question
            for phrase in (*pair.targets.attributes, *pair.targets.emotion, *pair.targets.action)
        )
        assert told == (stratum == Stratum.TRIVIAL), pair.question


def test_all_that_could_answer_an_impossible_question_is_hidden() -> None:
    for spec in specs_with(Stratum.IMPOSSIBLE):
        (pair,) = write_pairs(spec, [Stratum.IMPOSSIBLE])
        topic = next(t for t in TOPICS.values() if pair.question in t.questions)
        assert set(topic.names) <= set(HIDDEN[spec.hidden])


def test_hidden_parts_are_chosen_without_a_look_at_what_is_below() -> None:
    parts = Counter(spec.hidden for spec in specs_with(Stratum.IMPOSSIBLE))
    assert parts["lower_face"] / NUM == pytest.approx(0.5, abs=0.17)
    with_tint = without = 0
    for spec in specs_with(Stratum.IMPOSSIBLE):
        tinted = "wearing_lipstick" in spec.appearance
        if spec.hidden == "lower_face":
            with_tint, without = with_tint + tinted, without + (not tinted)
    assert with_tint / (with_tint + without) == pytest.approx(0.25, abs=0.1)  # its rate in spec.py


def test_strata_keep_their_shares_in_any_run_of_cards() -> None:
    for start in (0, 500):
        strata = [
            s for i in range(start, start + 200) for s in draw_strata(7, i, 3, DEFAULT_SHARES)
        ]
        counts = Counter(strata)
        for name, share in DEFAULT_SHARES.items():
            assert counts[Stratum(name)] / len(strata) == pytest.approx(share, abs=0.01)
    only = draw_strata(7, 0, 5, {"noisy": 1.0})
    assert only == (Stratum.NOISY,) * 5


@pytest.mark.parametrize("shares", [{"noisy": 0.5}, {"hardest": 1.0}, {"noisy": 1.5, "hard": -0.5}])
def test_wrong_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        draw_strata(0, 0, 3, shares)


def test_topics_are_of_drawn_names_and_no_topic_comes_twice() -> None:
    assert {name for topic in TOPICS.values() for name in topic.names} <= set(VOCABULARY.names())
    asked_for = {name for topic in TOPICS.values() for name in topic.names} & set(drawn_names())
    assert len(asked_for) >= 60
    for index in range(100):
        pairs = write_pairs(draw_spec(1, index), [Stratum.LEARNABLE] * 3)
        topics = [next(k for k, t in TOPICS.items() if p.question in t.questions) for p in pairs]
        known = truth(draw_spec(1, index)).present
        open_ = [t for t in TOPICS.values() if t.stratum == "learnable" and {*t.names} & {*known}]
        assert len(set(topics)) == min(3, len(open_))


def test_joining() -> None:
    assert join([]) == ""
    assert join(["a hat"]) == "a hat"
    assert join(["a", "b"]) == "a and b"
    assert join(["a", "b", "c"]) == "a, b and c"
