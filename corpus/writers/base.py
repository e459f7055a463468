"""What a writer is: from the features of cuts to summaries and questions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from corpus.records import Cut, Features, Pair, Problem, Texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One cut to write about."""

    cut: Cut
    features: Features
    video: Path  # the cut's file
    seed: str  # equal seeds write equal texts (rules, brief)
    attempt: int = 0  # 0 first; then again, because of
    problems: tuple[Problem, ...] = ()  # what the check found in the texts before
    given_summary: str | None = None  # texts that came with the dataset stay as they are
    given_pairs: tuple[Pair, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwritten:
    """A cut that got no text, and why; what is not ``final`` is tried again next time."""

    cut_id: str
    reason: str
    final: bool


class Writer(Protocol):
    name: str  # and version; part of the key under which texts are kept: "rules-1"

    def write(self, assignments: Iterable[Assignment]) -> Iterator[Texts | Unwritten]:
        """Texts in any order, each as soon as it is there; one per assignment."""
        ...


@runtime_checkable
class Metered(Protocol):
    """A writer that costs something."""

    def report(self) -> str:
        """Requests, tokens and cost so far, for people."""
        ...
