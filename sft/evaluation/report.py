"""Evaluations for people: TensorBoard, tables over stages, answers to read."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from corpus.ledger import write_atomically
from corpus.schema import Level
from sft.evaluation.records import (
    Ablation,
    AblationScores,
    AnswerRecord,
    Estimate,
    Evaluation,
    Part,
    Scores,
)
from sft.evaluation.scoring import FACTS

NUM_SHOWN = 12
REPORT_FILE = "evaluation.md"
_ABLATION_ROWS = {
    Ablation.SWAPPED_CLIPS: "clips swapped",
    Ablation.REVERSED_FRAMES: "frames reversed (action questions)",
    Ablation.SHUFFLED_FRAMES: "frames shuffled (action questions)",
    Ablation.NO_PROMPT: "prompt removed from all levels",
    Ablation.NO_PROMPT_LOW: "prompt removed from the low level",
    Ablation.NO_PROMPT_MIDDLE: "prompt removed from the middle level",
    Ablation.NO_PROMPT_HIGH: "prompt removed from the high level",
}
Find = Callable[[Evaluation], Estimate | None]


def scalars(evaluation: Evaluation) -> dict[str, float]:
    """Every score's value under a metric name (common.metrics).

    Example:
        >>> scalars(evaluation)["eval/level_low/attributes/f1"]
        0.48
    """
    sets = {"all": evaluation.overall}
    sets |= {f"level_{name}": scores for name, scores in evaluation.levels.items()}
    sets |= {f"kind_{name}": scores for name, scores in evaluation.kinds.items()}
    sets |= {f"stratum_{name}": scores for name, scores in evaluation.strata.items()}
    values: dict[str, float] = {}
    for name, scores in sets.items():
        if scores is not None:
            values |= {f"eval/{name}/{key}": value for key, value in _values(scores).items()}
    for name, ablation in evaluation.ablations.items():
        for key in ("loss", "loss_increase", "token_accuracy"):
            values[f"eval/ablation_{name}/{key}"] = getattr(ablation, key).value
    return values


def write_tensorboard(evaluation: Evaluation, folder: Path, *, step: int) -> None:
    """Add the scalars, and a table of sample answers, to the TensorBoard events in ``folder``."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for name, value in scalars(evaluation).items():
            writer.add_scalar(name, value, step)
        writer.add_text("eval/answers", answers_table(pick_answers(evaluation.answers)), step)


def pick_answers(
    answers: Sequence[AnswerRecord], count: int = NUM_SHOWN
) -> tuple[AnswerRecord, ...]:
    """``count`` answers to read, the kinds and levels in turn; the same ones at every stage."""
    groups: dict[tuple[str, str], list[AnswerRecord]] = {}
    for answer in sorted(answers, key=lambda answer: answer.sample_id):
        groups.setdefault((answer.kind or "", answer.level or ""), []).append(answer)
    turns = zip_longest(*(groups[key] for key in sorted(groups)))
    return tuple(answer for turn in turns for answer in turn if answer is not None)[:count]


def answers_table(answers: Sequence[AnswerRecord]) -> str:
    """Question, gold answer and greedy answer side by side, in Markdown."""
    head = ("clip", "kind", "level", "question", "gold", "answer", "loss a token")
    lines = [
        (
            Path(answer.video).name,
            answer.kind or "",
            answer.level or "",
            answer.question,
            answer.gold,
            f"{answer.answer} …" if answer.truncated else answer.answer,
            f"{answer.loss / answer.num_tokens:.2f}",
        )
        for answer in answers
    ]
    return to_markdown([head, *lines])


def stages_table(evaluations: Mapping[str, Evaluation]) -> list[list[str]]:
    """Rows of cells: a column per evaluation, named by its key; levels first, as in Table 8.

    Rows that no evaluation has a value for are left out. A cell holds the value and its 95%
    interval; :func:`to_markdown` renders the rows.

    Example:
        >>> print(to_markdown(stages_table({"stage 1": first, "stage 2": second})))
        | | stage 1 | stage 2 |
        | --- | --- | --- |
        | low level: F1 of all facts | 0.21 (0.15 to 0.28) | 0.48 (0.41 to 0.55) |
        ...
    """
    table = [["", *evaluations]]
    for rows, digits in ((_score_rows(), 2), (_increase_rows(), 3)):
        for label, find in rows.items():
            cells = [_cell(find(evaluation), digits) for evaluation in evaluations.values()]
            if any(cells):
                table.append([label, *cells])
    counts = [evaluation.overall for evaluation in evaluations.values()]
    table.append(["answers", *(str(scores.num_answers) if scores else "0" for scores in counts)])
    table.append(["samples skipped", *(str(len(e.skipped)) for e in evaluations.values())])
    return table


def to_markdown(table: Sequence[Sequence[str]]) -> str:
    """A table whose first row is the head; the cells' own markup is shown, not obeyed."""
    head, *lines = ([_markdown_cell(cell) for cell in row] for row in table)
    rendered = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rendered) + "\n"


def write_report(folder: Path, evaluations: Mapping[str, Evaluation]) -> Path:
    """``evaluation.md`` in ``folder``: the table over stages, the last one's answers; atomic."""
    path = folder / REPORT_FILE
    *_, last = evaluations.values()
    answers = answers_table(pick_answers(last.answers))
    table = to_markdown(stages_table(evaluations))
    write_atomically(path, f"# Held-out questions\n\n{table}\n## Answers\n\n{answers}")
    return path


def _values(scores: Scores) -> dict[str, float]:
    values = {
        "num_answers": float(scores.num_answers),
        "truncated_fraction": scores.num_truncated / scores.num_answers,
        "loss": scores.loss.value,
        "token_accuracy": scores.token_accuracy.value,
    }
    for name, part in scores.parts.items():
        for key in ("accuracy", "precision", "recall", "f1"):
            if (estimate := getattr(part, key)) is not None:
                values[f"{name}/{key}"] = estimate.value
    return values


def _score_rows() -> dict[str, Find]:
    rows: dict[str, Find] = {}
    for level in Level:
        rows[f"{level} level: F1 of all facts"] = _at(level, _of_part(FACTS, "f1"))
    for level in Level:
        rows[f"{level} level: loss a token"] = _at(level, lambda scores: scores.loss)
    rows["loss a token"] = _overall(lambda scores: scores.loss)
    rows["token accuracy"] = _overall(lambda scores: scores.token_accuracy)
    rows["emotion accuracy"] = _overall(_of_part(Part.EMOTION, "accuracy"))
    for key in ("f1", "precision", "recall"):
        label = {"f1": "F1"}.get(key, key)
        rows[f"attribute {label}"] = _overall(_of_part(Part.ATTRIBUTES, key))
    rows["action accuracy"] = _overall(_of_part(Part.ACTION, "accuracy"))
    rows["action F1"] = _overall(_of_part(Part.ACTION, "f1"))
    return rows


def _increase_rows() -> dict[str, Find]:
    return {
        f"loss increase: {label}": _increase(ablation) for ablation, label in _ABLATION_ROWS.items()
    }


def _of_part(part: str, key: str) -> Callable[[Scores], Estimate | None]:
    def find(scores: Scores) -> Estimate | None:
        return getattr(scores.parts[part], key) if part in scores.parts else None

    return find


def _overall(find: Callable[[Scores], Estimate | None]) -> Find:
    return lambda evaluation: None if evaluation.overall is None else find(evaluation.overall)


def _at(level: str, find: Callable[[Scores], Estimate | None]) -> Find:
    return lambda evaluation: find(evaluation.levels[level]) if level in evaluation.levels else None


def _increase(ablation: str) -> Find:
    def find(evaluation: Evaluation) -> Estimate | None:
        scores: AblationScores | None = evaluation.ablations.get(ablation)
        return None if scores is None else scores.loss_increase

    return find


def _cell(estimate: Estimate | None, digits: int) -> str:
    if estimate is None:
        return ""
    shown = f"{estimate.value:z.{digits}f}"  # z: no minus sign before zero
    if estimate.low is None or estimate.high is None:
        return shown
    return f"{shown} ({estimate.low:z.{digits}f} to {estimate.high:z.{digits}f})"


def _markdown_cell(text: Any) -> str:
    escaped = html.escape(" ".join(str(text).split()), quote=False)
    for mark in "\\`*_|[":
        escaped = escaped.replace(mark, f"\\{mark}")
    return escaped
