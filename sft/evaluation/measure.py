"""Measure a policy on held-out samples: losses, greedy answers and what they name, ablations.

Importing this module imports TRL (through sft.trainer), which takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from common.errors import ConfigError, SampleError
from common.progress import bar
from corpus.schema import QuestionKind, Sample
from sft.collator import AnswerCollator
from sft.data import Row, rows, rows_with_swapped_clips
from sft.evaluation.ablations import UNPROMPTED, frame_order, reorder_frames, without_prompt
from sft.evaluation.reading import read_answer
from sft.evaluation.records import Ablation, AnswerRecord, Evaluation
from sft.evaluation.scoring import (
    AnswerLoss,
    score,
    score_ablation,
    score_kinds,
    score_levels,
    score_strata,
)
from sft.trainer import score_answers

if TYPE_CHECKING:
    from policy.modeling import FaVChatForConditionalGeneration
    from policy.processing import ClipInputs, FaVChatProcessor

Collate = Callable[[Sequence[Row]], dict[str, Any]]
ReadClip = Callable[[str], "ClipInputs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions:
    """How to evaluate.

    Example:
        >>> EvaluationOptions(batch_size=16, ablations=(Ablation.SWAPPED_CLIPS,))
    """

    batch_size: int = 8
    max_new_tokens: int = 64  # a greedy answer is cut there
    ablations: tuple[Ablation, ...] = field(default_factory=lambda: tuple(Ablation))

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.max_new_tokens < 1:
            raise ConfigError(
                f"batch_size={self.batch_size}, max_new_tokens={self.max_new_tokens}",
                "both are positive",
                "leave them out for 8 and 64",
            )


def evaluate(
    model: FaVChatForConditionalGeneration,
    processor: FaVChatProcessor,
    read_clip: ReadClip,
    samples: Sequence[Sample],
    options: EvaluationOptions | None = None,
) -> Evaluation:
    """Measure ``model`` on ``samples``; the same policy and samples give the same numbers.

    Every module's training mode is afterwards as it was. One process holds the whole model: under
    DeepSpeed, unwrap and gather it first.

    Args:
        read_clip: a ``policy.features.FeatureExtractor``, or a function around one.
        samples: with ``extra["kind"]``, ``extra["level"]`` and ``extra["stratum"]`` where they
            shall count there; of samples with one id the last is used.

    A sample whose clip cannot be read, or whose text is too long, is in ``skipped`` with its reason
    and costs only itself.
    """
    options = options or EvaluationOptions()
    named = {sample.sample_id: sample for sample in samples}
    collate = AnswerCollator(named.values(), processor, read_clip)
    with _evaluation_mode(model):
        intact, skipped = measure_losses(
            model, collate, rows(list(named.values())), options.batch_size, what="held-out losses"
        )
        usable = [named[sample_id] for sample_id in intact]
        said = generate_answers(model, processor, read_clip, usable, options)
        ablated = {
            ablation: _measure_without(ablation, model, processor, read_clip, usable, options)
            for ablation in options.ablations
        }
    answers = tuple(
        _record(sample, intact[sample.sample_id], *said[sample.sample_id]) for sample in usable
    )
    videos = {sample.sample_id: sample.video for sample in usable}
    return Evaluation(
        overall=score(answers),
        levels=score_levels(answers),
        kinds=score_kinds(answers),
        strata=score_strata(answers),
        ablations={
            ablation.value: score_ablation(losses, intact, videos)
            for ablation, losses in ablated.items()
            if losses
        },
        answers=answers,
        skipped=skipped,
    )


@torch.no_grad()
def measure_losses(
    model: FaVChatForConditionalGeneration,
    collate: Collate,
    rows: Sequence[Row],
    batch_size: int,
    *,
    what: str,
) -> tuple[dict[str, AnswerLoss], dict[str, str]]:
    """The loss of each row's answer by ``sample_id``, and why other rows have none.

    Args:
        what: label of the progress bar.
    """
    losses: dict[str, AnswerLoss] = {}
    skipped: dict[str, str] = {}
    with bar(what, total=len(rows), unit="answer") as progress:
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            batch = _collate_usable(collate, chosen, skipped)
            if batch is not None:
                sample_ids = batch.pop("sample_ids")
                scores = score_answers(model, _on_device(model, batch))
                sizes = scores.rows.bincount(minlength=len(sample_ids)).tolist()
                totals = torch.zeros(len(sample_ids), dtype=torch.float64)
                totals.index_add_(0, scores.rows.cpu(), scores.losses.double().cpu())
                correct = scores.rows[scores.correct].bincount(minlength=len(sample_ids)).tolist()
                for place, sample_id in enumerate(sample_ids):
                    losses[sample_id] = AnswerLoss(
                        totals[place].item(), correct[place], sizes[place]
                    )
            progress.update(len(chosen))
    return losses, skipped


def mean_scores(
    model: FaVChatForConditionalGeneration,
    collate: Collate,
    rows: Sequence[Row],
    batch_size: int,
    *,
    what: str,
) -> dict[str, float] | None:
    """``loss`` and ``token_accuracy`` per answer token, without dropout; None for no answers.

    Args:
        what: label of the progress bar.
    """
    if not rows:
        return None
    with _evaluation_mode(model):
        losses, _ = measure_losses(model, collate, rows, batch_size, what=what)
    if not losses:
        return None
    num_tokens = sum(answer.num_tokens for answer in losses.values())
    return {
        "loss": sum(answer.loss for answer in losses.values()) / num_tokens,
        "token_accuracy": sum(answer.num_correct for answer in losses.values()) / num_tokens,
    }


def generate_answers(
    model: FaVChatForConditionalGeneration,
    processor: FaVChatProcessor,
    read_clip: ReadClip,
    samples: Sequence[Sample],
    options: EvaluationOptions,
) -> dict[str, tuple[str, bool]]:
    """The greedy answer to each sample by ``sample_id``, and whether it was cut at the bound.

    Raises:
        SampleError: from a clip or a question that cannot be used.
    """
    from policy.collation import Example

    said: dict[str, tuple[str, bool]] = {}
    with bar("held-out answers", total=len(samples), unit="answer") as progress:
        for start in range(0, len(samples), options.batch_size):
            chosen = samples[start : start + options.batch_size]
            batch = processor.collate(
                [
                    Example(video=s.video, question=s.question, clip=read_clip(s.video))
                    for s in chosen
                ]
            )
            output = model.generate(
                **_on_device(model, batch),
                max_new_tokens=options.max_new_tokens,
                do_sample=False,
                num_beams=1,
                # Published language models bring their own, which changes what is most likely.
                repetition_penalty=1.0,
            )
            new = output[:, batch["input_ids"].shape[1] :].cpu()
            texts = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
            ended = (new == processor.end_token_id).any(dim=1).tolist()
            for sample, text, whole in zip(chosen, texts, ended, strict=True):
                said[sample.sample_id] = (text.strip(), not whole)
            progress.update(len(chosen))
    return said


def _measure_without(
    ablation: Ablation,
    model: FaVChatForConditionalGeneration,
    processor: FaVChatProcessor,
    read_clip: ReadClip,
    samples: Sequence[Sample],
    options: EvaluationOptions,
) -> dict[str, AnswerLoss]:
    """Losses under an ablation; empty where it does not apply: one clip alone, or no actions."""
    chosen, read = rows(samples), read_clip
    context: AbstractContextManager[None] = nullcontext()
    if ablation is Ablation.SWAPPED_CLIPS:
        chosen = rows_with_swapped_clips(samples)
    elif ablation in (Ablation.REVERSED_FRAMES, Ablation.SHUFFLED_FRAMES):
        chosen = rows([s for s in samples if s.extra.get("kind") == QuestionKind.ACTION])

        def read(video: str) -> ClipInputs:
            clip = read_clip(video)
            order = frame_order(ablation, clip.num_frames)
            return reorder_frames(model, processor, video, clip, order)

    else:
        context = without_prompt(model, processor, UNPROMPTED[ablation])
    collate = AnswerCollator(samples, processor, read)
    with context:
        losses, _ = measure_losses(
            model, collate, chosen, options.batch_size, what=ablation.value.replace("_", " ")
        )
    return losses


def _collate_usable(
    collate: Collate, rows: Sequence[Row], skipped: dict[str, str]
) -> dict[str, Any] | None:
    """The batch of those rows that can be used; the others' reasons go into ``skipped``."""
    try:
        return collate(rows)
    except SampleError:
        kept = []
        for row in rows:
            try:
                collate([row])
                kept.append(row)
            except SampleError as error:
                skipped[row["sample_id"]] = str(error)
        return collate(kept) if kept else None


def _record(sample: Sample, loss: AnswerLoss, answer: str, truncated: bool) -> AnswerRecord:
    readings = read_answer(
        sample.targets,
        answer=answer,
        gold=sample.answer,
        options=sample.extra.get("options") or (),
    )
    return AnswerRecord(
        sample_id=sample.sample_id,
        video=sample.video,
        kind=sample.extra.get("kind"),
        level=sample.extra.get("level"),
        stratum=sample.extra.get("stratum"),
        question=sample.question,
        gold=sample.answer,
        answer=answer,
        truncated=truncated,
        loss=round(loss.loss, 6),
        num_correct=loss.num_correct,
        num_tokens=loss.num_tokens,
        readings={part.value: reading for part, reading in readings.items()},
    )


def _on_device(model: FaVChatForConditionalGeneration, batch: Mapping[str, Any]) -> dict[str, Any]:
    from accelerate.utils import send_to_device

    return send_to_device(dict(batch), model.device)


@contextmanager
def _evaluation_mode(model: FaVChatForConditionalGeneration) -> Iterator[None]:
    """No dropout while the block runs; frozen and trained parts are afterwards as they were."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
