"""The prompt-query levels, each against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, InstructBlipQFormerModel

from policy.levels.high_level import TextGate
from policy.levels.low_level import CrossAttention, TextQuery
from policy.levels.middle_level import MINILM, load_minilm, qformer_config
from policy.levels.projector import Projector
from policy.levels.tokens import VisualTokens, masked_mean, token_mask
from policy.wheels import wheel_file


def test_masked_mean_leaves_padding_out():
    x = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [7.0], [9.0]]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert masked_mean(x, mask).tolist() == [[2.0], [7.0]]


def test_token_mask_covers_whole_frames():
    tokens = torch.zeros(1, 6, 4)
    assert token_mask(torch.tensor([[True, False]]), tokens).tolist() == [[True] * 3 + [False] * 3]


def test_visual_tokens_are_in_order_of_time_row_column():
    layer = VisualTokens(2, 2)
    nn.init.zeros_(layer.position.weight)
    nn.init.eye_(layer.projection.weight)
    nn.init.zeros_(layer.projection.bias)
    maps = torch.randn(1, 3, 2, 2, 5)
    expected = torch.nn.functional.layer_norm(maps[0, 1, :, 1, 3], (2,))
    torch.testing.assert_close(layer(maps)[0, 1 * 10 + 1 * 5 + 3], expected)


def test_equal_features_at_other_times_and_places_are_other_tokens():
    torch.manual_seed(0)
    tokens = VisualTokens(4, 8)(torch.ones(1, 2, 4, 2, 2))[0]
    distances = torch.cdist(tokens, tokens) + torch.eye(8) * 10
    assert distances.min() > 0.01


def test_cross_attention_equals_a_loop_over_heads_and_words():
    torch.manual_seed(0)
    layer = CrossAttention(64)  # two heads of 32
    x, tokens = torch.randn(1, 3, 64), torch.randn(1, 5, 64)
    mask = torch.tensor([[True, True, False, True, True]])
    layer.requires_grad_(False)
    queries = layer.query(layer.query_norm(x))[0]
    keys, values = (part(layer.key_norm(tokens))[0] for part in (layer.key, layer.value))
    rows = []
    for query in queries:
        heads = []
        for head in (slice(0, 32), slice(32, 64)):
            scores = [
                math.exp(float(query[head] @ keys[n, head]) / math.sqrt(32)) if mask[0, n] else 0.0
                for n in range(5)
            ]
            heads.append(sum(s / sum(scores) * values[n, head] for n, s in enumerate(scores)))
        rows.append(layer.output(layer.output_norm(torch.cat(heads))))
    torch.testing.assert_close(layer(x, tokens, mask)[0], x[0] + torch.stack(rows))


@pytest.fixture
def low_level():
    torch.manual_seed(0)
    return TextQuery(text_width=6, stage_channels=(2, 3), general_channels=5, width=32)


def test_low_level_goes_from_the_first_stage_to_the_last(low_level):
    words, mask = torch.randn(1, 4, 6), torch.ones(1, 4, dtype=torch.bool)
    stages = [torch.randn(1, 2, 2, 4, 4), torch.randn(1, 2, 3, 2, 2)]
    frames = torch.ones(1, 2, dtype=torch.bool)
    first, second = (tokens(maps) for tokens, maps in zip(low_level.stages, stages, strict=True))
    x = low_level.text(low_level.text_norm(words))
    x = low_level.attention[0](x, first, torch.ones(1, 32, dtype=torch.bool))
    x = low_level.attention[1](x, second, torch.ones(1, 8, dtype=torch.bool))
    output, output_mask = low_level(words, mask, stages, frames, torch.randn(1, 2, 5, 1, 1))
    torch.testing.assert_close(output, low_level.norm(x))
    assert torch.equal(output_mask, mask)


def test_low_level_scale_of_a_stage_does_not_matter(low_level):
    """Facial stages are un-normalised, with values of ±39 in one and ±1 in another."""
    words, mask = torch.randn(1, 4, 6), torch.ones(1, 4, dtype=torch.bool)
    stages = [torch.randn(1, 2, 2, 4, 4) * 5, torch.randn(1, 2, 3, 2, 2) * 5]
    frames = torch.ones(1, 2, dtype=torch.bool)
    plain, _ = low_level(words, mask, stages, frames, torch.randn(1, 2, 5, 1, 1))
    loud, _ = low_level(
        words, mask, [stages[0], stages[1] * 40], frames, torch.randn(1, 2, 5, 1, 1)
    )
    torch.testing.assert_close(plain, loud, atol=1e-3, rtol=1e-3)


def test_gate_is_the_softmax_of_two_adapters_on_masked_text():
    torch.manual_seed(0)
    gate = TextGate(8)
    general, facial, text = torch.randn(2, 4, 8), torch.randn(2, 4, 8), torch.randn(2, 3, 8)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    weights = gate(general, facial, text, mask)
    short = text[0, :2].mean(dim=0)[None]
    a, b = gate.general(general[:1], short), gate.facial(facial[:1], short)
    assert weights[0, 0].item() == pytest.approx(1 / (1 + math.exp((b - a).item())), abs=1e-6)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2))


def test_projector_sums_the_weighted_streams_at_the_given_scale():
    torch.manual_seed(0)
    projector = Projector(8, 16, 0.25)
    general, facial = torch.randn(1, 2, 8), torch.randn(1, 2, 8)
    weights = torch.tensor([[0.25, 0.75]])
    mixed = 0.25 * projector.general(general) + 0.75 * projector.facial(facial)
    centred = mixed - mixed.mean(dim=-1, keepdim=True)
    expected = 0.25 * centred / mixed.std(dim=-1, keepdim=True, unbiased=False)
    torch.testing.assert_close(projector(general, facial, weights), expected, atol=1e-4, rtol=1e-3)


def test_qformer_starts_as_minilm():
    """Without queries the Q-Former's text path is BERT: its outputs must be MiniLM's."""
    folder = wheel_file(MINILM, "model", "config.json").parent
    bert = BertModel.from_pretrained(
        folder, config=BertConfig.from_pretrained(folder, num_hidden_layers=3)
    )
    config = qformer_config("minilm", 3, 30522)
    qformer = InstructBlipQFormerModel(config).eval()
    load_minilm(qformer)
    ids = torch.tensor([[101, 2054, 7603, 102, 0], [101, 2129, 2024, 2017, 102]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    with torch.no_grad():
        expected = bert.eval()(input_ids=ids, attention_mask=mask).last_hidden_state
        got = qformer(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(got[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-4)
    layer = qformer.encoder.layer[0]
    assert torch.equal(layer.intermediate_query.dense.weight, layer.intermediate.dense.weight)
