"""What a face does over time: emotions and actions as curves of a few muscles.

Every frame is an :class:`Expression`. Emotions rise from a neutral face to their apex and stay
there, or fade the same way backwards; actions run between the first frame and the last, which show
none of them, so that a still picture from either end tells nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np


@dataclass(frozen=True, slots=True)
class Expression:
    """Activity of muscles, 0 at rest and 1 at full strength; signed where both ways exist."""

    brow_raise: float = 0.0
    brow_inner: float = 0.0  # inner ends up, as in grief
    brow_lower: float = 0.0  # inner ends down and together
    brow_skew: float = 0.0  # the brow at the picture's right goes up, the other down
    lid: float = 0.0  # both eyes close; 1 is shut
    wink: float = 0.0  # the eye at the picture's left closes
    wide: float = 0.0  # lids opened wide
    squint: float = 0.0  # lower lids up
    gaze_x: float = 0.0
    gaze_y: float = 0.0
    smile: float = 0.0  # corners up; negative: down
    skew: float = 0.0  # only the corner at the picture's right goes up
    open: float = 0.0  # jaw
    stretch: float = 0.0  # mouth wider
    pucker: float = 0.0  # lips drawn together and forward
    teeth: float = 0.0  # lips parted over closed teeth
    press: float = 0.0  # lips thin
    pout: float = 0.0  # lower lip forward
    sneer: float = 0.0  # upper lip up at one side
    jaw: float = 0.0  # chin sideways
    puff: float = 0.0  # cheeks blown up
    wrinkle: float = 0.0  # nose wrinkled
    cheek: float = 0.0  # cheeks raised
    tears: float = 0.0  # how far down they ran
    blush: float = 0.0
    yaw: float = 0.0  # radians, added to the pose
    pitch: float = 0.0
    roll: float = 0.0

    def __add__(self, other: Expression) -> Expression:
        return Expression(
            **{
                item.name: getattr(self, item.name) + getattr(other, item.name)
                for item in fields(self)
            }
        )

    def clamped(self) -> Expression:
        """With every activity between -1 and 1."""
        return Expression(
            **{item.name: min(max(getattr(self, item.name), -1.0), 1.0) for item in fields(self)}
        )


EMOTIONS: Mapping[str, Mapping[str, float]] = {
    "neutral": {},
    "happy": {
        "smile": 0.95,
        "cheek": 0.9,
        "squint": 0.4,
        "teeth": 0.8,
        "stretch": 0.3,
        "brow_raise": 0.1,
    },
    "sad": {
        "brow_inner": 1.0,
        "smile": -0.8,
        "lid": 0.28,
        "gaze_y": 0.5,
        "pout": 0.35,
        "pitch": 0.07,
    },
    "surprise": {"brow_raise": 1.0, "wide": 1.0, "open": 0.6, "pucker": 0.35},
    "anger": {
        "brow_lower": 1.0,
        "wide": 0.3,
        "squint": 0.45,
        "press": 0.9,
        "smile": -0.35,
        "pitch": 0.05,
    },
    "contempt": {"skew": 0.95, "brow_skew": 0.45, "lid": 0.25, "pitch": -0.12, "gaze_y": 0.3},
    "disgust": {
        "wrinkle": 1.0,
        "brow_lower": 0.5,
        "squint": 0.8,
        "sneer": 0.8,
        "smile": -0.55,
        "cheek": 0.4,
    },
    "fear": {
        "brow_raise": 0.8,
        "brow_inner": 0.9,
        "wide": 0.95,
        "stretch": 0.95,
        "teeth": 0.65,
        "smile": -0.35,
        "open": 0.12,
    },
    "shame": {
        "gaze_y": 1.0,
        "lid": 0.5,
        "pitch": 0.24,
        "brow_inner": 0.55,
        "smile": -0.3,
        "press": 0.5,
        "blush": 0.75,
        "yaw": 0.14,
    },
    "confusion": {
        "brow_skew": 1.0,
        "brow_lower": 0.35,
        "skew": -0.5,
        "roll": 0.15,
        "squint": 0.25,
        "pucker": 0.25,
        "jaw": 0.4,
    },
}


def emotion_at(emotion: str, time: float) -> Expression:
    """At ``time`` 0..1 of the clip: neutral, rising, at its apex from two fifths on."""
    strength = smooth((time - 0.06) / 0.36)
    return Expression(**{name: value * strength for name, value in EMOTIONS[emotion].items()})


def smooth(x: float) -> float:
    """0 below 0, 1 above 1, without corners between."""
    x = min(max(float(x), 0.0), 1.0)
    return x * x * (3 - 2 * x)


def bump(time: float, rise: float = 0.3, fall: float = 0.7) -> float:
    """0 at both ends of the clip, 1 from ``rise`` to ``fall``."""
    return smooth(time / rise) * smooth((1 - time) / (1 - fall))


def wave(time: float, cycles: float) -> float:
    """A sine that is 0 at both ends of the clip when ``cycles`` is a multiple of one half."""
    return float(np.sin(2 * np.pi * cycles * time))


def beat(time: float, cycles: int) -> float:
    """0 to 1 and back, ``cycles`` times."""
    return float(np.sin(np.pi * cycles * time) ** 2)


def _held(**values: float) -> Callable[[float], Expression]:
    """An expression that comes, stays and goes."""
    return lambda time: Expression(**{k: v * bump(time) for k, v in values.items()})


def _talk(time: float) -> Expression:
    loud = bump(time, 0.12, 0.88)
    # Two incommensurate rhythms: no two syllables are alike.
    syllable = 0.5 + 0.5 * np.sin(2 * np.pi * 3.1 * time) * np.cos(2 * np.pi * 1.3 * time)
    return Expression(
        open=float(0.42 * syllable * loud),
        teeth=0.35 * loud,
        stretch=0.25 * loud * wave(time, 2.3),
    )


def _sing(time: float) -> Expression:
    loud = bump(time, 0.2, 0.85)
    return Expression(
        open=loud * (0.5 + 0.3 * wave(time, 1.5)),
        pucker=0.5 * loud,
        brow_raise=0.6 * loud,
        brow_inner=0.3 * loud,
        lid=0.45 * loud,
        roll=0.12 * wave(time, 1.0),
        pitch=-0.12 * loud,
    )


def _yawn(time: float) -> Expression:
    wide = bump(time, 0.5, 0.7)
    return Expression(
        open=1.0 * wide,
        pucker=0.25 * wide,
        lid=0.85 * wide,
        squint=0.5 * wide,
        brow_raise=0.35 * wide,
        pitch=-0.2 * wide,
    )


def _laugh(time: float) -> Expression:
    glee = bump(time, 0.25, 0.85)
    shake = wave(time, 4.0)
    return Expression(
        smile=glee,
        cheek=glee,
        squint=0.9 * glee,
        stretch=0.4 * glee,
        teeth=0.8 * glee,
        open=glee * (0.5 + 0.18 * shake),
        pitch=glee * (-0.12 + 0.06 * shake),
        lid=0.3 * glee,
    )


def _blow(time: float) -> Expression:
    full, out = bump(time, 0.3, 0.45), bump(time, 0.6, 0.85)
    return Expression(puff=max(full, 0.5 * out), pucker=max(0.75 * full, out), open=0.1 * out)


def _kiss(time: float) -> Expression:
    near = bump(time, 0.45, 0.6)
    return Expression(pucker=near, lid=0.75 * near, pitch=0.06 * near, pout=0.3 * near)


def _weep(time: float) -> Expression:
    grief = bump(time, 0.2, 0.9)
    return Expression(tears=0.15 + 0.85 * time if time > 0.12 else 0.0, squint=0.3 * grief)


def _look_around(time: float) -> Expression:
    side = wave(time, 1.0)
    return Expression(gaze_x=1.0 * side, yaw=0.12 * side, gaze_y=-0.5 * wave(time, 2.0))


ACTIONS: Mapping[str, Callable[[float], Expression]] = {
    # of the head
    "turn": lambda t: Expression(yaw=0.55 * smooth(t / 0.8)),
    # of the eyes
    "wink": lambda t: Expression(wink=bump(t, 0.35, 0.65), cheek=0.15 * bump(t)),
    "close_eyes": lambda t: Expression(lid=bump(t, 0.25, 0.8)),
    "look_around": _look_around,
    "squint": _held(squint=1.0, lid=0.3, brow_lower=0.3, cheek=0.3),
    "weep": _weep,
    # of the mouth and the whole face
    "talk": _talk,
    "yawn": _yawn,
    "chew": lambda t: Expression(press=0.4 * bump(t), pout=0.5 * beat(t, 5), puff=0.45 * bump(t)),
    "smile": _held(smile=0.85, cheek=0.6, squint=0.15),
    "grin": _held(smile=0.8, teeth=1.0, stretch=0.6, cheek=0.7, squint=0.2),
    "smirk": _held(skew=1.0, squint=0.15),
    "laugh": _laugh,
    "frown": _held(brow_lower=0.9, smile=-0.8),
    "pout": _held(pout=1.0, pucker=0.45, smile=-0.35, brow_lower=0.15),
    "sneer": _held(sneer=1.0, wrinkle=0.6, squint=0.3, teeth=0.3),
    "scrunch": _held(wrinkle=1.0, squint=0.7, brow_lower=0.5, pucker=0.3, cheek=0.7),
    "grimace": _held(teeth=1.0, stretch=1.0, squint=0.5, brow_lower=0.4, smile=-0.2),
    "blow": _blow,
    "kiss": _kiss,
    "sing": _sing,
    "shout": lambda t: Expression(
        open=0.95 * bump(t, 0.2, 0.8),
        stretch=0.5 * bump(t),
        brow_lower=0.8 * bump(t),
        squint=0.3 * bump(t),
        teeth=0.6 * bump(t, 0.2, 0.8),
        pitch=-0.08 * bump(t),
    ),
    "blush": lambda t: Expression(blush=smooth(t / 0.8)),
}
"""Name -> expression at a time 0..1 of the clip; zero at 0."""

SWINGS: Mapping[str, tuple[str, float]] = {
    "nod": ("pitch", 0.26),
    "shake_head": ("yaw", 0.36),
    "head_wagging": ("roll", 0.28),
    "chew": ("jaw", 1.0),
}
"""Action -> what swings to and fro in it, and how far."""


def swing(action: str, time: float, num_frames: int) -> Expression:
    """Twice to and fro; once in clips of few frames, which would fall on the zeros of two."""
    field, reach = SWINGS[action]
    return Expression(**{field: reach * wave(time, 2.0 if num_frames >= 7 else 1.0)})


def expressions(
    emotion: str, actions: Sequence[str], num_frames: int, *, fading: bool = False
) -> list[Expression]:
    """What the face does in each of ``num_frames`` frames spread evenly over the clip.

    Args:
        fading: the emotion's course runs backwards, from its apex to a neutral face; actions run
            forwards all the same.
    """
    times = np.linspace(0, 1, num_frames)
    frames = []
    # Reversed, not 1 - time, whose rounding would part a fading clip from a reversed rising one.
    for time, course in zip(times, times[::-1] if fading else times, strict=True):
        now = emotion_at(emotion, course)
        for action in actions:
            if action in ACTIONS:
                now = now + ACTIONS[action](float(time))
            if action in SWINGS:
                now = now + swing(action, float(time), num_frames)
        frames.append(replace(now.clamped(), tears=max(0.0, now.tears)))
    return frames
