"""The tokens that stand for a video in a prompt, in any backbone's vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from common.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VIDEO_PAD = "<|video_pad|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
MEDIA_TOKENS = (VIDEO_PAD, VISION_START, VISION_END)
"""Qwen's names; its tokenizers have them, others are given them."""


def add_media_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> None:
    """Make the media tokens special tokens of ``tokenizer`` and see that ``model`` has their rows.

    Rows of tokens that are new are drawn from ``seed`` around the mean of the others with their
    spread, so that they look like tokens to the network; tied output embeddings stay tied. The
    tables grow only when a padded vocabulary, such as Qwen's, has no room left.

    Raises:
        ConfigError: for a tokenizer that does not read each media token as one token.
    """
    added = register_media_tokens(tokenizer)
    known, needed = model.get_input_embeddings().num_embeddings, num_rows(tokenizer)
    rows = sorted({*tokenizer.convert_tokens_to_ids(added), *range(known, needed)})
    if not rows:
        return
    if needed > known:
        model.resize_token_embeddings(needed, mean_resizing=False)
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for table in tables[:1] if tables[0] is tables[1] else tables:
            old = table[: rows[0]]
            noise = torch.randn((len(rows), table.shape[1]), generator=generator)
            table[rows] = old.mean(dim=0) + old.std(dim=0) * noise.to(old)


def register_media_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Make the media tokens special tokens of ``tokenizer``; those that it did not know.

    Raises:
        ConfigError: when it does not read each of them as one token with an id of its own then.
    """
    vocabulary = tokenizer.get_vocab()
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokenizer.add_tokens([t for t in MEDIA_TOKENS if t not in special], special_tokens=True)
    for token in MEDIA_TOKENS:
        _check_media_token(tokenizer, token)
    return [token for token in MEDIA_TOKENS if token not in vocabulary]


def num_rows(tokenizer: PreTrainedTokenizerBase) -> int:
    """Embedding rows that its ids need; more than ``len(tokenizer)`` where ids leave gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def _check_media_token(tokenizer: PreTrainedTokenizerBase, token: str) -> None:
    index = tokenizer.convert_tokens_to_ids(token)
    read = tokenizer(f"a{token}b", add_special_tokens=False).input_ids
    if index not in read:
        raise ConfigError(
            f"a tokenizer that reads {token} as {tokenizer.tokenize(token)}",
            "each media token is one special token",
            "take split_special_tokens out of its tokenizer_config.json",
        )
    others = [t for t, i in tokenizer.get_vocab().items() if i == index and t != token]
    if others:
        raise ConfigError(
            f"a tokenizer that gives {token} the id {index}, which is also {others[0]!r}",
            "each token has an id of its own",
            "close the gaps in its vocabulary, or add the media tokens to its tokenizer.json",
        )
