"""HMDB51: 6,766 clips of 51 actions, of which eight are the face's (Kuehne et al., ICCV 2011)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from common.errors import ConfigError
from corpus.adapters.base import Listing
from corpus.adapters.dataset import VIDEOS, Dataset, Entry, Option, split_option
from corpus.adapters.files import Line, nearest, read_lines

FACIAL_CLASSES = ("chew", "drink", "eat", "kiss", "laugh", "smile", "smoke", "talk")
"""The classes that are attributes of Table 5. HMDB51's `turn` is not: it is a turn of the body."""

BODY_CLASSES = (
    "brush_hair", "cartwheel", "catch", "clap", "climb", "climb_stairs", "dive", "draw_sword",
    "dribble", "fall_floor", "fencing", "flic_flac", "golf", "handstand", "hit", "hug", "jump",
    "kick", "kick_ball", "pick", "pour", "pullup", "punch", "push", "pushup", "ride_bike",
    "ride_horse", "run", "shake_hands", "shoot_ball", "shoot_bow", "shoot_gun", "sit", "situp",
    "somersault", "stand", "swing_baseball", "sword", "sword_exercise", "throw", "turn", "walk",
    "wave",
)  # fmt: skip

PARTS = {"1": "train", "2": "test", "0": "unused"}
FOLDER = "testTrainMulti_7030_splits"


class HMDB51(Dataset):
    """Clips of the chosen classes; the others are neither missing nor surplus."""

    name = "hmdb51"
    title = "HMDB51"
    url = "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/"
    licence = "CC BY 4.0 (annotations and collection); clips belong to the films' owners"
    download = (
        "Get hmdb51_org.rar and test_train_splits.rar and unpack both, and the rar of every class. "
        "Layout: <class>/*.avi (below the root, hmdb51_org/ or videos/), and "
        "testTrainMulti_7030_splits/<class>_test_split<k>.txt with lines `<file>.avi 1` "
        "(1 train, 2 test, 0 unused)."
    )
    purpose = "training"
    OPTIONS = (
        Option(
            name="classes",
            default=[*FACIAL_CLASSES],
            help="classes that are taken; those of the body have no attribute",
        ),
        Option(name="fold", default=1, help="which of the three divisions", choices=(1, 2, 3)),
        split_option("all"),
        VIDEOS,
    )

    def list(self) -> Listing:
        classes = self.options["classes"]
        for name in classes:
            if name not in FACIAL_CLASSES + BODY_CLASSES:
                fix = nearest(str(name), FACIAL_CLASSES + BODY_CLASSES)
                raise ConfigError(
                    f"option classes with {name!r} of source hmdb51", "HMDB51 has 51 classes", fix
                )
        entries = [entry for name in sorted(set(classes)) for entry in self._entries(name)]
        listing = self.compare(entries, self.media("hmdb51_org", "videos", "."))
        surplus = (path for path in listing.surplus if path.split("/")[0] in classes)
        return Listing(clips=listing.clips, missing=listing.missing, surplus=tuple(surplus))

    def _entries(self, name: str) -> Iterator[Entry]:
        fold, split = self.options["fold"], self.options["split"]
        path = self.annotation(
            f"{FOLDER}/{name}_test_split{fold}.txt",
            f"test_train_splits/{FOLDER}/{name}_test_split{fold}.txt",
        )
        for line in read_lines(path):
            file, part = _file(line)
            yield Entry(
                place=line.place,
                path=f"{name}/{file}",
                wanted=split in ("all", part),
                fields={"official_split": f"{part}/fold-{fold}", **_fields(name, file)},
            )


def _file(line: Line) -> tuple[str, str]:
    file, _, part = line.text.rpartition(" ")
    if not file.strip() or part not in PARTS:
        raise line.place.error(
            repr(line.text), "a line is a file and 0, 1 or 2", "unpack test_train_splits.rar again"
        )
    return file.strip(), PARTS[part]


def _fields(name: str, file: str) -> Mapping[str, Any]:
    """The class as a label, and what the file's name says: which film, which part of the body."""
    film, found, rest = file.rpartition(f"_{name}_")
    visible = {"h": "head", "u": "upper body", "l": "lower body", "f": "full body"}
    extra = {"label": name}
    if found and rest[:1] in visible and rest[1:2] == "_":
        extra["visible"] = visible[rest[0]]
    return {
        "recording": f"hmdb51/{film if found else file}",
        "present": (name,) if name in FACIAL_CLASSES else (),
        "extra": extra,
    }
