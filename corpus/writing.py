"""Write, check, write again: from features to texts that may stay.

    assignments -> writer -> check --------> texts
                     ^         | problems
                     +---------+  (up to write.attempts times; then what offends is left out)

A person's decisions (:mod:`corpus.quality`) are one more check: `regenerate` sends a text back with
the person's comment, `reject` drops the clip.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.progress import bar
from corpus.checks import check_texts
from corpus.config import CheckConfig
from corpus.ledger import Ledger, key_of
from corpus.quality import Decision, Verdict
from corpus.records import (
    Cut,
    Described,
    Features,
    Problem,
    Rejection,
    SourceClip,
    Texts,
    from_row,
    to_row,
)
from corpus.writers.base import Assignment, Unwritten, Writer

BY_PERSON = "person"  # rule of a problem that a person, not the check, has found


@dataclass(slots=True, kw_only=True)
class Desk:
    """The writer, what it wrote before, and the rules that its texts are held to."""

    writer: Writer
    ledger: Ledger
    checks: CheckConfig
    attempts: int
    seed: int
    root: Path
    decisions: Mapping[str, Decision] = field(default_factory=dict)  # a person's, by cut
    written: int = 0  # texts that this build had written
    unwritten: list[Unwritten] = field(default_factory=list)  # may be written next time
    problems: list[Problem] = field(default_factory=list)  # everything that was sent back
    asked: list[tuple[str, str]] = field(default_factory=list)  # entries of the ledger in use


def describe(
    cuts: Sequence[Cut],
    clips: Mapping[str, SourceClip],
    features: Mapping[str, Features],
    desk: Desk,
) -> tuple[list[Described], list[Rejection]]:
    """Texts for every cut, and the cuts that end without, with reasons; in the order of ``cuts``.

    Texts that came with a dataset are kept as they are and not checked: what a dataset's authors
    say about their clips is not ours to correct.
    """
    texts: dict[str, Texts] = {}
    rejected: dict[str, Rejection] = {}
    waiting = {}
    for cut in cuts:
        if _verdict(desk, cut.cut_id) == Verdict.REJECT:
            comment = desk.decisions[cut.cut_id].comment
            rejected[cut.cut_id] = _reject(cut.cut_id, f"by a person: {comment or 'no comment'}")
        else:
            waiting[cut.cut_id] = _assignment(cut, clips[cut.clip_id], features[cut.cut_id], desk)
    for last in [attempt == desk.attempts - 1 for attempt in range(desk.attempts)]:
        again = {}
        for cut_id, outcome in _write(waiting.values(), desk):
            if isinstance(outcome, Unwritten):
                rejected[cut_id] = _reject(cut_id, outcome.reason, stage="write")
                continue
            assignment = waiting[cut_id]
            problems = _problems(outcome, assignment, desk)
            if not problems:
                texts[cut_id] = outcome
            elif not last:
                again[cut_id] = replace(
                    assignment, attempt=assignment.attempt + 1, problems=tuple(problems)
                )
            elif cleaned := _without(outcome, problems):
                texts[cut_id] = cleaned
            else:
                rules = ", ".join(sorted({problem.rule for problem in problems}))
                rejected[cut_id] = _reject(cut_id, f"no text passed the check: {rules}")
        waiting = again
    desk.ledger.keep(desk.asked)
    described = [
        Described(
            clip=clips[cut.clip_id],
            cut=cut,
            features=features[cut.cut_id],
            texts=texts[cut.cut_id],
        )
        for cut in cuts
        if cut.cut_id in texts
    ]
    return described, [rejected[cut.cut_id] for cut in cuts if cut.cut_id in rejected]


def _assignment(cut: Cut, clip: SourceClip, features: Features, desk: Desk) -> Assignment:
    return Assignment(
        cut=cut,
        features=features,
        video=desk.root / cut.video,
        seed=f"{desk.seed}/{cut.cut_id}",
        given_summary=clip.summary,
        given_pairs=clip.pairs,
    )


def _write(
    assignments: Iterable[Assignment], desk: Desk
) -> Iterable[tuple[str, Texts | Unwritten]]:
    """Each assignment's outcome: from the ledger where it stands there, else from the writer."""
    keys, todo = {}, []
    for assignment in assignments:
        cut_id = assignment.cut.cut_id
        keys[cut_id] = _key(assignment, desk)
        desk.asked.append((cut_id, keys[cut_id]))
        found = desk.ledger.get(cut_id, keys[cut_id])
        if found is None:
            todo.append(assignment)
        else:
            yield cut_id, from_row(Texts, found)
    if not todo:
        return
    with bar("writing texts", total=len(todo), unit="clip") as shown:
        for outcome in desk.writer.write(todo):
            shown.update()
            if isinstance(outcome, Unwritten):
                desk.unwritten += [] if outcome.final else [outcome]
            else:
                desk.ledger.put(outcome.cut_id, keys[outcome.cut_id], to_row(outcome))
                desk.written += 1
            yield outcome.cut_id, outcome


def _key(assignment: Assignment, desk: Desk) -> str:
    return key_of(
        desk.writer.name,
        assignment.seed,
        assignment.cut.digest,
        to_row(assignment.features),
        assignment.given_summary,
        [to_row(pair) for pair in assignment.given_pairs],
        assignment.attempt,
        [to_row(problem) for problem in assignment.problems],
    )


def _problems(texts: Texts, assignment: Assignment, desk: Desk) -> list[Problem]:
    """What the check, or on the first attempt a person, finds wrong in the texts we wrote."""
    found = []
    if desk.checks.enabled:
        found = [
            problem
            for problem in check_texts(texts, assignment.features, desk.checks)
            if not _is_given(problem, assignment)
        ]
    if assignment.attempt == 0 and _verdict(desk, texts.cut_id) == Verdict.REGENERATE:
        comment = desk.decisions[texts.cut_id].comment
        found.append(Problem(cut_id=texts.cut_id, where="summary", rule=BY_PERSON, detail=comment))
    desk.problems += found
    return found


def _is_given(problem: Problem, assignment: Assignment) -> bool:
    given = assignment.given_summary if problem.where == "summary" else assignment.given_pairs
    return bool(given)


def _without(texts: Texts, problems: Sequence[Problem]) -> Texts | None:
    """The texts without the pairs that offend; None when the summary does, or no pair is left."""
    places = {problem.where for problem in problems}
    numbered = enumerate(texts.pairs, start=1)
    pairs = tuple(pair for number, pair in numbered if f"pair {number}" not in places)
    return replace(texts, pairs=pairs) if "summary" not in places and pairs else None


def _verdict(desk: Desk, cut_id: str) -> Verdict | None:
    decision = desk.decisions.get(cut_id)
    return decision.verdict if decision else None


def _reject(cut_id: str, reason: str, stage: str = "check") -> Rejection:
    return Rejection(clip_id=cut_id, stage=stage, reason=reason)
