from __future__ import annotations

import csv
import html.parser
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import ConfigError
from corpus.build import build_corpus
from corpus.config import CheckConfig, SplitConfig, WriteConfig
from corpus.formats import read_manifest
from corpus.quality import (
    PAGE,
    SHEET,
    Decision,
    Effect,
    ReviewRow,
    Verdict,
    count_decisions,
    digest_of,
    read_decisions,
    write_review,
)
from corpus.records import Cut, Pair, Texts
from corpus.schema import FacialTargets, QuestionKind

HOSTILE = (
    '</p><script>alert("1")</script>',
    '=HYPERLINK("http://x","y")',
    "+1+1",
    "-2",
    "@SUM(A1)",
    "\t=1",
    "a\nb, \"c\" 'd'",
    "'quoted",
)


def row(tmp_path: Path, cut_id: str, summary: str = "A man smiles.") -> ReviewRow:
    pair = Pair(
        question=f"Why? {summary}",
        answer="Because.",
        targets=FacialTargets(),
        kind=QuestionKind.REASONING,
    )
    return ReviewRow(
        cut_id=cut_id,
        video=tmp_path / "clips" / f"{cut_id}.mp4",
        summary=summary,
        pairs=(pair,),
        digest=f"t-{summary}",
    )


def sheet_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / SHEET).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Page(html.parser.HTMLParser):
    """Elements and texts of a page, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        self.texts.append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_a_share_is_drawn_by_seed_and_not_by_order(tmp_path: Path) -> None:
    rows = [row(tmp_path, f"c{index:02d}") for index in range(40)]
    chosen = write_review(tmp_path / "a", rows, 0.25, seed=0)
    assert len(chosen) == 10
    assert write_review(tmp_path / "b", rows[::-1], 0.25, seed=0) == chosen
    assert write_review(tmp_path / "c", rows, 0.25, seed=1) != chosen
    assert write_review(tmp_path / "d", rows, 0.26, seed=0)[:10] == chosen
    assert len(write_review(tmp_path / "e", rows, 0.001, seed=0)) == 1
    assert write_review(tmp_path / "f", rows, 0.0, seed=0) == []
    assert [line["cut_id"] for line in sheet_rows(tmp_path / "a")] == chosen
    assert sheet_rows(tmp_path / "a")[0] | {"cut_id": "", "video": ""} == {
        "cut_id": "",
        "video": "",
        "summary": "A man smiles.",
        "questions": "Why? A man smiles. Because.",
        "decision": "",
        "comment": "",
        "digest": "t-A man smiles.",
    }


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    rows = [row(tmp_path, f"c{index}", text) for index, text in enumerate(HOSTILE)]
    write_review(tmp_path, rows, 1.0, seed=0)
    by_id = {line["cut_id"]: line for line in sheet_rows(tmp_path)}
    cells = {by_id[f"c{index}"]["summary"] for index in range(len(HOSTILE))}
    assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for cell in cells)
    page = Page((tmp_path / PAGE).read_text(encoding="utf-8"))
    assert len(page.attributes("script")) == 1  # the page's own
    assert len(page.attributes("article")) == len(HOSTILE)
    for text in HOSTILE:
        assert text in page.texts


def test_odd_file_names_are_linked(tmp_path: Path) -> None:
    odd = row(tmp_path, "x")
    odd = ReviewRow(
        cut_id="x",
        video=tmp_path / "clips" / 'a "b"#1%?.mp4',
        summary="s",
        pairs=odd.pairs,
        digest="t1",
    )
    write_review(tmp_path / "review", [odd], 1.0, seed=0)
    page = Page((tmp_path / "review" / PAGE).read_text(encoding="utf-8"))
    assert page.attributes("video")[0]["src"] == "../clips/a%20%22b%22%231%25%3F.mp4"


def decide(folder: Path, decisions: dict[str, tuple[str, str]]) -> None:
    lines = sheet_rows(folder)
    with (folder / SHEET).open("w", encoding="utf-8-sig", newline="") as file:  # as Excel saves it
        writer = csv.DictWriter(file, fieldnames=list(lines[0]))
        writer.writeheader()
        for line in lines:
            word, comment = decisions.get(line["cut_id"], ("", ""))
            writer.writerow(line | {"decision": word, "comment": comment})


def test_decisions_come_back_and_outlive_the_next_sheet(tmp_path: Path) -> None:
    rows = [row(tmp_path, name) for name in ("a", "b", "c", "d")]
    write_review(tmp_path, rows, 1.0, seed=0)
    assert read_decisions(tmp_path / SHEET) == {}
    decide(
        tmp_path, {"a": ("Reject ", "wrong face"), "b": ("regenerate", "=1"), "c": ("accept", "")}
    )
    decided = {
        "a/t-A man smiles.": Decision(verdict=Verdict.REJECT, comment="wrong face"),
        "b/t-A man smiles.": Decision(verdict=Verdict.REGENERATE, comment="=1"),
        "c/t-A man smiles.": Decision(verdict=Verdict.ACCEPT),
    }
    assert read_decisions(tmp_path / SHEET) == decided
    # The next build has dropped "a", and draws no clip at all.
    assert set(write_review(tmp_path, rows[1:], 0.0, seed=0)) == {"a", "b", "c"}
    assert read_decisions(tmp_path / SHEET) == decided
    assert set(write_review(tmp_path, rows[1:], 1.0, seed=0)) == {"a", "b", "c", "d"}
    assert read_decisions(tmp_path / SHEET) == decided
    articles = Page((tmp_path / PAGE).read_text(encoding="utf-8")).attributes("article")
    assert {item["data-cut"]: item["data-decision"] for item in articles} == {
        "a": "reject",
        "b": "regenerate",
        "c": "accept",
        "d": "",
    }


def said(folder: Path) -> list[tuple[str, str, str, str]]:
    return [
        (line["cut_id"], line["digest"], line["decision"], line["comment"])
        for line in sheet_rows(folder)
    ]


def test_other_texts_get_a_line_of_their_own_and_leave_the_decision_where_it_was(
    tmp_path: Path,
) -> None:
    rows = [row(tmp_path, name, "old") for name in ("a", "b", "c")]
    write_review(tmp_path, rows, 1.0, seed=0)
    decide(tmp_path, {"a": ("regenerate", "hair"), "b": ("", "look again"), "c": ("accept", "")})
    # All were written anew; the recipe asks for no review any more.
    write_review(tmp_path, [row(tmp_path, name, "new") for name in ("a", "b", "c")], 0.0, seed=0)
    assert sorted(said(tmp_path)) == [
        ("a", "t-new", "", ""),
        ("a", "t-old", "regenerate", "hair"),
        ("b", "t-new", "", ""),
        ("b", "t-old", "", "look again"),  # typed, though no decision
        ("c", "t-new", "", ""),
        ("c", "t-old", "accept", ""),
    ]
    assert [line["summary"] for line in sheet_rows(tmp_path)] == ["new"] * 3 + ["old"] * 3
    assert read_decisions(tmp_path / SHEET).keys() == {"a/t-old", "c/t-old"}
    page = Page((tmp_path / PAGE).read_text(encoding="utf-8"))
    assert [item["data-digest"] for item in page.attributes("article")] == ["t-new"] * 3 + [
        "t-old"
    ] * 3
    assert sum("(earlier)" in text for text in page.texts) == 3
    before = sheet_rows(tmp_path)
    write_review(tmp_path, [row(tmp_path, name, "new") for name in ("a", "b", "c")], 0.0, seed=0)
    assert sheet_rows(tmp_path) == before


def test_columns_and_lines_that_a_person_added_stay(tmp_path: Path) -> None:
    (tmp_path / SHEET).write_text(
        "cut_id,my notes,decision\nunknown,ask Ann,reject\na,,accept\nb,call Bob,\n"
    )
    write_review(tmp_path, [row(tmp_path, "a")], 1.0, seed=0)
    columns = ("cut_id", "digest", "decision", "my notes")
    assert [tuple(line[name] for name in columns) for line in sheet_rows(tmp_path)] == [
        ("a", "t-A man smiles.", "", ""),
        ("unknown", "", "reject", "ask Ann"),
        ("a", "", "accept", ""),  # of no known texts
        ("b", "", "", "call Bob"),
    ]
    decisions = read_decisions(tmp_path / SHEET)
    assert decisions.keys() == {"unknown/", "a/"}
    assert count_decisions(decisions.values()) == {"no longer matching": 2}


def test_decisions_are_counted_by_what_came_of_them() -> None:
    effects = [
        (Verdict.ACCEPT, Effect.FOLLOWED),
        (Verdict.REJECT, Effect.FOLLOWED),
        (Verdict.REJECT, Effect.STALE),
        (Verdict.REGENERATE, Effect.KEPT),
        (Verdict.REJECT, Effect.FOLLOWED),
    ]
    assert count_decisions(Decision(verdict=v, effect=e) for v, e in effects) == {
        "accept": 1,
        "reject": 2,
        "no longer matching": 1,
        "could not be regenerated": 1,
    }


def test_a_digest_names_frames_and_texts() -> None:
    cut = Cut(
        cut_id="a", clip_id="a", first=0, last=9, face_share=1.0, digest="d", video="clips/a.mp4",
        method="copied", file_sha256="0",
    )  # fmt: skip
    one, other = (
        Pair(question="How?", answer=answer, targets=FacialTargets(), kind=QuestionKind.EMOTION)
        for answer in ("Happy.", "Sad.")
    )
    texts = Texts(cut_id="a", summary="S", pairs=(one,), writer="rules-1")
    judged = digest_of(cut, texts)
    assert judged[0] == "t"  # no number to a spreadsheet
    assert digest_of(replace(cut, file_sha256="1"), replace(texts, attempt=2)) == judged
    others = [
        digest_of(replace(cut, digest="e"), texts),
        digest_of(cut, replace(texts, summary="T")),
        digest_of(cut, replace(texts, pairs=(other,))),
        digest_of(cut, replace(texts, pairs=(one, other))),
    ]
    assert len({judged, *others}) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cut_id,comment\na,b\n", "no column decision"),
        ("", "no column cut_id and decision"),
        ("cut_id;decision\na;accept\n", "no column"),
        ("cut_id,decision\na,accept\nb,acept\n", "line 3 with decision 'acept'"),
        ("cut_id,decision\na,accept\na,reject\n", "line 3, the second on the same texts of a"),
        ("cut_id,decision,comment\na,accept,one, two\n", "line 2 with more cells"),
        ("cut_id,decision\n,accept\n", "line 2 without cut_id"),
        ('cut_id,decision\n"a,accept\n', "cannot be read"),
        (b"cut_id,decision\n\xff\xfe,accept\n", "cannot be read"),
    ],
)
def test_a_sheet_that_cannot_be_meant_is_refused(tmp_path: Path, content, message) -> None:
    path = tmp_path / SHEET
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message):
        read_decisions(path)


def test_a_missing_sheet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_decisions(tmp_path / "none.csv")


HARNESS = """
const fs = require("fs");
const page = fs.readFileSync(process.argv[2], "utf8");
const script = page.match(/<script>([^]*)<\\/script>/)[1];
const element = () => ({ dataset: {}, children: [], setAttribute(k, v) { this[k] = v; },
  append(...items) { this.children.push(...items); } });
const articles = JSON.parse(process.argv[3]).map((row) => Object.assign(element(), {
  dataset: { cut: row.cut, video: "v.mp4", decision: "", comment: "", digest: "t-" + row.cut,
    own: row.own },
  querySelector(name) {
    if (name === "input") return this.children.find((item) => item.placeholder);
    return { textContent: name === ".summary" ? row.summary : row.questions };
  } }));
const named = { count: element(), download: element() };
let saved;
const context = { document: { querySelectorAll: () => articles, createElement: element,
  getElementById: (id) => named[id] }, URL: { createObjectURL: (blob) => blob },
  Blob: class { constructor(parts) { saved = parts[0]; } } };
context.document.createElement = () => Object.assign(element(), { click() {} });
new Function(...Object.keys(context), script)(...Object.values(context));
articles.forEach((article, index) => {
  article.children[0].children[index % 3].onclick();
  article.children[1].value = "=comment, \\"" + index + "\\"";
});
named.download.onclick();
process.stdout.write(JSON.stringify({ saved, count: named.count.textContent }));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="runs the page's script in Node.js")
def test_the_pages_buttons_make_a_sheet_that_is_read(tmp_path: Path) -> None:
    write_review(tmp_path, [row(tmp_path, "a")], 1.0, seed=0)
    (tmp_path / "harness.js").write_text(HARNESS)
    clips = [
        {"cut": f"c{index}", "summary": text, "questions": "Q? A.", "own": json.dumps({"ö": text})}
        for index, text in enumerate(HOSTILE)
    ]
    command = ["node", tmp_path / "harness.js", tmp_path / PAGE, json.dumps(clips)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    answer = json.loads(done.stdout)
    assert answer["count"] == "8 of 8 decided"
    (tmp_path / "filled.csv").write_bytes(answer["saved"].encode())
    decisions = read_decisions(tmp_path / "filled.csv")
    assert [decisions[f"c{index}/t-c{index}"].verdict.value for index in range(3)] == [
        "accept",
        "reject",
        "regenerate",
    ]
    assert decisions["c7/t-c7"].comment == '=comment, "7"'
    write_review(tmp_path / "filled", [], 0.0, seed=0)
    (tmp_path / "filled.csv").rename(tmp_path / "filled" / SHEET)
    write_review(tmp_path / "filled", [], 0.0, seed=0)
    assert [line["ö"].lstrip("'") for line in sheet_rows(tmp_path / "filled")] == [
        text.strip().lstrip("'") for text in HOSTILE
    ]
    (tmp_path / "filled" / SHEET).rename(tmp_path / "filled.csv")
    with (tmp_path / "filled.csv").open(encoding="utf-8", newline="") as file:
        assert not any(
            cell.startswith(("=", "+", "-", "@")) for line in csv.reader(file) for cell in line
        )


def test_decisions_through_a_build(copied: Path, small_config) -> None:
    """What was decided once leads to the same corpus in every later build; new texts get a line."""
    config = replace(
        small_config(copied),
        checks=CheckConfig(review_share=1.0),
        write=WriteConfig(writer="rules", attempts=1),
        split=SplitConfig(plan="stages_share", rl_samples=0, held_out_samples=0),
    )
    build_corpus(config)
    folder = copied / "review"
    first = {line["cut_id"]: line for line in sheet_rows(folder)}
    assert len(first) == 5
    sent, dropped = "single_face-0000-0035", "carphone_pristine-0000-0039"
    decide(folder, {sent: ("regenerate", "other words"), dropped: ("reject", "no")})
    report = build_corpus(config)
    assert report.worked["written"] == 1
    assert [(item.clip_id, item.cut_id) for item in report.rejected if item.cut_id] == [
        ("carphone_pristine", dropped)
    ]
    lines = sheet_rows(folder)
    new, old = (line for line in lines if line["cut_id"] == sent)
    assert old == first[sent] | {"decision": "regenerate", "comment": "other words"}
    assert (new["decision"], new["digest"] != old["digest"]) == ("", True)
    assert new["summary"] != old["summary"]
    samples = (copied / "samples.jsonl").read_bytes()
    assert build_corpus(config).worked["written"] == 0
    assert (copied / "samples.jsonl").read_bytes() == samples
    assert sheet_rows(folder) == lines
    # Other texts, by another writer: no decision speaks of them, and none is lost.
    build_corpus(replace(config, write=WriteConfig(writer="brief")))
    decided = {line["digest"]: line["decision"] for line in sheet_rows(folder)}
    assert decided[first[sent]["digest"]] == "regenerate"
    assert decided[first[dropped]["digest"]] == "reject"
    rows = read_manifest(copied / "manifest.parquet")
    assert {row.status for row in rows if row.cut_id in (sent, dropped)} == {"accepted"}
    assert "no longer matching" in (copied / "report.html").read_text()
