"""Colours and proportions of one card's person: everything that is drawn but not asked for."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from corpus.cards.svg import Colour, mix

SKINS: tuple[Colour, ...] = (
    (229, 178, 141),
    (212, 158, 118),
    (186, 130, 94),
    (150, 100, 70),
    (116, 76, 54),
)
PALE: Colour = (252, 228, 214)
HAIR: dict[str, Colour] = {
    "black_hair": (28, 25, 27),
    "brown_hair": (104, 64, 36),
    "blond_hair": (226, 188, 112),
    "gray_hair": (182, 182, 186),
}
OTHER_HAIR: Colour = (158, 62, 28)  # auburn: none of the vocabulary's colours
BROWS: tuple[Colour, ...] = ((40, 30, 26), (78, 54, 38), (112, 82, 56))
EYES: tuple[Colour, ...] = ((92, 58, 34), (70, 112, 150), (86, 122, 84), (118, 108, 92))
CLOTHES: tuple[Colour, ...] = (
    (54, 72, 104),
    (120, 52, 58),
    (70, 92, 74),
    (96, 96, 104),
    (168, 150, 124),
    (44, 44, 52),
)


def stream(seed: int, purpose: str) -> np.random.Generator:
    """Random numbers of one purpose: what one attribute draws never shifts another's numbers."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the drawing functions share."""

    seed: int
    names: frozenset[str]  # appearance attributes of the card
    skin: Colour
    hair: Colour
    brow: Colour
    iris: Colour
    lip: Colour
    cloth: Colour
    width: float  # of the head, about 1
    light: float  # -1: from the picture's left, 1: from its right
    gap: float  # half the distance between the eyes, in head units

    def has(self, name: str) -> bool:
        return name in self.names

    def stream(self, purpose: str) -> np.random.Generator:
        return stream(self.seed, purpose)


def draw_look(seed: int, names: frozenset[str], light: float) -> Look:
    """The person of card ``seed``; ``names`` decide what is asked for, chance the rest."""
    rng = stream(seed, "look")
    shares = rng.uniform(size=12)
    place = shares[0] * (len(SKINS) - 1)
    index = min(int(place), len(SKINS) - 2)
    skin = mix(SKINS[index], SKINS[index + 1], place - index)
    if "pale_skin" in names:
        skin = mix(PALE, skin, 0.06)
    hair = next((colour for name, colour in HAIR.items() if name in names), OTHER_HAIR)
    return Look(
        seed=seed,
        names=names,
        skin=skin,
        hair=mix(hair, (255, 255, 255) if shares[1] > 0.5 else (0, 0, 0), 0.08 * shares[2]),
        brow=_pick(BROWS, shares[3]),
        iris=_pick(EYES, shares[4]),
        lip=mix(mix(skin, (176, 66, 66), 0.42), (90, 30, 30), 0.1 * shares[5]),
        cloth=_pick(CLOTHES, shares[6]),
        width=0.95 + 0.1 * shares[7],
        light=light,
        gap=25 + 2.5 * shares[8],
    )


def _pick(colours: tuple[Colour, ...], share: float) -> Colour:
    return colours[min(int(share * len(colours)), len(colours) - 1)]
