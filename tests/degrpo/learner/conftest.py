"""A language model small enough for float64 oracles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from policy.mixed_prompt import MixedPrompt

VOCABULARY = 37
HIDDEN = 16
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class DoubleNorm(nn.Module):
    """RMSNorm in the input's precision; transformers' own goes through float32."""

    def __init__(self, norm: LlamaRMSNorm) -> None:
        super().__init__()
        self.weight, self.epsilon = norm.weight, norm.variance_epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon)


def build_model(*, double_norms: bool = True, seed: int = 0) -> PeftModel:
    """A random float64 Llama with LoRA on every linear layer, B away from zero."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).double().eval().requires_grad_(False)
    if double_norms:
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if isinstance(child, LlamaRMSNorm):
                    setattr(parent, name, DoubleNorm(child))
    lora = LoraConfig(r=3, lora_alpha=7, target_modules=LINEARS, lora_dropout=0.0)
    adapted = get_peft_model(model, lora, autocast_adapter_dtype=False)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    return adapted


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """On tensors this small threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def make_model() -> Callable[..., PeftModel]:
    return build_model


@pytest.fixture
def make_prompt() -> Callable[..., MixedPrompt]:
    def make(length: int, *, visual: int = 0, seed: int = 0, hidden: int = HIDDEN) -> MixedPrompt:
        rng = np.random.default_rng(seed)
        mask = np.zeros(length, dtype=bool)
        mask[1 : 1 + visual] = True
        return MixedPrompt(
            sample_id=f"sample-{seed}",
            token_ids=rng.integers(3, VOCABULARY, length),
            visual_mask=mask,
            visual_rows=rng.normal(size=(visual, hidden)).astype(np.float32),
        )

    return make
