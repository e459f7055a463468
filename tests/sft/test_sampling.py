"""The order of rows: accelerate's, or by length; the same for any number of ranks."""

from __future__ import annotations

from collections import Counter

import pytest
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from torch.utils.data import BatchSampler

from sft.sampling import EpochSampler


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_the_order_is_that_of_accelerates_seeded_sampler(epoch):
    """What ``Trainer`` draws by itself with ``data_seed``."""
    ours = EpochSampler([1] * 23, seed=7, batch_size=4)
    theirs = SeedableRandomSampler(range(23), data_seed=7)
    ours.set_epoch(epoch)
    theirs.set_epoch(epoch)
    assert list(ours) == list(theirs)
    assert list(ours) == list(ours)  # an epoch's order does not depend on what was drawn before


def test_every_epoch_has_every_row_once_in_an_order_of_its_own():
    sampler = EpochSampler(range(1, 31), seed=0, batch_size=4, group_by_length=True)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert all(sorted(order) == list(range(30)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_batches_by_length_have_less_padding_and_the_longest_comes_first():
    lengths = [(17 * number) % 101 + 1 for number in range(400)]

    def padding(sampler):
        order = list(sampler)
        batches = [order[start : start + 8] for start in range(0, 400, 8)]
        return sum(
            max(lengths[i] for i in b) * len(b) - sum(lengths[i] for i in b) for b in batches
        )

    drawn = EpochSampler(lengths, seed=3, batch_size=8)
    grouped = EpochSampler(lengths, seed=3, batch_size=8, group_by_length=True)
    assert padding(grouped) < 0.4 * padding(drawn)
    assert lengths[next(iter(grouped))] == max(lengths)


@pytest.mark.parametrize("group_by_length", [False, True])
@pytest.mark.parametrize(("ranks", "micro"), [(2, 2), (2, 1), (4, 1)])
def test_ranks_together_take_the_batches_that_one_process_takes(ranks, micro, group_by_length):
    lengths = [number % 7 + 1 for number in range(11)]
    settings = {"seed": 1, "batch_size": 4, "group_by_length": group_by_length}
    alone = list(EpochSampler(lengths, **settings))
    together = EpochSampler(lengths, whole_batches=True, **settings)
    assert len(list(together)) == len(together) == 12
    shards = [
        list(BatchSamplerShard(BatchSampler(together, micro, False), ranks, rank))
        for rank in range(ranks)
    ]
    steps = 4 // (ranks * micro)
    for step in range(3):
        taken = Counter(
            index
            for shard in shards
            for batch in shard[step * steps : (step + 1) * steps]
            for index in batch
            if index < len(lengths)  # others fill up
        )
        assert taken == Counter(alone[4 * step : 4 * step + 4])
    assert {len(shard) for shard in shards} == {3 * steps}
