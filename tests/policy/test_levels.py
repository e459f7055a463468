"""Tokens, stream weights and projectors, each against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from policy.levels.high_level import FeatureGate, TextGate
from policy.levels.projector import ConcatProjector, Projector
from policy.levels.tokens import PublishedTokens, VisualTokens, masked_mean, token_mask
from tests.policy.level_oracles import (
    gelu,
    layer_norm,
    linear,
    part,
    randomised,
    visual_tokens,
    waves,
)


def test_masked_mean_leaves_padding_out():
    x = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [7.0], [9.0]]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert masked_mean(x, mask).tolist() == [[2.0], [7.0]]


def test_token_mask_covers_whole_frames():
    tokens = torch.zeros(1, 6, 4)
    assert token_mask(torch.tensor([[True, False]]), tokens).tolist() == [[True] * 3 + [False] * 3]


def test_visual_tokens_are_normalised_features_with_time_and_place():
    layer = randomised(VisualTokens(5, 8))
    maps = torch.randn(2, 3, 5, 2, 4, dtype=torch.float64)
    got = layer(maps)
    for clip, tokens in zip(maps, got, strict=True):
        expected = visual_tokens(clip, layer.state_dict())
        # Sines of float32 angles against those of float64.
        torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)


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


@pytest.mark.parametrize("spread", [1.0, 1e-5])
def test_published_tokens_are_the_layer_norm_alone(spread):
    """Its eps is 1e-12: BERT's 1e-5 would shrink quiet features, as the second spread shows."""
    layer = randomised(PublishedTokens(6, windows=False))
    maps = torch.randn(1, 2, 6, 2, 3, dtype=torch.float64) * spread
    tokens = [maps[0, t, :, r, c] for t in range(2) for r in range(2) for c in range(3)]
    expected = layer_norm(torch.stack(tokens), layer.norm.state_dict(), eps=1e-12)
    torch.testing.assert_close(layer(maps)[0], expected)
    assert set(layer.state_dict()) == {"norm.weight", "norm.bias"}


def test_published_tokens_of_windows_know_their_frame():
    layer = randomised(PublishedTokens(6, windows=True))
    maps = torch.randn(1, 3, 6, 1, 2, dtype=torch.float64)
    alone = PublishedTokens(6, windows=False).double()
    alone.load_state_dict({name: x for name, x in layer.state_dict().items() if "norm" in name})
    times = torch.tensor([waves(t) for t in (0, 0, 1, 1, 2, 2)], dtype=torch.float64)
    expected = alone(maps)[0] + torch.einsum("nf,fc->nc", times, layer.time.weight)
    torch.testing.assert_close(layer(maps)[0], expected, atol=1e-6, rtol=1e-6)


def test_frame_times_start_small_beside_the_tokens():
    torch.manual_seed(0)
    times = PublishedTokens(256, windows=True).time(128)
    assert times.std().item() == pytest.approx(0.02 * math.sqrt(16), rel=0.1)  # 16·(sin² + cos²)
    assert torch.pdist(times).min() > 1e-3


def test_text_gate_is_the_softmax_of_two_adapters_on_masked_text():
    gate = randomised(TextGate(8))
    general, facial = (torch.randn(2, 4, 8, dtype=torch.float64) for _ in range(2))
    text = torch.randn(2, 3, 8, dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    weights = gate.state_dict()
    scores = []
    for name, stream in (("general", general[0]), ("facial", facial[0])):
        ours = part(weights, name)
        both = torch.cat(
            [
                layer_norm(stream.mean(dim=0), part(ours, "stream_norm")),
                layer_norm((text[0, 0] + text[0, 1]) / 2, part(ours, "text_norm")),
            ]
        )
        hidden = gelu(linear(both, part(ours, "hidden")))
        scores.append(linear(hidden, part(ours, "score")).item())
    expected = 1 / (1 + math.exp(scores[1] - scores[0]))
    got = gate(general, facial, text, mask)
    assert got[0].tolist() == pytest.approx([expected, 1 - expected], abs=1e-9)
    assert got[1].sum().item() == pytest.approx(1.0)


def test_feature_gate_scores_the_streams_and_never_the_prompt():
    gate = randomised(FeatureGate(8))
    general, facial = (torch.randn(2, 4, 8, dtype=torch.float64) for _ in range(2))
    text, mask = torch.randn(2, 3, 8, dtype=torch.float64), torch.ones(2, 3, dtype=torch.bool)
    weights = gate.state_dict()
    scores = []
    for name, stream in (("general", general[0]), ("facial", facial[0])):
        ours = part(weights, name)
        mean = layer_norm(stream.mean(dim=0), part(ours, "stream_norm"))
        hidden = gelu(linear(mean, part(ours, "hidden")))
        scores.append(linear(hidden, part(ours, "score")).item())
    expected = 1 / (1 + math.exp(scores[1] - scores[0]))
    got = gate(general, facial, text, mask)
    assert got[0].tolist() == pytest.approx([expected, 1 - expected], abs=1e-9)
    assert torch.equal(got, gate(general, facial, text + 5, ~mask))


def test_projector_sums_the_weighted_streams_at_the_given_scale():
    torch.manual_seed(0)
    projector = Projector(8, 16, 0.25)
    general, facial = torch.randn(1, 2, 8), torch.randn(1, 2, 8)
    weights = torch.tensor([[0.25, 0.75]])
    mixed = 0.25 * projector.general(general) + 0.75 * projector.facial(facial)
    centred = mixed - mixed.mean(dim=-1, keepdim=True)
    expected = 0.25 * centred / mixed.std(dim=-1, keepdim=True, unbiased=False)
    torch.testing.assert_close(projector(general, facial, weights), expected, atol=1e-4, rtol=1e-3)


def test_concat_puts_general_rows_before_facial_ones_each_at_twice_its_weight():
    projector = randomised(ConcatProjector(8, 16, 0.25))
    general, facial = (torch.randn(2, 3, 8, dtype=torch.float64) for _ in range(2))
    shares = [[0.25, 0.75], [0.9, 0.1]]
    got = projector(general, facial, torch.tensor(shares, dtype=torch.float64))
    weights = projector.state_dict()
    for b, (share_general, share_facial) in enumerate(shares):
        for q in range(3):
            for row, stream, name, share in (
                (q, general, "general", share_general),
                (3 + q, facial, "facial", share_facial),
            ):
                mapped = linear(stream[b, q], part(weights, name))
                expected = 2 * share * layer_norm(mapped, part(weights, f"{name}_norm"))
                torch.testing.assert_close(got[b, row], expected)


def test_concat_starts_at_the_scale_of_words():
    torch.manual_seed(0)
    projector = ConcatProjector(8, 64, 0.25)
    equal = torch.full((1, 2), 0.5)
    rows = projector(torch.randn(1, 4, 8) * 7, torch.randn(1, 4, 8), equal)[0]
    assert rows.std(dim=-1, unbiased=False).tolist() == pytest.approx([0.25] * 8, rel=1e-3)
