"""Seeded shuffled passes over a pool that may change under way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


class ShuffledPasses:
    """Deals samples out, each once a pass; the next pass is shuffled anew.

    A sample in the pool throughout is never more than one visit ahead of another such: none
    starves. A sample that leaves the pool is skipped, one that enters it joins with the next
    pass.

    Args:
        rng: shared with its owner, who also saves it.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.queue: list[str] = []  # the rest of this pass, next last; saved by the owner

    def take(
        self,
        n: int,
        pool: Callable[[], Sequence[str]],
        in_pool: Callable[[str], bool],
    ) -> list[str]:
        """Deal ``n`` different samples; fewer when the pool runs out.

        Args:
            pool: lists the pool in a fixed order; called only when a pass ends.
            in_pool: whether a sample is in the pool now.
        """
        dealt: dict[str, None] = {}
        deferred: list[str] = []  # again due while already in this batch: first in the next one
        shuffled = False
        while len(dealt) < n:
            if not self.queue:
                if shuffled:
                    break
                ids = pool()
                self.queue = [ids[i] for i in self._rng.permutation(len(ids))]
                shuffled = True
            sample_id = self.queue.pop()
            if sample_id in dealt:
                deferred.append(sample_id)
            elif in_pool(sample_id):
                dealt[sample_id] = None
        self.queue.extend(reversed(deferred))
        return list(dealt)
