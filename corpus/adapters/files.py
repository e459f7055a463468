"""Reading what datasets deliver: annotation files with their line numbers, and folders of clips."""

from __future__ import annotations

import csv
import difflib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ConfigError

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where in an annotation file something stands, for errors.

    Example:
        >>> str(Place(Path("labels.csv"), "line 3").error("emotion 'hapy'", "…", "…"))
        "got labels.csv line 3: emotion 'hapy'; …; …"
    """

    path: Path
    spot: str  # "line 3", "item 2" or "clip M2Ohb0FAaJU_1"

    def error(self, received: str, rule: str, fix: str) -> ConfigError:
        """The error that names this place."""
        return ConfigError(f"{self.path} {self.spot}: {received}", rule, fix)


@dataclass(frozen=True, slots=True)
class Line:
    """A line with content, and where it stands."""

    place: Place
    text: str  # without white space around it


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table; columns by lower-case name, cells without white space around them."""

    place: Place
    cells: Mapping[str, str]


def nearest(word: str, known: Iterable[str]) -> str:
    """What to do about an unknown word: the nearest known one, or all of them.

    Example:
        >>> nearest("hapy", ["happy", "sad"]), nearest("xyz", ["happy", "sad"])
        ('did you mean happy?', 'choose from happy, sad')
    """
    words = [*known]
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"choose from {', '.join(words)}"


def read_text(path: Path) -> str:
    """A file's text, without byte-order mark.

    Raises:
        ConfigError: for a file that cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"annotation file {path}", f"it cannot be read ({error.strerror})", "correct the path"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"annotation file {path}", f"it is not UTF-8 ({error})", "save it again as UTF-8"
        ) from error


def read_lines(path: Path) -> Sequence[Line]:
    """The lines of a text file that have content; any line ending."""
    # Not splitlines(): it also breaks at U+2028 and form feeds, which captions contain.
    lines = read_text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [
        Line(Place(path, f"line {number}"), line.strip())
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def read_table(path: Path, required: Iterable[str] = ()) -> Sequence[Row]:
    """The rows of a CSV file with a header; separated by comma, semicolon or tab.

    Raises:
        ConfigError: for a file without one of the ``required`` columns, or a row of another length
            than the header's; the line is named.
    """
    text = read_text(path)
    header = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    columns: Sequence[str] = ()
    rows = []
    before = 0  # rows may span lines: the first one is named
    for cells in reader:
        place, before = Place(path, f"line {before + 1}"), reader.line_num
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        if not columns:
            columns = _columns(place, cells, required)
            continue
        if len(cells) != len(columns):
            raise place.error(
                f"{len(cells)} cells",
                f"the header has {len(columns)}: {', '.join(columns)}",
                "quote cells that contain the separator",
            )
        rows.append(Row(place, dict(zip(columns, cells, strict=True))))
    if not columns:
        raise Place(path, "line 1").error("nothing", "a table has a header", "give another file")
    return rows


def _columns(place: Place, cells: Sequence[str], required: Iterable[str]) -> Sequence[str]:
    columns = [cell.lower() for cell in cells]
    for name in required:
        if name not in columns:
            raise place.error(
                f"columns {', '.join(cells)}",
                f"the header names {', '.join(required)}",
                f"add the column {name}, or give another file",
            )
    for name in columns:
        if columns.count(name) > 1:
            raise place.error(
                f"two columns {name!r}", "a column has one name", "rename or delete one"
            )
    return columns


def read_json(path: Path) -> Any:
    """A JSON file's content.

    Raises:
        ConfigError: for text that is not JSON; the line is named.
    """
    return parse_json(read_text(path), path)


def parse_json(text: str, path: Path, first_line: int = 1) -> Any:
    """The value that ``text`` says, which starts in line ``first_line`` of ``path``."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = Place(path, f"line {first_line + error.lineno - 1}")
        raise place.error(
            text[error.pos : error.pos + 20] or "end of file",
            f"it is not JSON ({error.msg})",
            "correct it, or download the file again",
        ) from error


class Media:
    """The clips under a folder: video files, and folders of frame images.

    A clip's key is its path below the folder, with "/" and without a video's suffix; hidden files
    are passed over. Where a video and a folder of frames share a key, the video is taken.

    Raises:
        ConfigError: when there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigError(
                f"folder {folder}", "there is no such folder", "correct root, or option videos"
            )
        self.folder = folder.resolve()
        self._found: dict[str, list[str]] = {}
        for place, name in _walk(self.folder):
            key = place if name is None else f"{place}/{key_of(name)}".lstrip("/")
            path = place if name is None else f"{place}/{name}".lstrip("/")
            # A folder's files come before its folders: of a.mp4 and a/ the video is the first.
            self._found.setdefault(key, []).append(path)

    def find(self, *keys: str) -> tuple[str, Path] | None:
        """Key and absolute path of the first of ``keys`` that is there."""
        for key in keys:
            if key in self._found:
                return key, self.folder / self._found[key][0]
        return None

    def surplus(self, used: Iterable[str]) -> tuple[str, ...]:
        """Paths below the folder whose keys are not ``used``, sorted."""
        keys = self._found.keys() - set(used)
        return tuple(sorted(path for key in keys for path in self._found[key]))

    @property
    def clips(self) -> tuple[str, ...]:
        """All keys, sorted."""
        return tuple(sorted(self._found))


def key_of(path: str) -> str:
    """A path with "/" and without a video's suffix: ``a\\b.mp4`` is ``a/b``."""
    path = path.replace("\\", "/")
    stem, dot, suffix = path.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in VIDEO_SUFFIXES and stem else path


def _walk(folder: Path) -> Iterable[tuple[str, str | None]]:
    """(folder, name) of every video, and (folder, None) of every folder with images."""
    visited = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in visited:  # a link back to a folder above
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        names = sorted(name for name in names if not name.startswith("."))
        below = "" if Path(place) == folder else Path(place).relative_to(folder).as_posix()
        suffixes = {name: Path(name).suffix.lower() for name in names}
        if below and any(suffix in IMAGE_SUFFIXES for suffix in suffixes.values()):
            yield below, None
        for name in names:
            if suffixes[name] in VIDEO_SUFFIXES:
                yield below, name
