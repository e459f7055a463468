"""EMER: clips of MER2023 with emotional clues in words (Lian et al., AffectGPT; v2 is OV-MERD)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.errors import ConfigError
from corpus.adapters.base import Listing
from corpus.adapters.dataset import VIDEOS, Dataset, Entry, Option, names_of
from corpus.adapters.files import Row, key_of, read_table

VERSIONS = {1: ("names", "emotions", "subtitles", "reasons"), 2: ("name", "chinese", "english")}


class EMER(Dataset):
    """The description is the summary: v1's `reasons`, v2's `english`."""

    name = "emer"
    title = "EMER"
    url = "https://github.com/zeroQiaoba/AffectGPT"
    licence = "no licence stated for the texts; clips under MER2023's signed agreement (research)"
    download = (
        "Get the table from the AffectGPT repository: v1 with columns names,emotions,subtitles,"
        "reasons (gt-eng.csv) or v2 with name,chinese,english (track3_train_ovmerd.csv), and the "
        "clips of MER2023. Layout: the table as emer.csv (or by option annotations), and "
        "video/<name>.mp4 (or videos/)."
    )
    purpose = "evaluation"
    OPTIONS = (
        Option(
            name="annotations",
            default="",
            help="CSV file, below the root or absolute; '' looks for the names above",
        ),
        VIDEOS,
    )

    def list(self) -> Listing:
        given = self.options["annotations"]
        names = (given,) if given else ("emer.csv", "gt-eng.csv", "track3_train_ovmerd.csv")
        path = self.annotation(*names)
        rows = read_table(path)
        columns = rows[0].cells.keys() if rows else set(VERSIONS[2])
        version = next((v for v, needed in VERSIONS.items() if set(needed) <= columns), None)
        if version is None:
            raise ConfigError(
                f"{path} line 1: columns {', '.join(columns)}",
                " or ".join(f"v{v} has {', '.join(needed)}" for v, needed in VERSIONS.items()),
                "give one of the two tables",
            )
        entries = [_entry(row, version) for row in rows]
        return self.compare(entries, self.media("video", "videos"))


def _entry(row: Row, version: int) -> Entry:
    name = key_of(row.cells["names" if version == 1 else "name"])
    if not name:
        raise row.place.error("an empty name", "every row names a clip", "correct the row")
    return Entry(place=row.place, path=name, fields=_fields(row.cells, version))


def _fields(cells: Mapping[str, str], version: int) -> Mapping[str, Any]:
    if version == 2:
        return {"summary": cells["english"], "extra": {"caption_zh": cells["chinese"]}}
    label = cells["emotions"]
    words = [word.strip() for word in label.replace(";", ",").split(",")]
    return {
        "summary": cells["reasons"],
        "present": names_of(words),
        "extra": {"label": label, "subtitle": cells["subtitles"]},
    }
