"""Assemble a policy from parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from common.errors import ConfigError
from policy.config import PolicyConfig
from policy.configuration import FaVChatConfig
from policy.encoders import find_encoder
from policy.language import VIDEO_PAD, language_model_config, load_language_model
from policy.language.embedded import EMBEDDED
from policy.levels.middle_level import MINILM, load_minilm, qformer_config
from policy.modeling import FaVChatForConditionalGeneration
from policy.processing import FaVChatProcessor
from policy.published import load_published
from policy.published_layouts import LAYOUTS
from policy.wheels import wheel_file

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

PUBLISHED_QFORMER = "umt_l16_qformer"
RANDOM = "random"
"""In place of a published file: start without it."""


def register_policy() -> None:
    """Make the Auto classes know FaVChat.

    ``AutoConfig``, ``AutoProcessor``, ``AutoModel``, ``AutoModelForImageTextToText`` and
    ``AutoModelForMultimodalLM``.
    """
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForImageTextToText,
        AutoModelForMultimodalLM,
        AutoProcessor,
    )

    AutoConfig.register(FaVChatConfig.model_type, FaVChatConfig, exist_ok=True)
    for auto in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        auto.register(FaVChatConfig, FaVChatForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(FaVChatConfig, FaVChatProcessor, exist_ok=True)


def build_policy(
    config: PolicyConfig,
) -> tuple[FaVChatForConditionalGeneration, FaVChatProcessor]:
    """A policy with pre-trained encoders, Q-Formers and language model, in ``config.dtype``.

    Parts without published weights (projections, cross-attention, queries, gate, projector) are
    drawn from ``config.seed``. No weight is held twice. The first call with SmolLM2 unpacks it into
    the cache (half a minute).

    Raises:
        ConfigError: for an encoder, language model or Q-Former that does not exist, and for
            published weights that the recipe needs and does not name, or that do not fit it.
        CheckpointError: for published weights that do not fit.
        MachineError: when a wheel of the embedded defaults is missing.
    """
    config.check()
    published = _published_files(config)
    _check_published(config)
    register_policy()
    dtype = getattr(torch, config.dtype)
    text_config = language_model_config(config.language_model)
    qformer_tokenizer = _qformer_tokenizer(config)
    settings = _model_config(config, text_config, len(qformer_tokenizer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = FaVChatForConditionalGeneration(settings, _stand_in(config, text_config))
    model.language_model = None  # before the real one takes its memory
    model.to(dtype)
    _load_vision(model, config, published)
    model.language_model, tokenizer = load_language_model(
        config.language_model, seed=config.seed, dtype=dtype
    )
    settings.text_config = model.language_model.config
    settings.video_token_id = tokenizer.convert_tokens_to_ids(VIDEO_PAD)
    words = model.get_input_embeddings().weight.detach()
    model.set_visual_scale(float(words.float().std()))
    processor = FaVChatProcessor.from_recipe(
        config,
        tokenizer,
        qformer_tokenizer,
        num_rows=settings.num_visual_rows,
        max_prompt_tokens=getattr(settings.text_config, "max_position_embeddings", None),
    )
    _set_generation(model, processor)
    return model.eval(), processor


def build_policy_on_meta(config: PolicyConfig) -> FaVChatForConditionalGeneration:
    """The policy's shapes without values: takes seconds at 7B, no memory, no weights, no network.

    Raises:
        ConfigError: as :func:`build_policy`; published weights need not be named, but unless they
            are `random` the recipe must fit them.
    """
    from transformers import AutoModelForImageTextToText

    config.check()
    _check_published(config)
    register_policy()
    text_config = language_model_config(config.language_model)
    settings = _model_config(config, text_config, len(_qformer_tokenizer(config)))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(
            settings, dtype=getattr(torch, config.dtype)
        )
    return model.eval()


def _published_kinds(config: PolicyConfig) -> dict[str, str]:
    """Kinds of published weights that the recipe's parts start from, and the field that says so."""
    needed_by = {PUBLISHED_QFORMER: "qformer"} if config.qformer == "bert_base" else {}
    streams = ["general", "facial"] if config.facial_source == "facial" else ["general"]
    for name in (f"{stream}_encoder" for stream in streams):
        if kind := find_encoder(getattr(config, name)).published_kind:
            needed_by[kind] = name
    return {
        kind: name
        for kind, name in needed_by.items()
        if getattr(config.published, kind, None) != RANDOM
    }


def _published_files(config: PolicyConfig) -> dict[str, str]:
    """Files of published weights that the recipe's parts start from, by kind."""
    files = {}
    for kind, name in _published_kinds(config).items():
        path = getattr(config.published, kind, None)
        if path is None:
            raise ConfigError(
                f"policy.{name}={getattr(config, name)} without policy.published.{kind}",
                "it starts from published weights",
                f"set policy.published.{kind} to their file, or to `{RANDOM}` to try the shapes",
            )
        files[kind] = path
    return files


def _check_published(config: PolicyConfig) -> None:
    """Refuse a recipe whose parts published weights do not fit, before anything is built."""
    for kind, needed_by in _published_kinds(config).items():
        layout = LAYOUTS.get(kind)
        if layout is None:  # of an encoder from outside, which load_published refuses
            continue
        for name, published in layout.recipe.items():
            value = getattr(config, name)
            if value == published or (
                name == layout.encoder and find_encoder(value).published_kind == kind
            ):
                continue
            raise ConfigError(
                f"policy.{name}={value}, policy.{needed_by}={getattr(config, needed_by)}",
                f"published weights ({kind}) fit {layout.setting}",
                f"set policy.{name}={published}, or policy.published.{kind}={RANDOM} to start"
                " without them",
            )
        most = sum(layout.queries.values())
        if 0 < most < config.num_queries:
            raise ConfigError(
                f"policy.num_queries={config.num_queries}",
                f"published weights ({kind}) have {most} queries",
                f"set policy.num_queries={most} or less, or policy.published.{kind}={RANDOM}",
            )


def _qformer_tokenizer(config: PolicyConfig) -> PreTrainedTokenizerBase:
    """BERT's uncased vocabulary; the published Q-Former has one word more (BLIP-2's)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(wheel_file(MINILM, "model", "tokenizer.json").parent)
    if config.qformer == "bert_base":
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    return tokenizer


def _model_config(
    config: PolicyConfig, text_config: PreTrainedConfig, vocabulary: int
) -> FaVChatConfig:
    """The architecture; what depends on the language model's weights is set after loading them."""
    return FaVChatConfig(
        text_config=text_config,
        qformer_config=qformer_config(config.qformer, config.qformer_layers, vocabulary),
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
    )


def _stand_in(config: PolicyConfig, text_config: PreTrainedConfig) -> PreTrainedModel | None:
    """Takes the language model's place while the other parts draw their values.

    None for embedded ones, so that the policy draws a random one among its other parts: seeds with
    the embedded defaults shall go on to give the values they gave. Larger ones would draw billions
    of values for nothing, and stand in without any.
    """
    from transformers import AutoModelForCausalLM

    if config.language_model in EMBEDDED:
        return None
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(text_config)


def _load_vision(
    model: FaVChatForConditionalGeneration, config: PolicyConfig, published: dict[str, str]
) -> None:
    for encoder in model.encoders.values():
        encoder.load_embedded()
    if config.qformer == "minilm":
        load_minilm(model.middle_level.general_qformer)
        load_minilm(model.middle_level.facial_qformer)
    for kind, path in published.items():
        load_published(model, kind, path)


def _set_generation(model: FaVChatForConditionalGeneration, processor: FaVChatProcessor) -> None:
    """Greedy by default, ends at the end token, never speaks a special token."""
    settings = model.generation_config
    settings.do_sample = False
    settings.eos_token_id = processor.end_token_id
    settings.pad_token_id = processor.tokenizer.pad_token_id
    settings.suppress_tokens = list(processor.banned_token_ids)
