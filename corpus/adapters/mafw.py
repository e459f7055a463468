"""MAFW: 10,045 clips with one of eleven emotions, or several, and descriptions in two languages
(Liu et al., ACM MM 2022)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import ConfigError
from corpus.adapters.base import Listing
from corpus.adapters.dataset import (
    FIRST_LABEL,
    LIST,
    VIDEOS,
    Dataset,
    Entry,
    ListRow,
    Option,
    class_of,
    list_row,
    named_labels,
    one_class,
    split_of_list,
    split_option,
)
from corpus.adapters.files import Line, key_of, read_lines

ORDERS = {
    # The order of the paper, which MAE-DFER numbers.
    "paper": (
        "anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise", "contempt",
        "anxiety", "helplessness", "disappointment",
    ),
    # DFER-CLIP's, which begins like DFEW's.
    "dfer_clip": (
        "happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear", "contempt",
        "anxiety", "helplessness", "disappointment",
    ),
}  # fmt: skip
CLASSES = ORDERS["paper"]


class MAFW(Dataset):
    """Labels are names. Two orders of integers are published: one is used only when it is named."""

    name = "mafw"
    title = "MAFW"
    url = "https://github.com/MAFW-database/MAFW"
    licence = "non-commercial research, after a signed agreement; no redistribution"
    download = (
        "Send the signed agreement to the authors. Layout: clips/<00001>.mp4 (or data/clips/, "
        "data/faces/<00001>/*.jpg, data/frames/), caption-label/single_label.txt and "
        "multi_label.txt with lines `00001.mp4 anger <br>… <br>…` (label, Chinese and English "
        "description), and for the folds split/single/no_caption/set_<k>/{train,test}.txt or "
        "`Train & Test Set/single/…` with lines `00001.mp4 anger`. Option list reads other "
        "lists."
    )
    purpose = "evaluation"
    OPTIONS = (
        Option(
            name="fold",
            default=1,
            help="fold of the single-label set; 0 takes all clips of a label file",
            choices=(0, 1, 2, 3, 4, 5),
        ),
        split_option("test"),
        Option(
            name="labels",
            default="single",
            help="which label file, with fold=0",
            choices=("single", "multi"),
        ),
        LIST,
        Option(
            name="label_order",
            default="",
            help="order of the integers in `list`; '' refuses integers",
            choices=("", *ORDERS),
        ),
        FIRST_LABEL,
        VIDEOS,
    )

    def list(self) -> Listing:
        self.require_root()
        labels, fold = self.options["labels"], self.options["fold"]
        given = self.given_list()
        captions = self._captions()
        if given:
            lists = [(given, split_of_list(given), True)]
        elif fold == 0:
            lists = [(self.annotation(f"caption-label/{labels}_label.txt"), None, True)]
        elif labels == "multi":
            raise ConfigError(
                "options labels='multi' and a fold of source mafw",
                "folds are those of the single-label set",
                "set fold=0",
            )
        else:
            split = self.options["split"]
            lists = [
                (self._fold_list(part), f"{part}/fold-{fold}", split in (part, "all"))
                for part in ("train", "test")
            ]
        media = self.media("clips", "data/clips", "videos", "data/faces", "data/frames")
        entries = (e for item in lists for e in self._entries(*item, captions))
        return self.compare(entries, media)

    def _fold_list(self, part: str) -> Path:
        below = f"single/no_caption/set_{self.options['fold']}/{part}.txt"
        return self.annotation(f"split/{below}", f"Train & Test Set/{below}", below)

    def _captions(self) -> Mapping[str, Mapping[str, str]]:
        """English and Chinese by clip, of the label files that are there."""
        captions: dict[str, Mapping[str, str]] = {}
        for kind in ("single", "multi"):
            path = self.root / f"caption-label/{kind}_label.txt"
            for line in read_lines(path) if path.is_file() else ():
                row = _row(line)
                captions[_clip(row)] = row.captions
        return captions

    def _entries(
        self,
        path: Path,
        split: str | None,
        wanted: bool,
        captions: Mapping[str, Mapping[str, str]],
    ) -> Iterator[Entry]:
        rows = [_row(line) for line in read_lines(path)]
        for row, label in self._labels(path, rows):
            clip = _clip(row)
            given = row.captions or captions.get(clip, {})
            one = one_class(label, CLASSES)
            fields = {**one, "official_split": split, "summary": given.get("en")}
            if "zh" in given:
                fields["extra"] = {**one["extra"], "caption_zh": given["zh"]}
            yield Entry(place=row.place, path=clip, wanted=wanted, fields=fields)

    def _labels(self, path: Path, rows: Sequence[_Row]) -> Sequence[tuple[_Row, str]]:
        order, first = self.options["label_order"], self.options["first_label"]
        if not any(row.label.isdigit() for row in rows):
            return [(row, _names(row)) for row in rows]
        if not order:
            number = next(row for row in rows if row.label.isdigit())
            raise number.place.error(
                f"label {number.label!r}",
                "two orders of MAFW's integers are published, and they name different emotions",
                "set option label_order: dfer_clip for DFER-CLIP's lists, paper for MAE-DFER's",
            )
        return named_labels(rows, ORDERS[order], first)


@dataclass(frozen=True, slots=True)
class _Row(ListRow):
    captions: Mapping[str, str]


def _row(line: Line) -> _Row:
    head, *texts = re.split(r"<br\s*/?>", line.text)
    row = list_row(Line(line.place, head.strip()))
    texts = [text.strip() for text in texts if text.strip()]
    if len(texts) not in (0, 2):
        raise line.place.error(
            repr(line.text[:80]),
            "after the label come two descriptions, Chinese and English, each after <br>",
            "correct the line",
        )
    captions = dict(zip(("zh", "en"), texts, strict=True)) if texts else {}
    return _Row(row.place, row.path, row.label, captions)


def _clip(row: ListRow) -> str:
    number = key_of(row.path).rpartition("/")[2]
    if not number.isdigit():
        raise row.place.error(
            f"clip {row.path!r}", "MAFW's clips are numbers", "give the official list"
        )
    return number.zfill(5)


def _names(row: ListRow) -> str:
    """``anger_disgust`` with MAFW's own names."""
    words = [word for word in re.split(r"[_,;+]", row.label) if word]
    return "_".join(class_of(row.place, word, CLASSES) for word in words)
