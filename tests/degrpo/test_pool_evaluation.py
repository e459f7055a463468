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


def test_shuffling_deals_the_same_clips_out_anew():
    pool = [_sample(name, "one", name) for name in "abcde"] + [
        _sample(name, "two", name) for name in "fgh"
    ]
    shuffled = shuffle_clips(pool, seed=0)
    assert sorted(one.video for one in shuffled) == sorted(one.video for one in pool)
    source = {one.video: one.source for one in pool}
    pairs = list(zip(pool, shuffled, strict=True))
    kept = [before.source == source[after.video] for before, after in pairs]
    # Five of eight clips are of one recording: 5 - 3 = 2 samples must keep it, no more do.
    assert sum(kept) == 2
    for before, after in pairs:
        assert after.video != before.video
        assert (after.question, after.answer) == (before.question, before.answer)
        assert after.sample_id == f"{before.sample_id}-shuffled"
    assert shuffle_clips(pool, seed=0) == shuffled
    assert shuffle_clips(pool, seed=1) != shuffled


def test_one_sample_alone_has_nothing_to_swap():
    assert [one.video for one in shuffle_clips(POOL[:1], seed=0)] == [POOL[0].video]


def test_means_by_hand():
    held_out = [_sample("h", "three", "happy")]

    def answer(phase, samples):
        texts = ["angry" if s.sample_id == "h" else _looks([s])[0] for s in samples]
        return [(text, _reward(text, sample)) for text, sample in zip(texts, samples, strict=True)]

    scores, texts = evaluate_pool(answer, phase="before", pool=POOL, held_out=held_out, seed=0)
    # Own clips: all right. Three clips dealt anew: c (sad) gets a happy clip, its clip goes to a or
    # b, and the other of the two gets a happy clip again: one of three is right.
    assert (scores.pool, scores.pool_shuffled, scores.held_out) == (1.0, 1 / 3, 0.0)
    assert texts == {"a": "happy", "b": "happy", "c": "sad", "h": "angry"}
