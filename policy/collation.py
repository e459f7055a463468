"""Examples, and how they become the tensors of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from common.errors import ConfigError
from policy.clip_inputs import STREAM_INPUTS, ClipInputs

IGNORED_LABEL = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A conversation about one clip; with a last answer for training, without for generation.

    Example: the second question about a clip:
        >>> Example(video="1.mp4", turns=(("Is she happy?", "No."),), question="What, then?")
    """

    video: str
    question: str
    answer: str | None = None
    clip: ClipInputs | None = None  # None: prepared from ``video``
    turns: Sequence[tuple[str, str]] = ()  # questions and answers before the last question
    system: str | None = None  # what stands before them all

    @property
    def first_question(self) -> str:
        """The question that comes with the clip, in whose light the clip is seen.

        Later ones do not change the visual rows: what earlier answers saw stays what it was.
        """
        return self.turns[0][0] if self.turns else self.question


def trains_on(examples: Sequence[Example]) -> bool:
    """Whether a batch is there to train on: its examples have answers.

    Raises:
        ConfigError: for an empty batch, and when some examples have answers and others have none.
    """
    with_answers = {example.answer is not None for example in examples}
    if not with_answers:
        raise _empty_batch()
    if len(with_answers) > 1:
        raise ConfigError(
            "a batch in which some examples have an answer and others have none",
            "either every example of a batch has an answer or none has",
            "collate those to train on and those to answer apart",
        )
    return with_answers == {True}


def _empty_batch() -> ConfigError:
    return ConfigError(
        "a batch without examples", "a batch has at least one", "leave empty batches out"
    )


def text_batch(
    token_ids: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]] | None,
    *,
    pad_token_id: int,
    left: bool,
) -> dict[str, Tensor]:
    """``input_ids``, ``attention_mask`` and ``labels`` [B, L], padded on one side."""
    batch = {
        "input_ids": pad(token_ids, pad_token_id, left=left),
        "attention_mask": pad([[1] * len(row) for row in token_ids], 0, left=left),
    }
    if labels is not None:
        batch["labels"] = pad(labels, IGNORED_LABEL, left=left)
    return batch


def vision_batch(
    clips: Sequence[ClipInputs], queries: Sequence[Sequence[int]], *, pad_token_id: int
) -> dict[str, Any]:
    """The vision part of a batch (policy.modeling.VISION_INPUTS); clips may differ in length.

    Args:
        queries: the clips' questions in the Q-Formers' tokens.

    Raises:
        ConfigError: for no clips, and when some come as pixels and others as features.
    """
    if not clips:
        raise _empty_batch()
    batch: dict[str, Any] = {
        "query_ids": pad(queries, pad_token_id, left=False),
        "query_mask": pad([[1] * len(query) for query in queries], 0, left=False),
        "frame_mask": pad([[True] * clip.num_frames for clip in clips], False, left=False),
    }
    for name in STREAM_INPUTS:
        values = [getattr(clip, name) for clip in clips]
        if all(value is None for value in values):
            continue
        if any(value is None for value in values):
            raise ConfigError(
                f"a batch in which some clips have {name} and others have not",
                "pixels and features of one stream do not go into one batch",
                "encode all of its clips (policy.features) or none",
            )
        if name == "facial_features":
            batch[name] = tuple(_pad_frames(stage) for stage in zip(*values, strict=True))
        else:
            batch[name] = _pad_frames(values)
    return batch


def pad(rows: Sequence[Sequence[Any]], value: Any, *, left: bool) -> Tensor:
    """Rows of different lengths as one tensor [B, L], filled up with ``value``."""
    width = max(len(row) for row in rows)
    padded = []
    for row in rows:
        padding = [value] * (width - len(row))
        padded.append([*padding, *row] if left else [*row, *padding])
    return torch.tensor(padded)


def _pad_frames(clips: Sequence[Float[Tensor, "T ..."]]) -> Float[Tensor, "B T ..."]:
    return pad_sequence(list(clips), batch_first=True)
