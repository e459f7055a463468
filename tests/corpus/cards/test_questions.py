from __future__ import annotations

from collections import Counter
from dataclasses import replace

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
from corpus.cards.spec import EMOTION_RATES, drawn_names
from corpus.cards.topics import COURSE_QUESTIONS, TOPICS, Stratum
from corpus.cards.truth import HIDDEN, truth
from corpus.checks import check_texts
from corpus.config import CheckConfig
from corpus.records import Features, Pair, Texts
from corpus.schema import FacialTargets
from rewards.clauses import make_clause
from sft.evaluation.reading import read_answer
from sft.evaluation.records import Part

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


# -- the course of an emotion -----------------------------------------------------------------


def asked_for_course(spec: CardSpec, strata: list[Stratum]) -> list[Pair]:
    pairs = write_pairs(spec, strata, ask_course=True)
    return [pair for pair in pairs if pair.extra.get("topic") == "course"]


@pytest.fixture(scope="module")
def emotional() -> list[CardSpec]:
    """Cards whose emotion can be seen; of half of them it fades."""
    rates = {name: 0.0 if name == "neutral" else 1 / 9 for name in EMOTION_RATES}
    drawn = (draw_spec(5, index, rates=rates, fading_share=0.5) for index in range(800))
    return [s for s in drawn if s.emotion != "neutral" and s.emotion in truth(s).present]


def test_the_course_is_asked_for_in_half_of_the_hard_questions(emotional: list[CardSpec]) -> None:
    found = {spec.seed: asked_for_course(spec, [Stratum.HARD]) for spec in emotional}
    asked = [pairs[0] for pairs in found.values() if pairs]
    assert len(emotional) > 500
    spread = 4 * (0.5 * 0.5 / len(emotional)) ** 0.5
    assert len(asked) / len(emotional) == pytest.approx(0.5, abs=spread)
    spread = 4 * (0.5 * 0.5 / len(asked)) ** 0.5
    answers = Counter(pair.answer for pair in asked)
    assert answers.keys() == {"The expression is growing.", "The expression is fading."}
    assert answers["The expression is fading."] / len(asked) == pytest.approx(0.5, abs=spread)
    # No wording goes with one answer, nor names one of the two first.
    for question in COURSE_QUESTIONS:
        fades = [
            pair.answer == "The expression is fading."
            for pair in asked
            if pair.question == question
        ]
        share = sum(fades) / len(fades)
        assert share == pytest.approx(0.5, abs=4 * (0.25 / len(fades)) ** 0.5), question
    first = [min(("growing", "fading"), key=question.index) for question in COURSE_QUESTIONS]
    assert Counter(first) == {"growing": 1, "fading": 1}


def test_only_the_direction_decides_the_answer(emotional: list[CardSpec]) -> None:
    num_asked = 0
    for spec in emotional[:200]:
        growing = asked_for_course(replace(spec, fading=False), [Stratum.HARD])
        fading = asked_for_course(replace(spec, fading=True), [Stratum.HARD])
        assert [pair.question for pair in growing] == [pair.question for pair in fading]
        assert all(pair.answer == "The expression is growing." for pair in growing)
        assert all(pair.answer == "The expression is fading." for pair in fading)
        num_asked += len(fading)
    assert num_asked > 60


def test_a_right_answer_about_the_course_is_read_as_one(emotional: list[CardSpec]) -> None:
    spec = next(s for s in emotional if s.fading and asked_for_course(s, [Stratum.HARD]))
    (pair,) = asked_for_course(spec, [Stratum.HARD])
    assert pair.targets == FacialTargets(action=("fading",))
    assert pair.extra == {"stratum": "hard", "topic": "course"}
    wrong = "The expression is growing."
    right_reading = read_answer(pair.targets, answer=pair.answer, gold=pair.answer)
    assert right_reading[Part.ACTION].exact
    assert read_answer(pair.targets, answer=wrong, gold=pair.answer)[Part.ACTION].missed == (
        "fading",
    )
    # A reward sees both words: neither is one that it takes for a mere frame of a claim.
    assert [make_clause(answer).content for answer in (pair.answer, wrong)] == ["fading", "growing"]


def test_pairs_about_the_course_pass_the_checks(emotional: list[CardSpec]) -> None:
    for spec in emotional[:60]:
        known = truth(spec)
        features = Features(
            cut_id="c",
            targets=VOCABULARY.targets(known.present),
            present=known.present,
            absent=known.absent,
        )
        texts = Texts(
            cut_id="c",
            summary="The clip shows a person in front of a plain background.",
            pairs=tuple(asked_for_course(spec, [Stratum.HARD])),
            writer="cards",
        )
        assert check_texts(texts, features, CheckConfig()) == []


def test_the_course_is_asked_for_once_and_other_strata_keep_their_questions(
    emotional: list[CardSpec],
) -> None:
    strata = [Stratum.LEARNABLE, Stratum.HARD, Stratum.TRIVIAL, Stratum.HARD, Stratum.NOISY] * 2

    def others(pairs: tuple[Pair, ...]) -> list[Pair]:
        return [pair for pair in pairs if pair.extra["stratum"] != "hard"]

    for spec in emotional[:100]:
        assert len(asked_for_course(spec, strata)) <= 1
        with_course, without = write_pairs(spec, strata, ask_course=True), write_pairs(spec, strata)
        assert others(with_course) == others(without)
        if not asked_for_course(spec, [Stratum.HARD]):
            hard = write_pairs(spec, [Stratum.HARD])
            assert write_pairs(spec, [Stratum.HARD], ask_course=True) == hard


def test_no_course_is_asked_for_where_none_is_seen() -> None:
    strata = [Stratum.HARD] * 3
    neutral = [CardSpec(seed=seed, appearance=("big_nose",)) for seed in range(40)]
    covered = [CardSpec(seed=seed, emotion="sad", hidden="eyes") for seed in range(40)]
    masked = [
        CardSpec(seed=seed, emotion="sad", appearance=("wearing_mask",)) for seed in range(40)
    ]
    for spec in (*neutral, *covered, *masked):
        assert not asked_for_course(spec, strata)
        assert write_pairs(spec, strata, ask_course=True) == write_pairs(spec, strata)
