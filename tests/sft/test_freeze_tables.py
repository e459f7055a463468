"""The papers' tables as stages carry them out, adapters included: what one step moves."""

from __future__ import annotations

import copy

import pytest
import torch

from common.errors import ConfigError
from policy.freezing import FREEZE_TABLES, Phase
from sft.collator import AnswerCollator
from sft.config import SftConfig, StageConfig
from sft.stages import check_trainable, trainable


@pytest.fixture(scope="module")
def built(tiny):
    from policy.build import build_policy

    return build_policy(tiny)


@pytest.fixture
def batch(built, samples):
    _, processor = built
    collator = AnswerCollator(samples, processor, processor.prepare_clip)
    rows = [
        {"sample_id": s.sample_id, "video": s.video, "earlier": []}
        for s in samples
        if s.split == "qa"
    ]
    found = collator(rows)
    del found["sample_ids"]
    return found


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("table", ["v4", "v1"])
def test_one_step_of_a_stage(built, batch, table, number):
    model = copy.deepcopy(built[0])
    stage = SftConfig(freeze_table=table).stage(number)
    parts = FREEZE_TABLES[table][Phase(f"stage_{number}")]
    with trainable(model, stage):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        # Plain gradient descent: a tensor moves if and only if its gradient is not zero.
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=10.0)
        model(**batch).loss.backward()
        optimizer.step()
        after = model.state_dict()
        moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == set(parts)
    language = {name for name in before if name.startswith("language_model.")}
    adapters = {name for name in language if "lora_B" in name}  # A moves once B is not zero
    if table == "v1" and number > 1:
        assert adapters
        assert moved & language == adapters
    else:
        assert not adapters
        assert moved & language == (language if "language_model" in parts else set())


def test_a_stage_whose_parts_are_not_there_is_refused_and_a_missing_one_is_logged(built, caplog):
    model = copy.deepcopy(built[0])
    model.config.facial_source = "general"
    del model.facial_encoder
    with pytest.raises(ConfigError, match=r"sft\.stage_1 that trains facial_encoder"):
        check_trainable(model, StageConfig(trainable=["facial_encoder"]), "sft.stage_1")
    caplog.set_level("INFO")
    check_trainable(model, StageConfig(trainable=["facial_encoder", "projector"]), "sft.stage_1")
    assert "sft.stage_1: this policy has no facial_encoder to train" in caplog.text
