"""Prompts as the sampler takes them, and answers for a person who asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.errors import SampleError
from policy.features import FeatureExtractor
from policy.mixed_prompt import NO_FACE, MixedPrompt
from policy.modeling import FaVChatForConditionalGeneration
from policy.processing import FaVChatProcessor
from policy.visual_rows import DEFAULT_BATCH_SIZE, Question, VisualRows, encode_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRequest:
    """A sample that wants a prompt.

    Example:
        >>> PromptRequest(sample_id="3f9c2b7a10de44c1", video="single_face.mp4",
        ...               question="What emotion does this person show?")
    """

    sample_id: str
    video: str | Path
    question: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the policy says about a clip, and how much each stream counted.

    Example:
        >>> Answer(text="The person looks happy.", stream_weights=(0.31, 0.69), face_found=True)
    """

    text: str
    stream_weights: tuple[float, float]  # general, facial
    face_found: bool


def encode_prompts(
    model: FaVChatForConditionalGeneration,
    processor: FaVChatProcessor,
    requests: Sequence[PromptRequest],
    extractor: FeatureExtractor | None = None,
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    num_workers: int = 0,
    face_required: bool | None = None,
) -> list[MixedPrompt | SampleError]:
    """Each request's prompt, or the error that it met, in order.

    A prompt is the token ids of the chat and the visual rows that clip and question give. It does
    not depend on the other requests but for rounding (1e-6 in float32).

    Args:
        extractor: where encoded clips and rows come from; by default the feature cache of this
            machine. Pass one for many calls, so that weights are hashed once.
        batch_size: prompts whose rows are computed at a time.
        num_workers: videos that are decoded at a time.
        face_required: refuse clips without a face; None: the processor's own setting. Where they
            are not refused, their prompts carry the flag ``no_face``.
    """
    extractor = extractor or FeatureExtractor(model, processor)
    texts = [_text(processor, request.question) for request in requests]
    asked = [
        Question(video=str(request.video), text=request.question)
        for request, text in zip(requests, texts, strict=True)
        if not isinstance(text, SampleError)
    ]
    seen = iter(
        encode_rows(
            extractor,
            asked,
            batch_size=batch_size,
            num_workers=num_workers,
            face_required=face_required,
        )
    )
    return [
        text if isinstance(text, SampleError) else _prompt(request, *text, next(seen))
        for request, text in zip(requests, texts, strict=True)
    ]


def answer(
    model: FaVChatForConditionalGeneration,
    processor: FaVChatProcessor,
    *,
    video: str | Path,
    question: str,
    max_new_tokens: int = 64,
    face_required: bool = False,
    extractor: FeatureExtractor | None = None,
) -> Answer:
    """Ask about a clip; the most likely answer, token by token.

    Raises:
        VideoError: for a video that cannot be decoded.
        NoFaceError: for a clip without a face, if ``face_required``.
    """
    extractor = extractor or FeatureExtractor(model, processor)
    asked = Question(video=str(video), text=question)
    (visual,) = encode_rows(extractor, [asked], face_required=face_required)
    if isinstance(visual, SampleError):
        raise visual
    token_ids = torch.as_tensor(processor.prompt_tokens(question)[0], device=model.device)[None]
    output = model.generate(
        token_ids,
        torch.ones_like(token_ids),
        visual_rows=visual.rows[None].to(model.device),
        max_new_tokens=max_new_tokens,
    )
    text = processor.tokenizer.decode(output[0, token_ids.shape[1] :], skip_special_tokens=True)
    general, facial = visual.stream_weights.tolist()
    return Answer(text=text.strip(), stream_weights=(general, facial), face_found=visual.face_found)


def _text(
    processor: FaVChatProcessor, question: str
) -> tuple[np.ndarray, np.ndarray] | SampleError:
    """Token ids and visual mask of a prompt, or why there are none."""
    try:
        return processor.prompt_tokens(question)
    except SampleError as error:
        return error


def _prompt(
    request: PromptRequest,
    token_ids: np.ndarray,
    visual_mask: np.ndarray,
    visual: VisualRows | SampleError,
) -> MixedPrompt | SampleError:
    if isinstance(visual, SampleError):
        return visual
    return MixedPrompt(
        sample_id=request.sample_id,
        token_ids=token_ids,
        visual_mask=visual_mask,
        visual_rows=visual.rows.float().numpy(),
        flags=() if visual.face_found else (NO_FACE,),
    )
