"""Which items of evaluation a model has seen in training."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from corpus.adapters import ADAPTERS, find_adapter
from corpus.records import SourceClip

NUM_EXAMPLES = 3


def evaluation_leakage(clips: Iterable[SourceClip]) -> list[str]:
    """Statements on evaluation items among ``clips`` that are, or may be, training material.

    A clip is recognised by its recording (dataset and number within it, whatever collection it lies
    in) and by its file. Training material is what no source holds out: training sources, the
    training part of evaluation sets, and what comes from adapters of other packages.

    Example:
        >>> evaluation_leakage(dfec_clips + dfew_clips)
        ['DFEC: 43 of 200 clips come from DFEW, an evaluation set: dfew/2961, …', …]
    """
    evaluation: dict[str, list[SourceClip]] = {}
    training: dict[str, list[SourceClip]] = {}
    for clip in clips:
        trained_on = (clip.official_split or "").startswith("train")
        held = clip.held_out or (_is_evaluation(clip.source) and not trained_on)
        side = evaluation if held else training
        side.setdefault(clip.source, []).append(clip)
    statements = []
    for name, tested in evaluation.items():
        statements += _collected(name, tested)
        for other, learned in training.items():
            statements += _shared(name, tested, other, learned)
    for name, learned in training.items():
        statements += _tested(name, learned)
    return statements


def _is_evaluation(source: str) -> bool:
    return source in ADAPTERS and find_adapter(source).purpose == "evaluation"


def _title(source: str) -> str:
    return find_adapter(source).title if source in ADAPTERS else source


def _collected(name: str, clips: Sequence[SourceClip]) -> list[str]:
    """Clips of an evaluation set that come from another dataset."""
    by_origin: dict[str, list[str]] = {}
    for clip in clips:
        origin = clip.recording.partition("/")[0]
        if origin != name and origin in ADAPTERS:
            by_origin.setdefault(origin, []).append(clip.recording)
    return [
        f"{_title(name)}: {len(items)} of {len(clips)} clips come from {_title(origin)}, "
        f"{'an evaluation set' if _is_evaluation(origin) else 'a training source'}: "
        f"{_examples(items)}"
        for origin, items in by_origin.items()
    ]


def _shared(
    name: str, clips: Sequence[SourceClip], other: str, training: Sequence[SourceClip]
) -> list[str]:
    """Clips of an evaluation set that are among a training source's clips."""
    recordings = {clip.recording for clip in training}
    files = {os.path.realpath(clip.video) for clip in training}
    items = [
        clip.recording
        for clip in clips
        if clip.recording in recordings or os.path.realpath(clip.video) in files
    ]
    if not items:
        return []
    return [
        f"{_title(name)}: {len(items)} of {len(clips)} clips are also trained on, "
        f"through {_title(other)}: {_examples(items)}"
    ]


def _tested(name: str, clips: Sequence[SourceClip]) -> list[str]:
    """Clips of a training source that its own official test uses."""
    # YouTube Faces has no training part: every fold is a part of its verification test.
    test = [clip for clip in clips if (clip.official_split or "").startswith(("test", "fold"))]
    if not test:
        return []
    return [
        f"{_title(name)}: {len(test)} of {len(clips)} clips that are trained on belong to its "
        f"official test: {_examples([clip.recording for clip in test])}"
    ]


def _examples(items: Sequence[str]) -> str:
    return ", ".join(items[:NUM_EXAMPLES]) + (", …" if len(items) > NUM_EXAMPLES else "")
