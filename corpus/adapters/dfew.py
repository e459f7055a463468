"""DFEW: 16,372 film clips, 12,059 of them with one of seven emotions
(Jiang et al., ACM MM 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from corpus.adapters.base import Listing
from corpus.adapters.dataset import (
    FIRST_LABEL,
    FOLD,
    LIST,
    VIDEOS,
    Dataset,
    Entry,
    ListRow,
    list_row,
    named_labels,
    one_class,
    split_of_list,
    split_option,
)
from corpus.adapters.files import key_of, read_lines, read_table

ORDER = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
"""Classes 1 to 7 of the official lists. DFER-CLIP's lists count the same classes 0 to 6."""


class DFEW(Dataset):
    """Clips without a single label lie in the folder too; they are listed as surplus."""

    name = "dfew"
    title = "DFEW"
    url = "https://dfew-dataset.github.io/"
    licence = "non-commercial research, after a signed agreement; no redistribution"
    download = (
        "Ask the authors for the password (agreement on the page). Layout: "
        "Clip/original/<n>.mp4, or frames as Clip/clip_224x224/<00001>/*.jpg or "
        "DFEW_Frame_Face/<00001>/*.jpg (or videos/), and "
        "EmoLabel_DataSplit/{train,test}(single-labeled)/set_<k>.csv with columns "
        "video_name,label. Option list reads `path frames label` lists (DFER-CLIP) too."
    )
    purpose = "evaluation"
    OPTIONS = (FOLD, split_option("test"), LIST, FIRST_LABEL, VIDEOS)

    def list(self) -> Listing:
        given = self.given_list()
        fold, split = self.options["fold"], self.options["split"]
        if given:
            lists = [(given, split_of_list(given), True)]
        else:
            lists = [
                (
                    self.annotation(
                        f"EmoLabel_DataSplit/{part}(single-labeled)/set_{fold}.csv",
                        f"label/single_{part}set_{fold}.csv",
                    ),
                    f"{part}/fold-{fold}",
                    split in (part, "all"),
                )
                for part in ("train", "test")
            ]
        media = self.media(
            "Clip/original", "videos", "Clip/clip_224x224", "DFEW_Frame_Face", "data"
        )
        return self.compare((e for item in lists for e in self._entries(*item)), media)

    def _entries(self, path: Path, split: str | None, wanted: bool) -> Iterator[Entry]:
        lines = read_lines(path)
        if lines and "," in lines[0].text:  # the official form, whose labels begin with 1
            first = max(1, self.options["first_label"])
            table = read_table(path, required=("video_name", "label"))
            rows = [
                ListRow(row.place, row.cells["video_name"], row.cells["label"]) for row in table
            ]
        else:
            first = self.options["first_label"]
            rows = [list_row(line) for line in lines]
        for row, emotion in named_labels(rows, ORDER, first):
            number = key_of(row.path).rpartition("/")[2].lstrip("0")
            if not number.isdigit():
                raise row.place.error(
                    f"clip {row.path!r}", "DFEW's clips are numbers", "give the official list"
                )
            yield Entry(
                place=row.place,
                path=number.zfill(5),
                files=(number.zfill(5), number),
                wanted=wanted,
                fields={"official_split": split, **one_class(emotion, ORDER)},
            )
