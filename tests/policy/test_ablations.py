"""Every option of the recipe, and the ablations of the paper's Table 3, as whole policies."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from policy.build import build_policy
from policy.encoders.base import FrameEncoder
from policy.encoders.tiny import TinyEncoder
from policy.freezing import PARTS
from policy.modeling import FaVChatForConditionalGeneration as Policy

BLOCKS = 24


class BlockEncoder(TinyEncoder):
    """A pyramid with one map per block, 2 + 2 + 18 + 2, as Swin-B has."""

    stage_channels = (4,) * 2 + (6,) * 2 + (8,) * 18 + (16,) * 2

    def __init__(self, options=None) -> None:
        FrameEncoder.__init__(self, options)
        strides = [2, 1, 2, 1, 2, *[1] * 17, 2, 1]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inner, outer, 3, stride=stride, padding=1), nn.Tanh())
            for (inner, outer), stride in zip(
                pairwise((3, *self.stage_channels)), strides, strict=True
            )
        )
        self.eval()


class JointEncoder(TinyEncoder):
    """Frames know their time, and the channels are those that the Q-Former was made for."""

    stage_channels = (4, 8, 8, 32)
    joint_time = True

    def forward(self, pixels):
        ramp = torch.linspace(0, 1, pixels.shape[1], dtype=pixels.dtype)
        return super().forward(pixels * (1 + ramp[:, None, None, None]))


BLOCK = {"facial_encoder": f"{__name__}:BlockEncoder"}
JOINT = {"general_encoder": f"{__name__}:JointEncoder"}
BLIND = {"middle_level": "unguided", "gate": "static"}
V1 = {"low_level": "visual_query", "gate": "feature"}

RECIPES: dict[str, dict] = {
    "v4": {},
    "no facial encoder": {"facial_source": "general"},
    "no facial encoder, last stage": {
        "facial_source": "general",
        "low_level": "final_cross_attention",
    },
    "no low-level chain": {"low_level": "final_cross_attention"},
    "no low level": {"low_level": "none"},
    "no text in the Q-Formers": {"middle_level": "unguided"},
    "no weight adapters": {"gate": "static"},
    "v1 low level": {"low_level": "visual_query"},
    "v1 gate": {"gate": "feature"},
    "v1": V1,
    "v1 without text": {**V1, "middle_level": "unguided"},
    "concat": {"fusion": "concat"},
    "concat, static": {"fusion": "concat", "gate": "static"},
    "blocks": BLOCK,
    "published tokens": JOINT,
    "published tokens in windows": {**JOINT, "frames_per_clip": 2},
    "general stream alone": {**BLIND, "facial_source": "general", "low_level": "none"},
    "text in the last stage alone": {**BLIND, "low_level": "final_cross_attention"},
    "no text at all": {**BLIND, "low_level": "none"},
}

SEES_NO_PROMPT = {"v1 without text", "general stream alone", "no text at all"}
HAS_NO_FACIAL_ENCODER = {
    name for name, recipe in RECIPES.items() if recipe.get("facial_source") == "general"
}


def policy_of(recipe: dict, tiny) -> Policy:
    """The tiny policy with the options of a recipe, its weights drawn anew from one seed."""
    config = copy.deepcopy(tiny[0].config)
    for name, value in recipe.items():
        assert hasattr(config, name)
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Policy(config).eval()


@pytest.fixture(scope="module", params=RECIPES)
def case(request, tiny) -> tuple[str, Policy]:
    """A policy in float64, where rounding cannot hide what padding does."""
    return request.param, policy_of(RECIPES[request.param], tiny).double()


@pytest.mark.parametrize("name", ["v1", "no facial encoder", "concat", "published tokens"])
def test_build_policy_builds_what_the_recipe_says(tiny_config, tiny, name):
    model, _ = build_policy(tiny_config(**RECIPES[name]))
    expected = policy_of(RECIPES[name], tiny).state_dict()
    for key, weight in model.state_dict().items():
        assert key.startswith("language_model.") or torch.equal(weight, expected.pop(key)), key
    assert all(key.startswith("language_model.") for key in expected)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recipes_are_allowed(tiny_config, recipe):
    tiny_config(**recipe).check()


def batch(name: str) -> dict[str, torch.Tensor]:
    """Two clips; the first has two frames and three words, the rest of it is noise."""
    generator = torch.Generator().manual_seed(0)
    streams = ("general",) if name in HAS_NO_FACIAL_ENCODER else ("general", "facial")
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    return {
        "query_ids": torch.randint(1000, 5000, (2, 5), generator=generator),
        "query_mask": mask,
        "frame_mask": torch.tensor([[True, True, False], [True, True, True]]),
        **{
            f"{stream}_pixels": torch.randn(
                2, 3, 3, 32, 32, generator=generator, dtype=torch.float64
            )
            for stream in streams
        },
    }


def rows(model: Policy, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model.visual_prefix(**inputs).rows


def test_rows_are_as_many_as_the_config_says_and_differ_by_clip(case):
    name, model = case
    inputs = batch(name)
    got = rows(model, inputs)
    assert got.shape[1] == model.config.num_visual_rows == (8 if "concat" in name else 4)
    inputs["query_ids"][0], inputs["query_mask"][0] = inputs["query_ids"][1], 1
    first, second = rows(model, inputs)
    assert (first - second).abs().max() > 1e-2


def test_each_option_alone_makes_a_difference(case, tiny):
    """With the default's weights wherever both have them."""
    name, model = case[0], copy.deepcopy(case[1])
    default = copy.deepcopy(tiny[0]).double()
    weights, shapes = default.state_dict(), {n: x.shape for n, x in model.state_dict().items()}
    model.load_state_dict(
        {n: x for n, x in weights.items() if x.shape == shapes.get(n)}, strict=False
    )
    got, expected = rows(model, batch(name)), rows(default, batch("v4"))
    if name == "v4":
        torch.testing.assert_close(got, expected)
    elif got.shape == expected.shape:
        assert (got - expected).abs().amax(dim=(1, 2)).min() > 1e-3


def test_padding_and_what_lies_in_it_change_nothing(case):
    name, model = case
    inputs = batch(name)
    together = rows(model, inputs)
    for sample in (0, 1):
        words, frames = inputs["query_mask"][sample].sum(), inputs["frame_mask"][sample].sum()
        alone = {
            key: value[sample : sample + 1, : words if "query" in key else frames]
            for key, value in inputs.items()
        }
        torch.testing.assert_close(rows(model, alone)[0], together[sample], atol=1e-6, rtol=1e-6)
    inputs["query_ids"][0, 3:] = 2000
    for stream in ("general_pixels", "facial_pixels"):
        if stream in inputs:
            inputs[stream][0, 2:] *= 9
    torch.testing.assert_close(rows(model, inputs), together, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("stream", ["general_pixels", "facial_pixels"])
def test_reversing_the_frames_changes_the_rows(case, stream):
    name, model = case
    inputs = batch(name)
    if stream not in inputs:
        return
    forwards = rows(model, inputs)[1]
    inputs[stream] = inputs[stream].flip(1)
    assert (rows(model, inputs)[1] - forwards).abs().max() > 1e-4


def test_the_prompt_changes_the_rows_where_a_level_reads_it(case):
    name, model = case
    inputs = batch(name)
    before = rows(model, inputs)
    inputs["query_ids"] = inputs["query_ids"] + 1000
    difference = (rows(model, inputs) - before).abs().amax(dim=(1, 2))
    if name in SEES_NO_PROMPT:
        assert difference.max() == 0
    else:
        assert difference.min() > 1e-4


def test_bfloat16_gives_what_float64_gives(case):
    name, model = case[0], copy.deepcopy(case[1])
    inputs = batch(name)
    expected = rows(model, inputs)
    model.to(torch.bfloat16)
    got = rows(model, {n: x.bfloat16() if x.is_floating_point() else x for n, x in inputs.items()})
    assert got.dtype == torch.bfloat16
    assert (got.double() - expected).abs().mean() < 0.03 * expected.std()


def test_gradients_reach_exactly_the_parts_that_exist(case):
    name, model = case
    exist = set(PARTS) - {"language_model"}
    if name in HAS_NO_FACIAL_ENCODER:
        exist.remove("facial_encoder")
    if RECIPES[name].get("gate") == "static":
        exist.remove("high_level")
    parameters = {part: list(model.part_parameters(part)) for part in exist}
    for part in exist:
        for parameter in parameters[part]:
            parameter.requires_grad_(True)
    model.zero_grad()
    got = model.visual_prefix(**batch(name)).rows
    (got * torch.linspace(-1, 1, got.numel()).view_as(got)).sum().backward()
    for part in set(PARTS) - exist - {"language_model"}:
        assert not list(model.part_parameters(part)), part
    for part in exist:
        unreached = [p for p in parameters[part] if p.grad is None or p.grad.abs().max() == 0]
        assert parameters[part]
        assert len(unreached) == (unread(model) if part == "middle_level" else 0), part
    for table in model._word_embeddings():
        assert table.weight.grad is None


def unread(model: Policy) -> int:
    """Parameters of text that nobody reads: 6 in each Q-Former's last layer; all, if unguided."""
    layers, positions = (1, 0) if model.config.middle_level == "text_guided" else (2, 1)
    return 2 * (6 * layers + positions)


def test_v1_looks_at_the_whole_picture_for_the_face(tiny):
    """Eq. 2: the facial stream alone depends on the general frames."""
    for low_level in ("visual_query", "none"):
        model = policy_of({"low_level": low_level}, tiny)
        inputs = {k: x.float() if x.is_floating_point() else x for k, x in batch("v1").items()}
        features = [
            model.encode_frames(stream, inputs[f"{stream}_pixels"])
            for stream in ("general", "facial")
        ]
        words = model.middle_level.words(inputs["query_ids"])
        given = (words, inputs["query_mask"].bool(), features[1], inputs["frame_mask"])
        tokens, _ = model.low_level(*given, features[0][-1])
        others, _ = model.low_level(*given, features[0][-1].flip(-1))
        assert (torch.equal(tokens, others)) == (low_level == "none")


def test_every_block_is_asked(tiny):
    model = policy_of(BLOCK, tiny)
    assert len(model.low_level.attention) == BLOCKS
    inputs = {k: x.float() if x.is_floating_point() else x for k, x in batch("blocks").items()}
    maps = [x.detach() for x in model.encode_frames("facial", inputs.pop("facial_pixels"))]
    before = rows(model, {**inputs, "facial_features": maps})
    for block in range(BLOCKS):
        changed = [x.flip(-1) if n == block else x for n, x in enumerate(maps)]
        assert not torch.equal(rows(model, {**inputs, "facial_features": changed}), before), block
