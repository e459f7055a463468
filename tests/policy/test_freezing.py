"""The freeze tables against what one optimiser step really moves."""

from __future__ import annotations

import pytest
import torch

from common.errors import ConfigError
from policy.freezing import (
    ADAPTER_PHASES,
    FREEZE_TABLES,
    PARTS,
    Phase,
    train_only,
    trainable_parts,
)
from policy.modeling import FaVChatForConditionalGeneration

# The tables of the two papers, written out again: what learns in each phase.
EXPECTED = {
    ("v4", "stage_1"): "general_encoder facial_encoder low_level high_level projector",
    ("v4", "stage_2"): "middle_level",
    ("v4", "stage_3"): "middle_level high_level language_model",
    ("v4", "rl"): "language_model",
    ("v1", "stage_1"): "low_level middle_level high_level projector",
    ("v1", "stage_2"): (
        "general_encoder facial_encoder low_level middle_level high_level projector language_model"
    ),
    ("v1", "stage_3"): "high_level language_model",
    ("v1", "rl"): "language_model",
}

# Trained parts hold a few tensors that no output depends on: the last Q-Former layer computes text
# rows that nobody reads.
WITHOUT_EFFECT = (
    "qformer.encoder.layer.1.intermediate.",
    "qformer.encoder.layer.1.output.",
)


def batch(model: FaVChatForConditionalGeneration) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = [model.config.video_token_id] * model.config.num_visual_rows
    ids = torch.tensor([[5, *rows, 9, 11, 12, 13], [6, *rows, 10, 14, 15, 16]])
    labels = ids.clone()
    labels[:, :-3] = -100
    return {
        "input_ids": ids,
        "labels": labels,
        "query_ids": torch.tensor([[101, 2054, 7603, 102], [101, 2129, 2024, 102]]),
        "query_mask": torch.ones(2, 4, dtype=torch.long),
        "general_pixels": torch.randn(2, 3, 3, 32, 32, generator=generator),
        "facial_pixels": torch.randn(2, 3, 3, 32, 32, generator=generator),
    }


def test_tables_are_the_papers():
    assert {
        (paper, phase.value): " ".join(parts)
        for paper, table in FREEZE_TABLES.items()
        for phase, parts in table.items()
    } == EXPECTED


def test_parts_are_the_models_own_modules(tiny):
    model, _ = tiny
    assert [name for name, _ in model.named_children()] == [
        *("general_encoder", "facial_encoder", "low_level", "middle_level", "high_level"),
        *("projector", "language_model"),
    ]
    assert set(PARTS) == {name for name, _ in model.named_children()}


# Phases with adapters are stepped through where adapters are added: tests/sft and tests/degrpo.
IN_FULL = [(paper, phase) for paper, phase in EXPECTED if phase not in ADAPTER_PHASES[paper]]


@pytest.mark.parametrize(("paper", "phase"), IN_FULL)
def test_one_step_moves_exactly_the_tensors_of_the_table(own_tiny, paper, phase):
    model, _ = own_tiny
    parts = EXPECTED[paper, phase].split()
    train_only(model, trainable_parts(paper, Phase(phase)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    # Plain gradient descent: a tensor moves if and only if its gradient is not zero.
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=10.0)
    model(**batch(model)).loss.backward()
    optimizer.step()
    moved = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    expected = {
        name
        for name in before
        if name.split(".")[0] in parts
        and "word_embeddings" not in name
        and not any(part in name for part in WITHOUT_EFFECT)
    }
    assert moved == expected


def test_unknown_names_are_refused(tiny):
    model, _ = tiny
    with pytest.raises(ConfigError, match="known parts: general_encoder"):
        train_only(model, ["projektor"])
    with pytest.raises(ConfigError, match="one of v4, v1"):
        trainable_parts("v2", Phase.RL)
