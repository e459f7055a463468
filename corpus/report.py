"""The report of a corpus: one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from corpus.contact_sheet import strip_of_cut, strip_of_source
from corpus.formats import place
from corpus.ledger import write_atomically
from corpus.records import Rejection
from corpus.schema import Level, QuestionKind
from corpus.statistics import (
    Contents,
    attribute_counts,
    histogram,
    reasons,
    split_table,
    stage_counts,
    statistics_by_source,
    whitespace_words,
)

REPORT_FILE = "report.html"
TEMPLATE = Path(__file__).with_name("report.html")
MAX_REASONS = 25  # lines of the table of reasons
MAX_STATEMENTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactSheet:
    """One clip on the contact sheets."""

    caption: str
    detail: str
    picture: str | None  # a data URL; None when the clip cannot be read


def write_report(
    folder: Path,
    *,
    contents: Contents,
    title: str = "",
    statements: Sequence[str] = (),
    review: Mapping[str, int] | None = None,
    versions: Mapping[str, str] | None = None,
    missing: Mapping[str, int] | None = None,
    count_tokens: Callable[[str], int] = whitespace_words,
    tokens: str = "words between spaces",
    num_pictures: int = 12,
    seed: int = 0,
) -> Path:
    """Write ``report.html`` into the corpus folder; atomic.

    The page needs nothing beside itself: style and pictures are inside, it has no script, its
    content security policy lets nothing else in, and what data or models say is only ever shown as
    text. It shows faces: it is to be kept as the clips are.

    Args:
        folder: of the corpus; cuts are found in it.
        contents: every stage's records; empty ones leave their part of the page empty.
        title: the folder's name when empty.
        statements: on evaluation leakage (:func:`corpus.adapters.leakage.evaluation_leakage`).
        review: how many clips a person decided on, by verdict; None when there is no review.
        versions: of the tools.
        missing: by source, clips that are annotated but not on disk.
        count_tokens: length of a text; ``tokens`` says to readers what it counts.
        num_pictures: clips on each of the two contact sheets, drawn by ``seed``.
    """
    data = {
        "title": title or folder.resolve().name,
        "stages": stage_counts(contents),
        "missing": dict(missing or {}),
        "statements": list(statements)[:MAX_STATEMENTS],
        "review": review,
        "versions": dict(sorted((versions or {}).items())),
        "tokens": tokens,
        "accepted": _accepted_sheet(folder, contents, num_pictures, seed),
        "rejected": _rejected_sheet(contents, num_pictures, seed),
        **_reasons(contents),
        **_tables(contents, count_tokens),
    }
    path = folder / REPORT_FILE
    write_atomically(path, render(data))
    return path


def render(data: Mapping[str, Any]) -> str:
    """The page for :func:`write_report`'s data; every value is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["source_hash"] = _source_hash
    environment.filters["count"] = lambda value: "–" if value is None else f"{value:,}"
    environment.filters["decimal"] = lambda value: "–" if value is None else f"{value:,.1f}"
    environment.filters["percent"] = lambda value: f"{value:.1%}"
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(data)


def _source_hash(text: str) -> str:
    """The content security policy's name of the page's one style."""
    digest = hashlib.sha256(str(text).encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


def _reasons(contents: Contents) -> dict[str, Any]:
    listed = reasons(contents.rejections)
    return {
        "reasons": listed[:MAX_REASONS],
        "more_reasons": len(listed[MAX_REASONS:]),
        "num_rejected": len(contents.rejections),
    }


def _tables(contents: Contents, count_tokens: Callable[[str], int]) -> dict[str, Any]:
    """Tables 1 and 5, Fig. 10, the splits, and the lengths of texts."""
    attributes = attribute_counts(contents)
    groups: dict[str, list[Any]] = {}
    for item in attributes:
        groups.setdefault(item.group, []).append(item)
    accepted = {cut.cut_id for cut in contents.accepted}
    texts = [text for text in contents.texts if text.cut_id in accepted]
    lengths = {
        "Summaries": histogram(count_tokens(text.summary) for text in texts if text.summary),
        "Questions": histogram(count_tokens(pair.question) for t in texts for pair in t.pairs),
        "Answers": histogram(count_tokens(pair.answer) for t in texts for pair in t.pairs),
    }
    return {
        "sources": statistics_by_source(contents, count_tokens),
        "groups": groups,
        "longest": max((max(a.share, a.paper_share) for a in attributes), default=1.0),
        "with_features": sum(c.cut_id in contents.names for c in contents.accepted),
        "lengths": {name: found for name, found in lengths.items() if found is not None},
        "splits": split_table(contents.samples),
        "columns": [*(kind.value for kind in QuestionKind), *(level.value for level in Level)],
        "strata": Counter(
            str(sample.extra["stratum"]) for sample in contents.samples if "stratum" in sample.extra
        ),
    }


# --- contact sheets ------------------------------------------------------------------------------


def _accepted_sheet(folder: Path, contents: Contents, count: int, seed: int) -> list[ContactSheet]:
    drawn = _draw([(cut.cut_id, cut) for cut in contents.accepted], count, seed)
    return [
        ContactSheet(
            caption=cut.cut_id,
            detail=f"{len(cut)} frames, {cut.face_share:.0%} with a face",
            picture=strip_of_cut(folder / cut.video),
        )
        for cut in drawn
    ]


def _rejected_sheet(contents: Contents, count: int, seed: int) -> list[ContactSheet]:
    named = [(f"{r.clip_id}/{r.first or 0:09}", r) for r in contents.rejections]
    return list(_rejected(contents, _draw(named, count, seed)))


def _rejected(contents: Contents, drawn: Iterable[Rejection]) -> Iterator[ContactSheet]:
    for rejection in drawn:
        clip_id, first, last = place(rejection, contents.cuts_by_id)
        clip = contents.sources.get(clip_id)
        frames = "" if first is None else f", frames {first}–{last}"
        yield ContactSheet(
            caption=f"{clip_id}{frames}",
            detail=f"{rejection.stage}: {rejection.reason}",
            picture=strip_of_source(clip, contents.inspected.get(clip_id), first, last)
            if clip
            else None,
        )


def _draw(named: Sequence[tuple[str, Any]], count: int, seed: int) -> list[Any]:
    """``count`` items drawn by ``seed``, in the order of their names."""
    ordered = sorted(named, key=lambda item: item[0])
    drawn = Random(f"{seed}/pictures").sample(range(len(ordered)), min(count, len(ordered)))
    return [ordered[index][1] for index in sorted(drawn)]
