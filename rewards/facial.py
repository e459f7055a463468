"""The facial fine-grained reward, FaVChat v4, Eq. 7."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from common.errors import ConfigError
from rewards.embedding import MINILM, Embedder, SentenceEmbedder
from rewards.similarity import SIMILARITIES

PARTS = ("attributes", "emotion", "action")


class FacialReward:
    """R(y) = alpha sim(y, attributes) + beta sim(y, emotion) + gamma sim(y, action)   (Eq. 7)

    Weights of parts that a sample does not ask for go to the parts it does, in proportion, so that
    a question about emotion alone is worth as much as a full description. ``None`` for a sample
    without any target. An empty response is worth 0.

    Args:
        alpha, beta, gamma: shares of attributes, emotion and action; they sum to 1. The defaults
            are those of the authors' public trainer.
        similarity: ``phrase`` or ``sentence`` (rewards.similarity).
        embedder: maps texts to unit rows; by default ``SentenceEmbedder(embedding_model)``.

    Example:
        >>> reward = FacialReward()
        >>> reward(["What emotion?"], ["She looks joyful."], emotion=[["happy"]])
        [1.0]
    """

    def __init__(
        self,
        *,
        alpha: float = 0.4,
        beta: float = 0.3,
        gamma: float = 0.3,
        similarity: str = "phrase",
        embedder: Embedder | None = None,
        embedding_model: str = MINILM,
    ) -> None:
        weights = (alpha, beta, gamma)
        if min(weights) < 0 or not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
            raise ConfigError(
                f"alpha={alpha}, beta={beta}, gamma={gamma}",
                "they are at least 0 and sum to 1",
                "the defaults are .4, .3 and .3",
            )
        if similarity not in SIMILARITIES:
            raise ConfigError(
                f"similarity={similarity}",
                f"it is one of {', '.join(SIMILARITIES)}",
                "set similarity=phrase",
            )
        self.weights = dict(zip(PARTS, weights, strict=True))
        self._embed = embedder or SentenceEmbedder(embedding_model)
        self._similarity = SIMILARITIES[similarity](self._embed)

    def prepare(self) -> None:
        """Load the embedding model now rather than at the first batch."""
        self._embed(["a face"])

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[Any]
    ) -> list[float | None]:
        """One score in [0, 1] per completion, None without targets (TRL's signature)."""
        return [
            None if scores is None else scores["score"]
            for scores in self.details(prompts, completions, **columns)
        ]

    def details(
        self, prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[Any]
    ) -> list[dict[str, float] | None]:
        """The score under ``score`` and, by name, the similarity of every part asked for."""
        targets = [
            {
                part: _phrases(part, columns[part][index])
                for part in PARTS
                if columns.get(part) is not None and columns[part][index]
            }
            for index in range(len(completions))
        ]
        return [self._weigh(parts) for parts in self._similarity(completions, targets)]

    def _weigh(self, parts: Mapping[str, float]) -> dict[str, float] | None:
        share = sum(self.weights[part] for part in parts)
        if share == 0.0:
            return None
        return {
            "score": sum(self.weights[part] * score for part, score in parts.items()) / share,
            **parts,
        }


def _phrases(part: str, value: Any) -> list[str]:
    if isinstance(value, str) or not all(isinstance(phrase, str) for phrase in value):
        raise TypeError(
            f"column {part!r} holds a list of phrases per completion; got {value!r} for one"
        )
    return [phrase for phrase in value if phrase.strip()]
