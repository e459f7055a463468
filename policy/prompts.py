"""Prompts as the sampler takes them, and answers for a person who asks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from policy.features import FeatureExtractor
from policy.mixed_prompt import MixedPrompt
from policy.modeling import VISION_INPUTS, FaVChatForConditionalGeneration, VisualPrefix
from policy.processing import Example, FaVChatProcessor


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the policy says about a clip, and how much each stream counted.

    Example:
        >>> Answer(text="The person looks happy.", stream_weights=(0.31, 0.69), face_found=True)
    """

    text: str
    stream_weights: tuple[float, float]  # general, facial
    face_found: bool


def encode_prompt(
    model: FaVChatForConditionalGeneration,
    processor: FaVChatProcessor,
    *,
    sample_id: str,
    video: str | Path,
    question: str,
    extractor: FeatureExtractor | None = None,
) -> MixedPrompt:
    """The prompt of one sample: token ids and the visual rows that its clip and question give.

    Args:
        extractor: where encoded clips come from; by default the feature cache of this machine. Pass
            one for many prompts, so that encoder weights are hashed once.

    Raises:
        VideoError: for a video that cannot be decoded.
        NoFaceError: for a clip without a face.
    """
    clip = (extractor or FeatureExtractor(model, processor))(video)
    prefix = _prefix(model, processor, Example(video=str(video), question=question, clip=clip))
    token_ids, visual_mask = processor.prompt_tokens(question)
    return MixedPrompt(
        sample_id=sample_id,
        token_ids=token_ids,
        visual_mask=visual_mask,
        visual_rows=prefix.rows[0].float().cpu().numpy(),
    )


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
    clip = (extractor or FeatureExtractor(model, processor))(video, face_required=face_required)
    example = Example(video=str(video), question=question, clip=clip)
    prefix = _prefix(model, processor, example)
    token_ids = torch.as_tensor(processor.prompt_tokens(question)[0], device=model.device)[None]
    output = model.generate(
        token_ids,
        torch.ones_like(token_ids),
        visual_rows=prefix.rows,
        max_new_tokens=max_new_tokens,
    )
    text = processor.tokenizer.decode(output[0, token_ids.shape[1] :], skip_special_tokens=True)
    general, facial = prefix.stream_weights[0].tolist()
    return Answer(text=text.strip(), stream_weights=(general, facial), face_found=clip.face_found)


@torch.no_grad()
def _prefix(
    model: FaVChatForConditionalGeneration, processor: FaVChatProcessor, example: Example
) -> VisualPrefix:
    """One example's prefix without dropout, leaving the model's mode as it was."""
    batch = processor.collate_vision([example])
    vision = {name: _to(batch[name], model.device) for name in VISION_INPUTS if name in batch}
    training = model.training
    model.eval()
    try:
        return model.visual_prefix(**vision)
    finally:
        model.train(training)


def _to(value: torch.Tensor | tuple[torch.Tensor, ...], device: torch.device):  # type: ignore[no-untyped-def]
    return tuple(v.to(device) for v in value) if isinstance(value, tuple) else value.to(device)
