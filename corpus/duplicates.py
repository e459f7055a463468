"""Which clips show the same as an earlier one: copies, re-encoded or resized."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

BITS = 64  # of one hash
KEYS = 2**60 - 93  # a prime, so that every bit of a group tells keys apart


def find_duplicates(
    hashes: Mapping[str, tuple[str, ...]],
    distance: int,
    recordings: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The clips that repeat an earlier one, and which: ``{duplicate: original}``.

    Two clips are one when their perceptual hashes (``Inspection.hashes``) differ in at most
    ``distance`` of 64 bits on average. In the mapping's order a clip is compared with the originals
    before it, the earliest first; the originals themselves are pairwise further apart. Clips of one
    recording are meant to be alike: they are never one, and each of them that is kept is an
    original for the clips of other recordings. Clips without hashes or with another number of them
    are never one; a negative ``distance`` finds none.

    Only whole clips are compared. A recording with a title cut before it is another clip: its
    frames at equal shares of the length are other ones.

    Args:
        hashes: clip ids to hexadecimal hashes of 64 bits each.
        distance: bits per hash, 0..63; of the embedded clips, copies lie within 4 and different
            clips of one person beyond 10.
        recordings: clip ids to recordings; without it every clip is a recording of its own.

    The search is near-linear: clips within ``limit = distance × hashes`` bits agree entirely in at
    least one of any ``limit + 1`` disjoint groups of bits (Norouzi et al., "Fast Search in Hamming
    Space with Multi-Index Hashing", CVPR 2012), so that only clips sharing a group are compared.
    """
    if distance < 0:
        return {}
    indices: dict[int, _Index] = {}
    duplicates = {}
    for clip_id, parts in hashes.items():
        if not parts:
            continue
        if len(parts) not in indices:
            indices[len(parts)] = _Index(len(parts), distance)
        recording = recordings[clip_id] if recordings is not None else None
        code = int("".join(parts), 16)
        original = indices[len(parts)].earliest_or_add(clip_id, code, recording)
        if original is not None:
            duplicates[clip_id] = original
    return duplicates


class _Index:
    """Originals so far, each a number of ``hashes × 64`` bits, findable by any group of bits."""

    def __init__(self, num_hashes: int, distance: int) -> None:
        self._limit = num_hashes * distance
        bits = num_hashes * BITS
        num_groups = min(self._limit + 1, bits)
        # Strided, so that a group mixes frames and frequencies: neighbouring bits are alike in most
        # pictures, and a group of such bits would tell few clips apart.
        self._masks = [
            sum(1 << bit for bit in range(g, bits, num_groups)) for g in range(num_groups)
        ]
        # Most groups of bits are met once: a list for each would take half of the memory.
        self._first: list[dict[int, int]] = [{} for _ in self._masks]
        self._more: list[dict[int, list[int]]] = [defaultdict(list) for _ in self._masks]
        self._ids: list[str] = []
        self._codes: list[int] = []
        self._recordings: list[str | None] = []

    def earliest_or_add(self, clip_id: str, code: int, recording: str | None) -> str | None:
        """The earliest original within the limit; None when there is none: then this is one.

        Args:
            recording: originals of the same one are passed over; None is never the same.
        """
        # Short keys for little memory; two groups of bits with one key cost a comparison.
        keys = [(code & mask) % KEYS for mask in self._masks]
        candidates: set[int] = set()
        for first, more, key in zip(self._first, self._more, keys, strict=True):
            if key in first:
                candidates.add(first[key])
                candidates.update(more.get(key, ()))
        near = [
            index
            for index in candidates
            if (recording is None or self._recordings[index] != recording)
            and (self._codes[index] ^ code).bit_count() <= self._limit
        ]
        if near:
            return self._ids[min(near)]
        own = len(self._ids)
        for first, more, key in zip(self._first, self._more, keys, strict=True):
            if first.setdefault(key, own) != own:
                more[key].append(own)
        self._ids.append(clip_id)
        self._codes.append(code)
        self._recordings.append(recording)
        return None
