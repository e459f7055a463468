"""Clips that belong on one side of every split: those of one source clip, recording or person."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from common.errors import ConfigError
from corpus.attributes import VOCABULARY, Group
from corpus.records import Pair
from corpus.schema import QuestionKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipToSplit:
    """What a partition depends on."""

    cut_id: str
    clip_id: str  # of the source clip
    recording: str
    identity: str | None = None
    held_out: bool = False
    official_split: str | None = None
    present: tuple[str, ...] = ()  # names of corpus.attributes; emotions in order of time
    pairs: tuple[Pair, ...] = ()
    has_summary: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One sample: a question about a cut, or (``pair`` -1) its summary."""

    cut_id: str
    pair: int


SUMMARY = -1
SHOWN = 5  # clips named in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipGroup:
    """Clips that belong on one side."""

    order: str  # drawn by the seed: decides wherever nothing else does
    clips: tuple[ClipToSplit, ...]
    questions: tuple[tuple[Choice, Pair], ...]

    @property
    def forced(self) -> bool:
        return any(clip.held_out for clip in self.clips)

    @property
    def is_test(self) -> bool:
        return any((clip.official_split or "").startswith("test") for clip in self.clips)

    @property
    def emotion(self) -> float:
        """Mean emotion content of its clips."""
        return sum(emotion_content(clip.present) for clip in self.clips) / len(self.clips)

    def summaries(self) -> list[Choice]:
        return [Choice(cut_id=c.cut_id, pair=SUMMARY) for c in self.clips if c.has_summary]

    def emotional(self) -> list[Choice]:
        showing = {clip.cut_id for clip in self.clips if emotion_content(clip.present)}
        return [
            choice
            for choice, pair in self.questions
            if choice.cut_id in showing and is_emotional(pair)
        ]


def group_clips(clips: Sequence[ClipToSplit], seed: int) -> list[ClipGroup]:
    """Connected clips, in the order that ``seed`` draws.

    Raises:
        ConfigError: for two clips with one name.
    """
    from scipy.cluster.hierarchy import DisjointSet

    by_id = {clip.cut_id: clip for clip in clips}
    if len(by_id) != len(clips):
        twice = next(name for name, count in Counter(c.cut_id for c in clips).items() if count > 1)
        raise ConfigError(
            f"clip {twice} twice",
            "every clip has a name of its own",
            "list each dataset once in corpus.sources",
        )
    sets = DisjointSet(("cut", name) for name in by_id)
    for clip in clips:
        ties = [("clip", clip.clip_id), ("recording", clip.recording)]
        ties += [("identity", clip.identity)] if clip.identity else []
        for tie in ties:
            sets.add(tie)
            sets.merge(("cut", clip.cut_id), tie)
    found = []
    for subset in sets.subsets():
        members = tuple(by_id[name] for kind, name in sorted(subset) if kind == "cut")
        order = hashlib.sha256(f"{seed}/{members[0].cut_id}".encode()).hexdigest()
        found.append(ClipGroup(order=order, clips=members, questions=tuple(_questions(members))))
    return sorted(found, key=lambda group: group.order)


def groups_to_train_on(groups: Sequence[ClipGroup], rl_samples: int) -> list[ClipGroup]:
    """The groups without a held-out clip; none for a corpus that only evaluates.

    Args:
        rl_samples: 0 allows that every clip is held out.

    Raises:
        ConfigError: when there is no clip at all, or none is left to train on.
    """
    clips = [clip for group in groups for clip in group.clips]
    if not clips:
        raise ConfigError(
            "no clip to split: all were rejected",
            "a corpus has at least one clip",
            "see report.html for the reasons",
        )
    free = [group for group in groups if not group.forced]
    held_out = sorted({clip.clip_id for clip in clips if clip.held_out})
    names = ", ".join(held_out[:SHOWN]) + (", …" if len(held_out) > SHOWN else "")
    if not free and not all(clip.held_out for clip in clips):
        raise ConfigError(
            f"nothing to train on: every clip shows a recording or a person of {names}",
            "what shares a recording or a person with held-out clips is not trained on",
            "give clips of other people, or only the held-out ones",
        )
    if not free and rl_samples:
        raise ConfigError(
            f"nothing to train on: only held-out clips ({names})",
            "training needs at least one clip that is not held out",
            "set corpus.split.rl_samples=0 for a corpus that only evaluates, or give other clips",
        )
    return free


def _questions(clips: Iterable[ClipToSplit]) -> Iterator[tuple[Choice, Pair]]:
    """Every question once: a clip's second equal question would be the same sample."""
    for clip in clips:
        seen = set()
        for index, pair in enumerate(clip.pairs):
            content = (pair.question, pair.answer, pair.targets)
            if content not in seen:
                seen.add(content)
                yield Choice(cut_id=clip.cut_id, pair=index), pair


def emotion_content(present: Sequence[str]) -> int:
    """How much emotion a clip shows, by the names seen in it (emotions in order of time).

    One for each emotion that is not neutral, one for each change from an emotion to the next, and
    one for each micro-expression (the twelve of FaVChat's third classifier).

    Example:
        >>> emotion_content(("young", "neutral", "happy", "smirk"))  # happy, one change, smirk
        3
    """
    known = [VOCABULARY[name] for name in present if name in VOCABULARY]
    emotions = [item.name for item in known if item.group == Group.EMOTION]
    changes = sum(first != second for first, second in pairwise(emotions))
    micro = {i.name for i in known if i.extractor == "micro_12" and i.group != Group.EMOTION}
    return len(set(emotions) - {"neutral"}) + changes + len(micro)


def is_emotional(pair: Pair) -> bool:
    """Does stage 3 ask this question? It asks for an emotion, its course, or reasons about one."""
    return (
        pair.kind in (QuestionKind.EMOTION, QuestionKind.REASONING)
        or bool(pair.targets.emotion)
        or pair.extra.get("topic") == "course"
    )
