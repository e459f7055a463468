"""How the batches of a stage are divided among ranks, and what saves memory."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Nothing of this changes what a stage learns, but for the last bits of its sums.

    Example:
        >>> Scale(ranks=2, micro_batch_size=2).divide(16)
        (2, 4)
    """

    ranks: int = 1
    micro_batch_size: int = 0  # conversations that a rank takes at a time; 0: its share at once
    gradient_checkpointing: bool = False
    deepspeed: str = ""  # path of a DeepSpeed JSON config

    def divide(self, batch_size: int) -> tuple[int, int]:
        """What a rank takes at a time, and how often it does so for one optimiser step.

        Raises:
            ConfigError: when that does not come out even.
        """
        share, rest = divmod(batch_size, self.ranks)
        micro = self.micro_batch_size or share
        if rest or not share or share % micro:
            raise ConfigError(
                f"batch_size={batch_size}, {self.ranks} rank{'s' * (self.ranks > 1)}, "
                f"sft.micro_batch_size={self.micro_batch_size}",
                "a batch is divided evenly among the ranks, and a rank's share into micro-batches",
                self._ways_out(batch_size),
            )
        return micro, share // micro

    def _ways_out(self, batch_size: int) -> str:
        """What would come out even: other ranks, another micro-batch, another batch."""
        least = self.micro_batch_size or 1
        numbers = [n for n in range(1, batch_size + 1) if batch_size % (n * least) == 0]
        ways = [f"make the stage's batch_size a multiple of {self.ranks * least}"]
        if batch_size % self.ranks == 0:
            ways.insert(0, "set sft.micro_batch_size=0 for a whole share at once")
        if numbers:
            *others, last = map(str, numbers)
            listed = f"{', '.join(others)} or {last}" if others else last
            ways.insert(0, f"use {listed} rank{'s' * (numbers[-1] > 1)}")
        return ", or ".join(ways)
