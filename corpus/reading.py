"""Which of the 103 attributes does a text assert or deny?

Prose says "long wavy brown hair" where the vocabulary has three phrases, and "his hair is brown",
"he smiles", "shaking her head": such forms are brought to the vocabulary's before they are looked
up. Emotions are read by :data:`common.labels.EMOTIONS`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from common.labels import EMOTIONS, LabelReading, LabelTable, is_negator, tokenize, words
from corpus.attributes import VOCABULARY, Group

_ALSO: Mapping[str, tuple[str, ...]] = {
    "young": ("young man", "young woman", "young person", "young adult"),
    "clean_shaven": ("clean-shaven", "clean shaven"),
    "5_o_clock_shadow": ("five o'clock shadow", "5 o'clock shadow"),
    "bags_under_eyes": ("bags under eyes", "under-eye bags"),
    "smile": words("smile smiles smiled smiley"),
    "laugh": words("laugh laughs laughed laughter"),
    "cry": words("cries cried sobbing"),
    "weep": words("weeps wept"),
    "frown": words("frown frowns frowned"),
    "nod": ("nods", "nodded", "nods the head", "nodding the head"),
    "talk": words("talks talked speaks"),
    "shout": words("shouts shouted yells"),
    "sing": words("sings sang"),
    "whisper": words("whispers whispered"),
    "yawn": words("yawn yawns yawned"),
    "wink": words("wink winks winked"),
    "grin": words("grin grins grinned"),
    "grimace": words("grimace grimaces grimaced"),
    "sneer": words("sneer sneers sneered"),
    "smirk": words("smirk smirks smirked"),
    "blush": words("blushes blushed"),
    "pout": words("pout pouts pouted"),
    "squint": words("squints squinted"),
    "glare": words("glares glared"),
    "stare": words("stares stared"),
    "gaze": words("gazes gazed"),
    "wince": words("winces winced"),
    "sigh": words("sighs sighed"),
    "sneeze": words("sneezes sneezed"),
    "cough": words("coughs coughed"),
    "chew": words("chews chewed"),
    "eat": words("eats"),
    "shake_head": ("shakes the head", "shook the head"),
    "turn": ("turns the head", "turned the head"),
    "head_wagging": ("wags the head",),
    "close_eyes": ("closes the eyes", "closed eyes", "eyes closed", "eyes are closed"),
    "look_around": ("looks around", "looked around"),
}
_AMBIGUOUS = frozenset(
    {"shades", "man", "masculine"}
)  # "shades of brown"; gender has its own check
_MODIFIERS = frozenset(
    words("dark light fair pale medium deep reddish golden ash silver very slightly")
)
_COLOURS = frozenset(words("black brown blond blonde gray grey white red chestnut"))
_FILLERS = frozenset(
    words("short thick thin neat shiny smooth messy shoulder-length medium-length loose tidy")
)
_BE = frozenset(words("is are was were looks look appears appear seems seem"))
_BE_NOT = frozenset(words("isn't aren't wasn't weren't"))
_RELATIVES = frozenset({"that", "which"})
_JOINERS = frozenset({",", "and"})
_POSSESSIVES = frozenset({"his", "her", "their"})
_OWNED = frozenset({"head", "eyes", "nose"})  # "shaking his head" is "shaking the head"

_OR = frozenset({"or", "nor"})
_NEW_CLAUSE = frozenset(
    words(". ; : ! ? but and with while then he she they it is are looks appears seems has have")
)

# Words that name an emotion elsewhere, and ways to say "not": brought to what the tables read.
_REWRITES = (
    (r"\bno beard\b(?! n?or\b)", " beardless "),  # one name: its "no" denies nothing after it
    (r"\band (?=an? )", ", "),  # "no hat and a beard"
    (r"\bno longer \w+", " "),
    (r"\b(instead of|rather than|as opposed to)\b", " not "),
    (r"\bcontents? (of|in|is)\b", " "),
    (r"\bas (if|though) \w+\b", " "),
    (r"\b(natural|light|subtle|minimal|soft) make-?up\b", " "),  # the attribute is a heavy one
    (r"\bcomposed of\b", " "),
    (r"\bsurprising(ly)?\b", " "),
)


def read_attributes(text: str) -> LabelReading:
    """Names of appearance and action that ``text`` asserts and denies, in order of mention.

    Example:
        >>> read_attributes("She has long brown hair and is not smiling.").asserted
        ('long_hair', 'brown_hair')
    """
    table, name_of = _table()
    reading = table.read(" ".join(_plain(_rewritten(text))))
    return LabelReading(
        asserted=tuple(name_of[label] for label in reading.asserted),
        denied=tuple(name_of[label] for label in reading.denied),
    )


def read_emotions(text: str) -> LabelReading:
    """Emotions by name of the vocabulary, or of the table where the vocabulary has none.

    "Calm" is how one may look beside any emotion; only plainer words assert ``neutral``.
    """
    reading = EMOTIONS.read(re.sub(r"\b(calm(ly)?|composed)\b", " ", _rewritten(text)))
    return LabelReading(
        asserted=tuple(VOCABULARY.find(label) or label for label in reading.asserted),
        denied=tuple(VOCABULARY.find(label) or label for label in reading.denied),
    )


def _rewritten(text: str) -> str:
    text = text.lower()
    for pattern, replacement in _REWRITES:
        text = re.sub(pattern, replacement, text)
    return " ".join(_deny_lists(tokenize(text)))


def _deny_lists(tokens: Sequence[str]) -> Iterator[str]:
    """Tokens in which a denied list denies each of its members.

    "no hat, mask or glasses" -> no hat , not mask or not glasses.
    """
    last_or = -1  # of the list that is being denied
    for index, token in enumerate(tokens):
        yield token
        if is_negator(token) and index > last_or:
            for ahead in range(index + 1, len(tokens)):
                if tokens[ahead] in _NEW_CLAUSE:
                    break
                last_or = ahead if tokens[ahead] in _OR else last_or
        elif index <= last_or and (token == "," or token in _OR) and tokens[index + 1] not in _OR:
            yield "not"


@functools.cache
def _table() -> tuple[LabelTable, dict[str, str]]:
    """The table, keyed by phrases without article, and the name of each phrase."""
    aliases: dict[str, tuple[str, ...]] = {}
    names: dict[str, str] = {}
    for item in VOCABULARY:
        if item.group is Group.EMOTION or item.name == "male":
            continue
        label = _bare(item.phrase)
        names[label] = item.name
        others = (*item.aliases, *_ALSO.get(item.name, ()))
        aliases[label] = tuple(_bare(word) for word in others if word not in _AMBIGUOUS)
    return LabelTable(aliases), names


def _bare(phrase: str) -> str:
    return re.sub(r"^(a|an|the) ", "", phrase.lower())


@functools.cache
def _adjectives() -> dict[str, frozenset[str]]:
    """By noun ("hair"), the adjectives that make an attribute of it ("long")."""
    table, _ = _table()
    found: dict[str, set[str]] = {}
    for item in VOCABULARY:
        if item.group is Group.APPEARANCE:
            for phrase in (item.phrase, *item.aliases):
                match tokenize(_bare(phrase)):
                    case [adjective, noun] if adjective != "no" and table.exactly(_bare(phrase)):
                        found.setdefault(noun, set()).add(adjective)
    return {noun: frozenset(adjectives) for noun, adjectives in found.items()}


@dataclass(frozen=True, slots=True)
class _Run:
    """Adjectives of a noun, and the tokens that they take up."""

    start: int
    stop: int
    adjectives: tuple[str, ...]
    negated: bool = False


def _plain(text: str) -> list[str]:
    """Tokens of ``text`` with every attributive or predicative adjective beside its noun."""
    tokens = tokenize(text)
    for index, token in enumerate(tokens[:-1]):
        if token in _POSSESSIVES and tokens[index + 1] in _OWNED:
            tokens[index] = "the"
    result: list[str] = []
    position = 0
    while position < len(tokens):
        noun = tokens[position]
        known = _adjectives().get(noun)
        if known is None:
            result.append(noun)
            position += 1
            continue
        before = _before(result, known)
        del result[before.start :]
        result += _spread(before.adjectives, noun)
        after = _after(tokens, position + 1, known)
        if after.adjectives:
            result.append(",")
            result += _spread(after.adjectives, noun, negated=after.negated)
        position = after.stop
    return result


def _spread(adjectives: Sequence[str], noun: str, *, negated: bool = False) -> Iterator[str]:
    """ "long brown" and "hair" -> long hair , brown hair."""
    if not adjectives:
        yield noun
    for index, adjective in enumerate(adjectives):
        if index:
            yield ","
        if negated:
            yield "not"
        yield adjective
        yield noun


def _before(tokens: Sequence[str], known: frozenset[str]) -> _Run:
    """The run of adjectives that ends ``tokens``."""
    allowed = known | _FILLERS | _MODIFIERS
    start = len(tokens)
    while start > 0 and (
        tokens[start - 1] in allowed
        or (start > 1 and tokens[start - 1] in _JOINERS and tokens[start - 2] in allowed)
    ):
        start -= 1
    adjectives = _telling(tokens[start:], known)
    if not adjectives:  # "short hair" stays as it is
        return _Run(len(tokens), len(tokens), ())
    return _Run(start, len(tokens), adjectives)


def _after(tokens: Sequence[str], start: int, known: frozenset[str]) -> _Run:
    """The run of adjectives in "hair is long and brown", "hair that isn't long"."""
    position = start + (start < len(tokens) and tokens[start] in _RELATIVES)
    if position >= len(tokens) or tokens[position] not in _BE | _BE_NOT:
        return _Run(start, start, ())
    negated = tokens[position] in _BE_NOT
    position += 1
    if position < len(tokens) and tokens[position] == "not":
        negated, position = True, position + 1
    allowed = known | _FILLERS | _MODIFIERS | _JOINERS
    stop = position
    while stop < len(tokens) and tokens[stop] in allowed:
        stop += 1
    while stop > position and tokens[stop - 1] in _JOINERS:
        stop -= 1
    adjectives = _telling(tokens[position:stop], known)
    return _Run(start, stop, adjectives, negated) if adjectives else _Run(start, start, ())


def _telling(tokens: Sequence[str], known: frozenset[str]) -> tuple[str, ...]:
    """The known adjectives; "dark" before "brown" only shades it."""
    return tuple(
        token
        for index, token in enumerate(tokens)
        if token in known
        and not (token in _MODIFIERS and _COLOURS & {*tokens[index + 1 : index + 2]})
    )
