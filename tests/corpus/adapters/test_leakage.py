from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from corpus.adapters.leakage import evaluation_leakage
from corpus.records import SourceClip


def clips(source: str, *recordings: str, split: str | None = None) -> list[SourceClip]:
    return [
        SourceClip(
            clip_id=f"{source}-{index}",
            source=source,
            video=f"/data/{source}/{recording}.mp4",
            recording=recording,
            official_split=split,
        )
        for index, recording in enumerate(recordings)
    ]


def test_a_collection_says_where_its_clips_come_from() -> None:
    dfec = clips("dfec", "dfew/2961", "CAER_mp4/1", "mafw/9068", "dfew/1489", "ferv39k/War/Sad/1")
    assert evaluation_leakage(dfec) == [
        "DFEC: 2 of 5 clips come from DFEW, an evaluation set: dfew/2961, dfew/1489",
        "DFEC: 1 of 5 clips come from MAFW, an evaluation set: mafw/9068",
        "DFEC: 1 of 5 clips come from FERV39K, a training source: ferv39k/War/Sad/1",
    ]


def test_clips_that_are_also_trained_on() -> None:
    dfec = clips("dfec", "ferv39k/War/Sad/1", "ferv39k/War/Sad/2", "CAER_mp4/1")
    ferv = clips("ferv39k", "ferv39k/War/Sad/2", "ferv39k/War/Sad/3", split="train")
    assert evaluation_leakage(ferv + dfec) == [
        "DFEC: 2 of 3 clips come from FERV39K, a training source: "
        "ferv39k/War/Sad/1, ferv39k/War/Sad/2",
        "DFEC: 1 of 3 clips are also trained on, through FERV39K: ferv39k/War/Sad/2",
    ]


def test_the_training_part_of_an_evaluation_set_is_trained_on() -> None:
    dfew = clips("dfew", "dfew/1", "dfew/2", split="train/fold-1")
    dfew += clips("dfew", "dfew/3", split="test/fold-1")
    assert evaluation_leakage([*clips("dfec", "dfew/2", "dfew/3"), *dfew]) == [
        "DFEC: 2 of 2 clips come from DFEW, an evaluation set: dfew/2, dfew/3",
        "DFEC: 1 of 2 clips are also trained on, through DFEW: dfew/2",
    ]


def test_a_file_is_recognised_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "dfew").mkdir()
    (tmp_path / "dfew/1.mp4").write_bytes(b"")
    (tmp_path / "mine.mp4").symlink_to(tmp_path / "dfew/1.mp4")
    (dfew,) = clips("dfew", "dfew/1")
    (mine,) = clips("folder", "folder/mine")
    both = [
        SourceClip(
            **{name: getattr(clip, name) for name in ("clip_id", "source", "recording")},
            video=str(tmp_path / file),
        )
        for clip, file in ((dfew, "dfew/1.mp4"), (mine, "mine.mp4"))
    ]
    assert evaluation_leakage(both) == [
        "DFEW: 1 of 1 clips are also trained on, through Your own clips: dfew/1"
    ]


def test_training_sources_that_are_tests_too() -> None:
    youtube = clips("youtube_faces", *(f"youtube_faces/Ann/{n}" for n in range(5)), split="fold-1")
    youtube += clips("youtube_faces", "youtube_faces/Bob/0")
    assert evaluation_leakage(youtube) == [
        "YouTube Faces: 5 of 6 clips that are trained on belong to its official test: "
        "youtube_faces/Ann/0, youtube_faces/Ann/1, youtube_faces/Ann/2, …"
    ]


def test_nothing_to_say() -> None:
    assert evaluation_leakage(clips("celebv_hq", "a") + clips("my.module:Set", "b")) == []
    assert evaluation_leakage(clips("dfew", "dfew/1") + clips("ferv39k", "ferv39k/a/b/1")) == []


def test_what_a_training_source_holds_out_is_not_trained_on() -> None:
    held_out = [replace(clip, held_out=True) for clip in clips("folder", "folder/a", "folder/b")]
    dfew = clips("dfew", "folder/a", split="test")
    assert not [line for line in evaluation_leakage(held_out + dfew) if "trained on" in line]
    trained = clips("ferv39k", "folder/b", split="train")
    statements = evaluation_leakage(held_out + trained)
    assert any(
        "1 of 2 clips are also trained on, through FERV39K: folder/b" in s for s in statements
    )
