from __future__ import annotations

import csv
import html.parser
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from common.errors import ConfigError
from corpus.quality import (
    PAGE,
    SHEET,
    Decision,
    ReviewRow,
    Verdict,
    read_decisions,
    write_review,
)
from corpus.records import Pair
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
        cut_id=cut_id, video=tmp_path / "clips" / f"{cut_id}.mp4", summary=summary, pairs=(pair,)
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
        cut_id="x", video=tmp_path / "clips" / 'a "b"#1%?.mp4', summary="s", pairs=odd.pairs
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
        "a": Decision(verdict=Verdict.REJECT, comment="wrong face"),
        "b": Decision(verdict=Verdict.REGENERATE, comment="=1"),
        "c": Decision(verdict=Verdict.ACCEPT),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cut_id,comment\na,b\n", "no column decision"),
        ("", "no column cut_id and decision"),
        ("cut_id;decision\na;accept\n", "no column"),
        ("cut_id,decision\na,accept\nb,acept\n", "line 3 with decision 'acept'"),
        ("cut_id,decision\na,accept\na,reject\n", "line 3, the second on a"),
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
  dataset: { cut: row.cut, video: "v.mp4", decision: "", comment: "" },
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
        {"cut": f"c{index}", "summary": text, "questions": "Q? A."}
        for index, text in enumerate(HOSTILE)
    ]
    command = ["node", tmp_path / "harness.js", tmp_path / PAGE, json.dumps(clips)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    answer = json.loads(done.stdout)
    assert answer["count"] == "8 of 8 decided"
    (tmp_path / "filled.csv").write_bytes(answer["saved"].encode())
    decisions = read_decisions(tmp_path / "filled.csv")
    assert [decisions[f"c{index}"].verdict.value for index in range(3)] == [
        "accept",
        "reject",
        "regenerate",
    ]
    assert decisions["c7"].comment == '=comment, "7"'
    with (tmp_path / "filled.csv").open(encoding="utf-8", newline="") as file:
        assert not any(
            cell.startswith(("=", "+", "-", "@")) for line in csv.reader(file) for cell in line
        )
