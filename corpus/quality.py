"""A person's look at a sample of the texts: a sheet to fill in, and reading it back.

    write_review -> review.html (clips, texts, buttons)  -> a person -> review.csv -> read_decisions
                    review.csv  (the same, for a spreadsheet)

Decisions are `accept`, `reject` (the clip is dropped) and `regenerate` (texts are written again;
the comment goes to the writer). An empty decision is none.

A decision is about a clip's frames and texts as the person saw them, which its line names by their
digest: it says nothing about other texts of the same clip. These get a line of their own; decided
lines stay on the sheet, so that every build finds what was decided before.
"""

from __future__ import annotations

import csv
import hashlib
import html
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import quote

from common.errors import ConfigError
from corpus.ledger import key_of
from corpus.records import Cut, Pair, Texts

SHEET, PAGE = "review.csv", "review.html"
COLUMNS = ("cut_id", "video", "summary", "questions", "decision", "comment", "digest")
TEMPLATE = Path(__file__).with_name("review.html")

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets take for a formula


class Verdict(StrEnum):
    """What a person says of a clip's texts."""

    ACCEPT = "accept"
    REJECT = "reject"
    REGENERATE = "regenerate"


class Effect(StrEnum):
    """What a build made of a decision."""

    FOLLOWED = "followed"
    KEPT = "could not be regenerated"  # came with the dataset, or the writer wrote it again
    STALE = "no longer matching"  # neither the clip's present texts nor those before them


@dataclass(slots=True, kw_only=True)
class Decision:
    """A verdict, why, and what a build made of it."""

    verdict: Verdict
    comment: str = ""
    effect: Effect = Effect.STALE


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewRow:
    """One clip that may come onto the sheet."""

    cut_id: str
    video: Path
    summary: str
    pairs: tuple[Pair, ...]
    digest: str  # of what is judged: see :func:`digest_of`


def digest_of(cut: Cut, texts: Texts) -> str:
    """Names what a person judges, the cut's frames and the texts on the sheet.

    It starts with a letter: a spreadsheet would take digits, or digits around an "e", for a number.
    """
    said = [[pair.question, pair.answer] for pair in texts.pairs]
    return f"t{key_of(cut.digest, texts.summary, said)}"


def place_of(cut_id: str, digest: str) -> str:
    """The key of a decision: the clip, and what of it was judged."""
    return f"{cut_id}/{digest}"


def write_review(folder: Path, rows: Sequence[ReviewRow], share: float, seed: int) -> list[str]:
    """Write a sheet of ``share`` of ``rows``, chosen by ``seed``, and its page.

    Which clips are chosen does not depend on their order. Clips about which a person typed
    something are on the sheet whatever the share, and what was typed on a sheet that is there
    already stays with its line, on other texts or on clips that are gone too.

    Returns:
        cut ids on the sheet, in its order: present texts first, then lines of earlier ones.

    Raises:
        ConfigError: when the sheet that is there cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sheet = folder / SHEET
    before, own = _read(sheet) if sheet.exists() else ({}, [])

    def drawn(row: ReviewRow) -> bytes:
        return hashlib.sha256(f"{seed}/{row.cut_id}".encode()).digest()

    chosen = sorted(rows, key=drawn)
    asked = {row.cut_id for row in chosen[: math.ceil(share * len(rows))]}
    typed = ("decision", "comment", *own)
    said = {place: line for place, line in before.items() if any(line[name] for name in typed)}
    asked |= {line["cut_id"] for line in said.values()}
    empty = dict.fromkeys((*COLUMNS, *own), "")
    lines = {}
    for row in chosen:
        if row.cut_id in asked:
            place = place_of(row.cut_id, row.digest)
            lines[place] = before.get(place, empty) | _present(row, folder)
    earlier = {place: line for place, line in said.items() if place not in lines}
    _write(sheet, [*lines.values(), *earlier.values()], [*COLUMNS, *own])
    articles = [_article(line) for line in lines.values()]
    articles += [_article(line, earlier=True) for line in earlier.values()]
    page = TEMPLATE.read_text(encoding="utf-8").replace("<!-- clips -->", "\n".join(articles))
    (folder / PAGE).write_text(page, encoding="utf-8")
    return [line["cut_id"] for line in (lines | earlier).values()]


def read_decisions(path: Path) -> dict[str, Decision]:
    """The decisions on a filled-in sheet, by :func:`place_of`; undecided lines are left out.

    Columns may stand in any order; only cut_id and decision must be there. A line without digest
    does not say what was judged and matches nothing.

    Raises:
        ConfigError: for a file that cannot be read or is no sheet, an unknown decision, a line
            without a clip, or texts that have two; the line is named.
    """
    return {
        place: Decision(verdict=Verdict(line["decision"]), comment=line["comment"])
        for place, line in _read(path)[0].items()
        if line["decision"]
    }


def count_decisions(decisions: Iterable[Decision]) -> dict[str, int]:
    """How many decisions were followed, by verdict, and how many could not be, by why."""
    return dict(
        Counter(
            decision.verdict.value if decision.effect is Effect.FOLLOWED else decision.effect.value
            for decision in decisions
        )
    )


def _write(sheet: Path, lines: Iterable[Mapping[str, str]], columns: Sequence[str]) -> None:
    temporary = sheet.with_suffix(".csv.tmp")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for line in lines:
            writer.writerow([_cell(line[column]) for column in columns])
    temporary.replace(sheet)


def _read(path: Path) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The lines of a sheet by :func:`place_of`, all columns of each, and the columns that a person
    has added; errors as :func:`read_decisions` says."""
    lines: dict[str, dict[str, str]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            missing = {"cut_id", "decision"} - set(rows.fieldnames or ())
            if missing:
                raise _refuse(path, f"it has no column {' and '.join(sorted(missing))}")
            own = [name for name in rows.fieldnames or () if name and name not in COLUMNS]
            for row in rows:
                where = f"{path} line {rows.line_num}"
                if None in row:
                    raise ConfigError(
                        f"{where} with more cells than the header",
                        'a text with a comma stands in quotes, as in "two faces, one blurred"',
                        "put the quotes, or give the column a name",
                    )
                line = {name: _plain(row.get(name) or "").strip() for name in (*COLUMNS, *own)}
                line["decision"] = line["decision"].lower()
                _check_line(line, where, lines)
                lines[place_of(line["cut_id"], line["digest"])] = line
    except (OSError, UnicodeError, csv.Error) as error:
        raise _refuse(path, f"it cannot be read ({error})") from error
    return lines, own


def _check_line(line: Mapping[str, str], where: str, before: Mapping[str, object]) -> None:
    word = line["decision"]
    if not line["cut_id"]:
        raise ConfigError(f"{where} without cut_id", "it names the clip", "take the line out")
    if word and word not in tuple(Verdict):
        raise ConfigError(
            f"{where} with decision {word!r}",
            f"it is empty or one of {', '.join(Verdict)}",
            "correct the line",
        )
    if place_of(line["cut_id"], line["digest"]) in before:
        raise ConfigError(
            f"{where}, the second on the same texts of {line['cut_id']}",
            "texts have one line",
            "take one out",
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


def _present(row: ReviewRow, folder: Path) -> dict[str, str]:
    """What a line says of its clip; the other columns are a person's."""
    video = Path(os.path.relpath(row.video.resolve(), folder.resolve())).as_posix()
    return {
        "cut_id": row.cut_id,
        "video": video,
        "summary": row.summary,
        "questions": "\n".join(f"{pair.question} {pair.answer}" for pair in row.pairs),
        "digest": row.digest,
    }


def _article(line: Mapping[str, str], *, earlier: bool = False) -> str:
    """One line of the page; every text is escaped, the clip's address percent-encoded."""
    said = {column: html.escape(text) for column, text in line.items()}
    own = {name: text for name, text in line.items() if name not in COLUMNS}
    return (
        f'<article data-cut="{said["cut_id"]}" data-video="{said["video"]}"'
        f' data-decision="{said["decision"]}" data-comment="{said["comment"]}"'
        f' data-digest="{said["digest"]}" data-own="{html.escape(json.dumps(own))}">'
        f"<h2>{said['cut_id']}{' (earlier)' if earlier else ''}</h2>"
        f'<video src="{html.escape(quote(line["video"]))}" controls muted loop preload="metadata">'
        f"</video><p class=summary>{said['summary']}</p>"
        f"<p class=questions>{said['questions']}</p></article>"
    )
