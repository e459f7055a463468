"""One event in the life of one sample."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EventKind(StrEnum):
    """What can happen to a sample."""

    PROPOSED = "proposed"  # the scheduler chose it for this step
    GENERATED = "generated"  # its responses were sampled
    SCORED = "scored"  # its responses have rewards
    TRAINED = "trained"  # its gradient is in the update; carries the statistics
    DECAYED = "decayed"  # its state rose to `keep`; logged even where the weight stays 1
    COOLED = "cooled"  # its state fell to `remove`: set aside for some rounds
    PROBED = "probed"  # a cooling sample was given a visit by the exploration floor
    REVIVED = "revived"  # back in the active pool
    REMOVED = "removed"  # gone for good (presets `paper` and `released`)
    FAILED = "failed"  # could not be used at this visit; `detail` says why


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A row of the lifecycle log. Fields that an event does not know are None (or empty).

    Example:
        >>> Event(
        ...     run_id="demo-1", seq=41, step=3, policy_version=3, time=1796.5,
        ...     sample_id="3f9c2b7a10de44c1", event="trained", reason="", round=0, visits=2,
        ...     rewards=(0.61, 0.35, 0.70, 0.55), reward_mean=0.5525, separability=0.19,
        ...     sensitivity=2.3, utility=0.44, threshold=0.12, state=0.68, weight=1.0, value=0.5,
        ...     advantage_abs_mean=0.11, response_tokens=88, generate_seconds=1.9,
        ...     learn_seconds=2.4)
    """

    run_id: str
    seq: int  # 0, 1, 2, … never repeats, never skips, across restarts and resumes
    step: int
    policy_version: int
    time: float  # seconds since the epoch
    sample_id: str
    event: str  # an EventKind
    reason: str = ""
    round: int = 0
    visits: int = 0
    rewards: tuple[float, ...] = ()
    reward_mean: float | None = None
    separability: float | None = None
    sensitivity: float | None = None
    utility: float | None = None
    threshold: float | None = None
    state: float | None = None  # after this visit
    weight: float | None = None
    value: float | None = None
    advantage_abs_mean: float | None = None
    response_tokens: int | None = None
    generate_seconds: float | None = None
    learn_seconds: float | None = None
    flags: tuple[str, ...] = ()
    detail: str = ""
