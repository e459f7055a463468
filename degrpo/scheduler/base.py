"""What every scheduler answers, and the records it answers with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from degrpo.config import AlgorithmConfig, SchedulerConfig
from degrpo.lifecycle.events import EventKind
from degrpo.types import SampleStatistics


class SampleStatus(StrEnum):
    """Where a sample stands in its life."""

    DISCOVER = "discover"  # too few visits to judge; never pruned
    ACTIVE = "active"
    DECAYED = "decayed"  # state at or above `keep`
    COOLDOWN = "cooldown"  # set aside for some rounds: nothing is generated for it, but for probes
    REMOVED = "removed"  # set aside for good


POOL = frozenset({SampleStatus.DISCOVER, SampleStatus.ACTIVE, SampleStatus.DECAYED})


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSnapshot:
    """A sample as it stands now. What a scheduler does not keep is None.

    Example:
        >>> SampleSnapshot(sample_id="3f9c2b7a10de44c1", visits=5, state=0.6, utility=0.44,
        ...     threshold=0.12, status=SampleStatus.ACTIVE, round=1,
        ...     reason="utility 0.44 >= threshold 0.12; state 0.50 -> 0.60")
    """

    sample_id: str
    visits: int  # failed ones included
    state: float | None  # s
    utility: float | None  # U of the last visit
    threshold: float | None  # tau that it was held against
    status: SampleStatus
    round: int
    reason: str  # what the last visit did to the state


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A change in a sample's life that the lifecycle log records.

    Example:
        >>> Transition(sample_id="3f9c2b7a10de44c1", kind=EventKind.COOLED, round=1,
        ...     reason="state 0.17 <= 0.20 after 5 visits; cooldown of 2 rounds")
    """

    sample_id: str
    kind: EventKind  # probed, decayed, cooled, revived or removed
    reason: str
    round: int


class SampleScheduler(Protocol):
    """Which samples get a visit, and with what weight.

    One step is ``propose``, ``weights`` of what was proposed, then ``observe`` for the samples that
    trained and ``fail`` for the others. A *round* is ceil(N / B) steps, the length of one pass over
    the whole corpus. Every decision follows from the seed and this history.
    """

    def __init__(
        self,
        sample_ids: Sequence[str],
        *,
        batch_size: int,
        seed: int,
        algorithm: AlgorithmConfig,
        scheduler: SchedulerConfig,
    ) -> None: ...

    def propose(self, n: int) -> list[str]:
        """Start a step: ``n`` different samples, or fewer when the pool is smaller."""

    def weights(self, sample_ids: Sequence[str]) -> list[float]:
        """delta(x) for the coming visit, from the state before it."""

    def observe(self, stats: Sequence[SampleStatistics]) -> None:
        """Take in what the learner measured on the samples that trained."""

    def fail(self, sample_id: str) -> None:
        """Count a visit that could not be used."""

    def snapshot(self, sample_id: str) -> SampleSnapshot:
        """The sample as it stands now."""

    def drain_transitions(self) -> list[Transition]:
        """The changes since the last call, in order."""

    def metrics(self) -> dict[str, float]:
        """Scalars named ``lifecycle/…``."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that future decisions depend on, RNG included; JSON-able."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` was taken."""
