"""The trainer of one stage: TRL's ``SFTTrainer`` with the loss on answer tokens alone.

What differs from TRL 1.16, and why:

- the loss asks the policy's own forward for the logits of answer positions only. TRL's fused head
  bypasses that forward, and with it the clip, and without Triton it projects every position onto
  the vocabulary;
- parts that get no gradients stay in evaluation mode, so that the running statistics and dropout of
  a frozen encoder do not come alive (``Trainer`` puts the whole model into training mode at every
  step);
- the order of an epoch is a function of seed and epoch alone, grouped by length or not, so that
  resumed stages and several ranks take the batches that one process would (:mod:`sft.sampling`);
- gradient checkpointing reaches a frozen language model, whose activations the visual rows need;
- a loss that is not finite stops the stage and names its samples, where ``Trainer`` goes on;
- a checkpoint holds what the stage trains, not the whole policy, and appears whole or not at all
  (:mod:`sft.checkpoints`); one of the last step, when that is in mid-epoch, is not trained further;
- nothing leaves the machine: TRL's usage telemetry is off.

Importing this module imports TRL, which takes seconds: import it where a stage is trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PrinterCallback
from transformers.modeling_layers import GradientCheckpointingLayer
from trl import SFTConfig as TrlConfig
from trl import SFTTrainer

from common.errors import TrainingError
from common.progress import progress
from policy.collation import IGNORED_LABEL
from policy.freezing import PARTS
from sft.callbacks import Curves, Progress, SaveEvery
from sft.checkpoints import CheckpointWriter, load_trained, save_trained
from sft.config import StageConfig
from sft.data import Row
from sft.deepspeed_config import training_config
from sft.sampling import EpochSampler
from sft.scale import Scale

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from policy.modeling import FaVChatForConditionalGeneration
    from sft.collator import AnswerCollator

_SCHEDULERS = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


@dataclass(frozen=True, slots=True)
class AnswerScores:
    """How well a model predicts the answer tokens of a batch, one entry per answer token."""

    losses: Tensor  # [N] float32, negative log-likelihood in nats
    correct: Tensor  # [N] bool, whether the token is the most likely one
    rows: Tensor  # [N] int64, which sample of the batch the token belongs to


def score_answers(model: nn.Module, batch: Mapping[str, Tensor]) -> AnswerScores:
    """Score the tokens that ``labels`` does not ignore, each from the position before it.

    Only positions that predict an answer token of some sample are projected onto the vocabulary.
    """
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    targets = batch["labels"][:, 1:]
    positions = (targets != IGNORED_LABEL).any(dim=0).nonzero().squeeze(1)
    logits = model(**inputs, logits_to_keep=positions, use_cache=False).logits.float()
    targets = targets[:, positions]
    answered = targets != IGNORED_LABEL
    logits, targets = logits[answered], targets[answered]
    return AnswerScores(
        losses=F.cross_entropy(logits, targets, reduction="none"),
        correct=logits.argmax(dim=-1) == targets,
        rows=answered.nonzero()[:, 0],
    )


class StageTrainer(SFTTrainer):
    """Trains the parts of a policy that require gradients on one stage's samples.

    Args:
        model: the policy, with gradients switched on for the stage's parts alone.
        stage: epochs, batches, loss and course of the learning rate.
        rows: what the collator turns into a batch (:mod:`sft.data`).
        collator: makes batches with ``labels`` and the ``sample_ids`` they came from.
        tokenizer: the policy's.
        seed: of the data order and of dropout.
        folder: existing folder of the stage; TensorBoard curves go to its ``tensorboard``.
        tensorboard: whether to write them.
        checkpoints: where to keep what ``train(resume_from_checkpoint=...)`` goes on from; None
            keeps nothing.
        scale: how the batches are divided, and what saves memory.

    Raises:
        ConfigError: for batches that the ranks cannot divide.
    """

    def __init__(
        self,
        model: FaVChatForConditionalGeneration,
        *,
        stage: StageConfig,
        rows: Sequence[Row],
        collator: AnswerCollator,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        folder: Path,
        tensorboard: bool,
        checkpoints: CheckpointWriter | None = None,
        scale: Scale | None = None,
    ) -> None:
        from datasets import Dataset

        scale = scale or Scale()
        self._frozen = _frozen_parts(model)
        self._checkpoints = checkpoints
        self._loss = stage.loss
        self._correct = self._answered = 0
        self._order = EpochSampler(
            _lengths(rows, collator, stage),
            seed=seed,
            batch_size=stage.batch_size,
            group_by_length=stage.group_by_length,
            whole_batches=scale.ranks > 1,
        )
        chosen = [{**row, "filler": False} for row in rows]
        chosen += [{**rows[0], "filler": True}] * self._order.num_fillers
        every = checkpoints.every if checkpoints else 0
        super().__init__(
            model=model,
            args=_arguments(
                stage,
                scale,
                seed=seed,
                folder=folder,
                checkpoint_every=every,
                half=any(p.dtype == torch.bfloat16 for p in model.parameters()),
            ),
            data_collator=collator,
            train_dataset=Dataset.from_list(chosen),
            processing_class=tokenizer,
            callbacks=[
                Progress(),
                SaveEvery(every),
                *([Curves(folder / "tensorboard")] if tensorboard else []),
            ],
        )
        self.remove_callback(PrinterCallback)
        self._give_back_forward()  # SFTTrainer has just put its fused head over it
        self._checkpointed = _checkpointed_layers(model) if scale.gradient_checkpointing else []

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; in half precision the model is left without the autocast around its forward."""
        result = super().train(*args, **kwargs)
        self._give_back_forward()
        return result

    def _give_back_forward(self) -> None:
        """Wrappers of the model's own forward would outlive this trainer."""
        for name in ("forward", "_original_forward"):
            self.model.__dict__.pop(name, None)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Mean negative log-likelihood of the answer tokens, or of the samples' answers.

        Args:
            num_items_in_batch: tokens or samples of the whole batch, over all micro-batches and
                ranks; None counts those given.

        Raises:
            TrainingError: when it is not finite, naming the samples.
        """
        if return_outputs:
            raise ValueError("StageTrainer returns losses; it keeps no logits to return")
        sample_ids = inputs.pop("sample_ids")
        self._settle_frozen_parts()
        scores = score_answers(model, inputs)
        _refuse_non_finite(scores, sample_ids)
        self._correct += int(scores.correct.sum())
        self._answered += len(scores.losses)
        losses, count = scores.losses, len(scores.losses)
        if self._loss == "samples":
            sizes = scores.rows.bincount(minlength=len(sample_ids))
            losses, count = losses / sizes[scores.rows], int((sizes > 0).sum())
        if num_items_in_batch is None:
            return losses.sum() / count
        # The ranks' gradients are averaged, where the sum over all of them is wanted.
        return losses.sum() / num_items_in_batch * self.accelerator.num_processes

    def _settle_frozen_parts(self) -> None:
        for part in self._frozen:
            part.eval()
        for layer in self._checkpointed:  # transformers asks the layer whether it is in training
            layer.training = True

    def _token_accuracy(self) -> float:
        """Of all answer tokens since this was last asked, over micro-batches and ranks."""
        here = torch.tensor([[self._correct, self._answered]], device=self.accelerator.device)
        correct, answered = self.accelerator.gather(here).sum(dim=0).tolist()
        self._correct = self._answered = 0
        return correct / answered

    def epoch_losses(self) -> list[float]:
        """Mean loss over the steps of each epoch, rounded to 4 places."""
        losses: dict[int, list[float]] = {}
        for entry in self.state.log_history:
            if "loss" in entry:
                losses.setdefault(math.ceil(entry["epoch"]), []).append(entry["loss"])
        return [round(sum(values) / len(values), 4) for values in losses.values()]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; the mean loss that ends a training is of all its steps, not of those resumed."""
        if "loss" in logs:
            logs["mean_token_accuracy"] = self._token_accuracy()
        if "train_loss" in logs:
            losses = self._losses()
            logs["train_loss"] = sum(losses) / len(losses)
        super().log(logs, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """A stage's folder has none; TRL would write one at every checkpoint."""

    def _losses(self) -> list[float]:
        return [entry["loss"] for entry in self.state.log_history if "loss" in entry]

    def _get_train_sampler(self, train_dataset: object = None) -> EpochSampler:
        return self._order

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device):
        if self._loss == "tokens":
            return super()._get_num_items_in_batch(batch_samples, device)
        answered = sum(
            (batch["labels"] != IGNORED_LABEL).any(dim=1).sum() for batch in batch_samples
        )
        return self.accelerator.gather(answered.to(device)).sum()

    def _get_output_dir(self, trial: object) -> str:
        return (
            str(self._checkpoints.staging) if self._checkpoints else super()._get_output_dir(trial)
        )

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        step, checkpoints = self.state.global_step, self._checkpoints
        with checkpoints.writing(step) if checkpoints else nullcontext():
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str, state_dict: dict[str, Tensor] | None = None) -> None:
        save_trained(self.model, Path(output_dir), state_dict)

    def _load_from_checkpoint(self, checkpoint: str, model: nn.Module | None = None) -> None:
        load_trained(self.model if model is None else model, Path(checkpoint))

    def _init_training_state(self, max_steps, num_steps_per_epoch, num_epochs, *args):
        epochs, steps = super()._init_training_state(
            max_steps, num_steps_per_epoch, num_epochs, *args
        )
        if self.state.global_step >= max_steps:  # Trainer asks only after one more step
            return num_epochs, 0
        self._order.set_epoch(epochs)  # of several ranks it does not reach the sampler to skip in
        return epochs, steps

    def _send_telemetry(self) -> None:
        """Nothing is sent."""


def _frozen_parts(model: FaVChatForConditionalGeneration) -> list[nn.Module]:
    modules = [getattr(model, part) for part in PARTS if hasattr(model, part)]
    return [m for m in modules if not any(p.requires_grad for p in m.parameters())]


def _refuse_non_finite(scores: AnswerScores, sample_ids: Sequence[str]) -> None:
    bad = (~scores.losses.isfinite()).nonzero().squeeze(1)
    if not len(bad):
        return
    names = [sample_ids[row] for row in scores.rows[bad].unique().tolist()]
    raise TrainingError(
        f"a loss of {scores.losses[bad[0]].item()} on samples {', '.join(names)}",
        "every answer has a finite loss",
        "lower the stage's lr, or look at these samples",
    )


def _checkpointed_layers(model: FaVChatForConditionalGeneration) -> list[nn.Module]:
    """Layers of the language model, which may be frozen while gradients pass through it."""
    layers = model.language_model.modules()
    return [layer for layer in layers if isinstance(layer, GradientCheckpointingLayer)]


def _lengths(rows: Sequence[Row], collator: AnswerCollator, stage: StageConfig) -> list[int]:
    """Tokens of each row, where the order of rows depends on them."""
    if stage.group_by_length:
        return [collator.num_tokens(row) for row in progress(rows, "measuring texts")]
    return [0] * len(rows)


def _arguments(
    stage: StageConfig,
    scale: Scale,
    *,
    seed: int,
    folder: Path,
    checkpoint_every: int,
    half: bool,
) -> TrlConfig:
    on_gpu = torch.cuda.is_available()
    micro_batch_size, accumulation = scale.divide(stage.batch_size)
    return TrlConfig(
        output_dir=str(folder),
        num_train_epochs=stage.epochs,
        per_device_train_batch_size=micro_batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=stage.lr,
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.max_grad_norm,
        lr_scheduler_type=_SCHEDULERS[stage.schedule],
        warmup_steps=stage.warmup_fraction,  # below 1 it is a share of all steps
        seed=seed,
        data_seed=seed,
        use_cpu=not on_gpu,
        bf16=on_gpu or half,
        gradient_checkpointing=scale.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        deepspeed=training_config(Path(scale.deepspeed)) if scale.deepspeed else None,
        # Some parameters have no gradient: the last Q-Former layer's text path, unused levels.
        ddp_find_unused_parameters=True,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps" if checkpoint_every else "no",
        save_steps=checkpoint_every or 1,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
    )
