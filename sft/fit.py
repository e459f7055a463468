"""The training of one stage, on all ranks."""

from __future__ import annotations

import copy
import functools
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from corpus.schema import Sample
from policy.config import PolicyConfig
from sft.checkpoints import Checkpoint, CheckpointWriter, load_trained
from sft.collator import AnswerCollator
from sft.config import SftConfig
from sft.data import UsableSamples, find_usable, refuse_too_many_skipped, rows
from sft.deepspeed_config import training_config
from sft.folders import open_partial, partial_folder, training_fingerprint
from sft.plan import StagePlan
from sft.ranks import Ranks, this_device
from sft.scale import Scale
from sft.stages import learning_in_float32, trainable

if TYPE_CHECKING:
    from policy.feature_cache import FeatureCache
    from policy.features import FeatureExtractor
    from policy.modeling import FaVChatForConditionalGeneration
    from policy.processing import FaVChatProcessor
    from sft.trainer import StageTrainer

logger = logging.getLogger(__name__)

CLIPS_IN_MEMORY = 64
"""A few MB each; the rest is read from the feature cache on disk."""

SHARDED = "trained"
"""Folder beside the checkpoints for weights that were in pieces on the ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A stage's training, as its metrics tell of it."""

    training: UsableSamples
    held_out: UsableSamples
    steps: int
    epoch_losses: list[float]
    train_seconds: float
    earlier_seconds: float  # of them, those of interrupted runs


def start_policy(
    plan: StagePlan, policy: PolicyConfig
) -> tuple[FaVChatForConditionalGeneration, FaVChatProcessor]:
    """What the stage starts from, in the recipe's dtype: the stage before, or a new policy."""
    import torch

    from policy.build import build_policy
    from policy.checkpoints import load_policy

    if plan.start is None:
        return build_policy(policy)
    return load_policy(plan.start, dtype=getattr(torch, policy.dtype))


def fit(
    plan: StagePlan,
    sft: SftConfig,
    model: FaVChatForConditionalGeneration,
    processor: FaVChatProcessor,
    cache: FeatureCache,
    ranks: Ranks,
) -> Fitted:
    """Train ``model`` in place; adapters are merged when this returns.

    With DeepSpeed the model's weights may be left in pieces: :func:`whole_policy` has them.

    Raises:
        ConfigError: for batches that the ranks cannot divide.
        SampleError: when too many samples cannot be used.
        TrainingError: when a loss is not finite; its samples are named.
        MachineError: when the output folder cannot be written.
    """
    from transformers import set_seed

    scale = Scale(
        ranks=ranks.size,
        micro_batch_size=sft.micro_batch_size,
        gradient_checkpointing=sft.gradient_checkpointing,
        deepspeed=sft.deepspeed,
    )
    set_seed(sft.seed)  # adapters start at random: the same whichever stages this run has done
    with trainable(model, plan.config, merge=not sft.deepspeed):
        if sft.deepspeed:  # keeps float32 weights of its own
            return _train(plan, sft, model, processor, cache, ranks, scale)
        with learning_in_float32(model):
            return _train(plan, sft, model, processor, cache, ranks, scale)


def _train(
    plan: StagePlan,
    sft: SftConfig,
    model: FaVChatForConditionalGeneration,
    processor: FaVChatProcessor,
    cache: FeatureCache,
    ranks: Ranks,
    scale: Scale,
) -> Fitted:
    from policy.features import FeatureExtractor
    from sft.trainer import StageTrainer

    # Made once it is clear which encoders are frozen: those run once per clip, ever.
    extractor = FeatureExtractor(_encoding(model, sft), processor, cache)
    read_clip = functools.lru_cache(CLIPS_IN_MEMORY)(extractor)
    collator = AnswerCollator([*plan.samples, *plan.held_out], processor, read_clip)
    training, held_out = _usable(plan, sft, extractor, collator, ranks)
    fingerprint = training_fingerprint(
        plan.fingerprint, training.samples, shards=_shards(sft, ranks)
    )
    partial, checkpoint = ranks.on_main(lambda: open_partial(plan.folder, fingerprint=fingerprint))
    earlier = checkpoint.seconds if checkpoint else 0.0
    checkpoints = CheckpointWriter(
        partial,
        fingerprint=fingerprint,
        every=sft.checkpoint_every,
        seconds=earlier,
        ranks=ranks,
    )
    trainer = StageTrainer(
        model,
        stage=plan.config,
        rows=rows(training.samples, turns=plan.config.turns, fits=collator.fits),
        collator=collator,
        tokenizer=processor.tokenizer,
        seed=sft.seed,
        folder=partial,
        tensorboard=sft.tensorboard,
        checkpoints=checkpoints,
        scale=scale,
    )
    if checkpoint:
        _say_resumed(plan, checkpoint, ranks)
    trainer.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)
    if sft.deepspeed:
        _bring_together(trainer, partial / SHARDED)
    return Fitted(
        training=training,
        held_out=held_out,
        steps=trainer.state.global_step,
        epoch_losses=trainer.epoch_losses(),
        train_seconds=round(checkpoints.seconds, 1),
        earlier_seconds=earlier,
    )


def _encoding(
    model: FaVChatForConditionalGeneration, sft: SftConfig
) -> FaVChatForConditionalGeneration:
    """What encodes clips on this rank's device, at any time and without the other ranks.

    DeepSpeed takes the weights of ``model`` into pieces, for which all ranks have to compute the
    same at the same time; so there the encoders are copied before.
    """
    if not sft.deepspeed:
        return model.to(this_device())
    encoders = {id(encoder) for encoder in model.encoders.values()}
    others = {id(part): None for part in model.children() if id(part) not in encoders}
    return copy.deepcopy(model, others).to(this_device())


def _usable(
    plan: StagePlan,
    sft: SftConfig,
    extractor: FeatureExtractor,
    collator: AnswerCollator,
    ranks: Ranks,
) -> tuple[UsableSamples, UsableSamples]:
    """The usable samples to train on, and those held out."""

    def check_text(sample: Sample) -> None:
        (row,) = rows([sample])
        collator.num_tokens(row)

    find = functools.partial(
        find_usable,
        read_clips=functools.partial(extractor.many, num_workers=sft.num_readers),
        check_text=check_text,
        ranks=ranks,
    )
    training = find(plan.samples, what=f"stage {plan.number}: reading clips")
    refuse_too_many_skipped(training, max_fraction=sft.max_skipped_fraction)
    return training, find(plan.held_out, what="reading held-out clips")


def _say_resumed(plan: StagePlan, checkpoint: Checkpoint, ranks: Ranks) -> None:
    logger.info(
        "stage %d goes on from step %d: %s", plan.number, checkpoint.step, checkpoint.folder
    )
    before = len(list(checkpoint.folder.glob("rng_state*.pth")))
    if before != ranks.size:
        logger.warning(
            "the checkpoint is of %d ranks, this run has %d: its dropout will be another one",
            before,
            ranks.size,
        )


def _shards(sft: SftConfig, ranks: Ranks) -> Mapping[str, object]:
    """What the files of a checkpoint depend on: DeepSpeed's are one for each rank."""
    if not sft.deepspeed:
        return {}
    config = training_config(Path(sft.deepspeed))
    stage = config.get("zero_optimization", {}).get("stage", 0)
    kept = {name: config.get(name) for name in ("optimizer", "bf16", "fp16")}
    return {"ranks": ranks.size, "zero": stage, **kept}


def _bring_together(trainer: StageTrainer, folder: Path) -> None:
    from transformers.integrations import unset_hf_deepspeed_config

    trainer.save_model(str(folder), _internal_call=True)
    unset_hf_deepspeed_config()  # models that are loaded from here on are whole


def whole_policy(
    plan: StagePlan, policy: PolicyConfig
) -> tuple[FaVChatForConditionalGeneration, FaVChatProcessor]:
    """The trained policy after a :func:`fit` with DeepSpeed, adapters merged."""
    model, processor = start_policy(plan, policy)
    with trainable(model, plan.config):
        load_trained(model, partial_folder(plan.folder) / SHARDED)
    shutil.rmtree(partial_folder(plan.folder) / SHARDED)
    return model.to(this_device()), processor
