"""RAVDESS: 24 actors who speak and sing two sentences with eight emotions
(Livingstone and Russo, 2018). The file name says everything."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

from corpus.adapters.base import Listing
from corpus.adapters.dataset import (
    LIST,
    VIDEOS,
    Dataset,
    Entry,
    Option,
    list_row,
    one_class,
    split_of_list,
)
from corpus.adapters.files import Media, Place, key_of, read_lines

CLASSES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
MODALITIES = {"video_only": ("02",), "audio_video": ("01",), "all": ("01", "02")}
CHANNELS = {"speech": ("01",), "song": ("02",), "all": ("01", "02")}
NAME = re.compile(r"(0[123])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])")


class RAVDESS(Dataset):
    """Every take exists with sound and as picture alone: the two are one recording."""

    name = "ravdess"
    title = "RAVDESS"
    url = "https://zenodo.org/records/1188976"
    licence = "CC BY-NC-SA 4.0"
    download = (
        "Get Video_Speech_Actor_01.zip to Video_Speech_Actor_24.zip (and Video_Song_…) and unpack "
        "them. Layout: Actor_01/02-01-01-01-01-01-01.mp4 (below the root, data/, face_aligned/ or "
        "any folder; folders of frames too); the name is modality, channel, emotion, intensity, "
        "statement, repetition, actor."
    )
    purpose = "evaluation"
    OPTIONS = (
        Option(
            name="modality",
            default="video_only",
            help="which of a take's two files",
            choices=tuple(MODALITIES),
        ),
        Option(name="channel", default="speech", help="speech or song", choices=tuple(CHANNELS)),
        LIST,
        VIDEOS,
    )

    def list(self) -> Listing:
        media = self.media(".")
        by_name = _by_name(media)
        given = self.given_list()
        split = split_of_list(given) if given else None
        wanted = set(
            _names(MODALITIES[self.options["modality"]], CHANNELS[self.options["channel"]])
        )
        entries = []
        for place, name in _listed(given) if given else _everything(media.folder):
            emotion = CLASSES[int(name.split("-")[2]) - 1]
            actor = name[-2:]
            fields = one_class(emotion, CLASSES)
            sex = {"present": "male"} if int(actor) % 2 else {"absent": "male"}
            for part, attribute in sex.items():
                fields[part] = (*fields[part], attribute)
            entries.append(
                Entry(
                    place=place,
                    path=name,
                    files=tuple(by_name.get(name, (name,))),
                    wanted=given is not None or name in wanted,
                    fields={**fields, "identity": f"ravdess/{actor}", "official_split": split},
                )
            )
        return self.compare(entries, media)


def _names(modalities: Iterable[str], channels: Iterable[str]) -> Iterator[str]:
    """Names of all takes: 1,440 spoken ones and 1,012 sung ones (actor 18 does not sing)."""
    for modality, channel in product(modalities, channels):
        emotions = range(1, 9) if channel == "01" else range(1, 7)
        for actor, emotion in product(range(1, 25), emotions):
            if channel == "02" and actor == 18:
                continue
            strengths = (1,) if emotion == 1 else (1, 2)
            for strength, statement, repetition in product(strengths, (1, 2), (1, 2)):
                numbers = (emotion, strength, statement, repetition, actor)
                yield "-".join([modality, channel, *(f"{number:02d}" for number in numbers)])


def _everything(folder: Path) -> Iterator[tuple[Place, str]]:
    for name in _names(("01", "02"), ("01", "02")):
        yield Place(folder, name), name


def _listed(path: Path) -> Iterator[tuple[Place, str]]:
    """Takes of a list; emotions are read off the names, integers are not."""
    for line in read_lines(path):
        row = list_row(line)
        name = key_of(row.path).rpartition("/")[2]
        if not NAME.fullmatch(name):
            raise row.place.error(
                row.path, "a name has seven numbers, such as 02-01-06-01-02-01-12", "correct it"
            )
        yield row.place, name


def _by_name(media: Media) -> dict[str, list[str]]:
    """Keys by the last part of the path: in which folder a take lies does not matter."""
    found: dict[str, list[str]] = {}
    for key in media.clips:
        found.setdefault(key.rpartition("/")[2], []).append(key)
    return found
