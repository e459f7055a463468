"""Samples to batches: the clip, the prompt, and labels on the answers alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from common.errors import PromptError
from corpus.schema import Sample
from sft.data import Row, row_name

if TYPE_CHECKING:
    from policy.collation import Example
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

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Batch rows (:mod:`sft.data`).

        Returns:
            What the policy's forward takes, ``labels`` [B, L] with -100 everywhere but on the
            answers and their end tokens, and ``sample_ids``, the names of the rows. Rows that only
            fill up a batch have no labels.
        """
        from policy.collation import IGNORED_LABEL

        batch = self._processor.collate(
            [self._example(row, clip=self._read_clip(row["video"])) for row in rows]
        )
        for place, row in enumerate(rows):
            if row.get("filler"):
                batch["labels"][place] = IGNORED_LABEL
        return {**batch, "sample_ids": [row_name(row) for row in rows]}

    def num_tokens(self, row: Row) -> int:
        """Length of the row's text, visual rows and answers included.

        Raises:
            PromptError: for a text that cannot be used.
        """
        return self._processor.num_tokens(self._example(row))

    def fits(self, row: Row) -> bool:
        """Whether the row's text is one that the language model takes."""
        try:
            self.num_tokens(row)
        except PromptError:
            return False
        return True

    def _example(self, row: Row, clip: ClipInputs | None = None) -> Example:
        from policy.collation import Example

        asked = [self._samples[name] for name in (*row["earlier"], row["sample_id"])]
        return Example(
            video=row["video"],
            question=asked[-1].question,
            answer=asked[-1].answer,
            clip=clip,
            turns=tuple((sample.question, sample.answer) for sample in asked[:-1]),
        )
