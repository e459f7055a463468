"""CelebV-HQ: 35,666 clips with 40 attributes of appearance, 35 actions and 8 emotions
(Zhu et al., ECCV 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from corpus.adapters.base import Listing
from corpus.adapters.dataset import VIDEOS, Dataset, Entry, Option, names_of
from corpus.adapters.files import Place, read_json
from corpus.attributes import VOCABULARY

EMOTIONS = ("neutral", "happy", "sad", "anger", "fear", "surprise", "contempt", "disgust")

MARGIN = 0.02
"""The official processing widens each box by so much of the picture's sides."""


class CelebVHQ(Dataset):
    """Kept whole, as the paper does. Timed emotions keep their order; seconds are in ``extra``."""

    name = "celebv_hq"
    title = "CelebV-HQ"
    url = "https://github.com/CelebV-HQ/CelebV-HQ"
    licence = "non-commercial research; no redistribution; videos belong to their owners"
    download = (
        "Get celebvhq_info.json and the clips with the official download_and_process.py (videos "
        "come from YouTube; many are gone and will be listed as missing). Layout: "
        "celebvhq_info.json, and 35666/<ytb_id>_<n>.mp4 (or processed/ or "
        "downloaded_celebvhq/processed/). With layout=raw: "
        "whole videos as raw/<ytb_id>.mp4 or downloaded_celebvhq/raw/<ytb_id>.mp4."
    )
    purpose = "training"
    OPTIONS = (
        Option(
            name="layout",
            default="cut",
            help="`cut`: clips that are already cut and cropped; `raw`: whole videos, of which "
            "each clip is a part (the official box and margin, but not squared)",
            choices=("cut", "raw"),
        ),
        VIDEOS,
    )

    def list(self) -> Listing:
        path = self.annotation("celebvhq_info.json")
        content = read_json(path)
        raw = self.options["layout"] == "raw"
        folders = ("raw",) if raw else ("35666", "processed")
        media = self.media(*folders, f"downloaded_celebvhq/{folders[-1]}")
        try:
            meta, clips = content["meta_info"], content["clips"]
            appearance, action = meta["appearance_mapping"], meta["action_mapping"]
            rows = [*clips.items()]
        except (TypeError, KeyError, AttributeError) as error:
            raise Place(path, "line 1").error(
                f"no {error}",
                "it has meta_info (appearance_mapping, action_mapping) and clips",
                self.download,
            ) from error
        entries = (
            _entry(Place(path, f"clip {name}"), name, row, (appearance, action), raw)
            for name, row in rows
        )
        return self.compare(entries, media)


def _entry(
    place: Place, name: str, row: Any, mappings: tuple[Sequence[str], Sequence[str]], raw: bool
) -> Entry:
    try:
        attributes = row["attributes"]
        flags = [
            *_flags(place, "appearance", mappings[0], attributes["appearance"]),
            *_flags(place, "action", mappings[1], attributes["action"]),
        ]
        timed = _emotions(place, attributes["emotion"])
        video, duration, box = row["ytb_id"], row["duration"], row["bbox"]
        part = {
            "start_seconds": float(duration["start_sec"]),
            "end_seconds": float(duration["end_sec"]),
            "crop": _crop(place, box),
        }
    except (TypeError, KeyError, ValueError) as error:
        raise place.error(
            f"a record that lacks or misspells {error}",
            "it has ytb_id, duration, bbox and attributes (appearance, action, emotion)",
            "download celebvhq_info.json again",
        ) from error
    emotions = [emotion["emotion"] for emotion in timed]
    present = names_of([*(name for name, flag in flags if flag), *emotions])
    absent = names_of([*(name for name, flag in flags if not flag), *EMOTIONS])
    return Entry(
        place=place,
        path=name,
        files=(video,) if raw else (),
        fields={
            "recording": video,
            "present": present,
            "absent": tuple(name for name in absent if name not in present),
            "whole": True,
            "extra": {
                "emotions": timed,
                "no_attribute": [
                    name
                    for name in [*(name for name, flag in flags if flag), *emotions]
                    if VOCABULARY.find(name) is None
                ],
                "duration": dict(duration),
                "bbox": dict(box),
            },
        }
        | (part if raw else {}),
    )


def _flags(
    place: Place, part: str, names: Sequence[str], values: Sequence[int]
) -> Iterator[tuple[str, bool]]:
    if len(names) != len(values) or not set(values) <= {0, 1}:
        raise place.error(
            f"{part} of {len(values)} values",
            f"{part}_mapping has {len(names)} names; values are 0 or 1",
            "download celebvhq_info.json again",
        )
    return ((name, value == 1) for name, value in zip(names, values, strict=True))


def _emotions(place: Place, emotion: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """``emotion``, ``start_sec`` and ``end_sec`` in order of time; seconds from the clip's start,
    none where one emotion holds throughout."""
    labels = emotion["labels"]
    if emotion["sep_flag"] and not isinstance(labels, str):
        timed = [
            {
                "emotion": str(label["emotion"]),
                "start_sec": float(label["start_sec"]),
                "end_sec": float(label["end_sec"]),
            }
            for label in labels
        ]
        return sorted(timed, key=lambda label: (label["start_sec"], label["end_sec"]))
    if not emotion["sep_flag"] and isinstance(labels, str):
        return [{"emotion": labels}]
    raise place.error(
        f"emotion {emotion!r}",
        "sep_flag false has one label, sep_flag true a list of timed ones",
        "download celebvhq_info.json again",
    )


def _crop(place: Place, box: Mapping[str, float]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom: the box and its margin, within the picture."""
    if not (0 <= box["left"] < box["right"] <= 1 and 0 <= box["top"] < box["bottom"] <= 1):
        raise place.error(
            f"bbox {dict(box)}",
            "its sides are fractions of the picture, left before right, top before bottom",
            "download celebvhq_info.json again",
        )
    return (
        max(0.0, box["left"] - MARGIN),
        max(0.0, box["top"] - MARGIN),
        min(1.0, box["right"] + MARGIN),
        min(1.0, box["bottom"] + MARGIN),
    )
