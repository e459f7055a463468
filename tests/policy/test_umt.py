"""UMT-L/16 against a float64 computation from its description."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedConfig, PreTrainedModel

from common.errors import ConfigError
from policy.build import build_policy
from policy.config import PublishedWeights
from policy.encoders import build_encoder, find_encoder
from policy.encoders.umt import UmtAttention, UmtBlock, UmtL16, UmtOptions, space_time_positions

SIDE, PATCH, WIDTH, HEADS, LAYERS = 12, 4, 16, 4, 2
GRID = SIDE // PATCH
SMALL = {
    "width": WIDTH,
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "mlp_width": 40,
    "image_side": SIDE,
    "patch_side": PATCH,
}


def small(**changes) -> UmtL16:
    """A small encoder, every tensor of which is drawn: zero biases and unit norms would hide."""
    encoder = build_encoder("umt_l16", {**SMALL, **changes})
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return encoder


def clip(num_frames: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_frames)
    return torch.randn(batch, num_frames, 3, SIDE, SIDE, generator=generator)


# Positions


def expected_positions(num_frames: int, grid: int, width: int) -> np.ndarray:
    """[T * grid * grid, width], element by element from the definition, in double precision."""
    num_known = 1 if num_frames == 1 else 4
    known = np.empty((num_known, grid * grid, width))
    for frame in range(num_known):
        for patch in range(grid * grid):
            for j in range(width):
                angle = (frame * grid * grid + patch) / 10000 ** (2 * (j // 2) / width)
                known[frame, patch, j] = math.cos(angle) if j % 2 else math.sin(angle)
    # Frame t of T covers [t, t + 1] / T of the clip; its middle, on the scale of the known frames.
    places = [(t + 0.5) * num_known / num_frames - 0.5 for t in range(num_frames)]
    rows = [
        [np.interp(places, range(num_known), known[:, patch, j]) for j in range(width)]
        for patch in range(grid * grid)
    ]
    return np.array(rows).transpose(2, 0, 1).reshape(-1, width)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5, 8, 16, 31])
def test_positions_equal_their_definition(num_frames):
    got = space_time_positions(num_frames, 3, 10)
    np.testing.assert_allclose(got, expected_positions(num_frames, 3, 10), atol=2e-6)


def test_positions_of_the_published_shape():
    """Patch 783 of 784, channels 0, 1 and 1023; written out."""
    last = space_time_positions(4, 14, 1024)[783]
    assert last[0].item() == pytest.approx(math.sin(783), abs=1e-6)
    assert last[1].item() == pytest.approx(math.cos(783), abs=1e-6)
    assert last[1023].item() == pytest.approx(math.cos(783 / 10000 ** (1022 / 1024)), abs=1e-6)


def test_positions_of_eight_frames_are_mixtures_of_four():
    """Middles of eighths lie a quarter off the middles of quarters; the ends stay."""
    four = space_time_positions(4, 3, 10).view(4, -1)
    eight = space_time_positions(8, 3, 10).view(8, -1)
    torch.testing.assert_close(eight[0], four[0])
    torch.testing.assert_close(eight[1], 0.75 * four[0] + 0.25 * four[1])
    torch.testing.assert_close(eight[2], 0.25 * four[0] + 0.75 * four[1])
    torch.testing.assert_close(eight[7], four[3])


# The forward pass


def expected_map(state: dict[str, np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """[B, T, width, grid, grid] from weights by published key, in NumPy and double precision."""
    batch, num_frames = pixels.shape[:2]
    head_width = WIDTH // HEADS
    patches = pixels.reshape(batch, num_frames, 3, GRID, PATCH, GRID, PATCH)
    x = np.einsum("btcipjq,wcpq->btijw", patches, state["patch_embed.proj.weight"][:, :, 0])
    x = (x + state["patch_embed.proj.bias"]).reshape(batch, -1, WIDTH)
    x = x + expected_positions(num_frames, GRID, WIDTH)
    for layer in range(LAYERS):
        w = {
            key.removeprefix(f"blocks.{layer}."): value
            for key, value in state.items()
            if key.startswith(f"blocks.{layer}.")
        }
        y = norm(x, w["norm1.weight"], w["norm1.bias"])
        matrices = w["attn.qkv.weight"].reshape(3, HEADS, head_width, WIDTH)
        q = np.einsum("bnc,hdc->bhnd", y, matrices[0])
        q = q + w["attn.q_bias"].reshape(HEADS, 1, head_width)
        k = np.einsum("bnc,hdc->bhnd", y, matrices[1])
        v = np.einsum("bnc,hdc->bhnd", y, matrices[2])
        v = v + w["attn.v_bias"].reshape(HEADS, 1, head_width)
        scores = np.exp(np.einsum("bhnd,bhmd->bhnm", q, k) / math.sqrt(head_width))
        mixed = np.einsum("bhnm,bhmd->bnhd", scores / scores.sum(-1, keepdims=True), v)
        x = x + mixed.reshape(batch, -1, WIDTH) @ w["attn.proj.weight"].T + w["attn.proj.bias"]
        y = norm(x, w["norm2.weight"], w["norm2.bias"]) @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"]
        y = y * 0.5 * (1 + erf(y / math.sqrt(2)))
        x = x + y @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"]
    return x.reshape(batch, num_frames, GRID, GRID, WIDTH).transpose(0, 1, 4, 2, 3)


def norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * weight + bias


@pytest.mark.parametrize("num_frames", [1, 4, 6])
def test_the_map_equals_the_computation_by_hand(num_frames):
    encoder = small()
    pixels = clip(num_frames, batch=2)
    state = {key: value.double().numpy() for key, value in encoder.state_dict().items()}
    (got,) = encoder.double()(pixels.double())
    # Float32 positions are the only rounding: 1e-7, amplified by two layers.
    np.testing.assert_allclose(
        got.detach(), expected_map(state, pixels.double().numpy()), atol=1e-5, rtol=1e-5
    )


def test_the_norms_epsilon_counts_where_tokens_are_nearly_flat():
    """Deviations near 1e-3 make the epsilon of 1e-6 as large as the variance."""
    block = UmtBlock(WIDTH, HEADS, 40)
    x = torch.randn(1, 5, WIDTH, generator=torch.Generator().manual_seed(0)).double() * 1e-3
    for layer in (block.norm1, block.norm2):
        got = layer.double()(x).detach()
        np.testing.assert_allclose(got, norm(x.numpy(), np.ones(WIDTH), np.zeros(WIDTH)), atol=1e-9)


def test_reversed_frames_change_the_output():
    """Without positions in time the map of the reversed clip would be the reversed map."""
    encoder, pixels = small(), clip(5)
    with torch.no_grad():
        (forwards,), (backwards,) = encoder(pixels), encoder(pixels.flip(1))
    assert (backwards.flip(1) - forwards).abs().max() > 0.1


def test_frames_attend_to_each_other():
    encoder, pixels = small(), clip(3)
    other = pixels.clone()
    other[:, 2] += 1.0
    with torch.no_grad():
        (first,), (second,) = encoder(pixels), encoder(other)
    assert (first[:, 0] - second[:, 0]).abs().max() > 1e-2


def test_attention_runs_without_the_matrix_of_scores():
    """Only the fused kernel is allowed here: it refuses what it cannot take."""
    attention = UmtAttention(64, 4)
    tokens = torch.randn(2, 50, 64)
    with torch.no_grad(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        fused = attention(tokens)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        torch.testing.assert_close(fused, attention(tokens), atol=1e-5, rtol=1e-5)


# Weights


def published_layout() -> dict[str, tuple[int, ...]]:
    """Keys under ``vision_encoder.encoder.`` of umt_l16_qformer.pth, and their shapes."""
    layout: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (1024, 3, 1, 16, 16),
        "patch_embed.proj.bias": (1024,),
    }
    for layer in range(23):
        for key, shape in {
            "norm1.weight": (1024,),
            "norm1.bias": (1024,),
            "attn.q_bias": (1024,),
            "attn.v_bias": (1024,),
            "attn.qkv.weight": (3072, 1024),
            "attn.proj.weight": (1024, 1024),
            "attn.proj.bias": (1024,),
            "norm2.weight": (1024,),
            "norm2.bias": (1024,),
            "mlp.fc1.weight": (4096, 1024),
            "mlp.fc1.bias": (4096,),
            "mlp.fc2.weight": (1024, 4096),
            "mlp.fc2.bias": (1024,),
        }.items():
            layout[f"blocks.{layer}.{key}"] = shape
    return layout


def test_the_default_has_the_published_tensors_and_no_other():
    with torch.device("meta"):
        encoder = UmtL16()
    got = {key: tuple(value.shape) for key, value in encoder.state_dict().items()}
    assert got == published_layout()
    assert len(got) == 301
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 290_477_056


def test_construction_on_the_meta_device_loses_nothing():
    trained, pixels = small(), clip(6)
    with torch.device("meta"):
        emptied, assigned = (build_encoder("umt_l16", SMALL) for _ in range(2))
    emptied.to_empty(device="cpu").load_state_dict(trained.state_dict())
    assigned.load_state_dict(trained.state_dict(), assign=True)
    with torch.no_grad():
        (want,) = trained(pixels)
        assert torch.equal(emptied(pixels)[0], want)
        assert torch.equal(assigned(pixels)[0], want)


def test_a_cast_to_bfloat16_and_back_leaves_positions_exact():
    encoder, pixels = small(), clip(6)
    weights = {key: value.clone() for key, value in encoder.state_dict().items()}
    with torch.no_grad():
        (want,) = encoder(pixels)
        encoder.to(torch.bfloat16).float().load_state_dict(weights)
        assert torch.equal(encoder(pixels)[0], want)


def test_bfloat16_runs_near_float32():
    encoder, pixels = small(), clip(6)
    with torch.no_grad():
        (want,) = encoder(pixels)
        (got,) = encoder.to(torch.bfloat16)(pixels)  # pixels stay float32
    assert got.dtype == torch.bfloat16
    assert (got.float() - want).norm() < 0.03 * want.norm()


def check_drawn(encoder: UmtL16) -> None:
    for name, parameter in encoder.named_parameters():
        if parameter.ndim > 1:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        else:
            assert torch.all(parameter == (1 if "norm" in name and "weight" in name else 0)), name


def test_random_weights_are_a_vits():
    torch.manual_seed(0)
    check_drawn(build_encoder("umt_l16", {**SMALL, "width": 64, "mlp_width": 256}))


def test_random_weights_after_construction_on_the_meta_device():
    torch.manual_seed(0)
    with torch.device("meta"):
        encoder = build_encoder("umt_l16", {**SMALL, "width": 64, "mlp_width": 256})
    encoder.to_empty(device="cpu")
    for module in encoder.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    check_drawn(encoder)


# In a policy


@pytest.fixture
def umt_policy(tiny_config):
    options = {**SMALL, "width": 64, "mlp_width": 256}
    recipe = tiny_config(
        general_encoder="umt_l16",
        general_encoder_options=options,
        published=PublishedWeights(umt_l16_qformer="random"),
    )
    policy, _ = build_policy(recipe)
    return policy


def test_a_saved_policy_comes_back_with_its_encoder(umt_policy, tmp_path):
    """``from_pretrained`` builds on the meta device and initialises what a file lacks."""
    with torch.no_grad():
        for parameter in umt_policy.general_encoder.parameters():
            parameter.normal_(std=0.4)
    umt_policy.save_pretrained(tmp_path)
    again = type(umt_policy).from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        (want,) = umt_policy.encode_frames("general", clip(5))
        (got,) = again.encode_frames("general", clip(5))
    assert torch.equal(got, want)


def test_a_policy_draws_its_encoder_as_the_encoder_alone(umt_policy):
    check_drawn(umt_policy.general_encoder)


class Host(PreTrainedModel):
    """The least model that ``transformers`` checkpoints the gradients of."""

    config_class = PreTrainedConfig
    supports_gradient_checkpointing = True

    def __init__(self, encoder: UmtL16) -> None:
        super().__init__(PreTrainedConfig())
        self.encoder = encoder


def test_gradient_checkpointing_computes_each_block_twice_and_the_same_gradients():
    host = Host(small())
    encoder, calls = host.encoder.train(), 0

    def count(*_) -> None:
        nonlocal calls
        calls += 1

    for block in encoder.blocks:
        block.register_forward_pre_hook(count)

    def gradients() -> list[torch.Tensor]:
        encoder.zero_grad()
        encoder(clip(3))[0].square().sum().backward()
        return [parameter.grad.clone() for parameter in encoder.parameters()]

    plain = gradients()
    assert calls == LAYERS
    host.gradient_checkpointing_enable()
    checkpointed = gradients()
    assert calls == 3 * LAYERS
    assert all(map(torch.equal, plain, checkpointed))
    with torch.no_grad():
        encoder(clip(3))
    assert calls == 4 * LAYERS
    host.gradient_checkpointing_disable()
    gradients()
    assert calls == 5 * LAYERS


# Preprocessing and options


def test_prepare_normalises_as_the_options_say():
    image = np.full((20, 30, 3), 255, dtype=np.uint8)
    encoder = find_encoder("umt_l16")
    imagenet = encoder.prepare([image], UmtOptions())
    demo = encoder.prepare([image], UmtOptions(normalisation="clip", image_side=32))
    assert imagenet.shape == (1, 3, 224, 224)
    assert imagenet[0, :, 0, 0].tolist() == pytest.approx(
        [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    )
    assert demo.shape == (1, 3, 32, 32)
    assert demo[0, 0, 0, 0].item() == pytest.approx((1 - 0.48145466) / 0.26862954)


def test_pixels_that_differ_have_names_that_differ():
    choices = [
        UmtOptions(normalisation=name, image_side=side)
        for name in ("imagenet", "clip")
        for side in (224, 448)
    ]
    assert len({UmtL16.preprocessing(options) for options in choices}) == 4
    assert UmtL16.preprocessing() == UmtL16.preprocessing(UmtOptions())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalisation": "none"}, "normalisation=none.*imagenet, clip"),
        ({"image_side": 225}, "image_side=225, patch_side=16"),
        ({"width": 100}, "width=100, num_heads=16"),
        ({"num_layers": 0}, "num_layers=0; it is at least 1"),
        ({"num_heads": 0}, "num_heads=0; it is at least 1"),
        ({"patch_side": -16}, "patch_side=-16; it is at least 1"),
        ({"image_side": "abc"}, "image_side='abc'; it is an integer"),
        ({"width": 64.0}, "width=64.0; it is an integer"),
        ({"width": None}, "width=None; it is an integer"),
        ({"width": True}, "width=True; it is an integer"),
        ({"width": [1024]}, r"width=\[1024\]; it is an integer"),
        ({"normalisation": 3}, "normalisation=3; it is a string"),
        ({"depth": 24}, "depth; this encoder knows width, num_layers"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, message):
    with pytest.raises(ConfigError, match="got umt_l16 options " + message):
        build_encoder("umt_l16", options)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="squares of 12"):
        small()(torch.zeros(1, 2, 3, 16, 16))
