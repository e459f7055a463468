"""What one card shows, drawn at random within what can be true together.

Every attribute is drawn on its own at its rate; only those that exclude each other are drawn as
one choice. Pose, light and background come from random numbers of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from common.errors import ConfigError
from corpus.attributes import VOCABULARY
from corpus.cards.look import stream
from corpus.cards.scene import Variation, draw_variation

# One name of each choice at most; what is left of 1 is the share of cards with none of them.
CHOICES: tuple[Mapping[str, float], ...] = (
    {"bald": 0.07, "shaved_head": 0.07, "crew_cut": 0.09},
    {"black_hair": 0.22, "blond_hair": 0.22, "gray_hair": 0.2, "brown_hair": 0.22},
    {"straight_hair": 0.33, "wavy_hair": 0.33},
    {"long_hair": 0.3, "mullet": 0.14},
    {"bangs": 0.22, "receding_hairline": 0.18},
    {"bald_spot": 0.1},
    {"arched_eyebrows": 0.28},
    {"bushy_eyebrows": 0.28},
    {"bags_under_eyes": 0.22},
    {"eyeglasses": 0.17, "sunglasses": 0.11},
    {"narrow_eyes": 0.25},
    {"big_nose": 0.25, "pointy_nose": 0.25},
    {"high_cheekbones": 0.2},
    {"rosy_cheeks": 0.2},
    {"big_lips": 0.25},
    {"wearing_lipstick": 0.25},
    {"heavy_makeup": 0.2},
    {"double_chin": 0.18},
    {"chubby": 0.22, "oval_face": 0.22},
    {"pale_skin": 0.25},
    {"5_o_clock_shadow": 0.11, "stubbly": 0.11, "facial_hair": 0.12},
    {"goatee": 0.14},
    {"mustache": 0.17},
    {"sideburns": 0.2},
    {"facial_tattoos": 0.14},
    {"wearing_earrings": 0.22},
    {"wearing_hat": 0.13},
    {"wearing_necklace": 0.22},
    {"wearing_necktie": 0.18},
    {"wearing_mask": 0.08},
    {"blurry": 0.07},
)

EMOTION_RATES: Mapping[str, float] = {
    "neutral": 0.55,
    **dict.fromkeys(
        ("happy", "sad", "surprise", "anger", "contempt", "disgust", "fear", "shame", "confusion"),
        0.05,
    ),
}

# Actions that move the same part are one choice. Those of the face need a neutral one: a smile on
# an angry face would be neither.
HEAD_ACTIONS: Mapping[str, float] = dict.fromkeys(
    ("nod", "shake_head", "turn", "head_wagging"), 0.11
)
EYE_ACTIONS: Mapping[str, float] = dict.fromkeys(("wink", "close_eyes", "look_around"), 0.1)
FACE_ACTIONS: Mapping[str, float] = dict.fromkeys(
    (
        "squint",
        "talk",
        "yawn",
        "chew",
        "smile",
        "grin",
        "smirk",
        "laugh",
        "frown",
        "pout",
        "sneer",
        "scrunch",
        "grimace",
        "blow",
        "kiss",
        "sing",
        "shout",
    ),
    0.045,
)
SKIN_ACTIONS: Mapping[str, float] = {"blush": 0.08, "weep": 0.1}

# Beyond the vocabulary's own exclusions: what one drawing cannot show together.
EXCLUDES: Mapping[str, frozenset[str]] = {
    "bald": frozenset({"shaved_head", "crew_cut"}),
    "shaved_head": frozenset(
        {
            "black_hair",
            "blond_hair",
            "gray_hair",
            "brown_hair",
            "long_hair",
            "receding_hairline",
            "bald_spot",
        }
    ),
    "crew_cut": frozenset({"straight_hair", "long_hair", "receding_hairline"}),
}

DERIVED = ("no_beard", "clean_shaven")  # hold when no facial hair was drawn
BEARDS = ("5_o_clock_shadow", "stubbly", "facial_hair", "goatee", "mustache")
HIDEABLE = ("lower_face", "eyes", "hair", "neck")
TOO_MUCH: Mapping[str, tuple[str, ...]] = {
    "lower_face": ("sunglasses", "wearing_hat"),
    "eyes": ("wearing_hat", "wearing_mask"),
    "hair": ("sunglasses", "wearing_mask"),
}
"""Part -> what would leave no face to be seen beside its cover; the cover is left out then."""

MAX_SEED = 2**63


@functools.cache
def drawn_names() -> tuple[str, ...]:
    """All attributes that cards show, in the vocabulary's order."""
    names = {name for choice in CHOICES for name in choice} | set(DERIVED) | EMOTION_RATES.keys()
    for rates in (HEAD_ACTIONS, EYE_ACTIONS, FACE_ACTIONS, SKIN_ACTIONS):
        names |= rates.keys()
    return tuple(name for name in VOCABULARY.names() if name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardSpec:
    """One card, before it is rendered.

    Raises:
        ConfigError: for names that cards do not draw, and a neutral face that fades.

    Example:
        >>> CardSpec(seed=7, appearance=("black_hair", "wearing_hat"), emotion="happy",
        ...          actions=("nod",), hidden="eyes")
    """

    seed: int  # decides whatever the other fields leave open
    appearance: tuple[str, ...] = ()  # names of corpus.attributes, in the vocabulary's order
    emotion: str = "neutral"
    fading: bool = False  # the emotion starts at its apex and ends in a neutral face
    actions: tuple[str, ...] = ()
    hidden: str | None = None  # a part of HIDEABLE that is covered or outside of the picture
    variation: Variation = field(default_factory=Variation)

    def __post_init__(self) -> None:
        drawn = set(drawn_names())
        unknown = [name for name in self.names if name not in drawn]
        if unknown or self.emotion not in EMOTION_RATES:
            raise ConfigError(
                f"a face card with {', '.join(unknown) or self.emotion}",
                "cards show attributes of corpus.cards.spec.drawn_names() and one emotion",
                "name some of these",
            )
        if self.hidden is not None and self.hidden not in HIDEABLE:
            rule = f"a part that can be hidden is one of {', '.join(HIDEABLE)}"
            raise ConfigError(f"hidden={self.hidden!r}", rule, "name one of these, or None")
        if self.fading and self.emotion == "neutral":
            rule = "a neutral face has no expression that could fade"
            raise ConfigError("fading=True of a neutral face", rule, "name another emotion")

    @property
    def names(self) -> tuple[str, ...]:
        """All that was drawn, seen or not."""
        return (*self.appearance, self.emotion, *self.actions)


def draw_spec(
    seed: int,
    index: int,
    *,
    rates: Mapping[str, float] | None = None,
    hidden_share: float = 0.15,
    hidden: str | None = None,
    fading_share: float = 0.0,
) -> CardSpec:
    """Card ``index`` of the series ``seed``.

    Args:
        rates: probabilities by name that replace the default ones.
        hidden_share: share of cards with a part that cannot be seen.
        hidden: the part to hide in this card, where :data:`TOO_MUCH` allows it; None leaves it to
            ``hidden_share``.
        fading_share: how many of the cards with an emotion other than neutral let it fade; it
            changes nothing else about a card.

    Raises:
        ConfigError: for a name that cards do not draw, and rates of alternatives that sum to
            more than 1.
    """
    rates = dict(rates or {})
    if unknown := sorted(rates.keys() - set(drawn_names()) | (rates.keys() & set(DERIVED))):
        raise ConfigError(
            f"face card rates of {', '.join(unknown)}",
            "rates are of attributes that cards draw on purpose",
            f"name some of {', '.join(n for n in drawn_names() if n not in DERIVED)}",
        )
    card = int(np.random.default_rng([seed, index]).integers(MAX_SEED))
    appearance: list[str] = []
    for number, choice in enumerate(CHOICES):
        name = _choose(card, f"choice {number}", choice, rates)
        if name and not any(_clash(name, other) for other in appearance):
            appearance.append(name)
    if not set(appearance) & set(BEARDS):
        appearance += DERIVED
    emotion = _choose(card, "emotion", EMOTION_RATES, rates) or "neutral"
    rng = stream(card, "hidden")
    chance, part = rng.uniform(), HIDEABLE[int(rng.integers(len(HIDEABLE)))]
    if hidden is None and chance < hidden_share:
        hidden = part
    if set(appearance) & set(TOO_MUCH.get(hidden or "", ())):
        hidden = None
    order = VOCABULARY.names()
    return CardSpec(
        seed=card,
        appearance=tuple(sorted(appearance, key=order.index)),
        emotion=emotion,
        fading=emotion != "neutral" and stream(card, "fading").uniform() < fading_share,
        actions=_draw_actions(card, emotion, rates),
        hidden=hidden,
        variation=draw_variation(card),
    )


def _draw_actions(card: int, emotion: str, rates: Mapping[str, float]) -> tuple[str, ...]:
    head = _choose(card, "head", HEAD_ACTIONS, rates)
    eyes = _choose(card, "eyes", EYE_ACTIONS, rates)
    face = _choose(card, "face", FACE_ACTIONS, rates)
    skin = _choose(card, "skin", SKIN_ACTIONS, rates)
    if emotion != "neutral":
        face = None
        eyes = None
        skin = skin if skin == "weep" and emotion == "sad" else None
    elif face:
        eyes = None  # a yawn closes the eyes anyhow
    return tuple(name for name in (head, eyes, face, skin) if name)


def _choose(
    card: int, purpose: str, choice: Mapping[str, float], rates: Mapping[str, float]
) -> str | None:
    """One name of ``choice`` or none, each at its rate."""
    shares = {name: float(rates.get(name, share)) for name, share in choice.items()}
    total = sum(shares.values())
    if min(shares.values()) < 0 or total > 1 + 1e-9:
        changed = ", ".join(f"{name}={shares[name]}" for name in shares)
        raise ConfigError(
            f"face card rates {changed}",
            "these exclude each other, so that their rates sum to at most 1",
            "lower some of them",
        )
    point = stream(card, purpose).uniform()
    for name, share in shares.items():
        if point < share:
            return name
        point -= share
    return None


def _clash(first: str, second: str) -> bool:
    return (
        second in VOCABULARY[first].excludes
        or second in EXCLUDES.get(first, ())
        or first in EXCLUDES.get(second, ())
    )
