"""The loop of writing and checking, with a writer that says what it is told to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from corpus.config import CheckConfig
from corpus.ledger import Ledger
from corpus.quality import Decision, Verdict, count_decisions, digest_of, place_of
from corpus.records import Cut, Features, Pair, SourceClip, Texts
from corpus.schema import FacialTargets, QuestionKind
from corpus.writers.base import Assignment, Unwritten
from corpus.writing import Desk, describe

GOOD = "The video shows one person, and this person with brown hair looks happy."
WRONG = "The video shows one person, and this person with blond hair looks happy."
HAPPY = FacialTargets(attributes=("brown hair",), emotion=("happy",))


def pair(answer: str = "This person looks happy.", question: str = "How does it feel?") -> Pair:
    targets = FacialTargets(emotion=("happy",))
    return Pair(question=question, answer=answer, targets=targets, kind=QuestionKind.EMOTION)


class Script:
    """Writes, for each cut and attempt, what the script holds; remembers what it was asked."""

    name = "script-1"

    def __init__(self, **texts: list[tuple[str, list[Pair]] | Unwritten]) -> None:
        self.texts, self.asked = texts, []

    def write(self, assignments: Iterable[Assignment]) -> Iterator[Texts | Unwritten]:
        for assignment in assignments:
            cut_id = assignment.cut.cut_id
            self.asked.append((cut_id, assignment.attempt, assignment.problems))
            found = self.texts[cut_id][assignment.attempt]
            if isinstance(found, Unwritten):
                yield found
            else:
                summary, pairs = found
                yield Texts(
                    cut_id=cut_id,
                    summary=assignment.given_summary or summary,
                    pairs=assignment.given_pairs or tuple(pairs),
                    writer=self.name,
                    attempt=assignment.attempt,
                )


def cut(name: str) -> Cut:
    return Cut(
        cut_id=name, clip_id=name, first=0, last=9, face_share=1.0, digest=f"digest of {name}",
        video=f"clips/{name}.mp4", method="copied", file_sha256="0",
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path):
    def run(writer: Script, names: str = "a", attempts: int = 3, decisions=None, clips=None):
        desk = Desk(
            writer=writer,
            ledger=Ledger(tmp_path / "write.jsonl"),
            checks=CheckConfig(),
            attempts=attempts,
            seed=0,
            root=tmp_path,
            decisions=decisions or {},
        )
        sources = {
            name: SourceClip(clip_id=name, source="s", video="v", recording=name) for name in names
        } | (clips or {})
        features = {
            name: Features(
                cut_id=name, targets=HAPPY, present=("brown_hair", "happy"), absent=("blond_hair",)
            )
            for name in names
        }
        found, rejected = describe([cut(name) for name in names], sources, features, desk)
        return found, rejected, desk

    return run


def test_good_texts_stay_at_the_first_attempt(run) -> None:
    writer = Script(a=[(GOOD, [pair()])])
    found, rejected, desk = run(writer)
    assert [item.texts.summary for item in found] == [GOOD]
    assert (rejected, desk.written, len(writer.asked)) == ([], 1, 1)


def test_a_contradiction_goes_back_with_its_reason(run) -> None:
    writer = Script(a=[(WRONG, [pair()]), (GOOD, [pair()])])
    found, rejected, desk = run(writer)
    assert [(item.texts.summary, item.texts.attempt) for item in found] == [(GOOD, 1)]
    assert (rejected, desk.written) == ([], 2)
    (problem, *_) = writer.asked[1][2]
    assert (problem.where, problem.rule) == ("summary", "contradiction")
    assert "blond" in problem.detail


def test_after_the_last_attempt_the_clip_is_left_out_with_the_rule(run) -> None:
    found, rejected, _ = run(Script(a=[(WRONG, [pair()])] * 2), attempts=2)
    assert found == []
    (rejection,) = rejected
    assert (rejection.clip_id, rejection.cut_id, rejection.stage) == ("a", "a", "check")
    assert "contradiction" in rejection.reason


def test_after_the_last_attempt_an_offending_question_is_left_out_alone(run) -> None:
    bad = pair("This person looks sad.", "What is the mood?")
    first, last = pair(), pair("The face looks happy.", "Which emotion is it?")
    found, rejected, _ = run(Script(a=[(GOOD, [first, bad, last])]), attempts=1)
    assert rejected == []
    assert found[0].texts.pairs == (first, last)


def test_what_came_with_the_dataset_is_not_held_to_the_check(run) -> None:
    noisy = pair("This person looks sad.")
    clips = {
        "a": SourceClip(
            clip_id="a", source="s", video="v", recording="a", summary=WRONG, pairs=(noisy,)
        )
    }
    found, rejected, _ = run(Script(a=[(GOOD, [pair()])]), clips=clips)
    assert rejected == []
    assert (found[0].texts.summary, found[0].texts.pairs) == (WRONG, (noisy,))


def test_the_same_again_writes_nothing_and_ends_the_same(run) -> None:
    script = {"a": [(WRONG, [pair()]), (GOOD, [pair()])], "b": [(GOOD, [pair()])]}
    first, _, desk = run(Script(**script), names="ab")
    assert desk.written == 3
    again, _, desk = run(writer := Script(), names="ab")
    assert (again, desk.written, writer.asked) == (first, 0, [])


def test_a_cut_without_text_is_named_and_tried_again_next_time(run) -> None:
    later = Unwritten(cut_id="a", reason="budget spent", final=False)
    found, rejected, desk = run(Script(a=[later], b=[(GOOD, [pair()])]), names="ab")
    assert [item.cut.cut_id for item in found] == ["b"]
    assert [(item.clip_id, item.stage, item.reason) for item in rejected] == [
        ("a", "write", "budget spent")
    ]
    assert desk.unwritten == [later]
    found, rejected, _ = run(Script(a=[(GOOD, [pair()])]), names="ab")
    assert ([item.cut.cut_id for item in found], rejected) == (["a", "b"], [])


def on(name: str, summary: str, verdict: Verdict, comment: str = "", pairs=None) -> dict:
    """A decision on these texts of cut ``name``."""
    judged = Texts(cut_id=name, summary=summary, pairs=tuple(pairs or [pair()]), writer="script-1")
    place = place_of(name, digest_of(cut(name), judged))
    return {place: Decision(verdict=verdict, comment=comment)}


OTHER = GOOD.replace("The video shows", "This clip shows")
THIRD = GOOD.replace("The video shows", "Here is")


def test_a_person_rejects_and_sends_back(run) -> None:
    decisions = (
        on("a", GOOD, Verdict.REJECT, "two faces")
        | on("b", GOOD, Verdict.REGENERATE, "name the hair")
        | on("c", GOOD, Verdict.ACCEPT)
    )
    good = (GOOD, [pair()])
    writer = Script(a=[good], b=[good, (OTHER, [pair()])], c=[good])
    found, rejected, _ = run(writer, names="abc", decisions=decisions)
    assert [(item.cut.cut_id, item.texts.summary) for item in found] == [("b", OTHER), ("c", GOOD)]
    assert [(item.cut_id, item.stage, item.reason) for item in rejected] == [
        ("a", "check", "by a person: two faces")
    ]
    assert [problem.detail for problem in writer.asked[-1][2]] == ["name the hair"]
    assert count_decisions(decisions.values()) == {"reject": 1, "regenerate": 1, "accept": 1}


def test_a_decision_on_other_texts_does_nothing_and_is_counted(run) -> None:
    decisions = (
        on("a", "Other words.", Verdict.REJECT)
        | on("b", GOOD, Verdict.REGENERATE, pairs=[pair("It looks sad.")])
        | on("unknown", GOOD, Verdict.REJECT)
        | {"c/": Decision(verdict=Verdict.REJECT)}  # a line without digest
    )
    writer = Script(**{name: [(GOOD, [pair()])] for name in "abc"})
    found, rejected, desk = run(writer, names="abc", decisions=decisions)
    assert [item.texts.summary for item in found] == [GOOD] * 3
    assert (rejected, desk.written) == ([], 3)
    assert count_decisions(decisions.values()) == {"no longer matching": 4}


def test_what_was_sent_back_leads_to_the_same_new_texts_in_every_build(run) -> None:
    """The new texts can be judged in their turn; the ledger alone gives all of them again."""
    script = {"a": [(GOOD, [pair()]), (OTHER, [pair()]), (THIRD, [pair()])]}
    run(Script(**script), attempts=1)
    once = lambda: on("a", GOOD, Verdict.REGENERATE, "shorter")  # noqa: E731
    found, _, desk = run(writer := Script(**script), attempts=1, decisions=once())
    assert ([item.texts.summary for item in found], desk.written) == ([OTHER], 1)
    assert [(asked[1], [p.detail for p in asked[2]]) for asked in writer.asked] == [
        (1, ["shorter"])
    ]
    again, _, desk = run(Script(), attempts=1, decisions=once())
    assert (again, desk.written) == (found, 0)
    twice = once() | on("a", OTHER, Verdict.REGENERATE, "name him")
    found, _, desk = run(writer := Script(**script), attempts=1, decisions=twice)
    assert ([item.texts.summary for item in found], desk.written) == ([THIRD], 1)
    assert [p.detail for p in writer.asked[0][2]] == ["shorter", "name him"]
    dropped = once() | on("a", OTHER, Verdict.REJECT, "no")
    found, rejected, _ = run(Script(), attempts=1, decisions=dropped)
    assert (found, [item.reason for item in rejected]) == ([], ["by a person: no"])


def test_a_person_judges_what_the_check_has_passed(run) -> None:
    script = {"a": [(WRONG, [pair()]), (GOOD, [pair()]), (WRONG, [pair()]), (OTHER, [pair()])]}
    decisions = on("a", GOOD, Verdict.REGENERATE, "shorter")
    found, _, _ = run(writer := Script(**script), attempts=3, decisions=decisions)
    assert [item.texts.summary for item in found] == [OTHER]
    rules = [[problem.rule for problem in asked[2]] for asked in writer.asked]
    assert [len(item) > 0 and item[-1] == "person" for item in rules] == [False, False, True, True]
    assert "contradiction" in rules[3]  # beside the person's wish, which still holds


def test_texts_that_came_with_the_dataset_cannot_be_sent_back(run) -> None:
    clips = {
        "a": SourceClip(
            clip_id="a", source="s", video="v", recording="a", summary=WRONG, pairs=(pair(),)
        )
    }
    decisions = on("a", WRONG, Verdict.REGENERATE, "wrong hair")
    found, rejected, desk = run(Script(a=[(GOOD, [])]), clips=clips, decisions=decisions)
    assert ([item.texts.summary for item in found], rejected, desk.written) == ([WRONG], [], 1)
    assert count_decisions(decisions.values()) == {"could not be regenerated": 1}
    dropped = on("a", WRONG, Verdict.REJECT, "wrong hair")
    assert run(Script(), clips=clips, decisions=dropped)[0] == []


def test_a_writer_that_writes_the_same_again_is_asked_once(run) -> None:
    decisions = on("a", GOOD, Verdict.REGENERATE)
    writer = Script(a=[(GOOD, [pair()])] * 9)
    found, _, desk = run(writer, decisions=decisions)
    assert ([item.texts.summary for item in found], desk.written) == ([GOOD], 2)
    assert count_decisions(decisions.values()) == {"could not be regenerated": 1}
