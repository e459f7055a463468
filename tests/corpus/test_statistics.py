from __future__ import annotations

from dataclasses import replace

import pytest

from corpus.attributes import VOCABULARY
from corpus.records import Cut, Features, Inspection, Pair, Rejection, SourceClip, Texts
from corpus.schema import FacialTargets, Level, QuestionKind, Sample
from corpus.statistics import (
    Contents,
    Histogram,
    attribute_counts,
    histogram,
    num_named,
    reasons,
    split_table,
    stage_counts,
    statistics_by_source,
)


def source(name: str, dataset: str = "own") -> SourceClip:
    return SourceClip(clip_id=name, source=dataset, video=f"/v/{name}.mp4", recording=name)


def cut(name: str, frames: int, fps: float = 25.0) -> Cut:
    return Cut(
        cut_id=f"{name}-cut",
        clip_id=name,
        first=10,
        last=9 + frames,
        face_share=1.0,
        digest="d",
        video=f"clips/{name}.mp4",
        method="copied",
        file_sha256="f",
        fps=fps,
    )


def inspection(name: str, fps: float) -> Inspection:
    return Inspection(
        clip_id=name,
        sha256="s",
        num_frames=100,
        fps=fps,
        width=64,
        height=48,
        face=(True,) * 100,
        face_share_of_frames=1.0,
        face_share_of_area=0.2,
        shots=(0,),
        num_people=1,
    )


def texts(name: str, summary: str, questions: int) -> Texts:
    pair = Pair(
        question="How?", answer="So.", targets=FacialTargets(), kind=QuestionKind.DESCRIPTION
    )
    return Texts(cut_id=f"{name}-cut", summary=summary, pairs=(pair,) * questions, writer="rules-1")


def features(name: str, *present: str) -> Features:
    return Features(cut_id=f"{name}-cut", targets=FacialTargets(), present=present)


@pytest.fixture
def contents() -> Contents:
    """Six clips: two good ones of two sources, and one lost at each of four stages."""
    return Contents(
        clips=[
            source(n, "b" if n == "two" else "a")
            for n in ["one", "two", "mute", "dark", "bad", "odd"]
        ],
        inspections=[inspection(n, 50.0) for n in ["one", "two", "mute", "dark", "odd"]],
        cuts=[cut("one", 50), cut("two", 100, fps=0.0), cut("mute", 40), cut("odd", 40)],
        features=[
            features("one", "brown_hair", "smile"),
            features("two", "smile", "smile"),
            features("mute", "smile"),
            features("odd", "bald"),
        ],
        texts=[
            texts("one", "A man with brown hair is smiling. He looks happy.", 3),
            texts("two", "Someone is smiling.", 2),
            texts("odd", "Words", 1),
        ],
        rejections=[
            Rejection(clip_id="bad", stage="inspect", reason="not a video of 3 bytes"),
            Rejection(clip_id="dark", stage="filter", reason="a face in 12% of the frames"),
            Rejection(clip_id="one", stage="trim", reason="no face in 9 frames", first=0, last=8),
            Rejection(clip_id="mute", cut_id="mute-cut", stage="write", reason="refused"),
            Rejection(clip_id="odd", cut_id="odd-cut", stage="check", reason="contradiction"),
        ],
        samples=[
            Sample(
                sample_id=f"{number}",
                video="v",
                question="q",
                answer="a",
                targets=FacialTargets(),
                source="a",
                split=split,
                extra={"clip_id": "one-cut", "kind": kind, "level": level},
            )
            for number, (split, kind, level) in enumerate(
                [("qa", "emotion", "high"), ("qa", "appearance", "low"), ("rl", "emotion", "high")]
            )
        ],
    )


def test_what_is_left_after_each_stage(contents: Contents):
    assert [(item.stage, item.count) for item in stage_counts(contents)] == [
        ("collected", 6),
        ("inspected", 5),
        ("kept by the filter", 4),
        ("cut", 4),
        ("with features", 4),
        ("written", 3),
        ("passed the check", 2),
        ("in a split", 1),
    ]


def test_a_build_that_forgets_what_it_rejected_counts_the_same(contents: Contents):
    """The runner drops rejected clips from its lists; the rejections still name them."""
    short = Contents(
        clips=contents.clips,
        inspections=contents.inspections,
        cuts=[c for c in contents.cuts if c.clip_id in ("one", "two")],
        features=[f for f in contents.features if f.cut_id in ("one-cut", "two-cut")],
        texts=[t for t in contents.texts if t.cut_id in ("one-cut", "two-cut")],
        rejections=contents.rejections,
        samples=contents.samples,
    )
    assert stage_counts(short) == stage_counts(contents)
    assert statistics_by_source(short) == statistics_by_source(contents)


def test_a_rejected_cut_that_is_named_like_a_clip_is_not_accepted(contents: Contents):
    named = replace(contents, clips=[*contents.clips, source("one-cut")])
    rejection = Rejection(clip_id="one", cut_id="one-cut", stage="check", reason="contradiction")
    assert [item.cut_id for item in named.accepted] == ["one-cut", "two-cut"]
    worse = replace(named, rejections=[*named.rejections, rejection])
    assert [item.cut_id for item in worse.accepted] == ["two-cut"]


def test_reasons_that_differ_in_numbers_are_one():
    found = [
        Rejection(clip_id="a", stage="filter", reason="a face in 12% of 90 frames"),
        Rejection(clip_id="b", stage="filter", reason="a face in 7.5% of 8 frames"),
        Rejection(clip_id="c", stage="check", reason="contradiction"),
    ]
    assert reasons(found) == [
        ("filter", "a face in … of … frames", 2),
        ("check", "contradiction", 1),
    ]


def test_table_1(contents: Contents):
    first, second, total = statistics_by_source(contents)
    assert (first.source, first.clips, first.frames, first.summaries) == ("a", 1, 50, 1)
    assert first.hours == pytest.approx(2 / 3600)  # 50 frames at the cut's 25 a second
    assert (first.questions, first.questions_per_clip) == (3, 3.0)
    assert first.tokens_per_summary == 10
    assert first.attributes_per_summary == 3  # brown hair, smiling, happy
    assert second.hours == pytest.approx(2 / 3600)  # 100 frames at the source's 50
    assert (total.source, total.clips, total.frames, total.questions) == ("all", 2, 150, 5)
    assert total.tokens_per_summary == 6.5
    assert total.questions_per_clip == 2.5
    letters = statistics_by_source(contents, count_tokens=len)
    assert letters[1].tokens_per_summary == len("Someone is smiling.")


def test_table_1_of_nothing():
    (total,) = statistics_by_source(Contents())
    assert (total.clips, total.hours, total.tokens_per_summary) == (0, 0, None)
    assert total.questions_per_clip is None


def test_one_source_needs_no_total(contents: Contents):
    alone = Contents(clips=contents.clips, cuts=contents.cuts[:1])
    assert [line.source for line in statistics_by_source(alone)] == ["a"]


def test_named_attributes_are_counted_once_and_denials_not():
    assert num_named("He has brown hair, brown hair and a goatee, and is not smiling.") == 2


def test_table_5_counts_accepted_clips(contents: Contents):
    found = {item.name: item for item in attribute_counts(contents)}
    assert len(found) == 103
    assert [found[n].count for n in ("smile", "brown_hair", "bald")] == [2, 1, 0]
    assert found["brown_hair"].share == 0.5
    paper = VOCABULARY["brown_hair"].count
    assert (found["brown_hair"].paper_count, found["brown_hair"].paper_share) == (
        paper,
        paper / 61_007,
    )


def test_phrases_count_where_there_are_no_names(contents: Contents):
    targets = FacialTargets(attributes=("brown hair", "unheard-of"), emotion=("happy",))
    held = Contents(
        clips=contents.clips,
        cuts=contents.cuts[:1],
        features=[Features(cut_id="one-cut", targets=targets)],
    )
    assert {a.name for a in attribute_counts(held) if a.count} == {"brown_hair", "happy"}


def test_split_table(contents: Contents):
    rows = {
        name: (clips, samples, parts)
        for name, clips, samples, parts in split_table(contents.samples)
    }
    assert list(rows) == ["summary", "qa", "emotion_qa", "rl", "held_out"]
    clips, samples, parts = rows["qa"]
    assert (clips, samples) == (1, 2)
    assert (parts["emotion"], parts["appearance"], parts[Level.LOW], parts["high"]) == (1, 1, 1, 1)
    assert rows["held_out"][:2] == (0, 0)


def test_histogram():
    assert histogram([]) is None
    assert histogram([4]) == Histogram(width=1, counts=(0, 0, 0, 0, 1), mean=4.0, total=1)
    assert histogram([0, 3, 12], max_bins=3) == Histogram(
        width=5, counts=(2, 0, 1), mean=5.0, total=3
    )
    wide = histogram([99, 100, 1999])
    assert wide is not None
    assert (wide.width, wide.counts[0], wide.counts[1], wide.counts[19]) == (100, 1, 1, 1)
