"""Labels first, then extractors."""

from __future__ import annotations

import pytest

from corpus.extractors.combine import features_for
from corpus.extractors.registry import Reading
from corpus.labels import Interval
from corpus.records import Cut, SourceClip
from corpus.schema import FacialTargets


def clip(**changes) -> SourceClip:
    return SourceClip(
        **{"clip_id": "a", "source": "own", "video": "/a.mp4", "recording": "a"} | changes
    )


CUT = Cut(
    cut_id="a-0010-0021", clip_id="a", first=10, last=21, face_share=1.0, digest="", video="",
    method="encoded", file_sha256="",
)  # fmt: skip


def reading(extractor: str, present: str, order: str = "", **scores: float) -> Reading:
    return Reading(
        extractor=extractor,
        scores=scores,
        present=tuple(present.split()),
        emotion_order=tuple(order.split()),
    )


def test_labels_come_first_and_keep_their_order() -> None:
    labelled = clip(present=("smile", "sad", "brown_hair", "happy"), absent=("male", "talk"))
    answers = reading(
        "celebvhq_83", "black_hair talk bald bangs anger smile",
        black_hair=0.99, talk=0.9, bald=0.9, bangs=0.8, anger=0.9, smile=0.7, wink=0.2,
    )  # fmt: skip
    found = features_for(CUT, labelled, [answers])
    # Added: bangs only. Black hair and bald exclude the labelled brown hair; talk was seen not to
    # be there; emotions are labelled, so that anger is no matter for extractors.
    assert found.present == ("smile", "sad", "brown_hair", "happy", "bangs")
    assert found.targets == FacialTargets(
        attributes=("brown hair", "bangs"), emotion=("sad", "happy"), action=("smiling",)
    )
    assert found.absent == ("male", "talk")
    assert found.origins == {
        "smile": "label", "sad": "label", "brown_hair": "label", "happy": "label",
        "bangs": "celebvhq_83",
    }  # fmt: skip
    assert found.scores == {"black_hair": 0.99, "bald": 0.9, "bangs": 0.8, "wink": 0.2}
    assert found.subject == "woman"
    assert found.cut_id == "a-0010-0021"


def test_emotions_come_in_the_order_of_time() -> None:
    trained = reading("celebvhq_83", "happy fear", happy=0.99, fear=0.9)
    seen = reading("expression", "sad happy", "sad happy", sad=0.8, happy=0.7)
    found = features_for(CUT, clip(), [trained, seen])
    assert found.targets.emotion == ("sad", "happy", "fearful")  # fear: nobody saw when
    assert found.origins == {"sad": "expression", "happy": "celebvhq_83", "fear": "celebvhq_83"}
    assert features_for(CUT, clip(), [trained]).present == ("happy", "fear")  # vocabulary's order


def test_a_timeline_settles_the_parts_that_it_has() -> None:
    labelled = clip(
        timeline={
            "attributes": (Interval(first=0, last=99, phrases=("short black hair",)),),
            "emotion": (
                Interval(first=0, last=11, phrases=("neutral",)),
                Interval(first=12, last=30, phrases=("happy",)),
                Interval(first=31, last=40, phrases=("sad",)),
            ),
        },
        subject="man",
    )
    answers = reading("x", "bald anger nod", bald=0.9, anger=0.9, nod=0.9, male=0.01)
    found = features_for(CUT, labelled, [answers])
    # Neutral holds for 2 of the cut's 12 frames: one sixth, just enough.
    assert found.targets == FacialTargets(
        attributes=("short black hair",), emotion=("neutral", "happy"), action=("nodding",)
    )
    assert found.present == ("nod",)
    assert found.subject == "man"


@pytest.mark.parametrize(
    ("changes", "scores", "subject"),
    [
        ({"present": ("male",)}, {}, "man"),
        ({"absent": ("male",)}, {}, "woman"),
        ({"absent": ("male",), "subject": "man"}, {}, "man"),
        ({}, {}, "person"),
        ({}, {"male": 0.9}, "man"),
        ({}, {"male": 0.3}, "person"),
        ({}, {"male": 0.1}, "woman"),
    ],
)
def test_subject(changes: dict, scores: dict, subject: str) -> None:
    present = " ".join(name for name, score in scores.items() if score > 0.5)
    assert features_for(CUT, clip(**changes), [reading("x", present, **scores)]).subject == subject
