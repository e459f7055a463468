"""What is read out of answers: by hand, and by the texts that the corpus' own writers write."""

from __future__ import annotations

import pytest

from corpus.attributes import VOCABULARY
from corpus.cards import draw_spec
from corpus.cards.questions import DEFAULT_SHARES, draw_strata, write_pairs
from corpus.cards.truth import truth
from corpus.records import Features
from corpus.schema import FacialTargets
from corpus.writers.base import Assignment
from corpus.writers.brief import Brief
from corpus.writers.rules import Rules
from sft.evaluation.reading import label_of, names, read_answer
from sft.evaluation.records import Part, PartReading


def read(part: str, targets: tuple[str, ...], answer: str, gold: str = "") -> PartReading:
    (reading,) = read_answer(FacialTargets(**{part: targets}), answer=answer, gold=gold).values()
    return reading


@pytest.mark.parametrize(
    ("part", "text", "named"),
    [
        (Part.EMOTION, "The person looks happy.", ("happy",)),
        (Part.EMOTION, "She seems joyful, then astonished.", ("happy", "surprise")),
        (Part.EMOTION, "He is not happy but sad.", ("sad",)),
        (Part.EMOTION, "She doesn't look very angry.", ()),
        (Part.EMOTION, "Happy at first, but not happy later.", ()),  # asserted and denied
        (Part.EMOTION, "He is smiling.", ()),  # a cue is not a name
        (Part.ATTRIBUTES, "long, wavy brown hair", ("long hair", "wavy hair", "brown hair")),
        (Part.ATTRIBUTES, "Brown and wavy hair.", ("brown hair", "wavy hair")),
        (Part.ATTRIBUTES, "brown eyes and long fingers", ()),
        (Part.ATTRIBUTES, "a young oval face", ("a young face", "an oval face")),
        (Part.ATTRIBUTES, "She wears glasses and no hat.", ("eyeglasses",)),
        (Part.ATTRIBUTES, "He isn't wearing a hat.", ()),
        (Part.ATTRIBUTES, "He has no beard and a hat.", ("no beard", "a hat")),
        (Part.ATTRIBUTES, "He has no beard or hat.", ("no beard",)),
        (Part.ATTRIBUTES, "He has no hair and a goatee.", ("a bald head", "a goatee")),
        (Part.ATTRIBUTES, "a face mask, dark glasses", ("a face mask", "sunglasses")),
        (Part.ACTION, "He smiles and nods, closing his eyes.",
         ("smiling", "nodding", "closing the eyes")),
        (Part.ACTION, "She cried with a frown.", ("crying", "frowning")),
        (Part.ACTION, "He is neither smiling nor frowning.", ()),
        (Part.ACTION, "She never yawns; she shakes her head.", ("shaking the head",)),
    ],
)  # fmt: skip
def test_a_text_names_what_it_asserts(part, text, named):
    assert names(part, text) == named


def test_right_wrong_and_missed():
    reading = read(
        "attributes", ("brown hair", "a beard"), "She has brown hair, no beard, and a hat."
    )
    # "no beard" is an attribute of its own, and not the one that was asked for.
    assert reading == PartReading(
        right=("brown hair",), wrong=("no beard", "a hat"), missed=("facial hair",)
    )
    assert not reading.exact
    assert not reading.silent


def test_an_answer_that_names_two_emotions_is_not_exact():
    assert read("emotion", ("happy",), "She looks joyful.").exact
    assert not read("emotion", ("happy",), "She looks happy or sad.").exact
    assert not read("emotion", ("neutral", "happy"), "She looks happy.").exact
    assert read("emotion", ("neutral", "happy"), "She looks neutral, then happy.").exact


def test_silence_is_not_exact():
    reading = read("action", ("smiling",), "Bla bla bla.")
    assert reading.silent
    assert not reading.exact


def test_what_gold_names_besides_its_targets_is_neither_right_nor_wrong():
    gold = "The person with a hat has brown hair."
    answer = "The person with a hat has brown hair and bangs."
    assert read("attributes", ("brown hair",), answer, gold) == PartReading(
        right=("brown hair",), wrong=("bangs",)
    )


def test_the_man_is_who_is_spoken_of():
    assert read("attributes", ("a hat",), "The man wears a hat.") == PartReading(right=("a hat",))
    assert read("attributes", ("a man",), "The woman wears a hat.") == PartReading(
        wrong=("a hat",), missed=("a man",)
    )


def test_a_target_outside_of_the_vocabulary_is_read_word_for_word():
    targets = ("a black shirt", "brown hair")
    assert read("attributes", targets, "He has a black shirt.") == PartReading(
        right=("a black shirt",), missed=("brown hair",)
    )
    assert read("attributes", targets, "There's no black shirt.").missed == targets


def test_synonyms_are_one_target():
    assert label_of(Part.EMOTION, "fearful") == label_of(Part.EMOTION, "scared") == "fear"
    assert label_of(Part.ATTRIBUTES, "Glasses") == "eyeglasses"
    assert label_of(Part.ACTION, "winking") == "winking"
    assert read("attributes", ("glasses", "eyeglasses"), "glasses").right == ("eyeglasses",)


def test_every_phrase_of_the_vocabulary_is_read_as_itself():
    for attribute in VOCABULARY:
        targets = VOCABULARY.targets([attribute.name])
        (part,) = (part for part in Part if getattr(targets, part))
        assert names(part, f"There is {attribute.phrase}.") == (
            label_of(part, attribute.phrase),
        ), attribute.name


def test_only_parts_that_are_asked_for_are_read():
    targets = FacialTargets(emotion=("sad",), action=("crying",))
    readings = read_answer(targets, answer="He has a hat.", gold="")
    assert set(readings) == {Part.EMOTION, Part.ACTION}
    assert read_answer(FacialTargets(), answer="He is sad.", gold="") == {}


def test_gold_answers_of_every_writer_get_full_marks():
    for index in range(60):
        spec = draw_spec(seed=5, index=index)
        known = truth(spec)
        features = Features(
            cut_id=str(index),
            targets=VOCABULARY.targets(known.present),
            present=tuple(known.present),
            absent=tuple(known.absent),
        )
        task = Assignment(cut=None, video=None, features=features, seed=str(index))
        pairs = [*write_pairs(spec, draw_strata(5, index, 3, DEFAULT_SHARES))]
        for writer in (Brief(), Rules()):
            (texts,) = writer.write([task])
            pairs += texts.pairs
        for pair in pairs:
            readings = read_answer(pair.targets, answer=pair.answer, gold="")
            assert readings
            assert all(reading.exact for reading in readings.values()), (pair, readings)


@pytest.mark.parametrize(
    ("answer", "right", "wrong", "missed"),
    [
        ("The expression is fading.", ["fading"], [], []),
        ("The expression is growing.", [], ["growing"], ["fading"]),
        ("Growing or fading, who knows?", ["fading"], ["growing"], []),
        ("It is fading, not growing.", ["fading"], [], []),
        ("No idea.", [], [], ["fading"]),
    ],
)
def test_to_name_another_option_of_a_closed_question_is_wrong(answer, right, wrong, missed):
    targets = FacialTargets(action=("fading",))
    gold, options = "The expression is fading.", ["growing", "fading"]
    reading = read_answer(targets, answer=answer, gold=gold, options=options)[Part.ACTION]
    assert reading == PartReading(right=tuple(right), wrong=tuple(wrong), missed=tuple(missed))


def test_options_of_another_part_are_not_read():
    targets = FacialTargets(emotion=("happy",), action=("nodding",))
    readings = read_answer(
        targets, answer="Happy, nodding and growing.", gold="", options=["growing", "fading"]
    )
    assert all(reading.exact for reading in readings.values())
