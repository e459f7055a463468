"""Encoded prompts kept in memory: the vision side is frozen, so that each is encoded once."""

from __future__ import annotations

from collections import OrderedDict

from policy.mixed_prompt import MixedPrompt


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
