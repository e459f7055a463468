"""The mini corpus: every real face that the installed wheels carry, cut, labelled and split.

    wheels -> find faces -> segments -> targets and texts -> cut clips -> samples
                  |             |                                |           |
             faces/*.json  rejected.jsonl                  clips/*.mp4  samples.jsonl
                                                         manifest.json

Every step leaves whole files only and takes up what an earlier, interrupted build finished: a
source clip that was searched is not searched again, a clip whose file is intact not cut again.
"""

from __future__ import annotations

import importlib.metadata
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.progress import bar
from corpus.config import CorpusConfig
from corpus.cut import clip_digest, write_clip
from corpus.labels import TRACKS, ClipLabels, load_labels
from corpus.manifest import Manifest, write_atomically
from corpus.schema import Split, save_samples
from corpus.segments import Rejection, Segment, segment
from corpus.sources import DETECTOR, face_track, locate
from corpus.splits import LabelledSegment, build_samples
from policy.video import file_sha256, read_clip


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusReport:
    """What a build left on disk; ``str(report)`` is for people."""

    path: Path
    splits: dict[str, int]  # samples per split
    clips: int
    cut: int  # clips cut by this build; the others were there already
    frames: int  # of all clips together
    rejected: tuple[Rejection, ...]
    seconds: float

    def __str__(self) -> str:
        splits = ", ".join(f"{count} {split}" for split, count in self.splits.items())
        return "\n".join(
            [
                f"{self.path}: {self.clips} clips, {self.frames} frames with faces "
                f"({self.cut} clips cut now) in {self.seconds:.1f} s",
                f"  samples: {splits}",
                *(
                    f"  left out: {item.source} frames {item.first}-{item.last}: {item.reason}"
                    for item in self.rejected
                ),
            ]
        )


def build_mini_corpus(config: CorpusConfig) -> CorpusReport:
    """Build the corpus in ``config.path``, or bring it up to date.

    Raises:
        ConfigError: for an unknown clip, a segment without labels, fewer segments than the splits
            need, or a path that is no folder.
        MachineError: when a wheel is missing or carries another file than the labelled one.
    """
    started = time.monotonic()
    root = _prepare(Path(config.path))
    label_file = load_labels()
    manifest = Manifest(root)
    kept: list[LabelledSegment] = []
    rejected: list[Rejection] = []
    for labels in label_file.choose(config.clips):
        track = face_track(labels, root / "faces")
        segments, dropped = segment(labels.name, track, min_frames=config.min_frames)
        kept += [_label(part, labels, manifest.clip_path(part.clip_id)) for part in segments]
        rejected += dropped
    # Texts need no pixels: a recipe that asks for too much is refused before anything is cut.
    samples = build_samples(kept, rl_samples=config.rl_samples, seed=config.seed)
    num_cut = _cut_missing(kept, manifest)
    write_atomically(
        root / "rejected.jsonl", "".join(json.dumps(asdict(item)) + "\n" for item in rejected)
    )
    save_samples(samples, root / "samples.jsonl")
    manifest.finish(
        (item.segment.clip_id for item in kept), _about(config, label_file.version, root)
    )
    counts = Counter(sample.split for sample in samples)
    return CorpusReport(
        path=root,
        splits={split.value: counts[split.value] for split in Split},
        clips=len(kept),
        cut=num_cut,
        frames=sum(len(item.segment) for item in kept),
        rejected=tuple(rejected),
        seconds=time.monotonic() - started,
    )


def _prepare(root: Path) -> Path:
    """The folder, without what a killed build left half-written."""
    try:
        for folder in (root, root / "clips", root / "faces"):
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob("*.part"):
                leftover.unlink()
    except OSError as error:
        raise ConfigError(
            f"corpus.path={root}", f"is no folder to write in ({error.strerror})", "name another"
        ) from error
    return root


def _label(part: Segment, labels: ClipLabels, video: Path) -> LabelledSegment:
    targets = labels.targets(part.first, part.last)
    if missing := [track for track in TRACKS if not getattr(targets, track)]:
        raise ConfigError(
            f"no {' and no '.join(missing)} for {labels.name} frames {part.first}-{part.last}",
            "every segment with a face is labelled in all three tracks",
            "complete corpus/mini_labels.yaml",
        )
    return LabelledSegment(segment=part, labels=labels, targets=targets, video=video)


def _cut_missing(kept: Sequence[LabelledSegment], manifest: Manifest) -> int:
    """Cut every clip that is not there or not intact; each source is decoded at most once."""
    missing = [item for item in kept if not manifest.has(item.segment.clip_id, _digest(item))]
    if not missing:
        return 0
    with bar("cutting clips", total=len(missing), unit="clip") as shown:
        for _, items in groupby(missing, key=lambda item: item.labels.name):
            source = None
            for item in items:
                source = source or read_clip(locate(item.labels))
                write_clip(source, item.segment.first, item.segment.last, item.video)
                manifest.record(item.segment.clip_id, _digest(item))
                shown.update()
    return len(missing)


def _digest(item: LabelledSegment) -> str:
    return clip_digest(item.labels.sha256, item.segment.first, item.segment.last)


def _about(config: CorpusConfig, label_version: int, root: Path) -> dict[str, Any]:
    return {
        "labels": label_version,
        "config": {key: value for key, value in asdict(config).items() if key != "path"},
        "versions": {name: importlib.metadata.version(name) for name in ("av", DETECTOR)},
        "samples_sha256": file_sha256(root / "samples.jsonl"),
    }
