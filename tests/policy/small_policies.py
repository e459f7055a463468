"""Policies of a few thousand random weights, in every architecture; no tokenizer, no wheel."""

from __future__ import annotations

from typing import Any

import torch
from transformers import InstructBlipQFormerConfig, LlamaConfig

from policy.configuration import FaVChatConfig
from policy.modeling import FaVChatForConditionalGeneration

VOCABULARY, VIDEO_TOKEN, PAD = 97, 96, 0
NUM_QUERIES, NUM_FRAMES = 3, 4

SWIN = {
    "image_side": 64,
    "embed_dim": 8,
    "depths": [1, 1, 2, 1],
    "num_heads": [1, 2, 2, 4],
    "window_size": 2,
}
UMT = {
    "width": 32,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_width": 48,
    "image_side": 32,
    "patch_side": 16,
}
PAPER = {  # the paper's encoders, small
    "general_encoder": "umt_l16",
    "general_encoder_options": UMT,
    "facial_encoder": "facexformer_swin_b",
    "facial_encoder_options": SWIN,
}
PIXELS = {  # channels and sides by encoder
    "tiny": (3, 32),
    "umt_l16": (3, 32),
    "facexformer_swin_b": (3, 64),
    "mini_xception": (1, 64),
    "efficientnet_lite0": (3, 64),
}


def small_config(*, tied: bool = True, **changes: Any) -> FaVChatConfig:
    settings: dict[str, Any] = {
        "text_config": LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=128,
            initializer_range=0.3,
            tie_word_embeddings=tied,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=PAD,
        ),
        "qformer_config": InstructBlipQFormerConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            max_position_embeddings=16,
            encoder_hidden_size=32,
            initializer_range=0.2,
        ),
        "general_encoder": "tiny",
        "facial_encoder": "tiny",
        "shared_width": 32,
        "num_queries": NUM_QUERIES,
        "video_token_id": VIDEO_TOKEN,
    }
    return FaVChatConfig(**{**settings, **changes})


def small_policy(seed: int = 0, **changes: Any) -> FaVChatForConditionalGeneration:
    """In eval mode; no value is a constant that an initialisation would give it again."""
    torch.manual_seed(seed)
    model = FaVChatForConditionalGeneration(small_config(**changes)).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.randn_like(tensor).abs())
            else:
                assert name.endswith(("relative_position_index", "num_batches_tracked")), name
    return model


def small_clips(config: FaVChatConfig, clips: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """The vision part of a batch: the last clip lacks one frame and two words."""
    generator = torch.Generator().manual_seed(seed)
    query_mask = torch.ones(clips, 6, dtype=torch.long)
    frame_mask = torch.ones(clips, NUM_FRAMES, dtype=torch.bool)
    if clips > 1:
        query_mask[-1, -2:] = 0
        frame_mask[-1, -1] = False
    batch = {
        "query_ids": torch.randint(3, 50, (clips, 6), generator=generator),
        "query_mask": query_mask,
        "frame_mask": frame_mask,
    }
    streams = ("general", "facial") if config.facial_source == "facial" else ("general",)
    for stream in streams:
        channels, side = PIXELS[getattr(config, f"{stream}_encoder")]
        batch[f"{stream}_pixels"] = torch.randn(
            clips, NUM_FRAMES, channels, side, side, generator=generator
        )
    return batch


def small_prompts(
    config: FaVChatConfig, lengths: tuple[int, ...] = (9, 6), *, left: bool = False, seed: int = 1
) -> dict[str, torch.Tensor]:
    """Prompts of so many words beside their visual placeholders."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths) + config.num_visual_rows
    ids = torch.full((len(lengths), width), PAD)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        words = torch.randint(3, VIDEO_TOKEN, (length,), generator=generator)
        media = torch.full((config.num_visual_rows,), VIDEO_TOKEN)
        prompt = torch.cat([words[:2], media, words[2:]])
        place = slice(width - len(prompt), width) if left else slice(0, len(prompt))
        ids[row, place], mask[row, place] = prompt, 1
    return {"input_ids": ids, "attention_mask": mask}
