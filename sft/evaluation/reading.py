"""Reading facts out of answers: which of the things asked for does an answer name?

A word counts when the text asserts it. One that is denied ("not happy", "no beard", "isn't
smiling") is not named, nor is one both asserted and denied; cues ("she beams" for happy) do not
count as names (common.labels). Emotions are read by :data:`common.labels.EMOTIONS`, attributes and
actions by the phrases and aliases of :data:`corpus.attributes.VOCABULARY`, targets outside of it
word for word.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence

from common.labels import EMOTIONS, LabelTable, tokenize
from corpus.attributes import VOCABULARY, Group
from corpus.schema import FacialTargets
from sft.evaluation.records import Part, PartReading

_GROUPS = {Part.ATTRIBUTES: Group.APPEARANCE, Part.ACTION: Group.ACTION}
_ARTICLE = re.compile(r"^(a|an|the) ")
_POSSESSIVE = re.compile(r"\b(his|her|their|its)\b", re.IGNORECASE)
_SUBJECTS = frozenset({VOCABULARY["male"].phrase})
"""Names that mostly say who is spoken of ("the man is smiling"): right or missed, never wrong."""


def read_answer(
    targets: FacialTargets, *, answer: str, gold: str, options: Sequence[str] = ()
) -> dict[Part, PartReading]:
    """What ``answer`` says of each part that ``targets`` ask for.

    Args:
        options: what a closed question lets one choose from: to name another one is wrong, too.

    What the gold answer names beyond its targets ("a smiling man with a hat", asked for the
    emotion) is neither right nor wrong.

    Example:
        >>> read_answer(FacialTargets(emotion=("happy",)), answer="He is not happy but sad.",
        ...             gold="He looks happy.")
        {<Part.EMOTION: 'emotion'>: PartReading(right=(), wrong=('sad',), missed=('happy',))}
    """
    readings = {}
    for part in Part:
        asked = tuple(dict.fromkeys(label_of(part, phrase) for phrase in getattr(targets, part)))
        if not asked:
            continue
        offered = {label_of(part, option) for option in options}
        known = (*asked, *sorted(offered)) if offered.issuperset(asked) else asked
        named = names(part, answer, known)
        allowed = {*asked, *names(part, gold, known), *_SUBJECTS}
        readings[part] = PartReading(
            right=tuple(label for label in asked if label in named),
            wrong=tuple(label for label in named if label not in allowed),
            missed=tuple(label for label in asked if label not in named),
        )
    return readings


def label_of(part: Part, phrase: str) -> str:
    """The name under which ``phrase`` is counted: synonyms share one.

    Example:
        >>> label_of(Part.EMOTION, "surprised"), label_of(Part.ATTRIBUTES, "glasses")
        ('surprise', 'eyeglasses')
    """
    if part is Part.EMOTION:
        return EMOTIONS.exactly(phrase) or phrase
    name = VOCABULARY.find(phrase)
    return phrase if name is None else VOCABULARY[name].phrase


def names(part: Part, text: str, asked: Iterable[str] = ()) -> tuple[str, ...]:
    """Labels that ``text`` asserts and does not also deny, in order of mention.

    Args:
        asked: labels that count besides the vocabulary's own.
    """
    table = EMOTIONS if part is Part.EMOTION else _table(_GROUPS[part])
    own = [label for label in dict.fromkeys(asked) if label not in table.labels]
    tables = [table, LabelTable({label: _plain(label) for label in own})] if own else [table]
    plain = _one_noun_each(_closed_absences(_POSSESSIVE.sub("the", text)))
    readings = [table.read(plain) for table in tables]
    denied = {label for reading in readings for label in reading.denied}
    asserted = [label for reading in readings for label in reading.asserted]
    return tuple(label for label in asserted if label not in denied)


@functools.cache
def _table(group: Group) -> LabelTable:
    aliases = {}
    for name in VOCABULARY.names(group):
        attribute = VOCABULARY[name]
        spoken = [
            alias for text in (attribute.phrase, *attribute.aliases) for alias in _plain(text)
        ]
        if group is Group.ACTION:
            spoken = [form for text in spoken for form in _inflected(text)]
        aliases[attribute.phrase] = spoken
    return LabelTable(aliases)


def _plain(phrase: str) -> tuple[str, str]:
    """The phrase without its article, and with an absence as one word: ``no-beard``."""
    plain = _ARTICLE.sub("", phrase)
    return plain, re.sub("^no ", "no-", plain)


def _closed_absences(text: str) -> str:
    """``no-beard and a hat`` for ``no beard and a hat``: the hat is there, unlike after "or"."""
    return _absences().sub(lambda match: match[0].replace(" ", "-"), text)


@functools.cache
def _absences() -> re.Pattern[str]:
    """The attributes that say by name what is not there."""
    spoken = [
        phrase
        for name in VOCABULARY.names(Group.APPEARANCE)
        for phrase in (VOCABULARY[name].phrase, *VOCABULARY[name].aliases)
        if phrase.startswith("no ")
    ]
    return re.compile(rf"\b({'|'.join(map(re.escape, spoken))})\b(?! n?or\b)", re.IGNORECASE)


def _inflected(phrase: str) -> list[str]:
    """A participle's other regular forms: ``smiling`` is also said by smile, smiles and smiled."""
    verb, *rest = phrase.split(" ")
    if not verb.endswith("ing"):
        return [phrase]
    stem = verb.removesuffix("ing")
    forms = [verb, stem, *(stem + ending for ending in ("e", "s", "es", "ed"))]
    if stem[-2:-1] == stem[-1:]:  # nodding: nod, nods
        forms += [stem[:-1], stem[:-1] + "s"]
    if stem.endswith("y"):  # crying: cries, cried
        forms += [stem[:-1] + "ies", stem[:-1] + "ied"]
    return [" ".join((form, *rest)) for form in forms]


@functools.cache
def _adjectives() -> dict[str, frozenset[str]]:
    """Noun -> the adjectives with which it makes an attribute: hair -> brown, long, wavy, ..."""
    found: dict[str, set[str]] = {}
    for name in VOCABULARY.names(Group.APPEARANCE):
        for phrase in (VOCABULARY[name].phrase, *VOCABULARY[name].aliases):
            adjective, _, noun = _ARTICLE.sub("", phrase).partition(" ")
            if noun and " " not in noun and adjective != "no":
                found.setdefault(noun, set()).add(adjective)
    return {noun: frozenset(adjectives) for noun, adjectives in found.items()}


def _one_noun_each(text: str) -> str:
    """``long, wavy brown hair`` as ``long hair , wavy hair brown hair``, each to be read."""
    tokens = tokenize(text)
    spoken: list[str] = []  # backwards
    noun = ""  # to which the adjectives before it belong
    for index in range(len(tokens) - 1, -1, -1):
        token = tokens[index]
        if noun and token in _adjectives()[noun]:
            if spoken[-1] != noun:
                spoken.append(noun)
        elif not (noun and token in {",", "and"}):
            noun = token if token in _adjectives() else ""
        spoken.append(token)
    return " ".join(reversed(spoken))
