"""What passes from one stage of the pipeline to the next.

    adapter -> SourceClip -> Inspection -> Cut -> Features -> Texts -> Sample
              collect       filter        trim    extract     write    split

Every record is plain data: :func:`to_row` and :func:`from_row` carry it through JSON unchanged.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar

from corpus.labels import Interval
from corpus.schema import FacialTargets, Level, QuestionKind

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A question, its answer, and the targets that it asks for.

    Example:
        >>> Pair(question="How does the person feel?", answer="The man looks happy.",
        ...      kind=QuestionKind.EMOTION, level=Level.HIGH,
        ...      targets=FacialTargets(emotion=("happy",)))
    """

    question: str
    answer: str
    targets: FacialTargets
    kind: QuestionKind
    level: Level = Level.HIGH
    options: tuple[str, ...] = ()  # of a closed question; the answer then names one of them
    extra: Mapping[str, Any] = field(default_factory=dict)  # such as a face card's stratum


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceClip:
    """One clip as its dataset lists it, before anything was opened.

    Example:
        >>> SourceClip(
        ...     clip_id="celebv_hq-M2Ohb0FAaJU_1", source="celebv_hq",
        ...     video="/data/CelebV-HQ/35666/M2Ohb0FAaJU_1.mp4", recording="M2Ohb0FAaJU",
        ...     present=("young", "smile", "neutral"), absent=("male",), whole=True,
        ...     licence="CelebV-HQ: non-commercial research")
    """

    clip_id: str  # unique in the corpus; letters, digits, "-", "_" and "." only: it names a file
    source: str  # the adapter's name
    video: str  # absolute path of a video file, or of a folder of frame images
    recording: str  # clips of one recording never lie on both sides of a split
    identity: str | None = None  # the person, where the dataset knows; likewise never on both sides
    start_seconds: float | None = (
        None  # the part of the file that is the clip; None: from its start
    )
    end_seconds: float | None = None
    crop: tuple[float, float, float, float] | None = None  # left, top, right, bottom, 0..1
    present: tuple[str, ...] = ()  # names of corpus.attributes that it shows; emotions in order
    absent: tuple[str, ...] = ()  # names that its annotators saw not to be there
    timeline: Mapping[str, tuple[Interval, ...]] = field(default_factory=dict)
    # instead of names: "attributes", "emotion", "action" -> free phrases by frame (corpus.labels)
    subject: str = "person"  # key of corpus.writers.brief.SUBJECTS
    summary: str | None = None  # a description that came with it
    pairs: tuple[Pair, ...] = ()  # questions that came with it
    whole: bool = False  # kept as it is: neither filtered by faces nor cut
    held_out: bool = False  # belongs to the test set whatever the split's rules say
    official_split: str | None = None  # "train", "test", "test/fold-3": the dataset's own word
    licence: str = ""  # terms, carried along to the data card
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What one pass over a clip's frames found; decides nothing.

    T counts the frames of the clip (after ``start_seconds`` and ``end_seconds``), from 0.
    """

    clip_id: str
    sha256: str  # of the file, or of a folder's files in order
    num_frames: int  # T
    fps: float
    width: int
    height: int
    face: tuple[bool, ...]  # [T] is the main person's face seen? frames between samples filled in
    face_share_of_frames: float  # of the sampled frames, 0..1
    face_share_of_area: (
        float  # smallest share of the picture that the face covers in a sampled frame
    )
    shots: tuple[int, ...]  # first frame of every shot, 0 first
    num_people: int  # tracks of other faces included
    other_faces: tuple[Mapping[str, Any], ...] = ()  # per other track: first, last, mean area share
    hashes: tuple[str, ...] = ()  # perceptual, hexadecimal: of spread frames, of their motion


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A clip, a stretch of one, or a cut, that is left out, and why."""

    clip_id: str  # of the source clip
    stage: str  # "inspect", "filter", "trim", "cut", "extract", "write", "check" or "split"
    reason: str
    first: int | None = None  # frames, inclusive; None: the whole clip
    last: int | None = None
    cut_id: str | None = None  # when it is one cut that is left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A clip of the corpus: a stretch of a source clip, as a file of its own.

    Example:
        >>> Cut(cut_id="single_face-0000-0035", clip_id="single_face", first=0, last=35,
        ...     face_share=1.0, digest="9c0e…", video="clips/single_face-0000-0035.mp4",
        ...     method="encoded", file_sha256="41f0…")
    """

    cut_id: str  # clip_id, first and last frame
    clip_id: str  # of the source clip
    first: int  # frames of the source clip, inclusive
    last: int
    face_share: float  # of its frames, 0..1
    digest: str  # names the content by what it was cut from: same on every machine
    video: str  # relative to the corpus folder
    method: str  # "copied" (no re-encoding), "lossless" or "encoded"
    file_sha256: str
    fps: float = 0.0
    flags: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What is known to be seen in one cut, by label or by classifier.

    Example:
        >>> Features(cut_id="a-0000-0035", present=("brown_hair", "smile", "happy"),
        ...     targets=FacialTargets(attributes=("brown hair",), emotion=("happy",),
        ...                           action=("smiling",)),
        ...     scores={"smile": 0.97}, origins={"brown_hair": "label", "smile": "celebvhq_83"})
    """

    cut_id: str
    targets: FacialTargets  # phrases, in order; emotions in order of time
    present: tuple[str, ...] = ()  # names of corpus.attributes; empty where labels are free phrases
    absent: tuple[str, ...] = ()  # names known not to hold
    scores: Mapping[str, float] = field(default_factory=dict)  # probability by name, of classifiers
    origins: Mapping[str, str] = field(default_factory=dict)  # name -> "label" or the extractor
    subject: str = "person"


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What a writer wrote about one cut."""

    cut_id: str
    summary: str
    pairs: tuple[Pair, ...]
    writer: str  # name and version, such as "rules-1" or "llm:gpt-4o"
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A cut with everything that samples about it need."""

    clip: SourceClip
    cut: Cut
    features: Features
    texts: Texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a text must not stay as it is."""

    cut_id: str
    where: str  # "summary", or "pair 2"
    rule: str  # short name, such as "contradiction" or "too_short"
    detail: str  # what was found, for people


def to_row(record: Any) -> dict[str, Any]:
    """A record as JSON-able values."""
    return asdict(record)


def from_row(kind: type[Record], row: Mapping[str, Any]) -> Record:
    """The record that :func:`to_row` made ``row`` of, after a way through JSON.

    Raises:
        TypeError: for a missing or unknown field.
    """
    hints = typing.get_type_hints(kind)
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    return kind(
        **{
            name: _restore(hints[name], value) if name in known else value
            for name, value in row.items()
        }
    )


def _restore(hint: Any, value: Any) -> Any:
    """``value``, as JSON gives it, in the type that ``hint`` names."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if value is None:
        return None
    if origin in (typing.Union, types.UnionType):
        return _restore(next(item for item in arguments if item is not type(None)), value)
    if origin is tuple:
        return tuple(_restore(arguments[0], item) for item in value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if is_dataclass(hint):
        return from_row(hint, value)  # type: ignore[arg-type]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: _restore(arguments[1], item) for key, item in value.items()}
    return value
