"""Tokenizers that stand in for published ones, which tests cannot download.

Qwen's and Llama 3's: small byte-level vocabularies with the published control tokens, under their
published ids' order, and the published chat templates as TRL ships them. Mistral's: the real
vocabularies, which the mistral_common wheel holds, in the form of the published tokenizer.json.
"""

from __future__ import annotations

import functools
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from policy.wheels import wheel_file

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The regular expression by which Qwen and Llama 3 cut text before merging bytes."""

TEXT = ["user\n\nIs she happy?\n\nNo. She frowns and smiles.\n", "assistant\n\nsystem\n"]

QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"]
QWEN += ["<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>"]
QWEN += ["<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
QWEN_WORDS = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|repo_name|>", "<|file_sep|>"]
QWEN3_WORDS = ["<tool_response>", "</tool_response>", "<think>", "</think>"]
LLAMA3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>"]
LLAMA3 += ["<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|start_header_id|>"]
LLAMA3 += ["<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"]

MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ ' [INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
"""Of the published form, without its refusal of other roles."""

MISTRAL_FILES = {"v1": "tokenizer.model.v1", "v3": "mistral_instruct_tokenizer_240323.model.v3"}


def qwen2_5() -> PreTrainedTokenizerBase:
    tokenizer = _byte_level(QWEN, QWEN_WORDS, normalizers.NFC())
    return _named(tokenizer, "qwen2_5", eos_token="<|im_end|>", pad_token="<|endoftext|>")


def qwen3() -> PreTrainedTokenizerBase:
    tokenizer = _byte_level(QWEN, QWEN_WORDS + QWEN3_WORDS, normalizers.NFC())
    return _named(tokenizer, "qwen3", eos_token="<|im_end|>", pad_token="<|endoftext|>")


def llama3(special: list[str] = LLAMA3) -> PreTrainedTokenizerBase:
    """Writes <|begin_of_text|> by itself unless told not to; has no padding token."""
    tokenizer = _byte_level(special, [], None)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A",
        special_tokens=[("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))],
    )
    return _named(tokenizer, "llama3", bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")


def mistral(version: str = "v1", *, spaces: str = "always") -> PreTrainedTokenizerBase:
    """Instruct v0.2's tokenizer (``v1``, markers are text) or v0.3's (``v3``, markers are tokens).

    Args:
        spaces: written before text ``always`` (published until v0.2: after each special token),
            ``first`` (published from v0.3 on: where a text begins) or ``never``.
    """
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_mistral_file(version)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    backend = tokenizer.backend_tokenizer
    if spaces == "always":
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    elif spaces == "first":
        backend.normalizer = None
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.chat_template = MISTRAL_TEMPLATE
    return tokenizer


@functools.cache
def _mistral_file(version: str) -> str:
    with TemporaryDirectory() as folder:
        model = wheel_file("mistral_common", "data", MISTRAL_FILES[version])
        Path(folder, "tokenizer.model").symlink_to(model)
        Path(folder, "config.json").write_text('{"model_type": "mistral"}')
        return AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str()


def _byte_level(
    special: list[str], words: list[str], normalizer: normalizers.Normalizer | None
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXT * 4, BpeTrainer(vocab_size=320, initial_alphabet=alphabet))
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(words)
    return tokenizer


def _named(tokenizer: Tokenizer, template: str, **names: str) -> PreTrainedTokenizerBase:
    named = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    named.chat_template = (files("trl") / "chat_templates" / f"{template}.jinja").read_text()
    return named
