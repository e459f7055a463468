"""A bank of short texts, right and wrong ones, and what the check must say of each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from corpus.attributes import VOCABULARY
from corpus.checks import check_texts
from corpus.claims import demeaning_words, sociodemographic_claims
from corpus.config import CheckConfig
from corpus.reading import read_attributes, read_emotions
from corpus.records import Features, Pair, Texts
from corpus.schema import FacialTargets, QuestionKind

MAN = Features(
    cut_id="a",
    present=("male", "brown_hair", "long_hair", "5_o_clock_shadow", "sunglasses", "smile", "happy"),
    absent=("wearing_hat", "bangs", "frown", "eyeglasses"),
    targets=VOCABULARY.targets(
        ("brown_hair", "long_hair", "5_o_clock_shadow", "sunglasses", "smile", "happy")
    ),
)
FREE = Features(  # labels by free phrases, as in a label file
    cut_id="a",
    targets=FacialTargets(
        attributes=("short black hair", "a black shirt"), emotion=("sad",), action=("crying",)
    ),
    subject="woman",
)
CLOSING = "One person is seen in this video from the front."  # long enough, says nothing


def rules(text: str, features: Features) -> list[str]:
    texts = Texts(cut_id="a", summary=f"{text} {CLOSING}", pairs=(), writer="t")
    return [problem.rule for problem in check_texts(texts, features, CheckConfig())]


@pytest.mark.parametrize(
    "text",
    [
        "The man has long brown hair and looks happy.",
        "His hair is long and brown.",
        "He has long, dark brown hair.",
        "He has no bangs and is not wearing a hat.",
        "He smiles; there is no frown to be seen.",
        "He has stubble and wears dark glasses.",
        "He wears glasses.",  # sunglasses are glasses
        "He looks calm and joyful.",
        "He is happy rather than sad.",
        "He is not sad, he is happy.",
        "The content of the video is cheerful.",
        "He is no longer sad but happy.",
        "He wears a black shirt and a white collar.",  # colours of clothes
        "The man shows signs of joy, and reads well.",  # "sign" and "read" are actions' names
        "He has shades of brown in his hair.",  # "shades" is a word for sunglasses
        "He smiles without frowning.",
        "He has no bangs, hat, or mask.",
        "He is not wearing a necklace or a hat.",
        "No signs of anger, sadness or fear can be seen; he looks happy.",
        "Without bangs, his long brown hair is parted.",
        "His head is tilted as if reading, and he wears natural makeup.",
        "He has brown hair that isn't short.",
    ],
)
def test_what_a_summary_may_say(text: str) -> None:
    assert rules(text, MAN) == []


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("He is wearing a hat.", "contradiction"),
        ("He has a fringe.", "contradiction"),  # an alias of bangs
        ("He has blond hair.", "contradiction"),  # excluded by brown hair
        ("He has long blonde hair.", "contradiction"),
        ("His hair is gray.", "contradiction"),
        ("His hair is not brown.", "contradiction"),
        ("He has a clean-shaven face.", "contradiction"),
        ("He frowns at the camera.", "contradiction"),
        ("He does not smile.", "contradiction"),
        ("He has no bangs, but he looks sad or angry.", "contradiction"),
        ("He is not frowning, he looks sad or afraid.", "contradiction"),
        ("Without bangs, he is wearing a hat or a cap.", "contradiction"),
        ("He isn't smiling.", "contradiction"),
        ("The man looks sad.", "contradiction"),
        ("He does not look very happy.", "contradiction"),
        ("She has long hair.", "contradiction"),
        ("The woman smiles, and her hair is brown.", "contradiction"),
        ("He has a big nose.", "unsupported"),
        ("He is wearing a necktie.", "unsupported"),
        ("He is shaking his head.", "unsupported"),
        ("He nods.", "unsupported"),
        ("He looks ugly.", "demeaning"),
        ("This pathetic man is smiling.", "demeaning"),
        ("He is an Asian man.", "sociodemographic"),
        ("As an AI, I see a man.", "leakage"),
        ("According to the features, he is happy.", "leakage"),
        ("I'm sorry, I can't describe people.", "leakage"),
        ('```json {"summary": "He is happy."} ```', "leakage"),
    ],
)
def test_what_a_summary_must_not_say(text: str, rule: str) -> None:
    assert set(rules(text, MAN)) == {rule}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The woman has short black hair and cries.", []),
        ("She has black hair and big lips.", []),  # with free phrases, more may be named
        ("She has blond hair.", ["contradiction"]),
        ("She looks happy.", ["contradiction"]),
        ("She is not crying.", ["contradiction"]),
        ("He is crying.", ["contradiction"]),
    ],
)
def test_free_phrases_rule_out_what_they_exclude(text: str, found: list[str]) -> None:
    assert rules(text, FREE) == found


def test_only_parts_that_are_known_must_be_supported() -> None:
    """A data set that labels emotions alone says nothing about looks."""
    emotion_only = Features(cut_id="a", present=("happy",), targets=VOCABULARY.targets(["happy"]))
    assert rules("He has brown hair and looks happy.", emotion_only) == []
    assert rules("He looks sad.", emotion_only) == ["contradiction"]


@pytest.mark.parametrize(
    "text",
    [
        *("She has black hair.", "He wears a white shirt.", "It is a black and white picture."),
        *("He tells of a blind date.", "The lighting is poor.", "He has rich brown hair."),
        *("He is black-haired.", "Straight hair frames the face.", "Her hair is black."),
        *("She seems disgusted.", "He looks straight ahead.", "She wears a black dress."),
        *("The white wall behind the man is blank.", "He turns a blind eye.", "pale skin"),
    ],
)
def test_words_that_claim_nothing_of_a_person(text: str) -> None:
    assert sociodemographic_claims(text) == []
    assert demeaning_words(text) == []


@pytest.mark.parametrize(
    ("text", "word", "sort"),
    [
        ("A black man smiles.", "black", "ethnicity"),
        ("This is a white, middle-aged woman.", None, None),  # the comma: perhaps a white dress
        ("A white middle-aged woman.", "white", "ethnicity"),
        ("He is Black.", "black", "ethnicity"),
        ("A Caucasian face.", "caucasian", "ethnicity"),
        ("Two Asians talk.", "asian", "ethnicity"),
        ("He appears to be American.", "american", "nationality"),
        ("A French woman laughs.", "french", "nationality"),
        ("The man looks Jewish.", "jewish", "religion"),
        ("A devout Muslim woman.", "muslim", "religion"),
        ("She is blind.", "blind", "disability"),
        ("He may be deaf.", "deaf", "disability"),
        ("A gay man.", "gay", "orientation"),
        ("She seems to be a lesbian.", "lesbian", "orientation"),
        ("He looks poor.", "poor", "class"),
        ("A wealthy lady.", "wealthy", "class"),
        ("She is liberal.", "liberal", "politics"),
    ],
)
def test_claims_about_a_person(text: str, word: str | None, sort: str | None) -> None:
    found = [(claim.word, claim.sort) for claim in sociodemographic_claims(text)]
    assert ((word, sort) in found) if word else not found


def test_a_label_supports_its_claim() -> None:
    assert sociodemographic_claims("She is blind.", supported_by=("a blind person",)) == []
    assert len(sociodemographic_claims("She is blind.", supported_by=("a blindfold",))) == 1


def pair(question="How does he feel?", answer="He looks happy.", options=()) -> Pair:
    return Pair(
        question=question,
        answer=answer,
        targets=FacialTargets(emotion=("happy",)),
        kind=QuestionKind.EMOTION,
        options=tuple(options),
    )


@pytest.mark.parametrize(
    ("pairs", "found"),
    [
        ([pair()], []),
        ([pair(answer="  ")], [("pair 1", "empty")]),
        ([pair(question="")], [("pair 1", "empty")]),
        ([pair(), pair(answer="Happy.")], [("pair 2", "repeated")]),
        ([pair(), pair(question="how does he feel")], [("pair 2", "repeated")]),
        ([pair(), pair(question="How does she feel?")], []),
        ([pair(answer="word " * 121)], [("pair 1", "too_long")]),
        ([pair(answer="word " * 120)], []),
        ([pair(answer="He looks sad.")], [("pair 1", "contradiction")]),
        (
            [pair(question="Why does he look sad?", answer="It is not so.")],
            [("pair 1", "contradiction")],
        ),
        ([pair(question="Does he look sad?", answer="No, he looks happy.")], []),
        ([pair(question="Is he sad or happy?", options=["sad", "happy"])], []),
        (
            [pair(question="Which?", answer="He is glad.", options=["sad", "happy"])],
            [("pair 1", "choice")],
        ),
        ([pair(question="Is this Asian man happy?")], [("pair 1", "sociodemographic")]),
        ([pair(answer="I cannot tell.")], [("pair 1", "leakage")]),
        ([pair(answer="He has a big nose.")], []),  # answers may say more than a summary
    ],
)
def test_pairs(pairs: list[Pair], found: list[tuple[str, str]]) -> None:
    texts = Texts(cut_id="a", summary=f"He looks happy. {CLOSING}", pairs=tuple(pairs), writer="t")
    problems = check_texts(texts, MAN, CheckConfig())
    assert [(problem.where, problem.rule) for problem in problems] == found
    assert all(problem.cut_id == "a" and problem.detail for problem in problems)


def test_lengths_of_summaries() -> None:
    def found(num_words: int, least: int = 8) -> list[str]:
        texts = Texts(cut_id="a", summary="word " * num_words, pairs=(), writer="t")
        config = CheckConfig(min_summary_words=least)
        return [problem.rule for problem in check_texts(texts, MAN, config)]

    assert (found(7), found(8), found(2, 2)) == (["too_short"], [], [])
    assert (found(300), found(301)) == ([], ["too_long"])


def test_the_check_can_be_turned_off() -> None:
    texts = Texts(cut_id="a", summary="", pairs=(pair(answer=""),), writer="t")
    assert check_texts(texts, MAN, replace(CheckConfig(), enabled=False)) == []


@pytest.mark.parametrize(
    ("text", "asserted", "denied"),
    [
        ("long, wavy and dark brown hair", ["long_hair", "wavy_hair", "brown_hair"], []),
        ("dark hair", ["black_hair"], []),
        ("Her hair is straight and blonde.", ["straight_hair", "blond_hair"], []),
        ("Her hair isn't long.", [], ["long_hair"]),
        ("hair that is black", ["black_hair"], []),
        ("short hair", [], []),
        ("a young oval face", ["young", "oval_face"], []),
        ("a big pointy nose", ["big_nose", "pointy_nose"], []),
        ("no beard and sideburns", ["no_beard", "sideburns"], []),
        ("no beard or mustache", ["no_beard"], ["mustache"]),
        ("no hat and a goatee", ["goatee"], ["wearing_hat"]),
        ("no hat, mask or goatee", [], ["wearing_hat", "wearing_mask", "goatee"]),
        ("no hat, bangs", ["bangs"], ["wearing_hat"]),
        ("shaking her head, eyes closed", ["shake_head", "close_eyes"], []),
        ("neither smiling nor frowning", [], ["smile", "frown"]),
        ("a five o’clock shadow", ["5_o_clock_shadow"], []),
    ],
)
def test_reading_attributes(text: str, asserted: list[str], denied: list[str]) -> None:
    reading = read_attributes(text)
    assert (list(reading.asserted), list(reading.denied)) == (asserted, denied)


@pytest.mark.parametrize("name", [n for n in VOCABULARY.names() if n != "male"])
def test_every_phrase_is_read_as_its_name(name: str) -> None:
    sentence = f"We see {VOCABULARY[name].phrase} in this clip."
    assert {*read_attributes(sentence).asserted, *read_emotions(sentence).asserted} == {name}
