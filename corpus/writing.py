"""Write, check, write again: from features to texts that may stay.

    assignments -> writer -> check --------> texts
                     ^         | problems
                     +---------+  (up to write.attempts times; then what offends is left out)

A person's decisions (:mod:`corpus.quality`) come after the check, on the texts that would stay:
`regenerate` grants one attempt more, with the person's comment, `reject` drops the clip. Every
build goes the same way through its ledger, so that what a person sent back once leads to the same
new texts again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.progress import bar
from corpus.checks import check_texts
from corpus.config import CheckConfig
from corpus.ledger import Ledger, key_of
from corpus.quality import Decision, Effect, Verdict, digest_of, place_of
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
    decisions: Mapping[str, Decision] = field(default_factory=dict)  # a person's, by place_of
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
    say about their clips is not ours to correct. The effect of each decision is entered in it.
    """
    texts: dict[str, Texts] = {}
    rejected: dict[str, Rejection] = {}
    waiting = {
        cut.cut_id: _Case(
            assignment=_assignment(cut, clips[cut.clip_id], features[cut.cut_id], desk),
            last=desk.attempts - 1,
        )
        for cut in cuts
    }
    while waiting:
        again = {}
        for cut_id, outcome in _write([case.assignment for case in waiting.values()], desk):
            settled = _settle(outcome, waiting[cut_id], desk)
            if isinstance(settled, Texts):
                texts[cut_id] = settled
            elif isinstance(settled, Rejection):
                rejected[cut_id] = settled
            else:
                again[cut_id] = settled
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A cut whose texts are not settled."""

    assignment: Assignment
    last: int  # attempt after which what offends is left out
    wishes: tuple[Problem, ...] = ()  # a person's, about texts before; they stay with the case
    sent_back: frozenset[str] = frozenset()  # digests of texts that a person sent back

    def again(self, problems: Sequence[Problem]) -> _Case:
        """The case at its next attempt."""
        told, attempt = (*problems, *self.wishes), self.assignment.attempt + 1
        return replace(self, assignment=replace(self.assignment, attempt=attempt, problems=told))


def _settle(outcome: Texts | Unwritten, case: _Case, desk: Desk) -> Texts | Rejection | _Case:
    """What becomes of a case with this outcome: its texts, no texts, or another attempt."""
    cut = case.assignment.cut
    if isinstance(outcome, Unwritten):
        return _reject(cut, outcome.reason, stage="write")
    problems = _problems(outcome, case.assignment, desk)
    if problems and case.assignment.attempt < case.last:
        return case.again(problems)
    found = _without(outcome, problems) if problems else outcome
    if found is None:
        rules = ", ".join(sorted({problem.rule for problem in problems}))
        return _reject(cut, f"no text passed the check: {rules}")
    digest = digest_of(cut, found)
    decision = desk.decisions.get(place_of(cut.cut_id, digest))
    if decision is None:
        return found
    decision.effect = Effect.FOLLOWED
    if decision.verdict == Verdict.REJECT:
        return _reject(cut, f"by a person: {decision.comment or 'no comment'}")
    if decision.verdict == Verdict.ACCEPT:
        return found
    given = case.assignment.given_summary and case.assignment.given_pairs
    if given or digest in case.sent_back:  # nothing of ours, or the writer has nothing else to say
        decision.effect = Effect.KEPT
        return found
    wish = Problem(cut_id=cut.cut_id, where="summary", rule=BY_PERSON, detail=decision.comment)
    desk.problems.append(wish)
    return replace(
        case,
        last=case.last + 1,  # the attempt that a person asks for is not one of the check's
        wishes=(*case.wishes, wish),
        sent_back=case.sent_back | {digest},
    ).again(problems)


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
    """What the check finds wrong in the texts we wrote."""
    if not desk.checks.enabled:
        return []
    found = [
        problem
        for problem in check_texts(texts, assignment.features, desk.checks)
        if not _is_given(problem, assignment)
    ]
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


def _reject(cut: Cut, reason: str, stage: str = "check") -> Rejection:
    return Rejection(
        clip_id=cut.clip_id,
        stage=stage,
        reason=reason,
        first=cut.first,
        last=cut.last,
        cut_id=cut.cut_id,
    )
