"""A linear head per feature, applied: what an extractor is once it is trained. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

FURTHEST = 8.0
"""Standardised values are clipped here: a unit that hardly fired in training may fire later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadReport:
    """What cross-validation found about one feature.

    F1, precision and recall are of predictions for clips that neither the head nor its threshold
    had seen. ``chance_f1`` is the F1 of always saying yes.

    Example:
        >>> HeadReport(name="wearing_hat", num_present=96, num_absent=904, f1=0.94, precision=0.95,
        ...     recall=0.93, average_precision=0.97, chance_f1=0.18, view="still",
        ...     cost=1.0)
    """

    name: str
    num_present: int
    num_absent: int
    f1: float
    precision: float
    recall: float
    average_precision: float
    chance_f1: float
    view: str  # chosen on all clips, like the cost: key of corpus.extractors.training.VIEWS
    cost: float  # C of the regression


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Heads:
    """One linear map over raw vectors, with calibration and threshold per feature."""

    names: tuple[str, ...]  # [F]
    mean: np.ndarray  # [D] float32
    scale: np.ndarray  # [D] float32, positive
    weights: np.ndarray  # [F, D] float32
    bias: np.ndarray  # [F] float32
    slope: np.ndarray  # [F] float32; probability = logistic(slope · score + offset)
    offset: np.ndarray  # [F] float32
    threshold: np.ndarray  # [F] float32, of the probability

    def probabilities(self, vector: np.ndarray) -> np.ndarray:
        """Calibrated probabilities [F] float64 of a clip's vector [D]."""
        standard = standardise(vector, self.mean, self.scale).astype(np.float64)
        score = self.weights @ standard + self.bias
        return logistic(self.slope * score + self.offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadTable:
    """How well the features were learned, and which were not."""

    reports: tuple[HeadReport, ...]
    left_out: Mapping[str, str]  # name -> reason

    @property
    def macro_f1(self) -> float:
        """Unweighted mean over the learned features; NaN when there are none."""
        return float(np.mean([item.f1 for item in self.reports])) if self.reports else math.nan

    def markdown(self) -> str:
        """One row per learned feature, best first; then the others with their reasons."""
        lines = [
            "| feature | F1 | always yes | precision | recall | AP | with | without |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in sorted(self.reports, key=lambda item: (-item.f1, item.name)):
            figures = (row.f1, row.chance_f1, row.precision, row.recall, row.average_precision)
            cells = [row.name, *(f"{value:.3f}" for value in figures)]
            lines.append(f"| {' | '.join(cells)} | {row.num_present} | {row.num_absent} |")
        lines.append(
            f"| **macro F1, {len(self.reports)} features** | **{self.macro_f1:.3f}** |" + " |" * 6
        )
        if self.left_out:
            lines += ["", "Left out:", ""]
            lines += [f"- `{name}`: {reason}" for name, reason in self.left_out.items()]
        return "\n".join(lines) + "\n"


def standardise(vectors: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """``vectors`` [..., D] centred and scaled, no further out than :data:`FURTHEST`."""
    return np.clip((vectors - mean) / scale, -FURTHEST, FURTHEST)


def logistic(values: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x) in float64, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(values, dtype=np.float64)))
