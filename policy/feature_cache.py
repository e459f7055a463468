"""What was computed from a video once, kept on disk: pixels, outputs of frozen encoders, rows.

folder/
    size.json         bytes of all entries (a running sum) and when they were last counted
    lock              held while an entry goes in, for microseconds; longer where room is made
    partial/          entries being written; what a killed writer left goes after an hour
    3f/3f9c….safetensors
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from common.paths import cache_dir

logger = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 4 * 2**30

KEPT_SHARE = 0.9
"""Making room goes down to this share of the bound, so that looking at all files is rare."""

RECOUNT_SECONDS = 24 * 3600
"""The running sum is made anew after this time: files may have come and gone by other hands."""

LEFTOVER_SECONDS = 3600
"""A partial file untouched for so long belongs to a writer that is gone."""

LOCK_SECONDS = 120
"""Waiting longer than this for the lock costs the entry, not the run."""

SUFFIX = ".safetensors"

_SHARD = re.compile(r"[0-9a-f]{2}")
_ENTRY = re.compile(rf"[0-9a-f]{{64}}{re.escape(SUFFIX)}")
_PARTIAL = re.compile(r"[0-9a-f]{32}\.partial|\.tmp\w+")  # ours, and safetensors' own

_COUNTING = threading.Lock()  # of no cache alone, so that caches can be copied and pickled


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureKey:
    """Everything that the cached tensors are a function of.

    Example:
        >>> FeatureKey(video_sha256="9f2c…", num_frames=8, preprocessing="frames-v1/…",
        ...            encoder="facial-mini_xception-77ab…", dtype="torch.float32")
    """

    video_sha256: str
    num_frames: int
    preprocessing: str  # the processor's name of how frames are chosen and turned into pixels
    encoder: str  # who computed it, with the hash of its weights; or stream and "pixels"
    frames_per_clip: int = 0
    facial_grid: int = 0
    dtype: str = ""
    question: str = ""  # of visual rows, which are made in the light of one

    @property
    def is_of_rows(self) -> bool:
        """Whether visual rows lie under it, not features or pixels."""
        return bool(self.question)

    def digest(self) -> str:
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()


@dataclass(slots=True, kw_only=True)
class Lookups:
    """How often something of one kind was looked for."""

    hits: int = 0
    misses: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of the lookups that found something; 0 before the first."""
        return self.hits / max(self.hits + self.misses, 1)


class FeatureCache:
    """Named tensors under a :class:`FeatureKey`, one safetensors file each.

    Made for several processes and hundreds of thousands of entries. Files are written beside and
    renamed, so that readers see them whole. One that is damaged, or not the key's, counts as absent
    and is deleted. Entries go in under a lock and are counted before, so that the files stay within
    ``max_bytes`` however many processes write, and one that is killed leaves the sum too high,
    never too low. Where the sum exceeds the bound, files are counted, and those go that took most
    room for most time since their last use (the space-time product of Smith, 1981): among entries
    of one size the least recently used, while rows outlive the much larger features that they were
    made of. A full or read-only disk costs speed, never the run. Files of others in the folder are
    left alone.

    Attributes:
        features: lookups of features and pixels by this object, one a clip and stream.
        rows: lookups of visual rows, one a question; one that misses looks for features next.
        evictions: entries that this object deleted to make room.

    Args:
        folder: by default ``features`` in :func:`common.paths.cache_dir`.
        max_bytes: of all entries together; 0 switches the cache off.
    """

    def __init__(
        self, folder: str | Path | None = None, *, max_bytes: int = DEFAULT_MAX_BYTES
    ) -> None:
        self.folder = cache_dir("features") if folder is None else Path(folder)
        self.max_bytes = max_bytes
        self.features, self.rows = Lookups(), Lookups()
        self.evictions = 0
        self._swept = False

    def __contains__(self, key: FeatureKey) -> bool:
        """Whether there is a file, which may prove damaged or be evicted before it is read."""
        return self.max_bytes > 0 and self._path(key).exists()

    def get(self, key: FeatureKey) -> dict[str, Tensor] | None:
        """The tensors of ``key``, or None when they have to be computed (again)."""
        tensors = self._read(key) if self.max_bytes else None
        lookups = self.rows if key.is_of_rows else self.features
        with _COUNTING:  # clips are looked up in several threads
            lookups.hits += tensors is not None
            lookups.misses += tensors is None
        return tensors

    def put(self, key: FeatureKey, tensors: Mapping[str, Tensor]) -> None:
        """Keep ``tensors`` under ``key``, after making room if needed."""
        plain = {  # each with memory of its own, as the format wants it
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        if not self.max_bytes or sum(tensor.nbytes for tensor in plain.values()) > self.max_bytes:
            return
        try:
            self._write(key, plain)
        except (OSError, SafetensorError, NotImplementedError) as error:  # the last: no file locks
            logger.warning("features are not cached in %s: %s", self.folder, error)

    @property
    def bytes(self) -> int:
        """What all entries take up together, as last counted and summed by any process."""
        tally = self._tally()
        return 0 if tally is None else tally.bytes

    def metrics(self) -> dict[str, float]:
        """Counters of this object, and the size of the cache, by their names in metrics logs."""
        counters: dict[str, float] = {"evictions": self.evictions, "bytes": self.bytes}
        for kind, lookups in (("rows", self.rows), ("features", self.features)):
            counters[f"{kind}/hit_rate"] = lookups.hit_rate
            counters[f"{kind}/hits"] = lookups.hits
            counters[f"{kind}/misses"] = lookups.misses
        return {f"perf/feature_cache/{name}": float(value) for name, value in counters.items()}

    def _path(self, key: FeatureKey) -> Path:
        digest = key.digest()
        return self.folder / digest[:2] / f"{digest}{SUFFIX}"

    def _read(self, key: FeatureKey) -> dict[str, Tensor] | None:
        path = self._path(key)
        try:
            # Not memory-mapped: a file that shrinks under a map kills the process.
            tensors = _unpack(key, path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (SafetensorError, ValueError) as error:
            logger.warning("cached features %s are damaged (%s); they are made again", path, error)
            _delete(path)
            return None
        except OSError as error:
            logger.warning("cached features %s cannot be read: %s", path, error)
            return None
        _touch(path)
        return tensors

    def _write(self, key: FeatureKey, tensors: dict[str, Tensor]) -> None:
        path, partials = self._path(key), self.folder / "partial"
        for folder in (path.parent, partials):
            folder.mkdir(parents=True, exist_ok=True)
        if not self._swept:
            self._swept = True
            _sweep(partials)
        partial = partials / f"{uuid.uuid4().hex}.partial"
        try:
            save_file(tensors, partial, metadata={"checksum": _checksum(key, tensors)})
            size = partial.stat().st_size
            if size > self.max_bytes:  # with its header
                return
            with FileLock(self.folder / "lock", timeout=LOCK_SECONDS):
                self._make_room(size)
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Count an entry of ``size`` bytes in, and delete others where the sum asks for it."""
        known = self._tally()
        if known is not None and known.bytes + size <= self.max_bytes:
            self._write_tally(replace(known, bytes=known.bytes + size))
            return
        _sweep(self.folder / "partial")
        now = time.time_ns()
        entries = sorted(_entries(self.folder), key=lambda entry: (entry[0] - now) * entry[1])
        total = size + sum(entry_size for _, entry_size, _ in entries)
        allowed = self.max_bytes if total <= self.max_bytes else KEPT_SHARE * self.max_bytes
        for _, entry_size, path in entries:
            if total <= allowed:
                break
            Path(path).unlink(missing_ok=True)
            self.evictions += 1
            total -= entry_size
        self._write_tally(_Tally(bytes=total, counted=time.time()))

    def _tally(self) -> _Tally | None:
        """The running sum; None where there is none that can be trusted."""
        try:
            found = json.loads((self.folder / "size.json").read_bytes())
            tally = _Tally(bytes=int(found["bytes"]), counted=float(found["counted"]))
        except (OSError, ValueError, TypeError, LookupError, OverflowError):
            return None
        recent = 0 <= time.time() - tally.counted < RECOUNT_SECONDS
        return tally if recent and tally.bytes >= 0 else None

    def _write_tally(self, tally: _Tally) -> None:
        (self.folder / "size.json").write_text(json.dumps(asdict(tally)), encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tally:
    bytes: int  # of all entries, or more
    counted: float  # when the files themselves were last counted, in Unix seconds


def _entries(folder: Path) -> Iterator[tuple[int, int, str]]:
    """Time of last use in nanoseconds, bytes and path of every entry; of no other file."""
    for shard in os.scandir(folder):
        if not (_SHARD.fullmatch(shard.name) and shard.is_dir(follow_symlinks=False)):
            continue
        for item in os.scandir(shard.path):
            if not (_ENTRY.fullmatch(item.name) and item.is_file(follow_symlinks=False)):
                continue
            try:
                status = item.stat(follow_symlinks=False)
            except FileNotFoundError:  # a reader deleted a damaged one
                continue
            yield status.st_mtime_ns, status.st_size, item.path


def _sweep(partials: Path) -> None:
    """Delete what killed writers left, safetensors' own temporary files included."""
    oldest = time.time() - LEFTOVER_SECONDS
    for path in partials.iterdir():
        if not (_PARTIAL.fullmatch(path.name) and path.is_file()):
            continue
        try:
            if path.stat().st_mtime < oldest:
                path.unlink()
        except FileNotFoundError:  # its writer is done, or another process sweeps
            continue


def _touch(path: Path) -> None:
    """Mark as used now; on a read-only disk the order of eviction does not matter."""
    try:
        os.utime(path)
    except OSError as error:
        logger.debug("cannot mark %s as used: %s", path, error)


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # the next reader meets it again
        logger.debug("cannot delete %s: %s", path, error)


def _unpack(key: FeatureKey, data: bytes) -> dict[str, Tensor]:
    """The tensors of a file's bytes.

    Raises:
        SafetensorError, ValueError: for bytes that were not written for ``key``, or changed since.
    """
    tensors = load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    if header.get("__metadata__", {}).get("checksum") != _checksum(key, tensors):
        raise ValueError("its checksum differs")
    return tensors


def _checksum(key: FeatureKey, tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 over key, names, shapes and bytes: safetensors itself notices only cut-off files."""
    value = zlib.crc32(key.digest().encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode(), value)
        if tensor.numel():  # what is empty need not be contiguous, and its shape says it all
            value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), value)
    return f"{value:08x}"
