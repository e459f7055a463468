"""A person's look at a sample of the texts: a sheet to fill in, and reading it back.

    write_review -> review.html (clips, texts, buttons)  -> a person -> review.csv -> read_decisions
                    review.csv  (the same, for a spreadsheet)

Decisions are `accept`, `reject` (the clip is dropped) and `regenerate` (texts are written again;
the comment goes to the writer). An empty decision is none.
"""

from __future__ import annotations

import csv
import hashlib
import html
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import quote

from common.errors import ConfigError
from corpus.records import Pair

SHEET, PAGE = "review.csv", "review.html"
COLUMNS = ("cut_id", "video", "summary", "questions", "decision", "comment")
TEMPLATE = Path(__file__).with_name("review.html")

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets take for a formula


class Verdict(StrEnum):
    """What a person says of a clip's texts."""

    ACCEPT = "accept"
    REJECT = "reject"
    REGENERATE = "regenerate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict, and why."""

    verdict: Verdict
    comment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewRow:
    """One clip that may come onto the sheet."""

    cut_id: str
    video: Path
    summary: str
    pairs: tuple[Pair, ...]


def write_review(folder: Path, rows: Sequence[ReviewRow], share: float, seed: int) -> list[str]:
    """Write a sheet of ``share`` of ``rows``, chosen by ``seed``, and its page.

    Which clips are chosen does not depend on their order. Decisions on a sheet that is there
    already stay, those on clips that are no longer among ``rows`` too: they may be gone because
    they were rejected.

    Returns:
        cut ids on the sheet, in its order.

    Raises:
        ConfigError: when the sheet that is there cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sheet = folder / SHEET
    before = {line["cut_id"]: line for line in _read(sheet)} if sheet.exists() else {}

    def drawn(row: ReviewRow) -> bytes:
        return hashlib.sha256(f"{seed}/{row.cut_id}".encode()).digest()

    chosen = sorted(rows, key=drawn)[: math.ceil(share * len(rows))]
    lines = {row.cut_id: _line(row, folder, before.get(row.cut_id, {})) for row in chosen}
    lines |= {key: old for key, old in before.items() if old["decision"] and key not in lines}
    temporary = sheet.with_suffix(".csv.tmp")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for line in lines.values():
            writer.writerow([_cell(line[column]) for column in COLUMNS])
    temporary.replace(sheet)
    page = TEMPLATE.read_text(encoding="utf-8").replace(
        "<!-- clips -->", "\n".join(_article(line) for line in lines.values())
    )
    (folder / PAGE).write_text(page, encoding="utf-8")
    return list(lines)


def read_decisions(path: Path) -> dict[str, Decision]:
    """The decisions on a filled-in sheet, by cut; clips without one are left out.

    Columns may stand in any order; only cut_id and decision must be there.

    Raises:
        ConfigError: for a file that cannot be read or is no sheet, an unknown decision, a line
            without a clip, or a clip that has two; the line is named.
    """
    decisions: dict[str, Decision] = {}
    for line in _read(path):
        if line["decision"]:
            verdict = Verdict(line["decision"])
            decisions[line["cut_id"]] = Decision(verdict=verdict, comment=line["comment"])
    return decisions


def _read(path: Path) -> list[dict[str, str]]:
    """The lines of a sheet, all columns of each; errors as :func:`read_decisions` says."""
    lines: dict[str, dict[str, str]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            missing = {"cut_id", "decision"} - set(rows.fieldnames or ())
            if missing:
                raise _refuse(path, f"it has no column {' and '.join(sorted(missing))}")
            for row in rows:
                line = {column: _plain(row.get(column) or "").strip() for column in COLUMNS}
                line["decision"] = line["decision"].lower()
                _check_line(line, f"{path} line {rows.line_num}", lines)
                lines[line["cut_id"]] = line
    except (OSError, UnicodeError, csv.Error) as error:
        raise _refuse(path, f"it cannot be read ({error})") from error
    return list(lines.values())


def _check_line(line: dict[str, str], where: str, before: Mapping[str, object]) -> None:
    word = line["decision"]
    if not line["cut_id"]:
        raise ConfigError(f"{where} without cut_id", "it names the clip", "take the line out")
    if word and word not in tuple(Verdict):
        raise ConfigError(
            f"{where} with decision {word!r}",
            f"it is empty or one of {', '.join(Verdict)}",
            "correct the line",
        )
    if line["cut_id"] in before:
        raise ConfigError(
            f"{where}, the second on {line['cut_id']}", "a clip has one line", "take one out"
        )


def _refuse(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"review sheet {path}",
        f"it is the filled-in {SHEET}, comma-separated UTF-8; {what}",
        f"save it as CSV with the columns {', '.join(COLUMNS)}",
    )


def _cell(text: str) -> str:
    """``text`` so that a spreadsheet shows it and never calculates it."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _plain(text: str) -> str:
    """``text`` as it was before :func:`_cell`."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text


def _line(row: ReviewRow, folder: Path, before: Mapping[str, str]) -> dict[str, str]:
    """A line of the sheet, with the decision that an earlier sheet holds."""
    video = Path(os.path.relpath(row.video.resolve(), folder.resolve())).as_posix()
    return {
        "cut_id": row.cut_id,
        "video": video,
        "summary": row.summary,
        "questions": "\n".join(f"{pair.question} {pair.answer}" for pair in row.pairs),
        "decision": before.get("decision", ""),
        "comment": before.get("comment", ""),
    }


def _article(line: Mapping[str, str]) -> str:
    """One clip of the page; every text is escaped, the clip's address percent-encoded."""
    said = {column: html.escape(text) for column, text in line.items()}
    return (
        f'<article data-cut="{said["cut_id"]}" data-video="{said["video"]}"'
        f' data-decision="{said["decision"]}" data-comment="{said["comment"]}">'
        f"<h2>{said['cut_id']}</h2>"
        f'<video src="{html.escape(quote(line["video"]))}" controls muted loop preload="metadata">'
        f"</video><p class=summary>{said['summary']}</p>"
        f"<p class=questions>{said['questions']}</p></article>"
    )
