"""Cutting a response into the claims that it makes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from common.labels import is_negator, tokenize, words

_BREAK = re.compile(
    r"[,.;:!?\n()\"“”–—]+|\s-\s|"
    r"\b(?:and|while|with|but|then|who|whose|as well as|along with|in addition|wearing)\b",
    re.IGNORECASE,
)
# Words that frame a claim about a face without being one. "The person in the video looks happy"
# claims "happy"; embedding the frame along with it costs half of the cosine.
_FRAME = frozenset(
    words(
        "a an the this that these those there here it its it's he she they his her hers him their "
        "them i we you person people individual someone somebody subject man men woman women boy "
        "girl guy lady male female video clip image frame scene picture facial "
        "expression expressions emotion emotions emotional feature features is are was were be "
        "been being am has have had having does do did doing can could may might will would appear "
        "appears appearing seem seems seeming show shows showing shown display displays displaying "
        "express expresses expressing feel feels feeling of in on at for from to by as also very "
        "quite rather really slightly somewhat clearly something what which first finally"
    )
)
_LOOK = frozenset({"look", "looks", "looking", "looked"})
_LOOK_DIRECTIONS = frozenset(
    words("around at away up down left right back into over forward ahead sideways")
)


@dataclass(frozen=True, slots=True)
class Clause:
    """One claim.

    Example:
        >>> split_clauses("The person looks happy.")
        [Clause(text='the person looks happy', content='happy', negated=False)]
    """

    text: str  # lower case, words only
    content: str  # text without the words that merely frame a claim; may be empty
    negated: bool  # says that something is absent


def split_clauses(text: str) -> list[Clause]:
    """The clauses of ``text`` that have words, in order.

    A clause ends at punctuation and at words that join claims (and, while, with, …).
    """
    clauses = (make_clause(piece) for piece in _BREAK.split(text.replace("_", " ")))
    return [clause for clause in clauses if clause.text]


def make_clause(text: str) -> Clause:
    """``text`` as a single claim."""
    spoken = [token for token in tokenize(text) if token[0].isalnum()]
    content: list[str] = []
    for index, word in enumerate(spoken):
        # "the face looks happy" frames, "covering the face" does not.
        if not (_frames(spoken, index) or (word == "face" and not content)):
            content.append(word)
    return Clause(
        text=" ".join(spoken),
        content=" ".join(content),
        negated=any(is_negator(word) for word in spoken),
    )


def _frames(spoken: list[str], index: int) -> bool:
    word = spoken[index]
    if word in _LOOK:
        return index + 1 == len(spoken) or spoken[index + 1] not in _LOOK_DIRECTIONS
    return word in _FRAME
