"""DFEC: 800 clips of other datasets with a described facial expression each (FaceTrack-MM)."""

from __future__ import annotations

from typing import Any

from corpus.adapters.base import Listing
from corpus.adapters.dataset import Dataset, Entry, Option, item_of
from corpus.adapters.files import Place, key_of, read_json

COLLECTED = {"dfew": "dfew", "mafw": "mafw", "ferv39k": "ferv39k", "ravdess": "ravdess"}
"""First folder of a clip's path, in lower case -> the adapter of the dataset that it comes from."""


class DFEC(Dataset):
    """The caption is the summary. The recording is that of the dataset which a clip comes from, so
    that splits and the statement of leakage see through the collection."""

    name = "dfec"
    title = "DFEC"
    url = "https://arxiv.org/abs/2501.07978"
    licence = "no licence stated for the captions; clips under the terms of their datasets"
    download = (
        "Get the authors' JSON (records of id, video, caption) as dfec.json or by option "
        "annotations, and the datasets that it names, each in its own folder below the root as "
        "`video` says: DFEW/videos/<n>.mp4, MAFW/videos/<n>.mp4, RAVDESS/data/Actor_<nn>/*.mp4, "
        "CAER_mp4/<split>/<Emotion>/<n>.mp4, AFEW-VA/videos/<n>.mp4, MER24/video-labeled/*.mp4. "
        "Its clips are DFEW, MAFW, FERV39K and other datasets' clips: whoever trained on those "
        "has seen them."
    )
    purpose = "evaluation"
    OPTIONS = (
        Option(
            name="annotations", default="dfec.json", help="JSON file, below the root or absolute"
        ),
    )

    def list(self) -> Listing:
        path = self.annotation(self.options["annotations"])
        records = read_json(path)
        if not isinstance(records, list):
            raise Place(path, "line 1").error(
                type(records).__name__, "it is a list of {id, video, caption}", self.download
            )
        entries = [
            _entry(Place(path, f"item {number}"), record)
            for number, record in enumerate(records, start=1)
        ]
        listing = self.compare(entries, self.media("."))
        # What else lies in the other datasets' folders is their adapters' matter.
        return Listing(clips=listing.clips, missing=listing.missing)


def _entry(place: Place, record: Any) -> Entry:
    known = {"id", "video", "caption"}
    if not (isinstance(record, dict) and known <= record.keys()):
        raise place.error(repr(record)[:80], "a record has id, video and caption", "correct it")
    video = str(record["video"]).strip().replace("\\", "/")
    folder = video.split("/")[0].lower()
    dataset = COLLECTED.get(folder)
    fields: dict[str, Any] = {
        "recording": item_of(dataset, video) if dataset else key_of(video),
        "summary": str(record["caption"]).strip(),
        "extra": {"id": str(record["id"]), "collected_from": dataset or folder},
    }
    if dataset == "ravdess":
        fields["identity"] = f"ravdess/{key_of(video).rpartition('-')[2]}"
    return Entry(place=place, path=key_of(video), fields=fields)
