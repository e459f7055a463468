"""Texts that came with a dataset stay as they are, whoever writes the rest."""

from __future__ import annotations

from collections.abc import Sequence

from corpus.records import Pair, Texts
from corpus.writers.base import Assignment


def with_given(assignment: Assignment, summary: str, pairs: Sequence[Pair], writer: str) -> Texts:
    """A writer's texts, or in their place those that the dataset brought.

    Given questions replace all written ones: the two may ask the same.
    """
    return Texts(
        cut_id=assignment.features.cut_id,
        summary=assignment.given_summary or summary,
        pairs=assignment.given_pairs or tuple(pairs),
        writer=writer,
        attempt=assignment.attempt,
    )
