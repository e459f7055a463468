"""FaceXFormer's Swin-B against torchvision's definition of it, computed by hand in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import ConfigError
from policy.checkpoints import load_policy, load_published, save_policy
from policy.config import PublishedWeights
from policy.encoders import build_encoder
from policy.encoders.base import normalised
from policy.encoders.facexformer import FaceXFormerOptions, FaceXFormerSwinB
from policy.freezing import Phase, train_only, trainable_parts
from tests.policy.small_policies import PAPER, small_clips, small_policy, small_prompts

SMALL = {
    "embed_dim": 8,
    "depths": [2, 1, 3, 2],
    "num_heads": [1, 2, 2, 4],
    "window_size": 3,
    "image_side": 72,  # grids of 18, 9, 5 (padded to windows and to merge) and 3 (a single window)
}
Weights = dict[str, Tensor]


def published_weights(options: FaceXFormerOptions) -> Weights:
    """Random weights under the names of torchvision's Swin inside FaceXFormer, float64."""
    width, window = options.embed_dim, options.window_size
    shapes = {"0.0.0.weight": (width, 3, 4, 4), "0.0.0.bias": (width,), **norm("0.0.2", width)}
    for stage, (depth, heads) in enumerate(zip(options.depths, options.num_heads, strict=True)):
        c = width * 2**stage
        for block in range(depth):
            at = f"0.{2 * stage + 1}.{block}."
            shapes |= norm(at + "norm1", c) | norm(at + "norm2", c)
            shapes |= linear(at + "attn.qkv", c, 3 * c) | linear(at + "attn.proj", c, c)
            shapes |= linear(at + "mlp.0", c, 4 * c) | linear(at + "mlp.3", 4 * c, c)
            shapes[at + "attn.relative_position_bias_table"] = ((2 * window - 1) ** 2, heads)
        if stage < len(options.depths) - 1:
            at = f"0.{2 * stage + 2}."
            shapes |= norm(at + "norm", 4 * c)
            shapes[at + "reduction.weight"] = (2 * c, 4 * c)
    shapes |= norm("1", c)
    generator = torch.Generator().manual_seed(0)
    return {
        f"backbone.{name}": 0.4 * torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def norm(name: str, width: int) -> dict:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def linear(name: str, inner: int, outer: int) -> dict:
    return {f"{name}.weight": (outer, inner), f"{name}.bias": (outer,)}


class TorchvisionSwin:
    """Stage by stage as torchvision's ``swin_transformer.py`` defines it, window by window.

    A test's own words for the shifted mask: after the roll, a token has wrapped around an axis if
    it lies in the last ``shift`` rows or columns, and only tokens with the same history meet.
    """

    def __init__(self, weights: Weights, options: FaceXFormerOptions) -> None:
        self.weights, self.options = weights, options

    def block_maps(self, pixels: Tensor) -> list[list[Tensor]]:
        """Outputs [N, C, h, w] of each block of each stage."""
        w = self.weights
        x = F.conv2d(pixels, w["backbone.0.0.0.weight"], w["backbone.0.0.0.bias"], stride=4)
        x = self.norm("backbone.0.0.2", x.permute(0, 2, 3, 1))
        stages = []
        for stage, depth in enumerate(self.options.depths):
            maps = []
            for block in range(depth):
                at = f"backbone.0.{2 * stage + 1}.{block}."
                heads = self.options.num_heads[stage]
                x = x + self.attention(at + "attn.", self.norm(at + "norm1", x), heads, block % 2)
                hidden = F.gelu(self.linear(at + "mlp.0", self.norm(at + "norm2", x)))
                x = x + self.linear(at + "mlp.3", hidden)
                maps.append(x.permute(0, 3, 1, 2))
            stages.append(maps)
            if stage < len(self.options.depths) - 1:
                at = f"backbone.0.{2 * stage + 2}."
                x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
                corners = [x[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]
                x = (
                    self.norm(at + "norm", torch.cat(corners, dim=-1))
                    @ w[at + "reduction.weight"].T
                )
        return stages

    def attention(self, at: str, x: Tensor, heads: int, odd: int) -> Tensor:
        _, rows, columns, _ = x.shape
        window = self.options.window_size
        x = F.pad(x, (0, 0, 0, -columns % window, 0, -rows % window))
        side = x.shape[1]
        shift = window // 2 if odd and window < side else 0
        x = x.roll((-shift, -shift), dims=(1, 2))
        out = torch.zeros_like(x)
        for top, left in itertools.product(range(0, side, window), repeat=2):
            square = (slice(None), slice(top, top + window), slice(left, left + window))
            places = list(itertools.product(range(window), repeat=2))
            wrapped = [(top + i >= side - shift, left + j >= side - shift) for i, j in places]
            out[square] = self.window_attention(at, x[square], heads, places, wrapped)
        return out.roll((shift, shift), dims=(1, 2))[:, :rows, :columns]

    def window_attention(self, at, square, heads, places, wrapped) -> Tensor:
        n, window, _, c = square.shape
        tokens = square.reshape(n, window * window, c)
        query, key, value = self.linear(at + "qkv", tokens).split(c, dim=-1)
        table = self.weights[at + "relative_position_bias_table"]
        head, mixed = c // heads, []
        for h in range(heads):
            part = slice(h * head, (h + 1) * head)
            scores = query[..., part] @ key[..., part].transpose(1, 2) / head**0.5
            for (a, (i, j)), (b, (k, m)) in itertools.product(enumerate(places), repeat=2):
                offset = (i - k + window - 1) * (2 * window - 1) + (j - m + window - 1)
                scores[:, a, b] += table[offset, h] - (100 if wrapped[a] != wrapped[b] else 0)
            mixed.append(scores.softmax(dim=-1) @ value[..., part])
        return self.linear(at + "proj", torch.cat(mixed, dim=-1)).view_as(square)

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.weights[name + ".weight"], self.weights[name + ".bias"]
        centred = x - x.mean(dim=-1, keepdim=True)
        return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * weight + bias

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]


def loaded(weights: Weights, folder, **options) -> FaceXFormerSwinB:
    """An encoder in float64 with published weights."""
    policy = nn.Module()
    policy.facial_encoder = build_encoder("facexformer_swin_b", {**SMALL, **options}).double()
    torch.save({"state_dict_backbone": weights}, folder / "model.pt")
    load_published(policy, "facexformer", folder / "model.pt")
    return policy.facial_encoder


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(1, 2, 3, 72, 72, dtype=torch.float64, generator=torch.manual_seed(1))


@pytest.fixture(scope="module")
def weights() -> Weights:
    return published_weights(FaceXFormerOptions(**SMALL))


@pytest.fixture(scope="module")
def expected(weights, pixels) -> list[list[Tensor]]:
    return TorchvisionSwin(weights, FaceXFormerOptions(**SMALL)).block_maps(pixels[0])


def test_stages_are_torchvisions(weights, pixels, expected, tmp_path):
    encoder = loaded(weights, tmp_path)
    maps = encoder(pixels)
    assert encoder.stage_channels == (8, 16, 32, 64)
    assert [stage.shape[1:] for stage in maps] == [
        (2, 8, 18, 18),
        (2, 16, 9, 9),
        (2, 32, 5, 5),
        (2, 64, 3, 3),
    ]
    for stage, blocks in zip(maps, expected, strict=True):
        torch.testing.assert_close(stage[0], blocks[-1], rtol=1e-9, atol=1e-9)


def test_blocks_are_torchvisions(weights, pixels, expected, tmp_path):
    encoder = loaded(weights, tmp_path, granularity="block")
    maps, blocks = encoder(pixels), [block for blocks in expected for block in blocks]
    assert encoder.stage_channels == (8, 8, 16, 32, 32, 32, 64, 64)
    for block, reference in zip(maps, blocks, strict=True):
        torch.testing.assert_close(block[0], reference, rtol=1e-9, atol=1e-9)


def test_frames_do_not_see_each_other(weights, pixels, tmp_path):
    encoder = loaded(weights, tmp_path)
    both, second = encoder(pixels), encoder(pixels[:, 1:])
    for stage, alone in zip(both, second, strict=True):
        torch.testing.assert_close(stage[:, 1:], alone)


@pytest.mark.parametrize("granularity", ["stage", "block"])
def test_gradient_checkpointing_changes_memory_only(granularity, pixels, monkeypatch):
    encoder = build_encoder("facexformer_swin_b", {**SMALL, "granularity": granularity}).double()
    gradients, calls = [], []
    norms = [m for m in encoder.modules() if isinstance(m, nn.LayerNorm)]
    norms[1].register_forward_hook(lambda *_: calls.append(1))  # of the first block
    for checkpointing in (False, True):
        if checkpointing:
            encoder.swin.gradient_checkpointing_enable({"use_reentrant": False})
        encoder.train()
        encoder.zero_grad()
        calls.clear()
        sum((stage**2).mean() for stage in encoder(pixels)).backward()
        gradients.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
        assert (len(calls) > 1) == checkpointing  # computed again in the backward pass
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)
    encoder.eval()
    assert not any(module.training for module in encoder.modules())


def test_takes_float32_pixels_in_half_precision(pixels):
    encoder = build_encoder("facexformer_swin_b", SMALL)
    exact = encoder(pixels.float())
    for stage, rough in zip(exact, encoder.bfloat16()(pixels.float()), strict=True):
        assert rough.dtype == torch.bfloat16
        torch.testing.assert_close(rough.float(), stage, rtol=0.1, atol=0.1)


def test_published_sizes():
    with torch.device("meta"):
        encoder = build_encoder("facexformer_swin_b", {})
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 86_743_224
    assert encoder.stage_channels == FaceXFormerSwinB.stage_channels == (128, 256, 512, 1024)
    assert encoder.swin.config.layer_norm_eps == 1e-5
    maps = encoder(torch.empty(1, 1, 3, 224, 224, device="meta"))
    assert [stage.shape[2:] for stage in maps] == [
        (128, 56, 56),
        (256, 28, 28),
        (512, 14, 14),
        (1024, 7, 7),
    ]
    with torch.device("meta"):
        blocks = build_encoder("facexformer_swin_b", {"granularity": "block"})
    assert blocks.stage_channels == (128,) * 2 + (256,) * 2 + (512,) * 18 + (1024,) * 2


def test_prepares_as_its_options_say():
    image = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    options = FaceXFormerOptions(**{**SMALL, "normalisation": "clip"})
    found = FaceXFormerSwinB.prepare([image], options)
    torch.testing.assert_close(found, normalised([image], 72, "clip"))
    assert FaceXFormerSwinB.preprocessing() == "facexformer-224-imagenet-v1"
    assert FaceXFormerSwinB.preprocessing(options) == "facexformer-72-clip-v1"
    assert FaceXFormerSwinB.face_enlargement == 0.5


def test_refuses_pixels_of_another_side():
    encoder = build_encoder("facexformer_swin_b", SMALL)
    with pytest.raises(ValueError, match=r"\(64, 64\) pixels.*72×72"):
        encoder(torch.zeros(1, 1, 3, 64, 64))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"image_side": 192}, r"image_side=192, window_size=7, stages with 48, 24, 12, 6 patches"),
        ({"image_side": 226}, r"image_side=226.*multiple of 4"),
        ({"window_size": 8}, r"window_size=8.*56, 28, 14, 7.*set image_side=256"),
        ({"granularity": "layer"}, r"granularity=layer.*stage, block"),
        ({"normalisation": "none"}, r"normalisation=none.*imagenet, clip"),
        ({"num_heads": [4, 8]}, r"num_heads=\[4, 8\].*one number per stage"),
        ({"embed_dim": 130}, r"embed_dim=130.*130 do not by 4"),
        ({"image_side": "abc"}, r"image_side='abc'; it is an integer"),
        ({"depths": 3}, r"depths=3; it is a list, each an integer"),
        ({"depths": "2222"}, r"depths='2222'; it is a list, each an integer"),
        ({"depths": [2, 2, 18.0, 2]}, r"depths=\[2, 2, 18.0, 2\]; it is a list, each an integer"),
        ({"depths": [2, 2, 18, 0]}, r"depths=\(2, 2, 18, 0\); it is at least 1"),
        ({"num_heads": [4, 8, 16, 0]}, r"num_heads=\(4, 8, 16, 0\); it is at least 1"),
        ({"embed_dim": 0}, r"embed_dim=0; it is at least 1"),
        ({"window_size": 0}, r"window_size=0; it is at least 1"),
        ({"stages": 4}, r"stages; this encoder knows granularity"),
    ],
)
def test_refuses_options_that_do_not_fit(options, named):
    with pytest.raises(ConfigError, match="got facexformer_swin_b options .*" + named):
        build_encoder("facexformer_swin_b", options)


def test_options_of_a_recipe_are_those_written_in_python():
    """Recipes and saved configs have lists where the options have tuples."""
    again = FaceXFormerOptions.of({"depths": [2, 1], "num_heads": [4, 8], "window_size": 7})
    assert again == FaceXFormerOptions(depths=(2, 1), num_heads=(4, 8), window_size=7)
    hash(again)


@pytest.mark.parametrize("granularity", ["stage", "block"])
def test_the_maps_depend_on_all_that_a_stage_may_train(granularity, weights, pixels, tmp_path):
    """The file's last norm is the one that they do not; it is still filled and saved."""
    encoder = loaded(weights, tmp_path, granularity=granularity)
    trained = list(map(id, encoder.trainable_parameters()))
    last = {"swin.layernorm.weight", "swin.layernorm.bias"}
    sum((stage**2).mean() for stage in encoder(pixels)).backward()
    for name, parameter in encoder.named_parameters():
        assert (id(parameter) in trained) == (name not in last), name
        assert (parameter.grad is not None) == (name not in last), name
    assert torch.equal(encoder.state_dict()["swin.layernorm.bias"], weights["backbone.1.bias"])


@pytest.mark.parametrize("granularity", ["stage", "block"])
def test_a_policy_with_it_saves_and_loads_exactly(granularity, weights, tiny_config, tmp_path):
    """Swin goes through the names that transformers gave it before version 5."""
    from policy.build import build_policy

    path = tmp_path / "model.pt"
    torch.save({"state_dict_backbone": weights}, path)
    config = tiny_config(
        facial_encoder="facexformer_swin_b",
        facial_encoder_options={**SMALL, "granularity": granularity},
        published=PublishedWeights(facexformer=str(path)),
    )
    model, processor = build_policy(config)
    last = weights["backbone.0.7.1.mlp.3.weight"].float()
    assert torch.equal(model.facial_encoder.swin.encoder.layers[3].blocks[1].mlp.fc2.weight, last)
    again, _ = load_policy(save_policy(model, processor, tmp_path / "policy"))
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[key]), key
    clip = {
        "query_ids": torch.tensor([[5, 9, 2]]),
        "query_mask": torch.ones(1, 3, dtype=torch.long),
        "general_pixels": torch.randn(1, 3, 3, 32, 32),
        "facial_pixels": torch.randn(1, 3, 3, 72, 72),
    }
    rows = model.visual_prefix(**clip).rows
    torch.testing.assert_close(again.visual_prefix(**clip).rows, rows)
    clip["facial_pixels"] = clip["facial_pixels"].flip(1)
    assert (model.visual_prefix(**clip).rows - rows).abs().max() > 1e-4  # time is seen


def test_one_step_of_the_first_stage_moves_all_that_the_papers_encoders_may_learn():
    model = small_policy(**PAPER)
    parts = trainable_parts("v4", Phase.STAGE_1)
    assert {"general_encoder", "facial_encoder"} < set(parts)
    train_only(model, parts)
    learns = {id(parameter) for part in parts for parameter in model.part_parameters(part)}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    batch = small_clips(model.config) | small_prompts(model.config)
    model(**batch, labels=batch["input_ids"].clone()).loss.backward()
    # Plain gradient descent: a tensor moves if and only if its gradient is not zero.
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=10.0).step()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (id(parameter) in learns), name
        if not name.endswith(("k_proj.bias", "key.bias")):  # cancel out in the softmax
            assert torch.equal(parameter, before[name]) == (id(parameter) not in learns), name
    assert not any(
        parameter.requires_grad for parameter in model.facial_encoder.swin.layernorm.parameters()
    )
