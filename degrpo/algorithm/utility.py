"""From two statistics to a weight: utility, drive, state, delta (FaVChat v4, Eq. 10–12)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.errors import ConfigError
from degrpo.algorithm.checks import check_choice, check_shape, finite

COMBINATIONS = ("product", "sum")
THRESHOLD_RULES = ("fraction", "quantile", "batch_mean")
DRIVES = ("indicator", "rank", "sigmoid", "ratio", "raw")
SMOOTHING_ON = ("old", "new")
STATE_TOLERANCE = 1e-6  # .8 * .25 must count as .2
NORMAL_IQR = 1.35  # interquartile range of a unit normal
LEAST_SPREAD = 1e-8


def sample_utility(
    separability: Float[Tensor, " P"],
    sensitivity: Float[Tensor, " P"],
    *,
    combine: str = "product",
    scales: tuple[float, float] | None = None,
) -> Float[Tensor, " P"]:
    """U(x) = S_sep(x) S_grad(x) (FaVChat v4, Eq. 10).

    ``combine="sum"`` adds them instead, each divided by its scale (its running median: the two have
    different units).

    Raises:
        ConfigError: for another ``combine``, shapes that differ, or ``sum`` without two positive
            scales.
        SampleError: for NaN or infinite statistics.
    """
    check_choice("combine", combine, COMBINATIONS)
    check_shape("sensitivity", sensitivity, tuple(separability.shape))
    separability, sensitivity = (
        finite("separability", separability),
        finite("sensitivity", sensitivity),
    )
    if combine == "product":
        return separability * sensitivity
    if scales is None or not min(scales) > 0:
        raise ConfigError(
            f"scales={scales}",
            "combine='sum' divides both statistics by positive scales",
            "pass their running medians over visits where they are positive",
        )
    return separability / scales[0] + sensitivity / scales[1]


def utility_threshold(
    window: Float[Tensor, " W"], *, rule: str = "fraction", fraction: float = 0.35
) -> Float[Tensor, ""]:
    """tau, from the utilities of recent visits ("a batch-wise threshold", FaVChat v4, Eq. 11).

    - ``fraction``: ``fraction`` times the 75th percentile of the positive utilities. It is
      relative, since the scale of U drifts while adapters grow, and it prunes no fixed share.
    - ``quantile``: the ``fraction`` quantile of all utilities; prunes that share, useless or not.
    - ``batch_mean``: the mean; the window is then the batch.

    Returns:
        A scalar; 0 for an empty window or (``fraction``) one without positive utilities.

    Raises:
        ConfigError: for another ``rule``, or ``fraction`` outside (0, 1].
        SampleError: for NaN or infinite utilities.
    """
    check_choice("rule", rule, THRESHOLD_RULES)
    if not 0 < fraction <= 1:
        raise ConfigError(
            f"fraction={fraction}",
            "a fraction lies in (0, 1]",
            "set algorithm.threshold_fraction=0.35",
        )
    window = finite("window", window).flatten()
    if rule == "fraction":
        window = window[window > 0]
    if window.numel() == 0:
        return window.new_zeros(())
    if rule == "batch_mean":
        return window.mean()
    if rule == "quantile":
        return torch.quantile(window, fraction)
    return fraction * torch.quantile(window, 0.75)


def utility_drive(
    utility: Float[Tensor, " P"],
    threshold: Float[Tensor, ""] | float,
    *,
    kind: str = "indicator",
    window: Float[Tensor, " W"] | None = None,
    temperature: float = 1.0,
    spread: float | None = None,
) -> Float[Tensor, " P"]:
    """z(x), what pulls the recurrent state (FaVChat v4, Eq. 11).

    - ``indicator``: 1 where U > 0 and U >= tau, else 0.
    - ``rank``: the share of the window's utilities below U.
    - ``sigmoid``: sigma((U - tau) / (temperature * spread)); the spread defaults to the window's
      interquartile range / 1.35 and is at least 1e-8.
    - ``ratio``: U / tau clipped to [0, 1]; 0 at tau = 0.
    - ``raw``: U itself, as the authors' trainer has it. It is not bounded by 1.

    Raises:
        ConfigError: for another ``kind``, a temperature that is not positive, or a ``window`` that
            ``rank`` or ``sigmoid`` lacks.
        SampleError: for NaN or infinite utilities.
    """
    check_choice("kind", kind, DRIVES)
    utility = finite("utility", utility)
    threshold = finite("threshold", torch.as_tensor(threshold)).to(utility)
    if kind == "indicator":
        return ((utility > 0) & (utility >= threshold)).to(utility.dtype)
    if kind == "ratio":
        ratio = (utility / torch.where(threshold > 0, threshold, 1.0)).clamp(0, 1)
        return torch.where(threshold > 0, ratio, 0.0)
    if kind == "raw":
        return utility
    if kind == "rank":
        return (
            (_drive_window(kind, window).to(utility) < utility[..., None])
            .to(utility.dtype)
            .mean(dim=-1)
        )
    if temperature <= 0:
        raise ConfigError(
            f"temperature={temperature}", "a temperature is positive", "set it to 1.0"
        )
    if spread is None:
        quartiles = torch.quantile(
            _drive_window(kind, window).to(utility), torch.tensor([0.25, 0.75]).to(utility)
        )
        spread = float(quartiles[1] - quartiles[0]) / NORMAL_IQR
    return torch.sigmoid((utility - threshold) / (temperature * max(spread, LEAST_SPREAD)))


def update_state(
    state: Float[Tensor, " P"],
    drive: Float[Tensor, " P"],
    *,
    smoothing: float = 0.8,
    smoothing_on: str = "old",
) -> Float[Tensor, " P"]:
    """s <- lambda s + (1 - lambda) z (FaVChat v4, Eq. 11).

    The text leaves open which term lambda multiplies: ``smoothing_on`` puts it on the ``old`` state
    or on the ``new`` drive.

    Raises:
        ConfigError: for another ``smoothing_on``, lambda outside [0, 1], or shapes that differ.
        SampleError: for NaN or infinite numbers.
    """
    check_choice("smoothing_on", smoothing_on, SMOOTHING_ON)
    if not 0 <= smoothing <= 1:
        raise ConfigError(
            f"smoothing={smoothing}", "lambda lies in [0, 1]", "set algorithm.smoothing=0.8"
        )
    check_shape("drive", drive, tuple(state.shape))
    keep = smoothing if smoothing_on == "old" else 1 - smoothing
    return keep * finite("state", state) + (1 - keep) * finite("drive", drive)


def lifecycle_zone(
    state: Float[Tensor, " P"], *, remove: float = 0.2, keep: float = 0.8
) -> Int[Tensor, " P"]:
    """-1 where s <= ``remove``, 1 where s >= ``keep``, else 0, within 1e-6 (FaVChat v4, Eq. 12).

    Raises:
        ConfigError: unless ``remove`` < ``keep``.
        SampleError: for NaN or infinite states.
    """
    if not remove < keep:
        raise ConfigError(
            f"remove={remove}, keep={keep}", "remove < keep", "the paper's values are .2 and .8"
        )
    state = finite("state", state)
    return (state >= keep - STATE_TOLERANCE).int() - (state <= remove + STATE_TOLERANCE).int()


def lifecycle_weight(
    state: Float[Tensor, " P"], *, remove: float = 0.2, keep: float = 0.8, decay: float = 1.0
) -> Float[Tensor, " P"]:
    """delta(x): 0 at s <= ``remove``, ``decay`` at s >= ``keep``, else 1 (FaVChat v4, Eq. 12).

    Read it from the state *before* the visit that it weights: a weight that has seen the
    responses it multiplies biases the gradient, up to flipping its sign. It is read anew each
    visit and never compounds. The paper's ``decay`` of .5 halves the most useful samples; the
    default leaves them whole.

    Raises:
        ConfigError: unless ``remove`` < ``keep``.
        SampleError: for NaN or infinite states.
    """
    zone = lifecycle_zone(state, remove=remove, keep=keep)
    weight = torch.ones_like(finite("state", state))
    return torch.where(zone > 0, decay, torch.where(zone < 0, 0.0, weight))


def _drive_window(kind: str, window: Tensor | None) -> Tensor:
    if window is None or window.numel() == 0:
        raise ConfigError(
            f"kind={kind!r} without a window",
            f"`{kind}` compares with the utilities of recent visits",
            "pass window=, at least one utility",
        )
    return finite("window", window).flatten()
