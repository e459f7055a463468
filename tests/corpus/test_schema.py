from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import ConfigError
from corpus.schema import FacialTargets, Sample, content_id, load_samples, save_samples

TARGETS = FacialTargets(attributes=("grey hair",), emotion=("sad", "happy"))
# echo -n '["abab…ab", "How?", "Well.", {"action": [], "attributes": ["grey hair"],
#           "emotion": ["sad", "happy"]}, "rl"]' | sha256sum | cut -c1-16
PINNED_ID = "981f81463e3ad8e9"
CONTENT = {
    "video_sha256": "ab" * 32,
    "question": "How?",
    "answer": "Well.",
    "targets": TARGETS,
    "split": "rl",
}


def sample(video: Path, question: str = "How?", split: str = "rl") -> Sample:
    return Sample(
        sample_id=content_id(**CONTENT | {"question": question, "split": split}),
        video=str(video),
        question=question,
        answer="Well – “very” well.",
        targets=TARGETS,
        source="w/a.mp4",
        split=split,
        extra={"kind": "emotion", "frames": [0, 35]},
    )


def test_round_trip_and_choice_of_splits(tmp_path: Path) -> None:
    samples = [sample(tmp_path / "clips" / "a.mp4"), sample(tmp_path / "b.mp4", split="qa")]
    path = tmp_path / "samples.jsonl"
    save_samples(samples, path)
    assert load_samples(path) == samples
    assert load_samples(path, ["qa"]) == samples[1:]
    assert load_samples(path, ["summary"]) == []


def test_a_corpus_can_be_moved(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    save_samples([sample(here / "clips" / "a.mp4")], here / "samples.jsonl")
    here.rename(there)
    (moved,) = load_samples(there / "samples.jsonl")
    assert moved.video == str((there / "clips" / "a.mp4").resolve())


def test_content_id_is_pinned_and_depends_on_all_content() -> None:
    assert content_id(**CONTENT) == PINNED_ID
    changes = {
        "video_sha256": "cd" * 32,
        "question": "Who?",
        "answer": "Me.",
        "targets": FacialTargets(attributes=("grey hair",), emotion=("happy", "sad")),
        "split": "qa",
    }
    ids = {content_id(**CONTENT | {key: value}) for key, value in changes.items()}
    assert len(ids | {PINNED_ID}) == 6


@pytest.mark.parametrize("line", ["{", "[]", '{"sample_id": "x"}', '{"targets": {"mood": ["a"]}}'])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "samples.jsonl"
    save_samples([sample(tmp_path / "a.mp4")], path)
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigError, match="line 2"):
        load_samples(path)


def test_a_missing_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file.*degrpo corpus"):
        load_samples(tmp_path / "samples.jsonl")
