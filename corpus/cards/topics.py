"""What can be asked about a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from corpus.attributes import VOCABULARY, Group


class Stratum(StrEnum):
    """What a scheduler should find out about a sample."""

    TRIVIAL = "trivial"
    LEARNABLE = "learnable"
    HARD = "hard"
    IMPOSSIBLE = "impossible"
    NOISY = "noisy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One thing that can be asked for, and what may be the answer."""

    questions: tuple[str, ...]
    names: tuple[str, ...]  # of corpus.attributes
    answer: str  # with "{}" for the phrases
    stratum: Stratum  # of a question about a visible one
    many: bool = False  # may several of the names hold?


COURSE = "course"  # of the emotion: does it grow or fade? Asked by corpus.cards.questions
COURSE_QUESTIONS = (
    "Is the expression on the face growing or fading?",
    "Over the clip, is the face's expression fading or growing?",
)
GROWING, FADING = "growing", "fading"  # not "appearing", which rewards read as a mere frame word

_L, _H = Stratum.LEARNABLE, Stratum.HARD
_VERBS = ("nod", "shake_head", "turn", "head_wagging")

TOPICS: Mapping[str, Topic] = {
    "hair colour": Topic(
        questions=("What colour is the person's hair?", "Which hair colour does the person have?"),
        names=("black_hair", "blond_hair", "gray_hair", "brown_hair"),
        answer="The person has {}.",
        stratum=_L,
    ),
    "hair style": Topic(
        questions=("How does the person wear the hair?", "What is the person's hair style?"),
        names=(
            "bald",
            "shaved_head",
            "crew_cut",
            "straight_hair",
            "wavy_hair",
            "long_hair",
            "mullet",
            "bangs",
            "receding_hairline",
        ),
        answer="The person has {}.",
        stratum=_L,
        many=True,
    ),
    "facial hair": Topic(
        questions=("What grows on lip, cheeks and chin?", "How is the person shaved?"),
        names=("no_beard", "5_o_clock_shadow", "stubbly", "facial_hair", "goatee", "mustache"),
        answer="The person has {}.",
        stratum=_L,
        many=True,
    ),
    "worn": Topic(
        questions=("What does the person wear?", "Which accessories does the person wear?"),
        names=(
            "eyeglasses",
            "sunglasses",
            "wearing_hat",
            "wearing_mask",
            "wearing_earrings",
            "wearing_necklace",
            "wearing_necktie",
        ),
        answer="The person wears {}.",
        stratum=_L,
        many=True,
    ),
    "lips": Topic(
        questions=("What stands out about the lips?", "How are the person's lips?"),
        names=("big_lips", "wearing_lipstick"),
        answer="The person has {}.",
        stratum=_L,
        many=True,
    ),
    "skin": Topic(
        questions=("What is special about the person's skin?", "How does the skin look?"),
        names=("pale_skin", "rosy_cheeks", "facial_tattoos"),
        answer="The person has {}.",
        stratum=_L,
        many=True,
    ),
    "face shape": Topic(
        questions=("What shape does the face have?", "How is the face shaped?"),
        names=("chubby", "oval_face"),
        answer="The person has {}.",
        stratum=_L,
    ),
    "emotion": Topic(
        questions=("What emotion does the person show?", "How does the person feel?"),
        names=VOCABULARY.names(Group.EMOTION),
        answer="The person looks {}.",
        stratum=_L,
    ),
    "eyes": Topic(
        questions=("What stands out about the eyes?", "How do the eyes and lids look?"),
        names=("narrow_eyes", "bags_under_eyes", "heavy_makeup"),
        answer="The person has {}.",
        stratum=_H,
        many=True,
    ),
    "brows": Topic(
        questions=("What do the eyebrows look like?",),
        names=("arched_eyebrows", "bushy_eyebrows"),
        answer="The person has {}.",
        stratum=_H,
        many=True,
    ),
    "nose": Topic(
        questions=("What kind of nose does the person have?",),
        names=("big_nose", "pointy_nose"),
        answer="The person has {}.",
        stratum=_H,
    ),
    "bones": Topic(
        questions=("What do cheeks and chin look like?",),
        names=("high_cheekbones", "double_chin"),
        answer="The person has {}.",
        stratum=_H,
        many=True,
    ),
    "head movement": Topic(
        questions=("How does the person move the head?", "What does the head do over the clip?"),
        names=_VERBS,
        answer="The person is {}.",
        stratum=_H,
    ),
    "doing": Topic(
        questions=("What is the person doing?", "What happens in the face during the clip?"),
        names=tuple(n for n in VOCABULARY.names(Group.ACTION) if n not in _VERBS),
        answer="The person is {}.",
        stratum=_H,
        many=True,
    ),
}
