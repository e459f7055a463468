"""Training linear heads: cross-validation by group, calibration, thresholds.

Works on a matrix of clip vectors and knows neither videos nor encoders. Clips of one group (a
recording, a person) never lie on both sides of a split: not in the outer folds, which F1 is
reported on, and not in the inner ones, which choose the strength of regularisation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.errors import ConfigError
from common.progress import progress
from corpus.extractors.features import STATISTICS, Block
from corpus.extractors.heads import HeadReport, Heads, HeadTable, logistic, standardise

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

SIGNIFICANT = 2.0
"""A head is kept when its out-of-fold ranking is so many standard errors better than chance."""

UNKNOWN = -1  # in a label matrix, beside 1 (present) and 0 (absent)

VIEWS: dict[str, tuple[str, ...]] = {"still": ("mean", "max"), "all": STATISTICS}
"""What a head may look at, by the statistics over time. A hat is learned from fewer clips when the
head need not tell it from motion; a nod is only seen in motion. Inner folds choose."""

Split = tuple[np.ndarray, np.ndarray]  # rows to train on, rows to judge


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSettings:
    """How heads are trained."""

    num_folds: int = 5
    num_inner_folds: int = 3  # choose view and cost, inside each training part
    views: tuple[str, ...] = tuple(VIEWS)
    costs: tuple[float, ...] = (1.0, 10.0)  # C of scikit-learn's LogisticRegression
    min_clips: int = 10  # a feature needs so many clips with it, and so many without
    num_components: int = 600  # principal components that heads see; all when there are fewer clips
    max_iterations: int = 300
    num_jobs: int = 1  # features trained at a time
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """One feature's classifier over components, and how it was judged."""

    report: HeadReport
    weights: np.ndarray  # [K] float64, over the components of the report's view
    bias: float
    slope: float
    offset: float
    threshold: float


def train_heads(
    vectors: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    names: Sequence[str],
    blocks: Sequence[Block],
    settings: HeadSettings,
) -> tuple[Heads, HeadTable]:
    """Train and judge a head per feature.

    Args:
        vectors: [N, D] float32.
        labels: [N, F] of 1, 0 and :data:`UNKNOWN`; unknown clips are masked per feature.
        groups: [N], what a clip must not be separated from.
        names: [F].
        blocks: of the vectors; each block weighs the same, whatever its size.

    Raises:
        ConfigError: when no feature can be learned; every reason is named.
    """
    from joblib import Parallel, delayed

    spaces = {view: Components.of(vectors, blocks, view, settings) for view in settings.views}
    values = {view: space.values for view, space in spaces.items()}
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    jobs = (
        delayed(train_head)(name, values, labels[:, index], codes, settings)
        for index, name in enumerate(names)
    )
    results = Parallel(n_jobs=settings.num_jobs, return_as="generator")(jobs)
    found = list(progress(results, "training heads", total=len(names), unit="feature"))
    heads = [item for item in found if isinstance(item, Head)]
    left_out = {
        name: item for name, item in zip(names, found, strict=True) if isinstance(item, str)
    }
    if not heads:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ConfigError(
            f"{len(vectors)} clips for {len(names)} features",
            f"at least one feature can be learned ({reasons})",
            "label more clips, or name other features",
        )
    some = spaces[settings.views[0]]
    trained = Heads(
        names=tuple(head.report.name for head in heads),
        mean=some.mean,
        scale=some.scale,
        weights=np.stack([spaces[head.report.view].to_vectors(head.weights) for head in heads]),
        **{
            part: np.array([getattr(head, part) for head in heads], dtype=np.float32)
            for part in ("bias", "slope", "offset", "threshold")
        },
    )
    table = HeadTable(reports=tuple(head.report for head in heads), left_out=left_out)
    return trained, table


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Components:
    """A view of clip vectors on its principal axes: a head needs N numbers per clip, not D.

    With as many components as clips this is a rotation, under which L2-regularised logistic
    regression finds the same classifier. No label takes part in it.
    """

    mean: np.ndarray  # [D] float32
    scale: np.ndarray  # [D] float32
    values: np.ndarray  # [N, K] float64
    axes: np.ndarray  # [D, K] float32: values = standardised vectors · axes

    @classmethod
    def of(
        cls, vectors: np.ndarray, blocks: Sequence[Block], view: str, settings: HeadSettings
    ) -> Components:
        mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        scale = np.empty_like(mean)
        for block in blocks:  # by parts: NumPy makes float64 copies of what it is given
            part = slice(block.start, block.start + block.size)
            scale[part] = vectors[:, part].std(axis=0, dtype=np.float64)
        scale[scale < 1e-8] = 1.0  # constant: 0 after centring, whatever the scale
        weight = np.zeros(len(mean), dtype=np.float32)
        for block in blocks:
            if block.statistic in VIEWS[view]:
                weight[block.start : block.start + block.size] = 1 / math.sqrt(block.size)
        standard = standardise(vectors, mean, scale) * weight
        # D exceeds N by far: the N×N matrix of products has the same principal axes.
        products = (standard @ standard.T).astype(np.float64)
        sizes, turned = np.linalg.eigh(products)
        order = np.argsort(sizes)[::-1][: settings.num_components]
        order = order[sizes[order] > sizes.max() * 1e-6]
        lengths = np.sqrt(sizes[order])
        values = turned[:, order] * lengths
        axes = standard.T @ (turned[:, order] / lengths).astype(np.float32)
        return cls(mean=mean, scale=scale, values=values, axes=axes * weight[:, None])

    def to_vectors(self, weights: np.ndarray) -> np.ndarray:
        """A head [K] over components as a head [D] float32 over standardised vectors."""
        return self.axes @ weights.astype(np.float32)


def train_head(
    name: str,
    values: Mapping[str, np.ndarray],
    labels: np.ndarray,
    groups: np.ndarray,
    settings: HeadSettings,
) -> Head | str:
    """One feature's head, or the reason why there is none.

    Args:
        values: [N, K] by view.
        labels: [N] of 1, 0 and :data:`UNKNOWN`.
        groups: [N] integers.
    """
    known = labels != UNKNOWN
    values = {view: rows[known] for view, rows in values.items()}
    present, groups = labels[known] == 1, groups[known]
    if reason := too_few(present, groups, settings):
        return reason
    splits = list(grouped_splits(present, groups, settings.num_folds, settings.seed))
    scores = np.empty(len(present))
    for training, judged in splits:
        part = {view: rows[training] for view, rows in values.items()}
        view, fitted = fit_one(part, present[training], groups[training], settings)
        scores[judged] = fitted.decision_function(values[view][judged])
    if (z := rank_z(scores, present)) < SIGNIFICANT:
        return f"not told apart from chance (rank test z = {z:.1f} on {len(present)} clips)"
    view, final = fit_one(values, present, groups, settings)
    slope, offset = calibrate(scores, present)
    threshold = logistic(np.array(slope * best_threshold(scores, present) + offset))
    return Head(
        report=judge(name, scores, present, splits, view=view, cost=float(final.C)),
        weights=final.coef_[0],
        bias=float(final.intercept_[0]),
        slope=slope,
        offset=offset,
        threshold=float(threshold),
    )


def too_few(present: np.ndarray, groups: np.ndarray, settings: HeadSettings) -> str:
    """Why a feature with these labels [N] cannot be judged; empty when it can."""
    for what, chosen in (("with", present), ("without", ~present)):
        if (clips := int(chosen.sum())) < settings.min_clips:
            return f"{clips} clips {what} it, {settings.min_clips} are needed"
        # Every training part, the inner ones too, then has both answers.
        if (found := len(np.unique(groups[chosen]))) < (needed := 2 * settings.num_folds):
            return f"clips {what} it come from {found} groups, {needed} are needed"
    return ""


def grouped_splits(
    present: np.ndarray, groups: np.ndarray, num_folds: int, seed: int
) -> Iterator[Split]:
    """Folds of whole groups, each with its part of the groups that show the feature."""
    from sklearn.model_selection import StratifiedKFold

    unique, index = np.unique(groups, return_inverse=True)
    shows = np.zeros(len(unique), dtype=bool)
    np.logical_or.at(shows, index, present)
    if min(shows.sum(), (~shows).sum()) < num_folds:
        shows[:] = False  # nearly all groups are alike: any even partition will do
    folds = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    for training, judged in folds.split(unique, shows):
        yield np.flatnonzero(np.isin(index, training)), np.flatnonzero(np.isin(index, judged))


def fit_one(
    values: Mapping[str, np.ndarray],
    present: np.ndarray,
    groups: np.ndarray,
    settings: HeadSettings,
) -> tuple[str, LogisticRegression]:
    """The view and the regression on it that rank best (average precision) in inner folds."""
    from sklearn.metrics import average_precision_score

    choices = [(view, cost) for view in settings.views for cost in settings.costs]
    splits = list(grouped_splits(present, groups, settings.num_inner_folds, settings.seed))
    reached = np.zeros(len(choices))
    for index, (view, cost) in enumerate(choices if len(choices) > 1 else ()):
        rows = values[view]
        for training, judged in splits:
            fitted = _regression(cost, settings).fit(rows[training], present[training])
            scores = fitted.decision_function(rows[judged])
            reached[index] += average_precision_score(present[judged], scores)
    view, cost = choices[int(np.argmax(reached))]
    return view, _regression(cost, settings).fit(values[view], present)


def _regression(cost: float, settings: HeadSettings) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(
        C=cost, class_weight="balanced", max_iter=settings.max_iterations, tol=1e-3
    )


def rank_z(scores: np.ndarray, present: np.ndarray) -> float:
    """How many standard errors the ranking is better than chance (Mann-Whitney U, no ties)."""
    from sklearn.metrics import roc_auc_score

    positive, negative = int(present.sum()), int((~present).sum())
    error = math.sqrt((positive + negative + 1) / (12 * positive * negative))
    return (float(roc_auc_score(present, scores)) - 0.5) / error


def calibrate(scores: np.ndarray, present: np.ndarray) -> tuple[float, float]:
    """Slope and offset of Platt's logistic fit, his smoothed targets included.

    J. Platt 1999, "Probabilistic outputs for support vector machines": targets are
    (N₊+1)/(N₊+2) and 1/(N₋+2), so that scores without any overlap keep a finite slope. A clip with
    target t counts as one with the feature of weight t and one without of weight 1 - t.
    """
    from sklearn.linear_model import LogisticRegression

    positive, negative = int(present.sum()), int((~present).sum())
    target = np.where(present, (positive + 1) / (positive + 2), 1 / (negative + 2))
    centre, spread = float(scores.mean()), float(scores.std()) or 1.0
    column = ((scores - centre) / spread)[:, None]
    fit = LogisticRegression(C=1e6, max_iter=1000).fit(
        np.concatenate([column, column]),
        np.repeat([1, 0], len(scores)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    slope = float(fit.coef_[0, 0]) / spread
    return slope, float(fit.intercept_[0]) - slope * centre


def best_threshold(scores: np.ndarray, present: np.ndarray) -> float:
    """The score from which on yes gives the best F1; halfway to the next lower score."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, steps = precision_recall_curve(present, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(np.argmax(f1[:-1]))  # the last point says no to everything
    return float(steps[best] if best == 0 else (steps[best] + steps[best - 1]) / 2)


def judge(
    name: str,
    scores: np.ndarray,
    present: np.ndarray,
    splits: Sequence[Split],
    *,
    view: str,
    cost: float,
) -> HeadReport:
    """Each fold's clips are told apart at the threshold that suits the other folds best."""
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support

    said = np.empty(len(present), dtype=bool)
    for others, judged in splits:
        said[judged] = scores[judged] >= best_threshold(scores[others], present[others])
    precision, recall, f1, _ = precision_recall_fscore_support(
        present, said, average="binary", zero_division=0.0
    )
    share = float(present.mean())
    return HeadReport(
        name=name,
        num_present=int(present.sum()),
        num_absent=int((~present).sum()),
        f1=float(f1),
        precision=float(precision),
        recall=float(recall),
        average_precision=float(average_precision_score(present, scores)),
        chance_f1=2 * share / (1 + share),
        view=view,
        cost=cost,
    )
