"""Order and spread of the facial reward on answers that a policy gives."""

import time

import numpy as np
import pytest

from common.errors import ConfigError
from rewards.clauses import split_clauses
from rewards.facial import FacialReward
from rewards.similarity import PARAPHRASE_COSINE, UNRELATED_COSINE

EMOTION = {"emotion": ["happy"], "action": ["smiling"]}
FULL = {
    "attributes": ["short black hair", "a beard", "a black shirt"],
    "emotion": ["neutral", "happy"],
    "action": ["smiling", "looking at the camera"],
}
GOLD = (
    "The man with short black hair, a beard and a black shirt looks neutral at first, then happy "
    "and is smiling and looking at the camera."
)


def value(reward, text, **targets):
    return reward(["?"], [text], **{name: [phrases] for name, phrases in targets.items()})[0]


def test_order_for_a_description(facial):
    gold = value(facial, GOLD, **FULL)
    partial = value(facial, "The man has a beard and looks happy.", **FULL)
    generic = value(facial, "A person shows an expression in the video.", **FULL)
    wrong = value(facial, "The woman has long blond hair, looks sad and is crying.", **FULL)
    assert gold == pytest.approx(1.0)
    assert 0.3 < partial < 0.75
    assert generic < 0.1
    assert wrong < 0.1


def test_order_for_an_emotion(facial):
    scores = [
        value(facial, text, **EMOTION)
        for text in (
            "The person looks happy and is smiling.",
            "The person looks happy.",
            "The person shows an emotion.",
            "The person looks sad and is crying.",
        )
    ]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1.0)
    assert scores[0] - scores[1] > 0.15
    assert scores[1] - scores[2] > 0.5
    assert scores[3] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("target", "right", "wrong"),
    [
        ("emotion:happy", "The man looks happy.", "The man looks sad."),
        ("emotion:happy", "She seems joyful.", "She does not look happy."),
        ("emotion:angry", "His anger shows.", "He is happy."),
        ("emotion:sad", "The face looks unhappy.", "The woman is smiling."),
        ("attributes:short brown hair", "He has short brown hair.", "He has short blond hair."),
        ("attributes:a beard", "a bearded man", "a man without a beard"),
        ("attributes:eyeglasses", "The man wears glasses.", "The man wears no glasses."),
        ("attributes:female", "This is a woman.", "This is a man."),
        ("action:opening the mouth", "The mouth opens.", "closing the mouth"),
        ("action:raising the eyebrows", "he raises his eyebrows", "he lowers his eyebrows"),
        ("action:crying", "She is weeping.", "She is laughing."),
        ("action:smiling", "The man smiles.", "The man is eating."),
    ],
)
def test_right_against_opposite(facial, target, right, wrong):
    part, _, phrase = target.partition(":")
    difference = value(facial, right, **{part: [phrase]}) - value(facial, wrong, **{part: [phrase]})
    assert difference > 0.5


@pytest.mark.parametrize(
    "attack",
    [
        f"{GOLD} {GOLD}",
        f"{GOLD} The man has long brown hair, a hat, earrings and glasses.",
        "black hair, brown hair, blond hair, a beard, glasses, a hat, a black shirt, neutral, "
        "happy, sad, angry, surprised, smiling, crying, talking, blinking, looking at the camera",
        "black hair beard black shirt neutral happy sad angry smiling crying looking at the camera",
    ],
)
def test_repeating_or_listing_does_not_beat_the_gold(facial, attack):
    assert value(facial, attack, **FULL) < value(facial, GOLD, **FULL) - 0.1


def test_a_word_said_thrice_counts_once(facial):
    # Recall 1; the claim's credit is 1 word of 3: 2 * 1 * (1/3) / (4/3).
    assert value(facial, "happy happy happy", emotion=["happy"]) == pytest.approx(0.5)


def test_hedging_earns_half(facial):
    # Recall: "happy" is one of two emotions named, so 1/2. Precision: one claim of two, 1/2.
    assert value(facial, "The man looks happy, sad", emotion=["happy"]) == pytest.approx(0.5)


def test_harmonic_mean_of_recall_and_precision(facial):
    # Recall 1/2 (one of two phrases), precision 1: 2 * .5 * 1 / 1.5.
    assert value(facial, "a beard", attributes=["beard", "pointy nose"]) == pytest.approx(2 / 3)
    # Recall 1, precision 1/2 (a car is in no target).
    assert value(facial, "a beard, a red car", attributes=["beard"]) == pytest.approx(2 / 3)


def test_calibration_is_linear_between_its_two_points(facial, embedder):
    rows = embedder(["grins", "smiling"])
    cosine = float(rows[0] @ rows[1])
    recall = (cosine - UNRELATED_COSINE) / (PARAPHRASE_COSINE - UNRELATED_COSINE)
    assert 0.1 < recall < 0.9
    # One claim, one phrase: precision equals recall, and so does their harmonic mean.
    assert value(facial, "He grins.", action=["smiling"]) == pytest.approx(recall, abs=1e-5)


def test_weights_follow_equation_7(facial):
    targets = {"attributes": ["beard"], "emotion": ["happy"], "action": ["yawning"]}
    details = facial.details(["?"], ["a beard, happy"], **{k: [v] for k, v in targets.items()})[0]
    assert details == {
        "score": pytest.approx(0.4 * 1 + 0.3 * 1 + 0.3 * details["action"]),
        "attributes": pytest.approx(1.0),
        "emotion": pytest.approx(1.0),
        "action": details["action"],
    }
    assert details["action"] < 0.2


def test_missing_parts_give_their_weight_to_the_others(embedder):
    reward = FacialReward(alpha=0.5, beta=0.4, gamma=0.1, embedder=embedder)
    details = reward.details(
        ["?"], ["happy"], attributes=[[]], emotion=[["happy"]], action=[["yawning"]]
    )[0]
    assert set(details) == {"score", "emotion", "action"}
    assert details["score"] == pytest.approx((0.4 * 1.0 + 0.1 * details["action"]) / 0.5)


def test_no_targets_is_none_and_no_words_is_zero(facial):
    assert value(facial, "The man looks happy.", attributes=[], emotion=[], action=[]) is None
    assert facial(["?"], ["The man looks happy."]) == [None]
    for text in ("", "  ", "...", "😀"):
        assert value(facial, text, **EMOTION) == 0.0


def test_sentence_similarity_is_the_plain_cosine(embedder):
    reward = FacialReward(similarity="sentence", embedder=embedder)
    rows = embedder(["The man looks happy.", "beard, brown hair", "happy"])
    expected = (0.4 * max(0.0, rows[0] @ rows[1]) + 0.3 * (rows[0] @ rows[2])) / 0.7
    text = "The man looks happy."
    targets = {"attributes": ["beard", "brown_hair"], "emotion": ["happy"]}
    assert value(reward, text, **targets) == pytest.approx(float(expected), abs=1e-6)
    assert value(reward, "", **targets) == 0.0


def test_a_string_in_place_of_phrases_is_refused(facial):
    with pytest.raises(TypeError, match="list of phrases"):
        facial(["?"], ["happy"], emotion=["happy"])


@pytest.mark.parametrize(
    "kwargs", [{"alpha": 0.5}, {"alpha": 1.4, "beta": -0.7}, {"similarity": "bleu"}]
)
def test_wrong_arguments_are_refused(kwargs):
    with pytest.raises(ConfigError):
        FacialReward(**kwargs)


def test_frames_are_not_claims():
    contents = [
        clause.content
        for clause in split_clauses("The man in the video looks happy, covering the face.")
    ]
    assert contents == ["happy", "covering face"]
    assert [clause.content for clause in split_clauses("She is looking around")] == [
        "looking around"
    ]


def test_sixteen_responses_take_less_than_half_a_second(embedder):
    reward = FacialReward(embedder=embedder)
    reward.prepare()
    columns = {name: [phrases] * 16 for name, phrases in FULL.items()}
    seconds = []
    for trial in range(3):
        texts = [
            f"Man {trial} number {i} has black hair of {i}, looks happy at {i} and smiles on {i}."
            for i in range(16)
        ]
        started = time.process_time()  # not wall time: other processes may hold the cores
        scores = reward(["?"] * 16, texts, **columns)
        seconds.append(time.process_time() - started)
        assert np.isfinite(scores).all()
    assert min(seconds) < 0.5
