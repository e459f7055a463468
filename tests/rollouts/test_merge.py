"""Merged weights against PEFT, and what an adapter may not be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from common.errors import ConfigError, MachineError
from rollouts.merge import merged_weights, read_weights
from rollouts.types import AdapterWeights


def test_merge_by_hand():
    adapter = AdapterWeights(
        tensors={
            "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": np.array([[1.0, 2.0]]),
            "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight": np.array([[3.0], [4.0]]),
        },
        rank=1,
        alpha=0.5,
        target_modules=("up_proj",),
        policy_version=1,
    )
    base = {
        "model.layers.0.mlp.up_proj.weight": torch.eye(2),
        "model.layers.0.mlp.down_proj.weight": torch.full((2, 2), 9.0),
    }
    merged = dict(merged_weights(base, adapter))
    expected = torch.tensor([[1 + 1.5, 3.0], [2.0, 1 + 4.0]])  # I + 0.5 B A
    torch.testing.assert_close(merged["model.layers.0.mlp.up_proj.weight"], expected)
    assert (
        merged["model.layers.0.mlp.down_proj.weight"] is base["model.layers.0.mlp.down_proj.weight"]
    )
    torch.testing.assert_close(base["model.layers.0.mlp.up_proj.weight"], torch.eye(2))


def test_a_merged_model_computes_what_peft_computes(tiny_policy):
    adapted = tiny_policy.adapted(seed=1)
    weights = dict(
        merged_weights(read_weights(tiny_policy.folder), tiny_policy.adapter(adapted, 1))
    )
    assert set(weights) == set(read_weights(tiny_policy.folder))  # the engine needs every part
    merged = LlamaForCausalLM(tiny_policy.base.config).eval()
    merged.load_state_dict(weights, strict=False)
    merged.tie_weights()
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        theirs, ours, base = (model(ids).logits for model in (adapted, merged, tiny_policy.base))
    assert (ours - theirs).abs().max() < 1e-3 * (theirs - base).abs().max()


def test_adapters_on_the_embedding_or_head_are_refused(tiny_policy):
    adapter = replace(tiny_policy.zero_adapter(), target_modules=("q_proj", "lm_head"))
    with pytest.raises(ConfigError, match="lm_head"):
        merged_weights(read_weights(tiny_policy.folder), adapter)


def test_an_adapter_of_another_model_is_refused_before_any_weight_moves(tiny_policy):
    base, adapter = read_weights(tiny_policy.folder), tiny_policy.zero_adapter()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    missing = {key: tensor for key, tensor in adapter.tensors.items() if key != name}
    stranger = adapter.tensors | {name.replace("layers.0", "layers.9"): adapter.tensors[name]}
    wrong = adapter.tensors | {name: np.zeros((64, 5), dtype=np.float32)}
    for tensors in (missing, stranger, wrong, {}):
        with pytest.raises(ConfigError):
            merged_weights(base, replace(adapter, tensors=tensors))


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(MachineError, match="safetensors"):
        read_weights(tmp_path)
