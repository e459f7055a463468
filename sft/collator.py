"""Samples to batches: the clip, the prompt, and labels on the answer alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from corpus.schema import Sample

if TYPE_CHECKING:
    from policy.processing import ClipInputs, FaVChatProcessor


class AnswerCollator:
    """Makes the batches of a stage.

    Args:
        samples: every sample that a row may name.
        processor: the policy's.
        read_clip: a video's pixels, or the cached features of frozen encoders.
    """

    def __init__(
        self,
        samples: Iterable[Sample],
        processor: FaVChatProcessor,
        read_clip: Callable[[str], ClipInputs],
    ) -> None:
        self._samples = {sample.sample_id: sample for sample in samples}
        self._processor = processor
        self._read_clip = read_clip

    def __call__(self, rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """Batch rows of ``sample_id`` and ``video`` (sft.data.rows).

        Returns:
            What the policy's forward takes, ``labels`` [B, L] with -100 everywhere but on the
            answers and their end tokens, and ``sample_ids``, the names of the rows.
        """
        from policy.processing import Example

        examples = []
        for row in rows:
            sample = self._samples[row["sample_id"]]
            examples.append(
                Example(
                    video=row["video"],
                    question=sample.question,
                    answer=sample.answer,
                    clip=self._read_clip(row["video"]),
                )
            )
        batch = self._processor.collate(examples)
        return {**batch, "sample_ids": [row["sample_id"] for row in rows]}
