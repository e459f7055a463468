"""The name of weights changes with every bit of them, and is not computed without need."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from policy import weights_hash
from policy.weights_hash import WeightsHash, hash_tensors


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def fresh(module) -> str:
    return WeightsHash()({"a": module})


def in_place(module):
    with torch.no_grad():
        module[0].weight[0, 0, 0, 0] += 2**-20


def buffer(module):
    module[1].running_mean[0] = 1.0


def step(module):
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(torch.randn(2, 3, 5, 5)).square().sum().backward()
    optimizer.step()


def loaded(module):
    module.load_state_dict({name: 2 * value for name, value in module.state_dict().items()})


def assigned(module):
    state = {name: 2 * value for name, value in module.state_dict().items()}
    module.load_state_dict(state, assign=True)


def cast(module):
    module.to(torch.bfloat16)


def replaced(module):
    module[0].bias = nn.Parameter(torch.ones(4))


@pytest.mark.parametrize("change", [in_place, buffer, step, loaded, assigned, cast, replaced])
def test_every_change_is_noticed(module, change):
    weights = WeightsHash()
    before = weights({"a": module})
    change(module)
    after = weights({"a": module})
    assert after != before
    assert after == fresh(module)


def test_changes_in_inference_mode_are_noticed_though_nothing_counts_them(module):
    with torch.inference_mode():
        built = nn.Linear(3, 4)
        weights = WeightsHash()
        names = [weights({"a": built}), weights({"a": built})]
        built.weight[0, 0] += 1.0
        names.append(weights({"a": built}))
    assert names[0] == names[1] != names[2]
    assert weights({"a": built}) == names[2] == fresh(built)
    assert weights({"a": module}) == fresh(module)
    assert weights({"a": built}) == names[2]


def test_what_stays_is_hashed_once(module, monkeypatch):
    calls = []
    monkeypatch.setattr(
        weights_hash, "hash_tensors", lambda tensors: calls.append(1) or hash_tensors(tensors)
    )
    weights = WeightsHash()
    names = {weights({"a": module}) for _ in range(5)}
    module(torch.randn(2, 3, 5, 5))  # in training mode: the running mean moves
    names |= {weights({"a": module}) for _ in range(5)}
    assert len(calls) == len(names) == 2


def test_name_shape_dtype_and_place_count():
    ones = torch.ones(4)
    hashes = [
        hash_tensors(tensors)
        for tensors in (
            {"a": ones},
            {"b": ones},
            {"a": ones.reshape(2, 2)},
            {"a": ones.view(torch.int32)},
            {"a": ones, "b": ones},
            {"a": torch.ones(8)},
        )
    ]
    assert len(set(hashes)) == len(hashes)
    assert hash_tensors({"a": torch.arange(6.0).reshape(2, 3).T}) == hash_tensors(
        {"a": torch.arange(6.0).reshape(2, 3).T.contiguous()}
    )


def test_the_same_weights_elsewhere_have_the_same_name(module):
    torch.manual_seed(0)
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert fresh(module) == fresh(other)
