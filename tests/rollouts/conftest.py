"""A tiny random Llama with a tokenizer of its own, and one engine on it for all tests."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from policy.mixed_prompt import MixedPrompt
from rollouts.config import RolloutConfig
from rollouts.sampler import Sampler
from rollouts.types import AdapterWeights

VOCAB, WIDTH = 512, 64
END, PLACEHOLDER = 2, 3
BANNED = (0, 1, PLACEHOLDER, 7, 8)  # 7 and 8 have huge logits, one of them at every position
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK, ALPHA = 4, 12
CONFIG = RolloutConfig(
    max_response_tokens=12,
    max_model_len=128,
    temperature=0.7,
    kv_cache_gib=0.05,
    max_num_seqs=64,
    threads=2,
    probe_tokens=6,
    timeout_seconds=120,
)


class TinyPolicy:
    """The learner's side of the same model, in transformers and PEFT."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @property
    def sampler_arguments(self) -> dict[str, Any]:
        return {
            "language_model_dir": str(self.folder),
            "banned_token_ids": BANNED,
            "end_token_id": END,
            "lora_rank": RANK,
            "lora_target_modules": TARGETS,
        }

    def prompt(self, sample_id: str, length: int = 40) -> MixedPrompt:
        generator = np.random.default_rng(zlib.crc32(sample_id.encode()))
        mask = np.zeros(length, dtype=bool)
        mask[3:7] = True
        ids = generator.integers(10, VOCAB, length)
        ids[mask] = PLACEHOLDER
        rows = generator.normal(size=(4, WIDTH)).astype(np.float32)
        return MixedPrompt(sample_id=sample_id, token_ids=ids, visual_mask=mask, visual_rows=rows)

    def adapted(self, seed: int) -> torch.nn.Module:
        """A PEFT model around a copy of the base, with B far from zero."""
        from peft import LoraConfig, get_peft_model

        base = LlamaForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS))
        model = get_peft_model(base, config)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data.copy_(0.1 * noise)
        return model.eval()

    def adapter(self, model: torch.nn.Module, policy_version: int) -> AdapterWeights:
        from peft import get_peft_model_state_dict

        tensors = get_peft_model_state_dict(model)
        return AdapterWeights(
            tensors={name: tensor.detach().numpy().copy() for name, tensor in tensors.items()},
            rank=RANK,
            alpha=ALPHA,
            target_modules=TARGETS,
            policy_version=policy_version,
        )

    def zero_adapter(self) -> AdapterWeights:
        adapter = self.adapter(self.adapted(seed=0), policy_version=0)
        return replace(adapter, tensors={n: np.zeros_like(t) for n, t in adapter.tensors.items()})

    @torch.no_grad()
    def logits(
        self, prompt: MixedPrompt, token_ids: Sequence[int], model: torch.nn.Module | None = None
    ) -> torch.Tensor:
        """What predicts each of ``token_ids``, ``[len(token_ids), VOCAB]``."""
        ids = torch.tensor([*prompt.token_ids.tolist(), *token_ids])
        embeds = self.base.get_input_embeddings()(ids)
        visual = torch.from_numpy(prompt.visual_mask)
        embeds[: len(prompt)][visual] = torch.from_numpy(prompt.visual_rows)
        return (model or self.base)(inputs_embeds=embeds[None]).logits[0, len(prompt) - 1 : -1]

    def log_probs(
        self,
        prompt: MixedPrompt,
        token_ids: Sequence[int],
        model: torch.nn.Module | None = None,
        temperature: float = CONFIG.temperature,
    ) -> torch.Tensor:
        """log softmax over the tokens that may be sampled, ``[len(token_ids), VOCAB]``."""
        logits = self.logits(prompt, token_ids, model) / temperature
        allowed = torch.ones(VOCAB, dtype=torch.bool)
        allowed[list(BANNED)] = False
        result = torch.full_like(logits, -torch.inf)
        result[:, allowed] = torch.log_softmax(logits[:, allowed], dim=-1)
        return result

    def chosen_log_probs(self, prompt: MixedPrompt, token_ids: Sequence[int], **kwargs) -> Any:
        rows = self.log_probs(prompt, token_ids, **kwargs)
        return rows.gather(1, torch.tensor(token_ids)[:, None])[:, 0].numpy()


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> TinyPolicy:
    folder = tmp_path_factory.mktemp("tiny_llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=256,
        initializer_range=0.15,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=END,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        rows = model.get_input_embeddings().weight
        rows[7] = 50 * rows[9]
        rows[8] = -rows[7]
    model.save_pretrained(folder)
    words = {"<unk>": 0, "<s>": 1, "</s>": END, "<video>": PLACEHOLDER}
    words |= {f"w{index}": index for index in range(4, VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return TinyPolicy(folder)


@pytest.fixture(scope="session")
def _engine(tiny_policy: TinyPolicy) -> Iterator[Sampler]:
    sampler = Sampler(config=CONFIG, **tiny_policy.sampler_arguments)
    yield sampler
    sampler.close()


@pytest.fixture
def sampler(_engine: Sampler, tiny_policy: TinyPolicy) -> Sampler:
    """The session's engine at the base weights and version 0, whatever tests did before."""
    if _engine.policy_version != 0:
        _engine.load_adapter(tiny_policy.zero_adapter())
    return _engine
