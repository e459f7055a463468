"""What a corpus holds, in numbers: the paper's Table 1, Table 5 and Fig. 10, and why clips left."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from corpus.attributes import VOCABULARY
from corpus.reading import read_attributes, read_emotions
from corpus.records import Cut, Features, Inspection, Rejection, SourceClip, Texts
from corpus.schema import QuestionKind, Sample, Split

PAPER_VIDEOS = 61_007
"""Videos that the counts of Table 5 are of."""

_CUT_STAGES = ("extract", "write", "check", "split")  # that reject cuts, one by one


def whitespace_words(text: str) -> int:
    """Words between white space: the default measure of length."""
    return len(text.split())


@dataclass(frozen=True, kw_only=True)
class Contents:
    """All records of a corpus, stage by stage; any of them may be empty."""

    clips: Sequence[SourceClip] = ()
    inspections: Sequence[Inspection] = ()
    cuts: Sequence[Cut] = ()
    features: Sequence[Features] = ()
    texts: Sequence[Texts] = ()
    rejections: Sequence[Rejection] = ()
    samples: Sequence[Sample] = ()

    @cached_property
    def sources(self) -> dict[str, SourceClip]:
        return {clip.clip_id: clip for clip in self.clips}

    @cached_property
    def inspected(self) -> dict[str, Inspection]:
        return {inspection.clip_id: inspection for inspection in self.inspections}

    @cached_property
    def cuts_by_id(self) -> dict[str, Cut]:
        return {cut.cut_id: cut for cut in self.cuts}

    def source_of(self, cut_id: str) -> str:
        """Name of the dataset that a cut is from; empty when its records are not there."""
        cut = self.cuts_by_id.get(cut_id)
        clip = self.sources.get(cut.clip_id) if cut else None
        return clip.source if clip else ""

    @cached_property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Attribute names of each cut: the classifiers', or those that its phrases stand for."""
        return {item.cut_id: item.present or _names(item) for item in self.features}

    @cached_property
    def accepted(self) -> tuple[Cut, ...]:
        """Cuts with texts that were not rejected; without texts, all that were not rejected."""
        out = self.rejected_cuts(*_CUT_STAGES)
        written = {text.cut_id for text in self.texts}
        return tuple(
            cut
            for cut in self.cuts
            if cut.cut_id not in out and (not written or cut.cut_id in written)
        )

    def rejected_cuts(self, *stages: str) -> set[str]:
        """Ids of the cuts that were rejected at ``stages``."""
        return {
            rejection.cut_id
            for rejection in self.rejections
            if rejection.stage in stages and rejection.cut_id is not None
        }


def _names(features: Features) -> tuple[str, ...]:
    targets = features.targets
    phrases = (*targets.attributes, *targets.emotion, *targets.action)
    return tuple(name for phrase in phrases if (name := VOCABULARY.find(phrase)))


# --- stages and reasons --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCount:
    """How many are left after a stage."""

    stage: str
    count: int
    unit: str  # "source clips" or "clips"


def stage_counts(contents: Contents) -> list[StageCount]:
    """What is left after each stage; source clips up to the filter, clips cut from them after it.

    A stage's number includes what only later stages rejected.
    """
    left = contents.rejected_cuts
    unfit = {r.clip_id for r in contents.rejections if r.stage in ("inspect", "filter")}
    cut = {item.cut_id for item in contents.cuts} | left(*_CUT_STAGES)
    extracted = {item.cut_id for item in contents.features} - left("extract")
    written = {item.cut_id for item in contents.texts} | left("check", "split")
    counts = {
        "collected": len(contents.clips),
        "inspected": len(contents.inspections),
        "kept by the filter": len(contents.inspected.keys() - unfit),
        "cut": len(cut),
        "with features": len(extracted | left("write", "check", "split")),
        "written": len(written),
        "passed the check": len(written - left("check")),
        "in a split": len({sample.extra.get("clip_id") for sample in contents.samples}),
    }
    return [
        StageCount(stage=stage, count=count, unit="source clips" if index < 3 else "clips")
        for index, (stage, count) in enumerate(counts.items())
    ]


def reasons(rejections: Iterable[Rejection]) -> list[tuple[str, str, int]]:
    """(stage, reason, how often), most frequent first; reasons that differ in numbers are one."""
    counts = Counter((r.stage, re.sub(r"\S*\d\S*", "…", r.reason)) for r in rejections)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [(stage, reason, count) for (stage, reason), count in ordered]


# --- tables --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatistics:
    """A line of Table 1. Means are None where there is nothing to take one of."""

    source: str
    clips: int
    frames: int
    hours: float
    summaries: int
    questions: int
    tokens_per_summary: float | None
    attributes_per_summary: float | None  # that the text names (corpus.reading)
    questions_per_clip: float | None


def statistics_by_source(
    contents: Contents, count_tokens: Callable[[str], int] = whitespace_words
) -> list[SourceStatistics]:
    """Table 1, of the accepted clips: one line per source in order of appearance, then the total.

    ``hours`` counts only clips whose frame rate is known.
    """
    texts = {text.cut_id: text for text in contents.texts}
    by_source: dict[str, list[Cut]] = {}
    for cut in contents.accepted:
        by_source.setdefault(contents.source_of(cut.cut_id), []).append(cut)
    lines = [_line(contents, s, cuts, texts, count_tokens) for s, cuts in by_source.items()]
    if len(lines) != 1:
        lines.append(_line(contents, "all", contents.accepted, texts, count_tokens))
    return lines


def _line(
    contents: Contents,
    source: str,
    cuts: Sequence[Cut],
    texts: dict[str, Texts],
    count_tokens: Callable[[str], int],
) -> SourceStatistics:
    written = [texts[cut.cut_id] for cut in cuts if cut.cut_id in texts]
    summaries = [text.summary for text in written if text.summary]
    questions = sum(len(text.pairs) for text in written)
    return SourceStatistics(
        source=source,
        clips=len(cuts),
        frames=sum(len(cut) for cut in cuts),
        hours=sum(_seconds(cut, contents) for cut in cuts) / 3600,
        summaries=len(summaries),
        questions=questions,
        tokens_per_summary=_mean(count_tokens(summary) for summary in summaries),
        attributes_per_summary=_mean(num_named(summary) for summary in summaries),
        questions_per_clip=questions / len(written) if written else None,
    )


def _seconds(cut: Cut, contents: Contents) -> float:
    inspection = contents.inspected.get(cut.clip_id)
    fps = cut.fps or (inspection.fps if inspection else 0.0)
    return len(cut) / fps if fps > 0 else 0.0


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


def num_named(text: str) -> int:
    """Attributes of the 103 that a text asserts, each once."""
    return len({*read_attributes(text).asserted, *read_emotions(text).asserted})


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeCount:
    """A line of Table 5."""

    name: str
    group: str
    count: int  # clips that show it
    share: float  # of all clips with features
    paper_count: int
    paper_share: float


def attribute_counts(contents: Contents) -> list[AttributeCount]:
    """Table 5 and Fig. 10: all 103 in the table's order, over the accepted clips with features."""
    held = [contents.names[c.cut_id] for c in contents.accepted if c.cut_id in contents.names]
    counts = Counter(name for names in held for name in set(names))
    return [
        AttributeCount(
            name=item.name,
            group=item.group.value,
            count=counts[item.name],
            share=counts[item.name] / len(held) if held else 0.0,
            paper_count=item.count,
            paper_share=item.count / PAPER_VIDEOS,
        )
        for item in VOCABULARY
    ]


def split_table(samples: Iterable[Sample]) -> list[tuple[str, int, int, dict[str, int]]]:
    """For each split: its name, clips, samples, and samples by kind and by level."""
    rows = []
    by_split: dict[str, list[Sample]] = {split.value: [] for split in Split}
    for sample in samples:
        by_split.setdefault(sample.split, []).append(sample)
    for split, held in by_split.items():
        kinds = Counter(str(sample.extra.get("kind")) for sample in held)
        levels = Counter(str(sample.extra.get("level")) for sample in held)
        clips = {sample.extra.get("clip_id") for sample in held}
        parts = {kind.value: kinds[kind.value] for kind in QuestionKind} | dict(levels)
        rows.append((split, len(clips), len(held), parts))
    return rows


# --- lengths -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts in equal bins: bin i holds values from i·width to (i+1)·width − 1."""

    width: int
    counts: tuple[int, ...]
    mean: float
    total: int


def histogram(values: Iterable[int], max_bins: int = 30) -> Histogram | None:
    """Whole numbers ≥ 0 in at most ``max_bins`` bins of a round width; None without values.

    Example:
        >>> histogram([0, 3, 12], max_bins=3)
        Histogram(width=5, counts=(2, 0, 1), mean=5.0, total=3)
    """
    listed = list(values)
    if not listed:
        return None
    steps = (factor * 10**power for power in range(12) for factor in (1, 2, 5))
    width = next(step for step in steps if max(listed) // step < max_bins)
    counts = Counter(value // width for value in listed)
    return Histogram(
        width=width,
        counts=tuple(counts[index] for index in range(max(counts) + 1)),
        mean=sum(listed) / len(listed),
        total=len(listed),
    )
