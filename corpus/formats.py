"""The corpus in other forms: the manifest (Parquet), a Hugging Face Dataset, the authors' JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ConfigError
from corpus.ledger import write_atomically
from corpus.records import Cut, Inspection, Rejection, SourceClip
from corpus.schema import Sample, load_samples

if TYPE_CHECKING:
    import datasets
    import pyarrow

MANIFEST_FILE = "manifest.parquet"
SAMPLES_FILE = "samples.jsonl"
FORMAT_VERSION = 1

_METADATA_KEY = b"favchat_corpus"


# --- manifest ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """A clip of the corpus, or a source clip or stretch of one that was left out, and why.

    Example:
        >>> ManifestRow(clip_id="face_noface", source="embedded", status="rejected",
        ...             stage="filter", reason="no face", first=80, last=159, num_frames=80)
    """

    clip_id: str  # of the source clip
    source: str
    status: str  # "accepted" or "rejected"
    cut_id: str | None = None
    stage: str | None = None  # of the rejection
    reason: str | None = None
    first: int | None = None  # frames of the source clip, inclusive; None: the whole clip
    last: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    face_share: float | None = None
    num_people: int | None = None
    digest: str | None = None
    file_sha256: str | None = None  # of the cut's file
    source_sha256: str | None = None
    method: str | None = None  # "copied", "lossless" or "encoded"
    video: str | None = None  # of the cut, relative to the corpus folder
    licence: str = ""
    identity: str | None = None
    recording: str = ""
    splits: tuple[str, ...] = ()


def manifest_rows(
    *,
    clips: Iterable[SourceClip],
    inspections: Iterable[Inspection] = (),
    cuts: Iterable[Cut] = (),
    rejections: Iterable[Rejection] = (),
    samples: Iterable[Sample] = (),
) -> list[ManifestRow]:
    """One row for every cut and for every rejection, by clip and place in it.

    A rejection names a source clip, a stretch of one, or a cut. A cut that is named, by its id or
    by its frames, or whose clip is rejected whole, has one row, with the reason.
    """
    sources = {clip.clip_id: clip for clip in clips}
    found = {inspection.clip_id: inspection for inspection in inspections}
    splits: dict[str, set[str]] = {}
    for sample in samples:
        splits.setdefault(str(sample.extra.get("clip_id")), set()).add(sample.split)
    by_cut = {cut.cut_id: cut for cut in cuts}
    by_clip: dict[str, list[Cut]] = {}
    for cut in by_cut.values():
        by_clip.setdefault(cut.clip_id, []).append(cut)
    reasons: dict[str, Rejection] = {}
    rows = []
    for rejection in rejections:
        clip_id, first, last = place(rejection, by_cut)
        named = [
            cut
            for cut in by_clip.get(clip_id, ())
            if first is None or (cut.first, cut.last) == (first, last)
        ]
        for one in named:
            reasons.setdefault(one.cut_id, rejection)
        if not named:
            row = _source_row(sources.get(clip_id), clip_id, found.get(clip_id), first, last)
            rows.append(replace(row, stage=rejection.stage, reason=rejection.reason))
    for cut in by_cut.values():
        rejected = reasons.get(cut.cut_id)
        row = _cut_row(cut, sources.get(cut.clip_id), found.get(cut.clip_id))
        if rejected is not None:
            row = replace(row, status="rejected", stage=rejected.stage, reason=rejected.reason)
        rows.append(replace(row, splits=tuple(sorted(splits.get(cut.cut_id, ())))))
    return sorted(rows, key=lambda row: (row.clip_id, row.first or 0, row.last or 0, row.status))


def place(rejection: Rejection, cuts: Mapping[str, Cut]) -> tuple[str, int | None, int | None]:
    """The source clip and the frames (None: all) that a rejection speaks of."""
    cut = cuts.get(rejection.cut_id) if rejection.cut_id else None
    if cut is not None:
        return cut.clip_id, cut.first, cut.last
    return rejection.clip_id, rejection.first, rejection.last


def _source_row(
    clip: SourceClip | None,
    clip_id: str,
    inspection: Inspection | None,
    first: int | None,
    last: int | None,
) -> ManifestRow:
    row = ManifestRow(clip_id=clip_id, source="", status="rejected", first=first, last=last)
    if clip is not None:
        row = replace(
            row,
            source=clip.source,
            licence=clip.licence,
            identity=clip.identity,
            recording=clip.recording,
        )
    if inspection is not None:
        row = replace(
            row,
            num_frames=inspection.num_frames,
            fps=inspection.fps,
            width=inspection.width,
            height=inspection.height,
            face_share=inspection.face_share_of_frames,
            num_people=inspection.num_people,
            source_sha256=inspection.sha256,
        )
    if first is not None and last is not None:
        seen = inspection.face[first : last + 1] if inspection else ()
        share = sum(seen) / len(seen) if seen else None
        row = replace(row, num_frames=last - first + 1, face_share=share)
    return row


def _cut_row(cut: Cut, clip: SourceClip | None, inspection: Inspection | None) -> ManifestRow:
    row = _source_row(clip, cut.clip_id, inspection, cut.first, cut.last)
    return replace(
        row,
        cut_id=cut.cut_id,
        status="accepted",
        fps=cut.fps or row.fps,
        face_share=cut.face_share,
        digest=cut.digest,
        file_sha256=cut.file_sha256,
        method=cut.method,
        video=cut.video,
    )


def write_manifest(
    rows: Iterable[ManifestRow], path: Path, *, versions: Mapping[str, str] | None = None
) -> Path:
    """Write the manifest as one Parquet file; atomic. ``versions`` of tools go into its metadata.

    Example: why clips were left out, in DuckDB:
        select stage, reason, count(*) from 'manifest.parquet'
        where status = 'rejected' group by all
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = {"format": FORMAT_VERSION, "versions": dict(sorted((versions or {}).items()))}
    metadata = {_METADATA_KEY: json.dumps(about).encode()}
    table = pa.Table.from_pylist(
        [{**asdict(row), "splits": list(row.splits)} for row in rows],
        schema=_manifest_schema().with_metadata(metadata),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)
    return path


def read_manifest(path: Path) -> list[ManifestRow]:
    """The rows that :func:`write_manifest` wrote.

    Raises:
        ConfigError: for a missing file or one that is no manifest of this format.
    """
    table = _read_table(path)
    names = {field.name for field in fields(ManifestRow)}
    if unknown := sorted(names ^ set(table.column_names)):
        raise _no_manifest(path, f"columns differ: {', '.join(unknown)}")
    return [ManifestRow(**{**row, "splits": tuple(row["splits"])}) for row in table.to_pylist()]


def manifest_versions(path: Path) -> dict[str, str]:
    """Versions of the tools that made the corpus.

    Raises:
        ConfigError: as :func:`read_manifest`.
    """
    metadata = _read_table(path).schema.metadata or {}
    if _METADATA_KEY not in metadata:
        raise _no_manifest(path, "it does not say what made it")
    return dict(json.loads(metadata[_METADATA_KEY])["versions"])


def _read_table(path: Path) -> pyarrow.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise _no_manifest(path, str(error)) from error


def _no_manifest(path: Path, why: str) -> ConfigError:
    return ConfigError(f"manifest {path}", f"cannot be read ({why})", "run `degrpo corpus build`")


def _manifest_schema() -> pyarrow.Schema:
    import pyarrow as pa

    whole = ("first", "last", "num_frames", "width", "height", "num_people")
    kinds = dict.fromkeys(whole, pa.int64()) | dict.fromkeys(("fps", "face_share"), pa.float64())
    kinds["splits"] = pa.list_(pa.string())
    return pa.schema(
        [(field.name, kinds.get(field.name, pa.string())) for field in fields(ManifestRow)]
    )


# --- Hugging Face Dataset ------------------------------------------------------------------------


def by_split(samples: Iterable[Sample], splits: Sequence[str] = ()) -> dict[str, list[Sample]]:
    """The samples of each of ``splits``; when empty, of every split that has any.

    Raises:
        ConfigError: for a split without samples, or when there is none at all.
    """
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.split, []).append(sample)
    wanted = list(dict.fromkeys(splits)) or list(found)
    if empty := [split for split in wanted if split not in found]:
        raise ConfigError(
            f"split {', '.join(empty)}",
            f"the corpus has samples in {', '.join(found) or 'none'}",
            "name one of these" if found else "run `degrpo corpus build` first",
        )
    if not found:
        raise ConfigError(
            "a corpus without samples", "there is nothing to export", "run `degrpo corpus build`"
        )
    return {split: found[split] for split in wanted}


def to_dataset(folder: Path, splits: Sequence[str] = ()) -> datasets.Dataset:
    """The samples of ``splits`` (all when empty) in TRL's conversational prompt–completion format.

    ``prompt`` and ``completion`` are lists of messages (what SFTTrainer and GRPOTrainer take),
    ``video`` is the clip's absolute path, and the reward's columns (``question``, ``answer``,
    ``attributes``, ``emotion``, ``action``, ``kind``) reach GRPO's reward functions by name.
    ``extra`` holds the rest of the sample as JSON.

    Raises:
        ConfigError: as :func:`corpus.schema.load_samples`.
    """
    return dataset_of(load_samples(Path(folder) / SAMPLES_FILE, splits))


def dataset_of(samples: Iterable[Sample]) -> datasets.Dataset:
    """``samples`` in the form of :func:`to_dataset`."""
    from datasets import Dataset, Features, List, Value

    text, texts = Value("string"), List(Value("string"))
    messages = List({"role": text, "content": text})
    features = Features(
        {
            "sample_id": text,
            "prompt": messages,
            "completion": messages,
            "video": text,
            "question": text,
            "answer": text,
            "attributes": texts,
            "emotion": texts,
            "action": texts,
            "kind": text,
            "level": text,
            "options": texts,
            "source": text,
            "split": text,
            "clip_id": text,
            "extra": text,
        }
    )
    rows = [_dataset_row(sample) for sample in samples]
    columns = {name: [row[name] for row in rows] for name in features}
    return Dataset.from_dict(columns, features=features)


def _dataset_row(sample: Sample) -> dict[str, Any]:
    return {
        **sample.reward_columns(),
        "sample_id": sample.sample_id,
        "prompt": [{"role": "user", "content": sample.question}],
        "completion": [{"role": "assistant", "content": sample.answer}],
        "video": sample.video,
        "level": sample.extra.get("level"),
        "options": list(sample.extra.get("options") or ()),
        "source": sample.source,
        "split": sample.split,
        "clip_id": sample.extra.get("clip_id"),
        "extra": json.dumps(dict(sample.extra), ensure_ascii=False, sort_keys=True),
    }


# --- the authors' JSON ---------------------------------------------------------------------------


def export_authors_json(samples: Iterable[Sample], path: Path) -> Path:
    """Write samples as FaVChat's authors lay theirs out: one JSON list; atomic.

    ``problem`` is the question, ``solution`` the answer within ``<answer>…</answer>`` (as R1-style
    rewards expect it), ``problem_type`` the kind of question, ``process`` empty (there is no chain
    of thought), ``path`` the clip relative to the file. Level, split and provenance have no place
    in the layout. :mod:`corpus.adapters.favchat_json` reads the file back.
    """
    root = path.parent.resolve()
    rows = [
        {
            "problem_id": sample.sample_id,
            "problem": sample.question,
            "problem_type": sample.extra.get("kind", ""),
            "data_type": "video",
            "path": os.path.relpath(Path(sample.video).resolve(), root),
            "options": list(sample.extra.get("options") or ()),
            "process": "",
            "solution": f"<answer>{sample.answer}</answer>",
            "facial_attributes": list(sample.targets.attributes),
            "facial_emotion": list(sample.targets.emotion),
            "facial_action": list(sample.targets.action),
        }
        for sample in samples
    ]
    write_atomically(path, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
    return path
