from __future__ import annotations

import re

import pytest

from corpus.schema import FacialTargets, QuestionKind
from corpus.writer import (
    ANSWERS,
    MAX_ANSWER_WORDS,
    QUESTIONS,
    Pair,
    in_order,
    listed,
    targets_for,
    write_pair,
    write_summary,
)

TARGETS = FacialTargets(
    attributes=("grey hair", "a beard"), emotion=("sad", "happy"), action=("nodding", "smiling")
)
EVERYTHING = (*TARGETS.attributes, *TARGETS.emotion, *TARGETS.action)
ASKED = {
    QuestionKind.APPEARANCE: ("grey hair", "a beard"),
    QuestionKind.EMOTION: ("sad", "happy"),
    QuestionKind.ACTION: ("nodding", "smiling"),
    QuestionKind.DESCRIPTION: EVERYTHING,
}


@pytest.mark.parametrize("kind", list(QuestionKind))
@pytest.mark.parametrize("variant", range(15))
def test_an_answer_says_what_was_asked_and_nothing_else(kind: QuestionKind, variant: int) -> None:
    pair = write_pair(kind, TARGETS, "man", seed="s", variant=variant)
    said = {phrase for phrase in EVERYTHING if phrase in pair.answer}
    assert said == set(ASKED[kind])
    targets = (*pair.targets.attributes, *pair.targets.emotion, *pair.targets.action)
    assert targets == ASKED[kind]


@pytest.mark.parametrize("seed", list("abcdefgh"))
@pytest.mark.parametrize("subject", ["man", "woman", "person"])
def test_texts_are_sentences(seed: str, subject: str) -> None:
    texts = [write_summary(TARGETS, subject, seed=seed)]
    for kind in QuestionKind:
        pair = write_pair(kind, TARGETS, subject, seed=seed)
        assert re.fullmatch(r"[A-Z][^?]*[?.]", pair.question)
        assert len(pair.answer.split()) <= MAX_ANSWER_WORDS
        texts.append(pair.answer)
    for text in texts:
        sentences = text.removesuffix(".").split(". ")
        assert text.endswith(".")
        assert all(sentence[0].isupper() for sentence in sentences)
        assert "{" not in text
        assert "  " not in text


def test_word_for_word() -> None:
    pairs = [
        write_pair(QuestionKind.DESCRIPTION, TARGETS, "woman", seed="s", variant=variant)
        for variant in range(12)
    ]
    answers = {pair.answer for pair in pairs}
    assert answers == {
        "The woman with grey hair and a beard looks sad, then happy, and is nodding and smiling.",
        "The woman has grey hair and a beard, looks sad, then happy, and is nodding and smiling.",
        "Looking sad, then happy, the woman with grey hair and a beard is nodding and smiling.",
    }
    assert {pair.question for pair in pairs} == set(QUESTIONS[QuestionKind.DESCRIPTION])


@pytest.mark.parametrize("kind", list(QuestionKind))
def test_variants_differ_until_the_phrasings_are_used_up(kind: QuestionKind) -> None:
    num = len(QUESTIONS[kind]) * len(ANSWERS[kind])
    texts = [write_pair(kind, TARGETS, "man", seed="s", variant=index) for index in range(num + 1)]
    assert len({(pair.question, pair.answer) for pair in texts[:num]}) == num
    assert texts[num] == texts[0]
    assert len({pair.question for pair in texts[: len(QUESTIONS[kind])]}) == len(QUESTIONS[kind])


def test_equal_seeds_write_equal_texts_and_seeds_differ() -> None:
    def write(seed: str) -> tuple[Pair, str]:
        pair = write_pair(QuestionKind.EMOTION, TARGETS, "man", seed=seed)
        return pair, write_summary(TARGETS, "man", seed=seed)

    assert write("0/a") == write("0/a")
    assert len({write(f"0/{index}")[0].question for index in range(20)}) > 2
    # Pinned, so that a change of phrasings, which renames every sample, is made knowingly.
    assert write("0/a")[0].answer == "The man appears sad, then happy."


@pytest.mark.parametrize("seed", list("abcdefgh"))
def test_a_summary_says_everything_in_twenty_to_forty_words(seed: str) -> None:
    text = write_summary(TARGETS, "man", seed=seed)
    assert all(phrase in text for phrase in EVERYTHING)
    assert 20 <= len(text.split()) <= 40


def test_there_is_no_sentence_about_nothing() -> None:
    only_emotion = FacialTargets(emotion=("sad",))
    write_pair(QuestionKind.EMOTION, only_emotion, "man", seed="s")
    with pytest.raises(ValueError, match="attributes"):
        write_pair(QuestionKind.APPEARANCE, only_emotion, "man", seed="s")
    with pytest.raises(ValueError, match="attributes, action"):
        write_summary(only_emotion, "man", seed="s")


def test_lists_and_courses() -> None:
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == [
        "a",
        "a and b",
        "a, b and c",
    ]
    assert [in_order(["a"]), in_order(["a", "b", "c"])] == ["a", "a, then b, then c"]


def test_targets_for_each_kind() -> None:
    assert targets_for(QuestionKind.ACTION, TARGETS) == FacialTargets(action=("nodding", "smiling"))
    assert targets_for(QuestionKind.DESCRIPTION, TARGETS) == TARGETS
