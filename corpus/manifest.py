"""The manifest: which clips a corpus folder holds, finished and intact."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from policy.video import file_sha256

FORMAT_VERSION = 1


class Manifest:
    """``manifest.json`` of a corpus folder, and the folder ``clips/`` that it answers for.

    Written after every clip, so that a build that dies loses at most the clip it was cutting.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / "manifest.json"
        self.clips_folder = root / "clips"
        self.clips_folder.mkdir(parents=True, exist_ok=True)
        self._recorded: dict[str, dict[str, str]] = read_json(self.path).get("clips", {})

    def clip_path(self, clip_id: str) -> Path:
        return self.clips_folder / f"{clip_id}.mp4"

    def has(self, clip_id: str, digest: str) -> bool:
        """Is this clip there, cut from the same frames, its file unchanged since?"""
        entry, path = self._recorded.get(clip_id, {}), self.clip_path(clip_id)
        return (
            entry.get("digest") == digest
            and path.is_file()
            and path.stat().st_size > 0
            and file_sha256(path) == entry.get("sha256")
        )

    def record(self, clip_id: str, digest: str) -> None:
        """Enter a clip that now lies whole under its path."""
        self._recorded[clip_id] = {
            "digest": digest,
            "sha256": file_sha256(self.clip_path(clip_id)),
        }
        self._write({})

    def finish(self, clip_ids: Iterable[str], about: Mapping[str, Any]) -> None:
        """Forget and delete recorded clips that are no longer wanted, and say what was built."""
        wanted = set(clip_ids)
        for clip_id in self._recorded.keys() - wanted:
            self.clip_path(clip_id).unlink(missing_ok=True)
        self._recorded = {key: self._recorded[key] for key in sorted(wanted)}
        self._write(about)

    def _write(self, about: Mapping[str, Any]) -> None:
        content = {"format": FORMAT_VERSION, **about, "clips": self._recorded}
        write_atomically(self.path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from disk; empty when there is none or it is damaged: it is then made again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is either absent, the old one, or whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
