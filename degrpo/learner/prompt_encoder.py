"""Samples to prompts. The vision side is frozen in RL, so that each is encoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from common.errors import SampleError
from corpus.schema import Sample
from policy.feature_cache import FeatureCache
from policy.features import FeatureExtractor
from policy.mixed_prompt import MixedPrompt
from policy.modeling import FaVChatForConditionalGeneration
from policy.processing import FaVChatProcessor
from policy.prompts import PromptRequest, encode_prompts

DECODERS = 2
"""Videos that are decoded at a time."""


class PromptEncoder:
    """``encoder(samples)`` gives each sample's prompt, from memory, from disk or from its clip.

    Prompts are computed one by one: companions in a batch would change their last bits, and then a
    resumed run, which encodes in other company, would not repeat the run it resumes.

    Args:
        cache: on disk.
        memory_bytes: of prompts kept in memory.
    """

    def __init__(
        self,
        model: FaVChatForConditionalGeneration,
        processor: FaVChatProcessor,
        cache: FeatureCache,
        *,
        memory_bytes: int,
    ) -> None:
        self._model, self._processor, self.cache = model, processor, cache
        self._extractor = FeatureExtractor(model, processor, cache)
        self._known = PromptCache(memory_bytes)

    def __call__(self, samples: Sequence[Sample]) -> list[MixedPrompt | str]:
        """Each sample's prompt with its visual rows, or the reason why it has none; in order."""
        known = {sample.sample_id: self._known.get(sample.sample_id) for sample in samples}
        missing = [sample for sample in samples if known[sample.sample_id] is None]
        encoded = encode_prompts(
            self._model,
            self._processor,
            [
                PromptRequest(
                    sample_id=sample.sample_id, video=sample.video, question=sample.question
                )
                for sample in missing
            ],
            self._extractor,
            batch_size=1,
            num_workers=DECODERS,
        )
        new = {sample.sample_id: found for sample, found in zip(missing, encoded, strict=True)}
        for prompt in new.values():
            if isinstance(prompt, MixedPrompt):
                self._known.put(prompt)
        return [
            str(found) if isinstance(found, SampleError) else found
            for found in (known[sample.sample_id] or new[sample.sample_id] for sample in samples)
        ]


class PromptCache:
    """Prompts by sample id, at most ``max_bytes`` of them; the least recently used goes first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._prompts: OrderedDict[str, MixedPrompt] = OrderedDict()
        self.num_bytes = 0

    def get(self, sample_id: str) -> MixedPrompt | None:
        if sample_id in self._prompts:
            self._prompts.move_to_end(sample_id)
        return self._prompts.get(sample_id)

    def put(self, prompt: MixedPrompt) -> None:
        if prompt.sample_id in self._prompts:
            self.num_bytes -= _size(self._prompts.pop(prompt.sample_id))
        self._prompts[prompt.sample_id] = prompt
        self.num_bytes += _size(prompt)
        while self.num_bytes > self._max_bytes:
            _, oldest = self._prompts.popitem(last=False)
            self.num_bytes -= _size(oldest)


def _size(prompt: MixedPrompt) -> int:
    return prompt.token_ids.nbytes + prompt.visual_mask.nbytes + prompt.visual_rows.nbytes
