"""FERV39K: 38,935 clips of 22 scenes with one of seven emotions (Wang et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from corpus.adapters.base import Listing
from corpus.adapters.dataset import (
    LIST,
    VIDEOS,
    Dataset,
    Entry,
    ListRow,
    class_of,
    list_row,
    one_class,
    split_of_list,
    split_option,
)
from corpus.adapters.files import read_lines

CLASSES = ("Happy", "Sad", "Neutral", "Angry", "Surprise", "Disgust", "Fear")


class FERV39K(Dataset):
    """The emotion is the name of the folder that a clip lies in; a list's integers are not read."""

    name = "ferv39k"
    title = "FERV39K"
    url = "https://github.com/wangyanckxx/FERV39k"
    licence = "non-commercial research, after a signed agreement; no redistribution"
    download = (
        "Ask the authors for the data (agreement on the project page). Layout: "
        "2_ClipsforFaceCrop/<Scene>/<Emotion>/<id>/*.jpg (or <id>.mp4), and "
        "4_setups/All_scenes/train_All.csv and test_All.csv with lines such as "
        "`Action/Happy/0267 Happy`. Option list reads `path frames label` lists (DFER-CLIP) too."
    )
    purpose = "training"
    OPTIONS = (split_option("train"), LIST, VIDEOS)

    def list(self) -> Listing:
        given = self.given_list()
        if given:
            lists = [(given, split_of_list(given), True)]
        else:
            split = self.options["split"]
            lists = [
                (
                    self.annotation(f"4_setups/All_scenes/{part}_All.csv"),
                    part,
                    split in (part, "all"),
                )
                for part in ("train", "test")
            ]
        media = self.media("2_ClipsforFaceCrop")
        return self.compare((e for item in lists for e in _entries(*item)), media)


def _entries(path: Path, split: str | None, wanted: bool) -> Iterator[Entry]:
    for line in read_lines(path):
        row = list_row(line)
        clip, emotion = _clip(row)
        yield Entry(
            place=row.place,
            path=clip,
            wanted=wanted,
            fields={"official_split": split, **one_class(emotion, CLASSES)},
        )


def _clip(row: ListRow) -> tuple[str, str]:
    """Scene/Emotion/id, and the emotion."""
    parts = row.path.split("/")
    if len(parts) < 3:
        raise row.place.error(
            row.path, "a clip is <Scene>/<Emotion>/<id>", "give the official list"
        )
    emotion = class_of(row.place, parts[-2], CLASSES)
    if not row.label.isdigit() and class_of(row.place, row.label, CLASSES) != emotion:
        raise row.place.error(
            f"label {row.label!r} of {row.path}",
            "the label is the name of the folder that the clip lies in",
            "correct the line",
        )
    return "/".join(parts[-3:]), emotion
