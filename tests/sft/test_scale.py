"""A batch divided among ranks and into micro-batches, or what to change when that is impossible."""

import pytest

from common.errors import ConfigError
from sft.scale import Scale


def test_batches_are_divided_evenly():
    assert Scale().divide(16) == (16, 1)
    assert Scale(ranks=4).divide(16) == (4, 1)
    assert Scale(ranks=4, micro_batch_size=2).divide(16) == (2, 2)
    assert Scale(ranks=4, micro_batch_size=1).divide(4) == (1, 1)


@pytest.mark.parametrize(
    ("ranks", "micro_batch_size", "batch_size", "fix"),
    [
        (8, 0, 4, "use 1, 2 or 4 ranks, or make the stage's batch_size a multiple of 8"),
        (3, 0, 16, "use 1, 2, 4, 8 or 16 ranks, or make the stage's batch_size a multiple of 3"),
        (2, 0, 1, "use 1 rank, or make the stage's batch_size a multiple of 2"),
        # 12 conversations by twos: 1 x 6, 2 x 3, 3 x 2 and 6 x 1 come out even.
        (8, 2, 12, "use 1, 2, 3 or 6 ranks, or make the stage's batch_size a multiple of 16"),
        (4, 8, 16, "use 1 or 2 ranks, or set sft.micro_batch_size=0 for a whole share at once, "
                   "or make the stage's batch_size a multiple of 32"),
        (1, 3, 16, "set sft.micro_batch_size=0 for a whole share at once, "
                   "or make the stage's batch_size a multiple of 3"),
        (3, 5, 16, "make the stage's batch_size a multiple of 15"),
    ],
)  # fmt: skip
def test_what_does_not_come_out_even_is_refused_with_what_would(
    ranks, micro_batch_size, batch_size, fix
):
    with pytest.raises(ConfigError) as refused:
        Scale(ranks=ranks, micro_batch_size=micro_batch_size).divide(batch_size)
    assert refused.value.fix == fix
    assert f"batch_size={batch_size}, {ranks} rank" in refused.value.received
