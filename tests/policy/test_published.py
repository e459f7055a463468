"""Published checkpoints: every real key name, sixteen times smaller, and once at real shapes."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import CheckpointError, ConfigError
from policy.configuration import FaVChatConfig
from policy.modeling import FaVChatForConditionalGeneration
from policy.published import load_published
from policy.published_layouts import LAYOUTS

SMALLER = 16
QFORMERS = ("general_qformer", "facial_qformer")
Weights = dict[str, Tensor]

DROPPED = {
    "facexformer": {
        "linear_c.0.proj.weight": (256, 128),
        "linear_fuse.weight": (256, 1024, 1, 1),
        "pe_layer.positional_encoding_gaussian_matrix": (2, 128),
        "face_decoder.output_upscaling.0.weight": (256, 64, 2, 2),
    },
    "umt_l16_qformer": {
        "qformer.cls.predictions.bias": (30523,),
        "vision_temp_embed": (1, 1, 1024),
        "vision_proj.weight": (512, 768),
        "text_proj.bias": (512,),
        "itm_head.weight": (2, 768),
        "temp": (),
    },
}
"""Keys of the published files that the policy has no use for."""


def layout(kind: str) -> dict[str, tuple[int, ...]]:
    """Published keys and shapes; ``{0,1}`` in the file stands for several keys of one shape."""
    path = Path(__file__).parent / "data" / "checkpoint_layouts.json"
    shapes = {}
    for pattern, shape in json.loads(path.read_text())[kind].items():
        head, numbers, tail = re.fullmatch(r"([^{]*)(?:\{(.*)\})?(.*)", pattern).groups()
        for number in (numbers or "").split(","):
            shapes[head + number + tail] = tuple(shape)
    return shapes


def smaller(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Widths, vocabulary and positions by a sixteenth; windows, heads, patches, queries stay."""
    if "relative_position" in key:
        return shape
    return tuple(size // SMALLER if size >= 128 else size for size in shape)


def published(kind: str, seed: int = 0) -> Weights:
    """Random weights at all published keys, a sixteenth as wide."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        key: 0.3 * torch.randn(smaller(key, shape), generator=generator)
        for key, shape in (layout(kind) | DROPPED[kind]).items()
    }
    for key in weights:
        if key.endswith(("position_index", "position_ids")):
            weights[key] = torch.zeros(weights[key].shape, dtype=torch.long)
    return weights


def config(scale: int, num_queries: int = 40, **changes) -> FaVChatConfig:
    """A policy around the published encoders; its language model is tiny."""
    sizes = {
        "qformer_config": {
            "vocab_size": 30523 // scale,
            "hidden_size": 768 // scale,
            "num_attention_heads": 12,
            "intermediate_size": 3072 // scale,
            "max_position_embeddings": 512 // scale,
            "encoder_hidden_size": 1024 // scale,
        },
        "general_encoder": "umt_l16",
        "general_encoder_options": {"width": 1024 // scale, "mlp_width": 4096 // scale},
        "facial_encoder": "facexformer_swin_b",
        "facial_encoder_options": {"embed_dim": 128 // scale},
        "shared_width": 1024 // scale,
        "num_queries": num_queries,
    }
    llama = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 64}
    llama |= {"model_type": "llama", "num_attention_heads": 2, "num_key_value_heads": 2}
    return FaVChatConfig(text_config=llama, **(sizes | changes))


def build(scale: int = SMALLER, **changes) -> FaVChatForConditionalGeneration:
    torch.manual_seed(7)
    return FaVChatForConditionalGeneration(config(scale, **changes)).eval()


@pytest.fixture(scope="module")
def model() -> FaVChatForConditionalGeneration:
    return build()


def save(kind: str, weights: Weights, folder: Path, **changes) -> Path:
    """A file as it is published."""
    path = folder / f"{kind}.pt"
    key = "state_dict_backbone" if kind == "facexformer" else "model"
    torch.save({key: weights, "epoch": 3} | changes, path)
    return path


def snapshot(model: nn.Module) -> Weights:
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def changed(before: Weights, model: nn.Module) -> set[str]:
    after = model.state_dict()
    return {key for key, tensor in before.items() if not torch.equal(tensor, after[key])}


def test_facexformer_fills_the_facial_encoder_alone(tmp_path):
    model = build()
    before, trainable = snapshot(model), [p.requires_grad for p in model.parameters()]
    weights = published("facexformer")
    load_published(model, "facexformer", save("facexformer", weights, tmp_path))
    filled = {key for key in before if key.startswith("facial_encoder.")}
    assert changed(before, model) == filled
    assert [p.requires_grad for p in model.parameters()] == trainable
    block = model.facial_encoder.swin.encoder.layers[2].blocks[17]
    qkv = weights["backbone.0.5.17.attn.qkv.weight"]
    for name, third in zip("qkv", qkv.chunk(3), strict=True):
        assert torch.equal(getattr(block.attention, f"{name}_proj").weight, third)
    merging = model.facial_encoder.swin.encoder.layers[1].downsample
    assert torch.equal(merging.reduction.weight, weights["backbone.0.4.reduction.weight"])


def test_videochat2_fills_encoder_norm_and_both_qformers(tmp_path):
    model = build()
    before, trainable = snapshot(model), [p.requires_grad for p in model.parameters()]
    weights = published("umt_l16_qformer")
    load_published(model, "umt_l16_qformer", save("umt_l16_qformer", weights, tmp_path))
    parts = [f"middle_level.{name}." for name in QFORMERS]
    parts += ["general_encoder.", "middle_level.general_tokens.norm."]
    parts += ["middle_level.general_queries", "middle_level.facial_queries"]
    assert changed(before, model) == {key for key in before if key.startswith(tuple(parts))}
    assert [p.requires_grad for p in model.parameters()] == trainable
    for key, tensor in model.general_encoder.state_dict().items():
        assert torch.equal(tensor, weights["vision_encoder.encoder." + key]), key
    middle = model.middle_level
    assert torch.equal(middle.general_tokens.norm.weight, weights["vision_layernorm.weight"])
    assert torch.equal(middle.general_tokens.norm.bias, weights["vision_layernorm.bias"])
    assert middle.general_tokens.norm.eps == 1e-12
    queries = torch.cat([weights["query_tokens"], weights["extra_query_tokens"]], dim=1)
    assert torch.equal(middle.general_queries, queries[:, :40])
    assert torch.equal(middle.facial_queries, queries[:, :40])


class PublishedQFormer:
    """BERT with queries that cross-attend in every second layer (BLIP-2 §3.1), by published keys.

    Post-norm layers; queries and text share self-attention and have feed-forward layers of their
    own.
    """

    def __init__(self, weights: Weights, num_heads: int) -> None:
        self.weights = {
            key.removeprefix("qformer.bert."): tensor.double()
            for key, tensor in weights.items()
            if key.startswith("qformer.bert.")
        }
        self.num_heads = num_heads

    def __call__(self, queries: Tensor, text: Tensor, tokens: Tensor, num_layers: int) -> Tensor:
        words = self.weights["embeddings.word_embeddings.weight"][text]
        words = words + self.weights["embeddings.position_embeddings.weight"][: text.shape[1]]
        x = self.norm("embeddings", torch.cat([queries, words], dim=1))
        q = queries.shape[1]
        for layer in range(num_layers):
            at = f"encoder.layer.{layer}."
            x = self.attend(at + "attention.", x, x)
            asked, told = x[:, :q], x[:, q:]
            if layer % 2 == 0:
                asked = self.attend(at + "crossattention.", asked, tokens)
            x = torch.cat([self.mlp(at, "_query", asked), self.mlp(at, "", told)], dim=1)
        return x

    def attend(self, at: str, x: Tensor, y: Tensor) -> Tensor:
        query = self.heads(at + "self.query", x)
        key, value = self.heads(at + "self.key", y), self.heads(at + "self.value", y)
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
        mixed = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(dim=-1), value).flatten(2)
        return self.norm(at + "output", x + self.linear(at + "output.dense", mixed))

    def mlp(self, at: str, kind: str, x: Tensor) -> Tensor:
        hidden = F.gelu(self.linear(at + f"intermediate{kind}.dense", x))
        at = at + f"output{kind}"
        return self.norm(at, x + self.linear(at + ".dense", hidden))

    def heads(self, name: str, x: Tensor) -> Tensor:
        return self.linear(name, x).unflatten(-1, (self.num_heads, -1))

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        x = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-12).sqrt()
        name += ".LayerNorm"
        return x * self.weights[name + ".weight"] + self.weights[name + ".bias"]


@pytest.mark.parametrize("name", QFORMERS)
def test_qformers_compute_what_was_published(name, tmp_path):
    model = build()
    weights = published("umt_l16_qformer")
    load_published(model, "umt_l16_qformer", save("umt_l16_qformer", weights, tmp_path))
    qformer = getattr(model.middle_level, name).double()
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(2, 5, 48, dtype=torch.float64, generator=generator)
    tokens = torch.randn(2, 9, 64, dtype=torch.float64, generator=generator)
    text = torch.randint(0, 1907, (2, 7), generator=generator)
    found = qformer(
        input_ids=text,
        attention_mask=torch.ones(2, 12, dtype=torch.long),
        query_embeds=queries,
        encoder_hidden_states=tokens,
    ).last_hidden_state
    reference = PublishedQFormer(weights, num_heads=12)(queries, text, tokens, num_layers=12)
    torch.testing.assert_close(found, reference, rtol=1e-9, atol=1e-9)


def test_text_path_is_berts(tmp_path):
    from transformers import BertConfig, BertModel

    model = build()
    weights = published("umt_l16_qformer")
    load_published(model, "umt_l16_qformer", save("umt_l16_qformer", weights, tmp_path))
    sizes = {"vocab_size": 1907, "hidden_size": 48, "intermediate_size": 192}
    bert = BertModel(BertConfig(**sizes, max_position_embeddings=32), add_pooling_layer=False)
    names = {key: "qformer.bert." + key for key in bert.state_dict()}
    segment = names.pop("embeddings.token_type_embeddings.weight").removeprefix("qformer.bert.")
    state = {key: weights[name] for key, name in names.items()}
    bert.load_state_dict(state | {segment: torch.zeros(2, 48)})  # BLIP-2 has no segments
    text = torch.randint(0, 1907, (2, 7), generator=torch.Generator().manual_seed(1))
    found = model.middle_level.general_qformer.double()(input_ids=text).last_hidden_state
    reference = bert.double().eval()(text).last_hidden_state
    torch.testing.assert_close(found, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", ["bare", "module", "model.module", "old", "safetensors", "half"])
def test_forms_of_a_file(form, model, tmp_path):
    weights = published("umt_l16_qformer", seed=3)
    path = tmp_path / ("file.safetensors" if form == "safetensors" else "file.pth")
    if form == "half":
        weights = {k: t.half() if t.is_floating_point() else t for k, t in weights.items()}
    content = {
        "module": {"module": weights},
        "model.module": {"model": {"module": weights}},
    }.get(form, weights)
    if form == "safetensors":
        save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form != "old")
    load_published(model, "umt_l16_qformer", path)
    for key, tensor in model.general_encoder.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, weights["vision_encoder.encoder." + key].float()), key
    qformer = model.middle_level.facial_qformer
    words = weights["qformer.bert.embeddings.word_embeddings.weight"].float()
    assert torch.equal(qformer.get_input_embeddings().weight, words)


def test_a_whole_file_is_read_while_it_is_mapped_anew(monkeypatch, tmp_path):
    model, weights = build(), published("umt_l16_qformer")
    monkeypatch.setattr("policy.published.REMAP_BYTES", 2**20)  # of about seven
    load_published(model, "umt_l16_qformer", save("umt_l16_qformer", weights, tmp_path))
    for key, tensor in model.general_encoder.state_dict().items():
        assert torch.equal(tensor, weights["vision_encoder.encoder." + key]), key


def test_files_of_the_first_stage_have_no_extra_queries(model, tmp_path):
    weights = published("umt_l16_qformer")
    del weights["extra_query_tokens"]
    path = save("umt_l16_qformer", weights, tmp_path)
    few = build(num_queries=32)
    load_published(few, "umt_l16_qformer", path)
    assert torch.equal(few.middle_level.facial_queries, weights["query_tokens"])
    with pytest.raises(CheckpointError, match="missing extra_query_tokens"):
        load_published(model, "umt_l16_qformer", path)


def drop(*keys):
    return lambda weights: [weights.pop(key) for key in keys]


def put(**shapes):
    return lambda weights: weights.update({k: torch.zeros(s) for k, s in shapes.items()})


def misshape(key: str, *shape: int):
    return lambda weights: weights.update({key: torch.zeros(shape)})


def swap(key: str, change):
    return lambda weights: weights.update({key: change(weights[key])})


def put_value(key: str, value: float):
    """One number of many."""

    def put_it(weights: Weights) -> None:
        weights[key] = weights[key].double()
        weights[key].view(-1)[-1] = value

    return put_it


def drop_layer(weights: Weights) -> None:
    for key in [key for key in weights if ".layer.11." in key]:
        del weights[key]


def several(weights: Weights) -> None:
    misshape("backbone.1.weight", 3)(weights)
    drop("backbone.1.bias")(weights)
    put(**{f"head.{n}": (1,) for n in range(8)})(weights)


LAST = "backbone.1.weight"  # the key that comes last in the order of copying


def quantised(tensor: Tensor) -> Tensor:
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def nested(tensor: Tensor) -> Tensor:
    return torch.nested.nested_tensor([tensor, tensor[1:]])


FAULTS = [
    ("facexformer", drop("backbone.0.7.1.attn.qkv.bias"), r"missing backbone.0.7.1.attn.qkv.bias;"),
    ("facexformer", put(**{"backbone.2.weight": (1,)}), r"with extra backbone.2.weight;"),
    (
        "facexformer",
        misshape("backbone.0.1.0.attn.qkv.weight", 8, 8),
        r"misshapen backbone.0.1.0.attn.qkv.weight \(file \(8, 8\), model \(24, 8\)\);",
    ),
    (
        "facexformer",
        lambda weights: weights.update({"backbone.1.bias": torch.zeros(64, dtype=torch.int8)}),
        r"misshapen backbone.1.bias \(file torch.int8, model torch.float32\)",
    ),
    ("facexformer", swap(LAST, lambda t: t.to("meta")), rf"{LAST} \(file without values,"),
    ("facexformer", swap(LAST, Tensor.to_sparse), rf"{LAST} \(file torch.sparse_coo,"),
    ("facexformer", swap(LAST, quantised), rf"misshapen {LAST} \(file quantised,"),
    ("facexformer", swap(LAST, nested), rf"misshapen {LAST} \(file nested,"),
    ("facexformer", swap(LAST, lambda t: t.to(torch.float8_e4m3fn)), r"\(file torch.float8_e4"),
    ("facexformer", put_value(LAST, math.nan), rf"with not finite {LAST};"),
    (
        "facexformer",
        put_value("backbone.0.7.1.attn.qkv.weight", math.inf),
        r"not finite backbone.0.7.1",
    ),
    ("facexformer", put_value(LAST, -1e39), rf"with not finite {LAST};"),  # in the model's float32
    (
        "facexformer",
        several,
        r"missing backbone.1.bias; extra head.0, head.1, head.2, head.3, head.4 and 3 more;"
        r" misshapen backbone.1.weight \(file \(3,\), model \(64,\)\);",
    ),
    ("umt_l16_qformer", drop("vision_layernorm.bias"), r"missing vision_layernorm.bias;"),
    ("umt_l16_qformer", drop("query_tokens"), r"missing query_tokens;"),
    (
        "umt_l16_qformer",
        drop_layer,
        r"missing qformer.bert.encoder.layer.11.attention.output.LayerNorm.bias, .* and 17 more;"
        r" .*policy.qformer_layers=12",
    ),
    (
        "umt_l16_qformer",
        put(**{"vision_encoder.encoder.blocks.23.norm1.weight": (64,)}),
        r"extra vision_encoder.encoder.blocks.23.norm1.weight;",
    ),
    (
        "umt_l16_qformer",
        misshape("extra_query_tokens", 1, 63, 48),
        r"extra_query_tokens \(file \(1, 63, 48\), model \(1, 64, 48\)\)",
    ),
    ("umt_l16_qformer", put(temperature=(1,)), r"extra temperature;"),
]


@pytest.mark.filterwarnings("ignore:.*quantize", "ignore:.*nested", "ignore:TypedStorage")
@pytest.mark.parametrize(("kind", "spoil", "named"), FAULTS)
def test_names_keys_that_differ_and_changes_nothing(kind, spoil, named, model, tmp_path):
    weights, before = published(kind, seed=5), snapshot(model)
    spoil(weights)
    path = save(kind, weights, tmp_path)
    with pytest.raises(CheckpointError, match=named) as raised:
        load_published(model, kind, path)
    assert str(path) in str(raised.value)
    assert not changed(before, model)


def test_a_qformer_of_other_sizes_names_what_to_set(tmp_path):
    model = build(shared_width=32)
    path = save("umt_l16_qformer", published("umt_l16_qformer"), tmp_path)
    named = (
        r"crossattention.self.key.weight \(file \(48, 64\), model \(48, 32\)\)"
        r".* and 7 more;.*policy.shared_width=1024"
    )
    with pytest.raises(CheckpointError, match=named):
        load_published(model, "umt_l16_qformer", path)


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        (
            "facexformer",
            {"facial_source": "general"},
            r"with no facial_encoder.*set policy.facial_",
        ),
        (
            "facexformer",
            {"facial_encoder": "tiny", "facial_encoder_options": {}},
            r"TinyEncoder as facial_encoder.*policy.facial_encoder=facexformer_swin_b",
        ),
        (
            "umt_l16_qformer",
            {"general_encoder": "tiny", "general_encoder_options": {}},
            r"TinyEncoder as general_encoder.*set policy.general_encoder=umt_l16",
        ),
        ("umt_l16_qformer", {"num_queries": 97}, r"num_queries=97; 96 queries are published"),
    ],
)
def test_a_policy_without_a_place_for_them_is_refused(kind, changes, named, tmp_path):
    path = save(kind, published(kind), tmp_path)
    with pytest.raises(ConfigError, match=named):
        load_published(build(**changes), kind, path)


def test_an_encoder_without_qformers_is_refused(model, tmp_path):
    alone = nn.Module()
    alone.general_encoder = model.general_encoder
    path = save("umt_l16_qformer", published("umt_l16_qformer"), tmp_path)
    with pytest.raises(ConfigError, match=r"without a part.*middle_level"):
        load_published(alone, "umt_l16_qformer", path)


def test_unknown_kinds_and_the_meta_device_are_refused(tmp_path):
    path = save("facexformer", published("facexformer"), tmp_path)
    with torch.device("meta"):
        model = build()
    with pytest.raises(ConfigError, match=r"kind 'swin'; it is one of facexformer, umt_l16_qf"):
        load_published(model, "swin", path)
    with pytest.raises(ConfigError, match="meta device"):
        load_published(model, "facexformer", path)


@pytest.mark.parametrize(
    ("kind", "content", "named"),
    [
        ("facexformer", {"state_dict": {}}, r"keys state_dict; its weights lie under state_dict_b"),
        (
            "facexformer",
            {"a": torch.zeros(1)},
            r"keys a; its weights lie under state_dict_backbone",
        ),
        ("facexformer", [torch.zeros(1)], r"with list; its weights lie under"),
        ("umt_l16_qformer", {"state_dict_backbone": {}}, r"keys state_dict_backbone; .* tensors"),
        ("umt_l16_qformer", torch.zeros(1), r"with Tensor; its weights lie under model or module"),
        ("umt_l16_qformer", {"model": {"lr": 0.1}}, r"keys lr; its weights are tensors by name"),
        ("umt_l16_qformer", {7: torch.zeros(1)}, r"keys 7; its weights are tensors by name"),
    ],
)
def test_files_of_another_kind_are_refused(kind, content, named, model, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=named):
        load_published(model, kind, tmp_path / "other.pt")


@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
def test_truncated_files_are_refused(form, model, tmp_path):
    weights = {"backbone.1.weight": torch.zeros(64), "backbone.1.bias": torch.zeros(64)}
    path = tmp_path / ("whole.safetensors" if form == "safetensors" else "whole.pt")
    if form == "safetensors":
        save_file(weights, path)
    else:
        torch.save(
            {"state_dict_backbone": weights}, path, _use_new_zipfile_serialization=form == "zip"
        )
    data = path.read_bytes()
    for length in [*range(0, len(data), max(1, len(data) // 60)), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=rf"facexformer weights {path}"):
            load_published(model, "facexformer", path)


def test_missing_files_and_folders_are_refused(model, tmp_path):
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_published(model, "facexformer", tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_published(model, "facexformer", tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="damaged"):
        load_published(model, "facexformer", tmp_path)


class Evil:
    """A pickle that would run a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["zip", "old", "pickle"])
def test_code_in_a_file_does_not_run(form, model, tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "evil.pt"
    content = {"state_dict_backbone": published("facexformer"), "config": Evil(marker)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match="no other Python object is made") as raised:
        load_published(model, "facexformer", path)
    assert not marker.exists()
    assert "weights_only" not in str(raised.value)  # no advice to switch the check off
    torch.load(path, weights_only=False) if form != "pickle" else pickle.loads(path.read_bytes())
    assert marker.exists()  # the file was evil indeed


@pytest.mark.slow
def test_real_shapes(tmp_path):
    """Every published key at its published shape fills a policy of paper size."""
    assert {kind: len(layout(kind)) for kind in LAYOUTS} == {
        "facexformer": 351,
        "umt_l16_qformer": 301 + 329 + 4,
    }
    with torch.device("meta"):
        model = build(scale=1)
    sizes = {
        name: sum(p.numel() for p in model.get_submodule(name).parameters())
        for name in ("facial_encoder", "general_encoder", "middle_level.general_qformer")
    }
    assert sizes == {
        "facial_encoder": 86_743_224,
        "general_encoder": 290_477_056,
        "middle_level.general_qformer": 182_121_216,
    }
    for name in ("facial_encoder", "general_encoder", "middle_level"):
        model.get_submodule(name).to_empty(device="cpu")
    for kind in LAYOUTS:
        # One number for a whole tensor: files of some kilobytes at real shapes.
        values = {key: float(n) for n, key in enumerate(layout(kind))}
        weights = {
            key: torch.tensor(values[key]).expand(shape) for key, shape in layout(kind).items()
        }
        load_published(model, kind, save(kind, weights, tmp_path))
        if kind == "facexformer":
            value = model.facial_encoder.swin.encoder.layers[3].blocks[1].attention.k_proj.weight
            assert torch.equal(
                value.unique(), torch.tensor([values["backbone.0.7.1.attn.qkv.weight"]])
            )
        else:
            for name in QFORMERS:
                layer = getattr(model.middle_level, name).encoder.layer[10]
                key = "qformer.bert.encoder.layer.10.crossattention.self.value.weight"
                value = layer.crossattention.attention.value.weight
                assert torch.equal(value.unique(), torch.tensor([values[key]]))


MEASURE = """
import os, sys
import torch
from torch import nn
from policy.encoders import build_encoder
from policy.levels.middle_level import MiddleLevel, qformer_config
from policy.published import load_published


def status(field):
    line = next(line for line in open("/proc/self/status") if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak_and_size(kind, path, dtype):
    policy = nn.Module()
    with torch.device("meta"):
        if kind == "facexformer":
            policy.facial_encoder = build_encoder("facexformer_swin_b", {})
        else:
            policy.general_encoder = build_encoder("umt_l16", {})
            policy.middle_level = MiddleLevel(
                qformer_config("bert_base", 12, 30523),
                general_channels=1024,
                general_sees_time=True,
                windows=False,
                facial_width=1024,
                num_queries=96,
                guided=True,
            )
    policy.to(getattr(torch, dtype))
    before = status("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")  # restarts VmHWM
    policy.to_empty(device="cpu")
    load_published(policy, kind, path)
    return status("VmHWM") - before, sum(parameter.nbytes for parameter in policy.parameters())


torch.load(sys.argv[1], weights_only=True, mmap=True)  # pays for imports that loading needs
for line in sys.stdin:  # each in a process of its own, with all imports done
    if os.fork() == 0:
        print(*peak_and_size(*line.split()), flush=True)
        os._exit(0)
    os.wait()
    print(flush=True)
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Iterator[Callable[[str, Path, str], tuple[int, int]]]:
    """``measured(kind, path, dtype)``: bytes at the peak of loading, and of the weights."""
    empty = tmp_path_factory.mktemp("measured") / "empty.pt"
    torch.save({}, empty)
    process = subprocess.Popen(
        [sys.executable, "-c", MEASURE, str(empty)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def measure(kind: str, path: Path, dtype: str) -> tuple[int, int]:
        process.stdin.write(f"{kind} {path} {dtype}\n")
        process.stdin.flush()
        peak, size = map(int, process.stdout.readline().split())
        process.stdout.readline()
        return peak, size

    yield measure
    process.communicate(timeout=60)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize(
    ("kind", "form", "dtype"),
    [
        ("facexformer", "pt", "float32"),
        ("facexformer", "pt", "bfloat16"),
        ("facexformer", "safetensors", "float32"),
        ("facexformer", "safetensors", "bfloat16"),
        ("umt_l16_qformer", "pt", "bfloat16"),
    ],
)
def test_peak_memory_is_at_most_1_3_times_the_weights(kind, form, dtype, measured, tmp_path):
    buffers = ("position_index", "position_ids")
    weights = {
        key: torch.zeros(
            shape, dtype=torch.long if key.endswith(buffers) else getattr(torch, dtype)
        )
        for key, shape in layout(kind).items()
    }
    if form == "pt":
        path = save(kind, weights, tmp_path)
    else:
        path = tmp_path / "weights.safetensors"
        save_file(weights, path)
    del weights
    peak, size = measured(kind, path, dtype)
    assert size <= peak <= 1.3 * size
