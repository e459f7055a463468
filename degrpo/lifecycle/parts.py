"""An append-only table kept as a folder of Parquet parts, one for each commit.

A part is written to a hidden temporary file, synced and renamed, so that whoever reads the folder
(DuckDB, pandas, a report on a run that is still going) sees whole commits only. Rows are numbered
by a ``seq`` column that never repeats and never skips, and each part is named after what it holds:
``part-000012-seq000000340-000000371.parquet`` is the commit of step 12, rows 340 to 371.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import CheckpointError

_NAME = re.compile(r"part-(\d+)-seq(\d+)-(\d+)\.parquet")
_TEMPORARY = ".part-*.tmp"
_RESTORE = (
    "restore the file from a copy, or delete it and the later parts and resume from a checkpoint "
    "before them"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of the table.

    Example:
        >>> path = Path("part-000012-seq000000340-000000371.parquet")
        >>> Part(path=path, step=12, first=340, last=371).num_rows
        32
    """

    path: Path
    step: int
    first: int
    last: int

    @property
    def num_rows(self) -> int:
        return self.last - self.first + 1


class PartFolder:
    """The writer of such a folder. One writer at a time; readers use :func:`list_parts`.

    Opening cleans up after a writer that died: temporary files are deleted and a rewind that was
    cut short is finished.

    Raises:
        CheckpointError: for a part that is damaged, missing, or of another schema; it is named.
    """

    def __init__(self, folder: str | Path, schema: pa.Schema) -> None:
        self.folder = Path(folder)
        self.schema = schema
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(_TEMPORARY):
            leftover.unlink()
        self._finish_rewind()
        self._parts = list_parts(self.folder, schema)

    @property
    def next_seq(self) -> int:
        """The number that the next row will have."""
        return self._parts[-1].last + 1 if self._parts else 0

    @property
    def last_step(self) -> int | None:
        """The step of the newest commit."""
        return self._parts[-1].step if self._parts else None

    def write(self, rows: Sequence[Mapping[str, Any]], *, step: int) -> Path:
        """Commit ``rows`` (numbered from :attr:`next_seq`) as one part; on disk on return."""
        first, last = self.next_seq, self.next_seq + len(rows) - 1
        part = Part(
            path=self.folder / part_name(step, first, last), step=step, first=first, last=last
        )
        self._replace(part.path, pa.Table.from_pylist(list(rows), schema=self.schema))
        self._parts.append(part)
        return part.path

    def rewind(self, next_seq: int) -> None:
        """Drop the rows from ``next_seq`` on.

        Later parts go last to first, so that a rewind cut short leaves a table without gaps. A part
        that straddles the cut is replaced by its beginning and then renamed.

        Raises:
            CheckpointError: when the table has fewer rows than that.
        """
        if not 0 <= next_seq <= self.next_seq:
            raise CheckpointError(
                f"a checkpoint at row {next_seq} of {self.folder}, which has {self.next_seq} rows",
                "the log is at least as long as the checkpoint that continues it",
                "restore the missing part files or resume from an older checkpoint",
            )
        while self._parts and self._parts[-1].first >= next_seq:
            self._parts.pop().path.unlink()
        if self._parts and self._parts[-1].last >= next_seq:
            straddling = self._parts.pop()
            table = read_part(straddling)
            self._replace(straddling.path, table.slice(0, next_seq - straddling.first))
            self._finish_rewind()
            self._parts = list_parts(self.folder, self.schema)
        _sync_folder(self.folder)

    def _replace(self, path: Path, table: pa.Table) -> None:
        temporary = path.with_name(f".{path.stem}.tmp")
        # Page checksums let a later reader tell a damaged page from a strange value.
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(self.folder)

    def _finish_rewind(self) -> None:
        """Give the newest part the name of what it holds, if a rewind left it with fewer rows."""
        parts = _named_parts(self.folder)
        if not parts:
            return
        newest = parts[-1]
        rows = _metadata(newest.path).num_rows
        if 0 < rows < newest.num_rows:
            newest.path.rename(
                self.folder / part_name(newest.step, newest.first, newest.first + rows - 1)
            )


def part_name(step: int, first: int, last: int) -> str:
    """Zero-padded, so that the alphabet's order is the table's."""
    return f"part-{step:06d}-seq{first:09d}-{last:09d}.parquet"


def list_parts(folder: Path, schema: pa.Schema | None = None) -> list[Part]:
    """The folder's parts in order, checked: readable, as long as named, without gap or overlap.

    Only footers are read; :func:`read_part` checks the pages as well.

    Raises:
        CheckpointError: naming the first part that is not as it should be.
    """
    expected = 0
    parts = _named_parts(folder)
    for part in parts:
        if part.first != expected:
            problem = "are missing" if part.first > expected else "appear twice"
            low, high = sorted((expected, part.first))
            raise CheckpointError(
                f"{part.path}: rows {low} to {high - 1} {problem} before it",
                "row numbers never skip and never repeat",
                _RESTORE,
            )
        _check_footer(part, schema)
        expected = part.last + 1
    return parts


def read_part(part: Part, columns: Sequence[str] | None = None) -> pa.Table:
    """The part's rows (all columns by default), with the checksum of every page read verified.

    Raises:
        CheckpointError: when a page is damaged.
    """
    try:
        return pq.read_table(
            part.path, columns=columns, page_checksum_verification=True, partitioning=None
        )
    except (OSError, pa.ArrowException) as error:
        raise _damaged(part.path, error) from error


def _named_parts(folder: Path) -> list[Part]:
    parts = []
    for path in folder.glob("*.parquet"):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise CheckpointError(
                f"{path}",
                "the folder holds only parts that the log wrote",
                "move that file elsewhere",
            )
        step, first, last = map(int, match.groups())
        parts.append(Part(path=path, step=step, first=first, last=last))
    return sorted(parts, key=lambda part: (part.first, part.last))


def _check_footer(part: Part, schema: pa.Schema | None) -> None:
    metadata = _metadata(part.path)
    if metadata.num_rows != part.num_rows or _seq_range(metadata) != (part.first, part.last):
        raise _damaged(
            part.path,
            f"it holds {metadata.num_rows} rows, seq {_seq_range(metadata)}, not those in its name",
        )
    found = metadata.schema.to_arrow_schema()
    if schema is not None and not found.equals(schema):
        differing = set(found.names) ^ set(schema.names) or {
            field.name for field in schema if found.field(field.name) != field
        }
        raise CheckpointError(
            f"{part.path} with other columns ({', '.join(sorted(differing))})",
            "all parts of a log have the columns of this version",
            "continue the run with the version that wrote it, or give the new run another name",
        )


def _metadata(path: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from error


def _seq_range(metadata: pq.FileMetaData) -> tuple[int, int] | None:
    """Smallest and largest seq, from the footer's statistics."""
    ranges = []
    for group in range(metadata.num_row_groups):
        columns = (metadata.row_group(group).column(index) for index in range(metadata.num_columns))
        ranges += [
            c.statistics for c in columns if c.path_in_schema == "seq" and c.statistics is not None
        ]
    return (min(r.min for r in ranges), max(r.max for r in ranges)) if ranges else None


def _damaged(path: Path, why: object) -> CheckpointError:
    return CheckpointError(
        f"{path} ({str(why).splitlines()[0]})",
        "a part is a whole Parquet file that holds the rows in its name",
        _RESTORE,
    )


def _sync_folder(folder: Path) -> None:
    """A rename is durable once its folder is synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
