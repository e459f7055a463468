from __future__ import annotations

from collections import Counter

import pytest

from common.errors import ConfigError
from corpus.records import Cut, Described, Features, Pair, SourceClip, Texts
from corpus.schema import FacialTargets, QuestionKind, Split
from corpus.splits import KINDS, shared_samples


def item(name: str, *, clip_id: str = "", **fields) -> Described:
    """A cut with a question of every kind, in five variants."""
    clip = SourceClip(
        clip_id=clip_id or name,
        source="own",
        video=f"/v/{name}.mp4",
        **{"recording": f"recording of {name}"} | fields,
    )
    cut = Cut(
        cut_id=name,
        clip_id=clip.clip_id,
        first=0,
        last=35,
        face_share=1.0,
        digest=f"digest of {name}",
        video=f"clips/{name}.mp4",
        method="copied",
        file_sha256="00",
    )
    targets = FacialTargets(attributes=("brown hair",), emotion=("happy",), action=("smiling",))
    pairs = tuple(
        Pair(
            question=f"{kind.value} {variant}?",
            answer=f"{name}.",
            targets=targets,
            kind=QuestionKind(kind),
            extra={"variant": variant},
        )
        for kind in KINDS
        for variant in range(5)
    )
    texts = Texts(cut_id=name, summary=f"About {name}.", pairs=pairs, writer="t")
    return Described(
        clip=clip, cut=cut, features=Features(cut_id=name, targets=targets), texts=texts
    )


def clips_by_split(items: list[Described], rl_samples: int = 1) -> dict[Split, list[str]]:
    found: dict[Split, list[str]] = {split: [] for split in Split}
    for sample in shared_samples(items, rl_samples=rl_samples, seed=0):
        if sample.extra["clip_id"] not in found[sample.split]:
            found[sample.split].append(sample.extra["clip_id"])
    return found


def test_what_shares_clip_recording_or_person_with_held_out_is_in_no_split() -> None:
    found = clips_by_split(
        [
            item("free"),
            item("test", recording="tape", identity="ann", held_out=True),
            item("same-recording", recording="tape"),
            item("same-person", identity="ann"),
            item("test-2", clip_id="source", held_out=True),
            item("same-clip", clip_id="source"),
            item("same-person-as-same-recording", recording="tape", identity="bob"),
            item("bob-again", identity="bob"),  # whoever was recorded with the tested person
            item("another", identity="eve"),
        ],
        rl_samples=8,
    )
    training = ["free", "another"]
    assert found[Split.SUMMARY] == found[Split.QA] == found[Split.EMOTION_QA] == training
    assert sorted(found[Split.RL]) == sorted(training)
    assert found[Split.HELD_OUT] == ["test", "test-2"]


def test_unknown_people_tie_nothing_together() -> None:
    found = clips_by_split([item("a"), item("b", held_out=True)])
    assert (found[Split.QA], found[Split.HELD_OUT]) == (["a"], ["b"])


def test_a_corpus_that_only_evaluates() -> None:
    items = [item("a", held_out=True), item("b", held_out=True)]
    found = shared_samples(items, rl_samples=0, seed=0)
    assert Counter(sample.split for sample in found) == {Split.HELD_OUT: 8}
    with pytest.raises(ConfigError, match=r"nothing to train on.*\(a, b\).*rl_samples=0"):
        shared_samples(items, rl_samples=1, seed=0)


def test_no_rl_beside_training() -> None:
    found = clips_by_split([item("a"), item("b", held_out=True)], rl_samples=0)
    assert (found[Split.QA], found[Split.RL], found[Split.HELD_OUT]) == (["a"], [], ["b"])


@pytest.mark.parametrize("rl_samples", [0, 1])
def test_all_clips_shown_with_a_held_out_person_are_no_silent_loss(rl_samples: int) -> None:
    items = [item("a", identity="ann"), item("b", identity="ann", held_out=True)]
    with pytest.raises(ConfigError, match=r"nothing to train on: every clip shows.* of b;"):
        shared_samples(items, rl_samples=rl_samples, seed=0)


def test_no_clip_at_all_says_where_the_reasons_are() -> None:
    with pytest.raises(ConfigError, match=r"all were rejected.*report\.html"):
        shared_samples([], rl_samples=0, seed=0)
