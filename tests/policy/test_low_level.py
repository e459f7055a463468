"""The low level's variants against their definitions, and what attention may not cost."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from common.errors import ConfigError
from policy.levels.attention import CrossAttention
from policy.levels.low_level import LOW_LEVELS, FinalTextQuery, TextQuery, VisualQuery
from tests.policy.level_oracles import (
    cross_attention,
    layer_norm,
    linear,
    part,
    randomised,
    visual_tokens,
)

CLOSE = {"atol": 1e-5, "rtol": 1e-5}  # the level takes sines of float32 angles

SIZES = {"text_width": 6, "stage_channels": (2, 3), "general_channels": 5, "width": 64}


class Inputs:
    """Two clips in float64: the first has two frames and three words, the rest is padding."""

    def __init__(self, seed: int = 0, frames: int = 3) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.text = draw(2, 4, 6)
        self.text_mask = torch.tensor([[True] * 3 + [False], [True] * 4])
        self.stages = [draw(2, frames, 2, 4, 4) * 9, draw(2, frames, 3, 2, 2)]
        self.frame_mask = torch.ones(2, frames, dtype=torch.bool)
        self.frame_mask[0, 2:] = False
        self.general = draw(2, frames, 5, 3, 2)

    def __iter__(self):
        return iter((self.text, self.text_mask, self.stages, self.frame_mask, self.general))

    def alone(self, sample: int) -> tuple:
        """The inputs of one clip without its padding."""
        words, frames = self.text_mask[sample].sum(), self.frame_mask[sample].sum()
        return (
            self.text[sample : sample + 1, :words],
            self.text_mask[sample : sample + 1, :words],
            [stage[sample : sample + 1, :frames] for stage in self.stages],
            self.frame_mask[sample : sample + 1, :frames],
            self.general[sample : sample + 1, :frames],
        )


def test_cross_attention_is_its_formula():
    layer = randomised(CrossAttention(64))
    inputs = torch.Generator().manual_seed(1)
    x = torch.randn(1, 3, 64, generator=inputs, dtype=torch.float64)
    tokens = torch.randn(1, 5, 64, generator=inputs, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, True, True]])
    expected = cross_attention(x[0], tokens[0][mask[0]], layer.state_dict())
    torch.testing.assert_close(layer(x, tokens, mask)[0], expected)


def test_a_width_that_gives_no_heads_is_refused():
    with pytest.raises(ConfigError, match=r"shared_width=100.*heads of 32.*shared_width=96"):
        CrossAttention(100)


def test_text_query_goes_from_the_first_stage_to_the_last():
    level, inputs = randomised(TextQuery(**SIZES)), Inputs()
    weights = level.state_dict()
    text, _, stages, _, _ = inputs.alone(0)
    x = linear(layer_norm(text[0], part(weights, "text_norm")), part(weights, "text"))
    for n, maps in enumerate(stages):
        tokens = visual_tokens(maps[0], part(weights, f"stages.{n}"))
        x = cross_attention(x, tokens, part(weights, f"attention.{n}"))
    output, mask = level(*inputs)
    torch.testing.assert_close(output[0, :3], layer_norm(x, part(weights, "norm")), **CLOSE)
    assert torch.equal(mask, inputs.text_mask)


def test_final_text_query_sees_the_last_stage_alone():
    level, inputs = randomised(FinalTextQuery(**SIZES)), Inputs()
    weights = level.state_dict()
    text, _, stages, _, _ = inputs.alone(0)
    x = linear(layer_norm(text[0], part(weights, "text_norm")), part(weights, "text"))
    tokens = visual_tokens(stages[-1][0], part(weights, "stages.0"))
    x = cross_attention(x, tokens, part(weights, "attention.0"))
    output, _ = level(*inputs)
    torch.testing.assert_close(output[0, :3], layer_norm(x, part(weights, "norm")), **CLOSE)


def test_visual_query_lets_facial_tokens_ask_the_general_ones():
    level, inputs = randomised(VisualQuery(**SIZES)), Inputs()
    weights = level.state_dict()
    _, _, stages, _, general = inputs.alone(0)
    facial = visual_tokens(stages[-1][0], part(weights, "facial"))
    whole = visual_tokens(general[0], part(weights, "general"))
    expected = layer_norm(
        cross_attention(facial, whole, part(weights, "attention")), part(weights, "norm")
    )
    output, mask = level(*inputs)
    torch.testing.assert_close(output[0, :8], expected, **CLOSE)  # two frames of 2×2
    assert mask.tolist() == [[True] * 8 + [False] * 4, [True] * 12]


@pytest.mark.parametrize("name", LOW_LEVELS)
@pytest.mark.parametrize("frames", [3, 128])
def test_padding_changes_no_token(name, frames):
    level, inputs = randomised(LOW_LEVELS[name](**SIZES)), Inputs(frames=frames)
    together, mask = level(*inputs)
    for sample in (0, 1):
        expected, all_true = level(*inputs.alone(sample))
        assert all_true.all()
        torch.testing.assert_close(together[sample][mask[sample]], expected[0])


@pytest.mark.parametrize("name", LOW_LEVELS)
def test_the_last_of_128_frames_has_its_own_time(name):
    level, inputs = randomised(LOW_LEVELS[name](**SIZES)), Inputs(frames=128)
    swapped = Inputs(frames=128)
    for maps in (*swapped.stages, swapped.general):
        maps[1, [126, 127]] = maps[1, [127, 126]]
    before, after = level(*inputs)[0][1], level(*swapped)[0][1]
    if before.shape[0] > 4:  # facial tokens, frame by frame: put them back in order
        after = after.unflatten(0, (128, -1))[[*range(126), 127, 126]].flatten(0, 1)
    assert (before - after).abs().max() > 1e-6  # rounding: 1e-15


def test_the_scale_of_a_stage_does_not_matter():
    """Facial stages are un-normalised, with values of ±39 in one and ±1 in another."""
    torch.manual_seed(0)
    level, inputs, loud = TextQuery(**SIZES).double(), Inputs(), Inputs()
    loud.stages[0] *= 40
    torch.testing.assert_close(level(*inputs)[0], level(*loud)[0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", LOW_LEVELS)
def test_bfloat16_gives_what_float64_gives(name):
    torch.manual_seed(0)
    level, inputs = LOW_LEVELS[name](**SIZES), Inputs()
    expected, _ = level.double()(*inputs)
    level.to(torch.bfloat16)
    got, _ = level(
        inputs.text.bfloat16(),
        inputs.text_mask,
        [maps.bfloat16() for maps in inputs.stages],
        inputs.frame_mask,
        inputs.general.bfloat16(),
    )
    assert got.dtype == torch.bfloat16
    assert (got.double() - expected).abs().mean() < 0.02  # of values that spread over 1


@pytest.mark.parametrize("name", LOW_LEVELS)
def test_gradient_checkpointing_changes_no_gradient(name):
    from functools import partial

    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    level, inputs = LOW_LEVELS[name](**SIZES).double(), Inputs()
    calls = []

    def count(function, *args):
        calls.append(function)
        return partial(checkpoint, use_reentrant=False)(function, *args)

    def gradients() -> list[torch.Tensor]:
        level.zero_grad()
        output, _ = level(*inputs)
        (output * torch.arange(output.numel()).view_as(output)).sum().backward()
        return [weight.grad.clone() for weight in level.parameters()]

    plain = gradients()
    for module in level.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing, module._gradient_checkpointing_func = True, count
    torch.testing.assert_close(gradients(), plain)
    assert len(calls) == {"text_query": 4, "final_cross_attention": 2, "visual_query": 3}.get(
        name, 1
    )


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that an operation makes, forward and backward."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else (output,):
            if isinstance(tensor, torch.Tensor):
                size = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.elements = max(self.elements, size)
        return output


def test_attention_makes_no_matrix_of_scores():
    """25,088 tokens of the first stage by 512 words by 32 heads would be 1.6 GB a clip."""
    torch.manual_seed(0)
    words, tokens = 384, 2048
    layer = CrossAttention(64)
    x, visual = torch.randn(2, words, 64), torch.randn(2, tokens, 64)
    mask = torch.ones(2, tokens, dtype=torch.bool)
    mask[0, tokens // 2 :] = False
    with LargestTensor() as largest:
        layer(x, visual, mask).sum().backward()
    assert 2 * tokens * 64 <= largest.elements < 2 * 2 * words * tokens / 4
