"""What was computed from a video once, kept on disk: pixels and outputs of frozen encoders."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.paths import cache_dir

logger = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 4 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureKey:
    """Everything that the cached tensors are a function of.

    Example:
        >>> FeatureKey(video_sha256="9f2c…", num_frames=8, preprocessing="frames-v1/…",
        ...            encoder="facial-pixels")
    """

    video_sha256: str
    num_frames: int
    preprocessing: str
    encoder: str  # stream and hash of its encoder's weights, or stream and "pixels"

    def digest(self) -> str:
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()


class FeatureCache:
    """Named tensors under a :class:`FeatureKey`, one safetensors file each.

    Files are written beside and renamed, so that readers in other processes see them whole. A file
    that is damaged (or not the key's) counts as absent and is deleted. When the files outgrow
    ``max_bytes``, those unused for the longest time go. A full or read-only disk costs speed, never
    the run.
    """

    def __init__(
        self, folder: str | Path | None = None, *, max_bytes: int = DEFAULT_MAX_BYTES
    ) -> None:
        self.folder = cache_dir("features") if folder is None else Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.max_bytes = max_bytes

    def get(self, key: FeatureKey) -> dict[str, Tensor] | None:
        """The tensors of ``key``, or None when they have to be computed (again)."""
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                checksum = (file.metadata() or {}).get("checksum")
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError) as error:
            self._discard(path, str(error))
            return None
        if checksum != _checksum(key, tensors):
            self._discard(path, "its checksum differs")
            return None
        _touch(path)
        return tensors

    def put(self, key: FeatureKey, tensors: Mapping[str, Tensor]) -> None:
        """Keep ``tensors`` under ``key``, then make room if needed."""
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        if sum(tensor.nbytes for tensor in plain.values()) > self.max_bytes:
            return
        try:
            handle, temporary = tempfile.mkstemp(dir=self.folder, suffix=".partial")
            os.close(handle)
            try:
                save_file(plain, temporary, metadata={"checksum": _checksum(key, plain)})
                Path(temporary).replace(self._path(key))
            finally:
                Path(temporary).unlink(missing_ok=True)
            self._evict()
        except (OSError, SafetensorError) as error:
            logger.warning("features are not cached in %s: %s", self.folder, error)

    def _path(self, key: FeatureKey) -> Path:
        return self.folder / f"{key.digest()}.safetensors"

    def _discard(self, path: Path, reason: str) -> None:
        logger.warning("cached features %s are damaged (%s); they are made again", path, reason)
        path.unlink(missing_ok=True)

    def _evict(self) -> None:
        entries = []
        for path in self.folder.glob("*.safetensors"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process made room, too
                continue
            entries.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


def _touch(path: Path) -> None:
    """Mark as used now; on a read-only disk the order of eviction does not matter."""
    try:
        os.utime(path)
    except OSError as error:
        logger.debug("cannot mark %s as used: %s", path, error)


def _checksum(key: FeatureKey, tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 over key, names, shapes and bytes: safetensors itself notices only cut-off files."""
    value = zlib.crc32(key.digest().encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode(), value)
        value = zlib.crc32(tensor.numpy().tobytes(), value)
    return f"{value:08x}"
