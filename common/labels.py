"""Reading closed answers out of free text: which labels of a fixed set does a text assert or deny?

Floor 0, standard library only: rewards read emotions out of responses with it, evaluation reads
closed answers with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_TOKEN = re.compile(r"[a-z0-9]+(?:['’-][a-z0-9]+)*|[,.;:!?]")
_NEGATORS = frozenset(
    {"no", "not", "never", "without", "neither", "nor", "hardly", "cannot", "lacks", "lacking"}
)
_BOUNDARIES = frozenset({",", ".", ";", ":", "!", "?", "but", "instead", "rather"})
_DETERMINERS = frozenset({"no", "without"})  # deny a noun, not the verb after it:
_VERBS = frozenset({"is", "looks", "appears", "seems"})  # "a man with no beard looks happy"
_NEGATION_REACH = 3  # words between a negator and what it denies: "does not look very happy"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReading:
    """What one text says about one set of labels, in order of mention, each label once.

    Example:
        >>> EMOTIONS.read("He smiles and looks joyful, not sad.")
        LabelReading(asserted=('happy',), denied=('sad',), cued=('happy',))
    """

    asserted: tuple[str, ...] = ()  # named as true
    denied: tuple[str, ...] = ()  # named as untrue
    cued: tuple[str, ...] = ()  # not named, but suggested by a cue: "smiling"


class LabelTable:
    """Labels, the words and phrases that name them, and weaker cues that only suggest them.

    Aliases and cues are matched as whole words, longest first, so that ``no beard`` is not read as
    ``beard``.
    """

    def __init__(
        self,
        aliases: Mapping[str, Iterable[str]],
        cues: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        self.labels = tuple(aliases)
        self._aliases = _index({label: (label, *names) for label, names in aliases.items()})
        self._cues = _index(cues or {})

    def read(self, text: str) -> LabelReading:
        """The labels that ``text`` asserts, denies and suggests."""
        tokens = tokenize(text)
        asserted, denied = _scan(tokens, self._aliases)
        return LabelReading(asserted=asserted, denied=denied, cued=_scan(tokens, self._cues)[0])

    def exactly(self, text: str) -> str | None:
        """The label that ``text`` names and nothing else, or None (``"joyful"`` -> ``"happy"``)."""
        return self._aliases.get(tuple(tokenize(text)))


def tokenize(text: str) -> list[str]:
    """Lower-case words and clause punctuation; an underscore separates words as a space does."""
    return [token.replace("’", "'") for token in _TOKEN.findall(text.lower().replace("_", " "))]


def is_negated(tokens: list[str], index: int) -> bool:
    """Whether a negator up to three words before ``index``, in its clause, denies that word."""
    passed_verb = False
    for back in range(index - 1, max(-1, index - 2 - _NEGATION_REACH), -1):
        token = tokens[back]
        if token in _BOUNDARIES:
            return False
        if is_negator(token):
            only = token == "not" and tokens[back + 1] in {"only", "just"}
            return not only and not (token in _DETERMINERS and passed_verb)
        passed_verb = passed_verb or token in _VERBS
    return False


def is_negator(token: str) -> bool:
    """Whether a token denies what follows it: ``no``, ``without``, ``isn't``."""
    return token in _NEGATORS or token.endswith("n't")


def _index(aliases: Mapping[str, Iterable[str]]) -> dict[tuple[str, ...], str]:
    index: dict[tuple[str, ...], str] = {}
    for label, names in aliases.items():
        for name in names:
            key = tuple(tokenize(name))
            if index.setdefault(key, label) != label:
                raise ValueError(
                    f"{name!r} names both {index[key]} and {label}; an alias names one label"
                )
    return index


def _scan(
    tokens: list[str], index: Mapping[tuple[str, ...], str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    longest = max((len(key) for key in index), default=0)
    asserted: dict[str, None] = {}
    denied: dict[str, None] = {}
    position = 0
    while position < len(tokens):
        for length in range(longest, 0, -1):
            label = index.get(tuple(tokens[position : position + length]))
            if label is not None and position + length <= len(tokens):
                (denied if is_negated(tokens, position) else asserted)[label] = None
                position += length
                break
        else:
            position += 1
    return tuple(asserted), tuple(denied)


def words(text: str) -> tuple[str, ...]:
    """The blank-separated words of ``text``: a list of aliases that stays readable."""
    return tuple(text.split())


EMOTIONS = LabelTable(
    {
        "happy": words(
            "happiness happily joy joyful joyous joyfully cheerful cheerfully delighted delight "
            "glad pleased elated amused content contented ecstatic"
        ),
        "sad": words(
            "sadness sadly unhappy sorrow sorrowful gloomy melancholy grief grieving mournful "
            "dejected depressed"
        ),
        "angry": words(
            "anger angrily mad furious fury rage enraged irritated annoyed irate outraged"
        ),
        "surprise": words(
            "surprised surprising surprisingly astonished astonishment amazed amazement shocked "
            "startled"
        ),
        "fear": words("fearful fearfully afraid scared frightened terrified terror"),
        "disgust": words("disgusted disgusting revulsion repulsed revolted"),
        "contempt": words("contemptuous contemptuously scornful scorn disdain disdainful"),
        "neutral": (
            *words("expressionless emotionless calm calmly composed impassive"),
            *("no emotion", "no clear emotion", "no strong emotion", "no visible emotion"),
            *("without emotion", "no expression"),
        ),
        "anxiety": words("anxious anxiously nervous worried uneasy"),
        "helplessness": words("helpless helplessly powerless"),
        "disappointment": words("disappointed disappointing let-down"),
        "shame": words("ashamed embarrassed embarrassment"),
        "confusion": words("confused puzzled perplexed bewildered"),
    },
    cues={
        "happy": words(
            "smile smiles smiling smiled grin grins grinning laugh laughs laughing laughed laughter"
        ),
        "sad": words("cry cries crying cried weep weeps weeping sob sobs sobbing tears tearful"),
        "angry": words("scowl scowls scowling glare glares glaring"),
    },
)
"""DFEW's seven basic emotions, MAFW's four more, and FaVChat v4's shame and confusion (Table 5)."""
