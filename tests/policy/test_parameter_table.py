"""Parameter counts against sums by hand."""

from __future__ import annotations

import pytest

from common.errors import ConfigError
from policy.parameter_table import PartCount, Training, count_parameters, format_table, short


def test_counts_of_a_tiny_policy_by_hand(tiny):
    model, _ = tiny
    phases = {
        "stage 2": Training(parts=("middle_level",)),
        "RL": Training(parts=("language_model",), lora_rank=4),
    }
    rows = {row.part: row for row in count_parameters(model, phases)}
    # 3·3·(3·4 + 4·8 + 8·8 + 8·16) weights and 4 + 8 + 8 + 16 biases
    assert rows["general_encoder"].total == 9 * (12 + 32 + 64 + 128) + 36
    # two linear maps 32 -> 64 with bias, one LayerNorm of 64
    assert rows["projector"].total == 2 * (32 * 64 + 64) + 2 * 64
    # per layer: q, o (64+64 each), k, v (64 -> 32), gate, up, down (64 <-> 128); rank 4, two layers
    sides = 2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128)
    assert rows["language_model"].trainable == {"stage 2": 0, "RL": 2 * 4 * sides}
    words = model.middle_level.general_qformer.get_input_embeddings().weight
    other = model.middle_level.facial_qformer.get_input_embeddings().weight
    tables = words.numel() + (0 if other is words else other.numel())
    middle = rows["middle_level"]
    assert middle.trainable["stage 2"] == middle.total - tables  # word embeddings never learn
    assert sum(row.total for row in rows.values()) == model.num_parameters()


def test_without_a_facial_encoder_there_is_no_row_for_it(tiny_config):
    from policy.build import build_policy

    model, _ = build_policy(tiny_config(facial_source="general"))
    parts = [row.part for row in count_parameters(model, {})]
    assert "facial_encoder" not in parts
    assert len(parts) == 6


def test_unknown_parts_are_refused(tiny):
    with pytest.raises(ConfigError, match="known parts"):
        count_parameters(tiny[0], {"RL": Training(parts=("critic",))})


def test_table_as_text():
    counts = [
        PartCount(part="projector", total=4224, trainable={"stage 1": 4224, "RL": 0}),
        PartCount(part="language_model", total=3_000_000, trainable={"stage 1": 0, "RL": 512}),
    ]
    assert format_table(counts, ("stage 1", "RL")).splitlines() == [
        "part            total  stage 1   RL",
        "-----------------------------------",
        "projector       4.22K    4.22K    –",
        "language_model  3.00M        –  512",
        "-----------------------------------",
        "sum             3.00M    4.22K  512",
    ]


def test_short_numbers():
    assert [short(n) for n in (0, 999, 1000, 12_345, 290_500_000, 7_615_616_512)] == [
        *("0", "999", "1.00K", "12.3K", "290.5M", "7.62B")
    ]
