"""Usable samples, and clips swapped between samples."""

import pytest

from common.errors import PromptError, SampleError, VideoError
from corpus.schema import FacialTargets, Sample
from sft.data import (
    UsableSamples,
    find_usable,
    refuse_too_many_skipped,
    row_name,
    rows,
    rows_with_swapped_clips,
)


def make_sample(sample_id: str, video: str, source: str = "film") -> Sample:
    return Sample(
        sample_id=sample_id,
        video=video,
        question="What?",
        answer="That.",
        targets=FacialTargets(),
        source=source,
        split="qa",
    )


def len_of_text(sample):
    return len(sample.question)


def test_samples_of_an_unreadable_clip_are_skipped_with_its_reason_and_each_clip_is_read_once():
    read = []

    def read_clips(videos):
        for video in videos:
            read.append(video)
            bad = VideoError("bad.mp4", "it must decode", "replace it")
            yield bad if video == "bad.mp4" else object()

    samples = [
        make_sample("a", "good.mp4"),
        make_sample("b", "bad.mp4"),
        make_sample("c", "good.mp4"),
        make_sample("d", "bad.mp4"),
    ]
    usable = find_usable(samples, read_clips, len_of_text, what="reading")
    assert [sample.sample_id for sample in usable.samples] == ["a", "c"]
    reason = "got bad.mp4; it must decode; replace it"
    assert usable.skipped == {"b": reason, "d": reason}
    assert read == ["good.mp4", "bad.mp4"]


def test_an_error_that_is_not_the_samples_is_not_swallowed():
    def read_clips(videos):
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        find_usable([make_sample("a", "a.mp4")], read_clips, len_of_text, what="reading")


def test_a_text_that_does_not_fit_costs_its_own_sample_alone():
    def check_text(sample):
        if sample.sample_id == "b":
            raise PromptError("a text of 999 tokens", "it has at most 512", "shorten it")

    samples = [make_sample(name, "one.mp4") for name in "abc"]
    usable = find_usable(samples, lambda videos: map(str, videos), check_text, what="reading")
    assert [sample.sample_id for sample in usable.samples] == ["a", "c"]
    assert usable.skipped == {"b": "got a text of 999 tokens; it has at most 512; shorten it"}


def usable(num_good: int, num_bad: int) -> UsableSamples:
    return UsableSamples(
        [make_sample(f"g{i}", "g.mp4") for i in range(num_good)],
        {f"b{i}": "it is broken" for i in range(num_bad)},
    )


@pytest.mark.parametrize(
    ("num_good", "num_bad", "max_fraction"), [(4, 1, 0.2), (5, 0, 0.0), (1, 3, 0.75)]
)
def test_up_to_the_fraction_may_be_skipped(num_good, num_bad, max_fraction):
    found = usable(num_good, num_bad)
    refuse_too_many_skipped(found, max_fraction=max_fraction)
    one_more = UsableSamples(found.samples[1:], {**found.skipped, "more": "it is broken"})
    with pytest.raises(SampleError):
        refuse_too_many_skipped(one_more, max_fraction=max_fraction)


@pytest.mark.parametrize(
    ("num_good", "num_bad", "max_fraction"), [(3, 1, 0.2), (5, 1, 0.0), (0, 2, 1.0)]
)
def test_more_skipped_samples_stop_the_stage_and_say_which(num_good, num_bad, max_fraction):
    with pytest.raises(SampleError, match=f"{num_bad} of {num_good + num_bad} .*b0, it is broken"):
        refuse_too_many_skipped(usable(num_good, num_bad), max_fraction=max_fraction)


def test_swapped_clips_keep_the_questions_and_come_from_another_source():
    samples = [
        make_sample("a", "one-1.mp4", "one"),
        make_sample("b", "one-2.mp4", "one"),
        make_sample("c", "two-1.mp4", "two"),
        make_sample("d", "one-1.mp4", "one"),
        make_sample("e", "two-2.mp4", "two"),
    ]
    own = {row["sample_id"]: row["video"] for row in rows(samples)}
    swapped = {row["sample_id"]: row["video"] for row in rows_with_swapped_clips(samples)}
    assert own == {sample.sample_id: sample.video for sample in samples}
    assert {name: video[:3] for name, video in swapped.items()} == {
        "a": "two", "b": "two", "c": "one", "d": "two", "e": "one",
    }  # fmt: skip
    assert {swapped["a"], swapped["b"]} == {"two-1.mp4", "two-2.mp4"}  # not all the same one


def test_clips_of_a_single_source_are_swapped_with_each_other():
    samples = [make_sample("a", "1.mp4"), make_sample("b", "2.mp4")]
    assert [row["video"] for row in rows_with_swapped_clips(samples)] == ["2.mp4", "1.mp4"]


def test_a_single_clip_has_nothing_to_be_swapped_with():
    assert rows_with_swapped_clips([make_sample("a", "1.mp4"), make_sample("b", "1.mp4")]) == []


def test_questions_about_one_clip_become_conversations_in_their_order():
    samples = [
        make_sample("a", "1.mp4"),
        make_sample("b", "2.mp4"),
        make_sample("c", "1.mp4"),
        make_sample("d", "1.mp4"),
    ]
    assert rows(samples, turns=2) == [
        {"video": "1.mp4", "sample_id": "c", "earlier": ["a"]},
        {"video": "1.mp4", "sample_id": "d", "earlier": []},
        {"video": "2.mp4", "sample_id": "b", "earlier": []},
    ]
    assert [row_name(row) for row in rows(samples, turns=3)] == ["a+c+d", "b"]


def test_a_conversation_that_does_not_fit_is_divided_and_no_question_is_lost():
    samples = [make_sample(name, "1.mp4") for name in "abcde"]
    short = rows(samples, turns=4, fits=lambda row: len(row["earlier"]) < 2 or "e" in row_name(row))
    assert [row_name(row) for row in short] == ["a+b", "c+d+e"]
    assert [row_name(row) for row in rows(samples, turns=4, fits=lambda row: False)] == [*"abcde"]
