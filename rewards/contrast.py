"""What embeddings cannot tell apart: opposites embed close to each other.

all-MiniLM-L6-v2 gives "mouth closed" and "mouth open" a cosine of .88, "blond hair" and "brown
hair" .72, as much as it gives paraphrases. A family lists labels of which at most one holds; two
texts that name different ones disagree, whatever their embeddings say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.labels import EMOTIONS, LabelReading, LabelTable

Readings = tuple[LabelReading, ...]  # one per family
UNNAMED = (
    0.5  # factor for "hair" against "brown hair": the telling part of the target is not claimed
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Labels of which at most one holds.

    ``context``: the labels are read only in texts with one of these words (any text when empty).
    ``unnamed``: factor where the target names a label and the claim none.
    ``of_person``: at most one holds of the *person*, so that a response that names several is
    hedging; a mouth may be open while the eyes are closed.
    """

    name: str
    table: LabelTable
    context: frozenset[str] = frozenset()
    unnamed: float = UNNAMED
    of_person: bool = True

    def read(self, text: str) -> LabelReading:
        if self.context and self.context.isdisjoint(text.split()):
            return LabelReading()
        return self.table.read(text)


_HAIR = frozenset({"hair", "haired", "hairs", "hairstyle", "blond", "blonde", "brunette"})

FAMILIES = (
    # An emotion can be described without being named, so that silence costs nothing here.
    Family(name="emotion", table=EMOTIONS, unnamed=1.0),
    Family(
        name="hair colour",
        table=LabelTable(
            {
                "black": ["dark"],
                "blond": ["blonde", "golden", "fair"],
                "brown": ["brunette", "chestnut"],
                "gray": ["grey", "silver", "white"],
                "red": ["ginger", "auburn"],
            }
        ),
        context=_HAIR,
    ),
    Family(
        name="hair length",
        table=LabelTable({"long": ["shoulder-length"], "short": ["cropped"]}),
        context=_HAIR,
    ),
    Family(
        name="hair texture",
        table=LabelTable({"straight": ["sleek"], "wavy": ["waves"], "curly": ["curls", "curled"]}),
        context=_HAIR,
    ),
    Family(
        name="gender",
        table=LabelTable(
            {
                "male": ["man", "men", "boy", "guy", "gentleman"],
                "female": ["woman", "women", "girl", "lady"],
            }
        ),
    ),
    Family(
        name="age",
        table=LabelTable(
            {
                "young": ["youthful", "child", "teenage", "teenager"],
                "middle-aged": ["middle aged"],
                "old": ["elderly", "aged", "senior"],
            }
        ),
    ),
    Family(
        name="beard",
        table=LabelTable(
            {
                "beard": ["bearded", "goatee", "full beard"],
                "clean-shaven": [
                    "clean shaven",
                    "no beard",
                    "without a beard",
                    "beardless",
                    "no facial hair",
                ],
            }
        ),
    ),
    Family(
        name="eyewear",
        of_person=False,
        table=LabelTable(
            {"eyeglasses": ["glasses", "spectacles"], "sunglasses": ["sun glasses", "shades"]}
        ),
    ),
    Family(
        name="opening",
        of_person=False,
        table=LabelTable(
            {
                "open": ["opens", "opened", "opening", "agape"],
                "closed": ["close", "closes", "closing", "shut"],
            }
        ),
    ),
    Family(
        name="direction",
        of_person=False,
        table=LabelTable(
            {
                "raised": ["raises", "raise", "raising", "lifted", "lifts"],
                "lowered": ["lowers", "lowering", "furrowed", "furrows"],
            }
        ),
    ),
    Family(
        name="side",
        of_person=False,
        table=LabelTable({"left": ["leftward"], "right": ["rightward"]}),
    ),
)


def readings(text: str) -> Readings:
    """What ``text`` says in each of :data:`FAMILIES`."""
    return tuple(family.read(text) for family in FAMILIES)


def closed_family(phrase: str) -> int | None:
    """Index of the family in which ``phrase`` is a label and nothing more, or None."""
    return next(
        (
            index
            for index, family in enumerate(FAMILIES)
            if family.table.exactly(phrase) and not family.context
        ),
        None,
    )


def agreement(claim: Readings, target: Readings) -> float:
    """Factor in [0, 1] by which the labels that two texts name allow them to mean the same.

    0 where they exclude each other in any family.
    """
    factor = 1.0
    for family, said, wanted in zip(FAMILIES, claim, target, strict=True):
        if wanted.asserted:
            named = set(said.asserted or said.cued)
            if not set(wanted.asserted).isdisjoint(said.denied):
                return 0.0
            if not named:
                factor *= family.unnamed
            elif named.isdisjoint(wanted.asserted):
                return 0.0
        elif wanted.cued and said.cued:
            if set(said.cued).isdisjoint(wanted.cued):
                return 0.0
        elif wanted.cued and said.asserted:
            # Naming an emotion neither describes the action that goes with it nor rules one out.
            factor *= UNNAMED
    return factor


def hedging(claims: Sequence[Readings], targets: Sequence[Readings]) -> tuple[float, ...]:
    """Per family, the share of the labels named anywhere in a response that any target names.

    1 where the response names none. "Happy or sad" against "happy" is .5, whichever comes first.
    """
    return tuple(
        _share(_named(claims, index), _named(targets, index)) if family.of_person else 1.0
        for index, family in enumerate(FAMILIES)
    )


def _named(texts: Sequence[Readings], family: int) -> set[str]:
    return {label for text in texts for label in text[family].asserted}


def _share(said: set[str], wanted: set[str]) -> float:
    return len(said & wanted) / len(said) if said else 1.0
