"""Weights with an infinity or NaN are refused by name."""

import math

import pytest
import torch

from common.errors import TrainingError
from sft.finite import refuse_not_finite


def refuse(tensors):
    refuse_not_finite(tensors, what="stage 2", key="sft.stage_2")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_largest_numbers_and_whole_numbers_are_finite(dtype):
    largest = torch.finfo(dtype).max
    refuse({"a": torch.tensor([largest, -largest, 0], dtype=dtype), "n": torch.tensor([2**40])})


def test_the_first_three_tensors_are_named():
    broken = [math.nan, math.inf, -math.inf, math.nan]
    tensors = {f"t{n}": torch.tensor([[1.0, value]]) for n, value in enumerate(broken)}
    with pytest.raises(TrainingError) as caught:
        refuse({"whole": torch.ones(3), **tensors})
    assert caught.value.received == (
        "stage 2 with 4 of 5 tensors that are not finite (t0, t1, t2, ...)"
    )
    assert caught.value.fix == "lower sft.stage_2.lr"
