"""Weights that are still numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from common.errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor

NUM_NAMED = 3


def refuse_not_finite(tensors: Mapping[str, Tensor], *, what: str, key: str) -> None:
    """Make sure that trained weights can be kept.

    Args:
        tensors: by name, such as ``model.state_dict()``.
        what: whose they are, for the message.
        key: the recipe's field that names the stage, such as ``sft.stage_1``.

    Raises:
        TrainingError: naming the first tensors with an infinity or NaN.

    Example:
        >>> refuse_not_finite(model.state_dict(), what="stage 1", key="sft.stage_1")
    """
    broken = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    if broken:
        more = ", ..." if len(broken) > NUM_NAMED else ""
        raise TrainingError(
            f"{what} with {len(broken)} of {len(tensors)} tensors that are not finite "
            f"({', '.join(broken[:NUM_NAMED])}{more})",
            "weights are finite numbers, or every answer is lost",
            f"lower {key}.lr",
        )
