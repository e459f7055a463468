"""The figures that say whether the policy learned, and from the clip."""

from __future__ import annotations

from corpus.schema import FacialTargets, Sample
from degrpo.pool_evaluation import evaluate_pool, shuffle_clips
from rewards.types import RewardBreakdown


def _sample(name: str, source: str, answer: str) -> Sample:
    return Sample(
        sample_id=name,
        video=f"/clips/{name}.mp4",
        question="What?",
        answer=answer,
        targets=FacialTargets(),
        source=source,
        split="rl",
    )


POOL = [_sample("a", "one", "happy"), _sample("b", "one", "happy"), _sample("c", "two", "sad")]


def _looks(samples):
    """A policy that sees: it answers what its clip shows."""
    shown = {sample.video: sample.answer for sample in POOL}
    return [shown[sample.video] for sample in samples]


def _reward(text, sample):
    return RewardBreakdown(total=float(text == sample.answer), parts={}, seconds=0.0)


def test_shuffled_clips_come_from_another_source_and_keep_the_question():
    shuffled = shuffle_clips(POOL, seed=0)
    for before, after in zip(POOL, shuffled, strict=True):
        assert after.question == before.question
        assert after.answer == before.answer
        assert {s.video: s.source for s in POOL}[after.video] != before.source
        assert after.sample_id == f"{before.sample_id}-shuffled"
    assert shuffle_clips(POOL, seed=0) == shuffled


def test_one_source_alone_still_shuffles_between_its_clips():
    shuffled = shuffle_clips(POOL[:2], seed=0)
    assert [sample.video for sample in shuffled] == ["/clips/b.mp4", "/clips/a.mp4"]


def test_means_by_hand():
    held_out = [_sample("h", "three", "happy")]

    def answer(phase, samples):
        texts = ["angry" if s.sample_id == "h" else _looks([s])[0] for s in samples]
        return [(text, _reward(text, sample)) for text, sample in zip(texts, samples, strict=True)]

    scores, texts = evaluate_pool(answer, phase="before", pool=POOL, held_out=held_out, seed=0)
    # Own clips: all right. Shuffled: all see the other source, whose answer differs.
    assert (scores.pool, scores.pool_shuffled, scores.held_out) == (1.0, 0.0, 0.0)
    assert texts == {"a": "happy", "b": "happy", "c": "sad", "h": "angry"}
