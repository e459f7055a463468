"""The processes that train a stage together, one per GPU; a run without a launcher is one rank.

``accelerate launch`` and ``torchrun`` start the same command once per rank. All of them build the
policy, train and hold the same results; what touches the output folder is done by the main rank,
and the others are told how it went.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from common.errors import MachineError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")

PATIENCE = timedelta(days=2)
"""How long ranks wait for one that encodes clips, writes or evaluates. A rank that dies ends all of
them at once: the launcher sees to that. Gradients keep torch's own, much shorter patience."""


class OtherRankError(MachineError):
    """What the main rank did failed; it says itself why."""


def this_device() -> str:
    """The GPU of this rank, or the CPU."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together.

    Example:
        >>> Ranks().on_main(lambda: "done here")
        'done here'
    """

    rank: int = 0
    size: int = 1
    _group: ProcessGroup | None = None  # for messages on the CPU, beside that of the gradients

    @classmethod
    def join(cls) -> Ranks:
        """Meet the other ranks that the launcher started, as its environment variables say.

        Raises:
            MachineError: when they cannot be met.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        import torch
        from accelerate import PartialState
        from torch import distributed

        try:
            state = PartialState(cpu=not torch.cuda.is_available())
            group = distributed.new_group(backend="gloo", timeout=PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise MachineError(
                f"{size} ranks that do not meet ({error})",
                "all ranks of a run reach MASTER_ADDR:MASTER_PORT of the first",
                "start all of them with one `accelerate launch` or `torchrun`",
            ) from error
        return cls(state.process_index, state.num_processes, group)

    @staticmethod
    def launched() -> bool:
        """Whether a launcher started this process, be it as the only rank."""
        return "LOCAL_RANK" in os.environ

    @property
    def main(self) -> bool:
        """Whether this rank writes files and messages."""
        return self.rank == 0

    def leave(self) -> None:
        """End the groups; what a rank does from here on the others do not wait for."""
        if self._group is not None:
            from torch import distributed

            distributed.destroy_process_group()

    def share(self, items: list[T]) -> list[T]:
        """This rank's part of work that the ranks divide."""
        return items[self.rank :: self.size]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks."""
        if self._group is None:
            return [value]
        from torch import distributed

        values: list[T | None] = [None] * self.size
        distributed.all_gather_object(values, value, group=self._group)
        return values  # type: ignore[return-value]

    def on_main(self, work: Callable[[], T]) -> T:
        """Let the main rank do ``work`` and give what it returns to all.

        Raises:
            Exception: on the main rank what ``work`` raised.
            OtherRankError: on the others then.
        """
        if self._group is None:
            return work()
        from torch import distributed

        outcome: list[tuple[bool, T | None]] = [(False, None)]
        try:
            if self.main:
                outcome = [(True, work())]
        finally:
            distributed.broadcast_object_list(outcome, src=0, group=self._group)
        done, result = outcome[0]
        if not done:
            raise OtherRankError(
                f"rank {self.rank} without the main rank's result",
                "what touches the output folder is done by the main rank",
                "see the message of the main rank",
            )
        return result  # type: ignore[return-value]
