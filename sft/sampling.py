"""The order in which the epochs of a stage take its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class EpochSampler(Sampler[int]):
    """Indices of rows, drawn anew for every epoch, a function of seed and epoch alone.

    So a stage goes on in mid-epoch where it stopped, and any number of ranks takes the batches that
    one would take.

    Args:
        lengths: tokens of every row.
        seed: of the draws.
        batch_size: rows of a batch, over all ranks.
        group_by_length: draw rows of about the same length into one batch; the longest come first,
            so that memory that does not suffice is noticed at once.
        whole_batches: fill up the last batch of an epoch with indices from ``len(lengths)`` on,
            which stand for nothing: ranks go through their batches in step.

    Example:
        >>> sampler = EpochSampler([5, 5, 5], seed=0, batch_size=2, whole_batches=True)
        >>> sorted(sampler)
        [0, 1, 2, 3]
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        seed: int,
        batch_size: int,
        group_by_length: bool = False,
        whole_batches: bool = False,
    ) -> None:
        self.lengths, self.seed, self.batch_size = list(lengths), seed, batch_size
        self.group_by_length = group_by_length
        self.num_fillers = -len(self.lengths) % batch_size if whole_batches else 0
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The next iteration gives this epoch's order. ``Trainer`` calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) + self.num_fillers

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        count = len(self.lengths)
        if self.group_by_length:
            yield from get_length_grouped_indices(
                self.lengths, self.batch_size, generator=generator
            )
        else:
            yield from torch.randperm(count, generator=generator).tolist()
        yield from range(count, count + self.num_fillers)
