"""What the language model sees of clips in the light of questions, batched and cached."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from common.errors import ConfigError, SampleError
from policy.clip_inputs import ClipInputs, no_face
from policy.collation import Example
from policy.feature_cache import FeatureKey
from policy.features import Content, FeatureExtractor, is_trained
from policy.modeling import VISION_INPUTS

Item = TypeVar("Item")

DEFAULT_BATCH_SIZE = 8

ROWS_VERSION = "1"
"""Raise it when the prompt-query levels compute something else: cached rows go by it."""

VISION_SETTINGS = (
    "qformer_config",
    "general_encoder",
    "general_encoder_options",
    "facial_encoder",
    "facial_encoder_options",
    "facial_source",
    "low_level",
    "middle_level",
    "gate",
    "fusion",
)
"""Fields of the model's configuration that rows depend on beside weights and preprocessing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question about a clip.

    Example:
        >>> Question(video="single_face.mp4", text="What emotion does this person show?")
    """

    video: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VisualRows:
    """One clip in the light of one question, on the CPU, in the model's dtype."""

    rows: Float[Tensor, "Q H"]
    stream_weights: Float[Tensor, " 2"]  # general, facial; sums to 1
    faces: Bool[Tensor, " T"] | None = None  # as in ClipInputs

    @property
    def face_found(self) -> bool:
        """False when a face was looked for and found in no frame."""
        return self.faces is None or bool(self.faces.any())


def encode_rows(
    extractor: FeatureExtractor,
    questions: Sequence[Question],
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    num_workers: int = 0,
    face_required: bool | None = None,
) -> list[VisualRows | SampleError]:
    """The rows of each question, or why there are none, in order.

    Features of frozen encoders are kept in the extractor's cache: a new question about a known clip
    decodes and encodes nothing. While every vision part is frozen, rows are kept, too, under clip,
    question, weights of all vision parts and preprocessing: a question asked before runs nothing at
    all. Companions in a batch change rows by rounding only (1e-6 in float32). Dropout and autocast
    are off, and no gradient flows.

    Args:
        batch_size: questions that the levels answer at a time.
        num_workers: clips that are read at a time (:meth:`FeatureExtractor.many`).
        face_required: refuse clips without a face; None: the processor's own setting.

    Raises:
        ConfigError: for a batch size below one.
    """
    if batch_size < 1:
        raise ConfigError(
            f"batch_size={batch_size}",
            "one question or more are answered at a time",
            f"set batch_size={DEFAULT_BATCH_SIZE}",
        )
    required = extractor.processor.face_required if face_required is None else face_required
    source = _vision_source(extractor)
    results: dict[int, VisualRows | SampleError] = {}
    places: dict[int, _Place | None] = {}
    for index, question in enumerate(questions):
        try:
            place = _place(extractor, source, question)
        except SampleError as error:  # a video that cannot be read, a question that is no text
            results[index] = error
            continue
        found = None if place is None else extractor.cache.get(place.key)
        if found is None:
            places[index] = place
        else:
            results[index] = VisualRows(**found)
    if places:
        results |= _answers(extractor, questions, places, batch_size, num_workers)
    return [
        no_face(question.video) if required and _without_face(results[index]) else results[index]
        for index, question in enumerate(questions)
    ]


def _answers(
    extractor: FeatureExtractor,
    questions: Sequence[Question],
    places: Mapping[int, _Place | None],
    batch_size: int,
    num_workers: int,
) -> dict[int, VisualRows | SampleError]:
    """Compute what the cache lacks: by the questions' indices, where their rows are to be kept."""
    results: dict[int, VisualRows | SampleError] = {}
    # All questions about a clip together, so that it is read once.
    by_video: dict[str, list[int]] = {}
    for index in places:
        by_video.setdefault(questions[index].video, []).append(index)
    clips = extractor.many(by_video, num_workers, face_required=False)
    pairs = zip(by_video.values(), clips, strict=True)
    asked = ((index, clip) for indices, clip in pairs for index in indices)
    with evaluating(extractor.model):
        for batch in _batches(asked, batch_size):
            usable = {index: clip for index, clip in batch if isinstance(clip, ClipInputs)}
            results |= {index: clip for index, clip in batch if isinstance(clip, SampleError)}
            computed = _compute(extractor, [questions[i] for i in usable], list(usable.values()))
            for index, rows in zip(usable, computed, strict=True):
                results[index] = rows
                place = places[index]
                if place and extractor.still_holds(questions[index].video, place.content):
                    extractor.cache.put(place.key, _entry(rows))
    return results


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off in every part, and each part back to its own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _vision_source(extractor: FeatureExtractor) -> str | None:
    """What rows come from, as cache keys say it; None while a part of the vision side trains."""
    model = extractor.model
    parts = {name: part for name, part in model.named_children() if name != "language_model"}
    if any(is_trained(part) for part in parts.values()):
        return None
    config = model.config.to_dict()
    settings = {name: config[name] for name in sorted(VISION_SETTINGS)}
    weights = extractor.weights_hash("vision", parts)
    settings["versions"] = [ROWS_VERSION, *(part.version for part in model.encoders.values())]
    return f"rows-{json.dumps(settings, sort_keys=True, default=str)}-{weights}"


class _Place(NamedTuple):
    """Where rows are kept, and what the video held when that was found out."""

    key: FeatureKey
    content: Content


def _place(extractor: FeatureExtractor, source: str | None, question: Question) -> _Place | None:
    """None where rows are not kept.

    Raises:
        SampleError: for a video that cannot be read, and a question that cannot be encoded.
    """
    ids = extractor.processor.query_tokens(question.text)
    if source is None:
        return None
    content = extractor.content(question.video)
    key = extractor.clip_key(content, source, question=" ".join(map(str, ids)))
    return _Place(key, content)


def _entry(rows: VisualRows) -> dict[str, Tensor]:
    values = {field.name: getattr(rows, field.name) for field in fields(rows)}
    return {name: value for name, value in values.items() if value is not None}


def _without_face(result: VisualRows | SampleError) -> bool:
    return isinstance(result, VisualRows) and not result.face_found


@torch.no_grad()
def _compute(
    extractor: FeatureExtractor, questions: Sequence[Question], clips: Sequence[ClipInputs]
) -> list[VisualRows]:
    if not questions:
        return []
    model = extractor.model
    batch = extractor.processor.collate_vision(
        [
            Example(video=question.video, question=question.text, clip=clip)
            for question, clip in zip(questions, clips, strict=True)
        ]
    )
    vision = {name: _to(batch[name], model.device) for name in VISION_INPUTS if name in batch}
    with torch.autocast(model.device.type, enabled=False):
        prefix = model.visual_prefix(**vision)
    return [
        VisualRows(rows=rows, stream_weights=weights, faces=clip.faces)
        for rows, weights, clip in zip(
            prefix.rows.cpu(), prefix.stream_weights.cpu(), clips, strict=True
        )
    ]


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _to(value: Any, device: torch.device) -> Any:
    return tuple(v.to(device) for v in value) if isinstance(value, tuple) else value.to(device)
