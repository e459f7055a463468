"""YouTube Faces: 3,425 videos of 1,595 people, as frames (Wolf, Hassner and Maoz, CVPR 2011)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from corpus.adapters.base import Listing
from corpus.adapters.dataset import VIDEOS, Dataset, Entry, Option
from corpus.adapters.files import Line, Place, read_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class FacePair:
    """Two videos of the official verification test.

    Example:
        >>> FacePair(fold=1, first="Ann_Lee/0", second="Ann_Lee/3", same=True)
    """

    fold: int  # 1 to 10
    first: str  # <Person>/<n>
    second: str
    same: bool  # the same person?


class YouTubeFaces(Dataset):
    """No attributes are labelled; the identity is. ``official_split`` is the fold of a video."""

    name = "youtube_faces"
    title = "YouTube Faces"
    url = "https://www.cs.tau.ac.il/~wolf/ytfaces/"
    licence = "research; access on request; videos belong to their owners"
    download = (
        "Ask for access on the page and get YouTubeFaces.tar.gz (25 GB) and splits.txt. Layout: "
        "frame_images_DB/<Person>/<n>/*.jpg with frame_images_DB/<Person>.labeled_faces.txt, and "
        "splits.txt (or splits_corrected.txt by option pairs)."
    )
    purpose = "training"
    OPTIONS = (
        Option(
            name="pairs",
            default="splits.txt",
            help="file of the official pairs, below the root; '' takes no folds from it",
        ),
        VIDEOS,
    )

    def list(self) -> Listing:
        media = self.media("frame_images_DB", "YouTubeFaces/frame_images_DB")
        folds: dict[str, int] = {}
        places: dict[str, Place] = {}
        for path in sorted(media.folder.glob("*.labeled_faces.txt")):
            for line in read_lines(path):
                places.setdefault(_labelled_video(line), line.place)
        if self.options["pairs"]:
            path = self.annotation(self.options["pairs"])
            for place, pair in _pairs(path):
                for video in (pair.first, pair.second):
                    folds.setdefault(video, pair.fold)
                    places.setdefault(video, place)
        entries = (
            Entry(
                place=places[video],
                path=video,
                fields={
                    "identity": f"youtube_faces/{video.split('/')[0]}",
                    "official_split": f"fold-{folds[video]}" if video in folds else None,
                },
            )
            for video in sorted(places)
        )
        return self.compare(entries, media)


def read_pairs(path: Path) -> Sequence[FacePair]:
    """The pairs of ``splits.txt``, in the file's order.

    Raises:
        ConfigError: for a line of another form.
    """
    return [pair for _, pair in _pairs(path)]


def _pairs(path: Path) -> Iterator[tuple[Place, FacePair]]:
    for index, line in enumerate(read_lines(path)):
        cells = [cell.strip().replace("\\", "/") for cell in line.text.split(",")]
        videos = [cell for cell in cells[1:-1] if "/" in cell]
        if len(videos) == 2 and cells[0].isdigit() and cells[-1] in ("0", "1"):
            first, second = videos
            same = cells[-1] == "1"
            if same != (first.split("/")[0] == second.split("/")[0]):
                raise line.place.error(
                    repr(line.text),
                    "videos of the same person lie in one folder, those of two people in two",
                    "correct the line",
                )
            fold = int(cells[0])
            yield line.place, FacePair(fold=fold, first=first, second=second, same=same)
        elif index or any("/" in cell for cell in cells):  # the first line is a header
            raise line.place.error(
                repr(line.text),
                "a line is: fold, <Person>/<n>, <Person>/<n>, 0 or 1",
                "give the official splits.txt",
            )


def _labelled_video(line: Line) -> str:
    r"""``Ann_Lee\0\0.123.jpg,0,202,152,88,88,0,0`` is of video ``Ann_Lee/0``."""
    parts = line.text.split(",")[0].replace("\\", "/").split("/")
    if len(parts) != 3:
        raise line.place.error(
            repr(line.text),
            r"a line is: <Person>\<n>\<frame>.jpg, and numbers",
            "unpack YouTubeFaces.tar.gz again",
        )
    return "/".join(parts[:2])
