"""Which samples deserve a visit: the recurrent data mechanism and what it is compared with."""

from degrpo.scheduler.base import SampleScheduler, SampleSnapshot, SampleStatus, Transition
from degrpo.scheduler.registry import SCHEDULERS, build_scheduler

__all__ = [
    "SCHEDULERS",
    "SampleScheduler",
    "SampleSnapshot",
    "SampleStatus",
    "Transition",
    "build_scheduler",
]
