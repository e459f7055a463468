"""The record that carries an encoded prompt from the policy to the sampler and to the learner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NO_FACE = "no_face"
"""Flag of a prompt whose facial rows come from whole frames: no face was found in the clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedPrompt:
    """Text as token ids, video as rows of the language model's width.

    ``token_ids`` has the media placeholder's id wherever ``visual_mask`` is true; there the n-th
    true position takes ``visual_rows[n]`` in place of an embedding. NumPy, so that Ray passes it
    between actors without copying.

    Example: a prompt of 24 positions, 8 of them visual, for a language model of width 576:
        >>> MixedPrompt(
        ...     sample_id="3f9c2b7a10de44c1", token_ids=ids, visual_mask=mask, visual_rows=rows)
        ... # ids [24] int64, mask [24] bool, rows [8, 576] float32
    """

    sample_id: str
    token_ids: np.ndarray  # [L] int64
    visual_mask: np.ndarray  # [L] bool, True at Q positions
    visual_rows: np.ndarray  # [Q, H] float32
    flags: tuple[str, ...] = ()  # what to know about the clip: NO_FACE

    def __post_init__(self) -> None:
        if self.token_ids.shape != self.visual_mask.shape or self.token_ids.ndim != 1:
            raise ValueError(
                f"token_ids {self.token_ids.shape} and visual_mask {self.visual_mask.shape}"
                " must be equal, one-dimensional"
            )
        if int(self.visual_mask.sum()) != self.visual_rows.shape[0] or self.visual_rows.ndim != 2:
            raise ValueError(
                f"{int(self.visual_mask.sum())} visual positions need as many rows,"
                f" got {self.visual_rows.shape}"
            )

    def __len__(self) -> int:
        return int(self.token_ids.shape[0])
