"""What happens beside the steps of a stage: checkpoints in time, curves, a progress bar."""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
from pathlib import Path
from statistics import fmean

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from common.progress import bar

logger = logging.getLogger(__name__)


class SaveEvery(TrainerCallback):
    """Save at every so many steps, as this run's recipe says.

    ``Trainer`` also saves at the last step, which the stage is about to publish, and keeps the
    interval of the run that wrote the checkpoint it resumes from.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = self.every > 0 and state.global_step % self.every == 0


class Curves(TensorBoardCallback):
    """TensorBoard's curves. A stage that goes on from a checkpoint draws them anew until there:
    what a killed run has drawn may reach further, or, after a power cut, less far.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def on_train_begin(self, args, state, control, **kwargs):
        from torch.utils.tensorboard import SummaryWriter

        if not state.is_world_process_zero:
            return

        shutil.rmtree(self.folder, ignore_errors=True)
        self.tb_writer = SummaryWriter(str(self.folder))
        super().on_train_begin(args, state, control, **kwargs)
        for entry in state.log_history:
            then = dataclasses.replace(state, global_step=entry["step"])
            logs = {name: value for name, value in entry.items() if name != "step"}
            self.on_log(args, then, control, logs=logs)


class Progress(TrainerCallback):
    """A progress bar with the current loss, and a log line per epoch."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = bar(f"training {Path(args.output_dir).stem}", total=state.max_steps, unit="step")
        self.bar.initial = self.bar.n = state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
            self.bar.update()

    def on_epoch_end(self, args, state, control, **kwargs):
        epoch = math.ceil(state.epoch)
        steps = [e for e in state.log_history if "loss" in e and math.ceil(e["epoch"]) == epoch]
        self.bar.clear()  # the bar and the log share the terminal
        logger.info(
            "%s epoch %.3g: mean loss %.3f, token accuracy %.2f",
            Path(args.output_dir).stem,
            state.epoch,
            fmean(step["loss"] for step in steps),
            fmean(step["mean_token_accuracy"] for step in steps),
        )

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()
