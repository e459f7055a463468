"""Which parts of the policy learn in which phase: the one place that says so.

Part names are attributes of :class:`policy.modeling.FaVChatForConditionalGeneration`. Loads no
torch, so that recipes can read the tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

from common.errors import ConfigError

if TYPE_CHECKING:
    from policy.modeling import FaVChatForConditionalGeneration

PARTS: Mapping[str, str] = {
    "general_encoder": "looks at whole frames",
    "facial_encoder": "looks at faces, in stages from fine to coarse",
    "low_level": "the prompt's words attend to the facial stages; their projections and positions",
    "middle_level": "two prompt-guided Q-Formers; their projections and queries",
    "high_level": "weight adapters of the two streams",
    "projector": "from the Q-Formers' width to the language model's",
    "language_model": "answers",
}
"""Parts that phases switch on and off. The Q-Formers' word embeddings stay frozen always."""


class Phase(StrEnum):
    """What a policy goes through, in order."""

    STAGE_1 = "stage_1"  # video-summary pairs
    STAGE_2 = "stage_2"  # question-answer pairs
    STAGE_3 = "stage_3"  # emotion-intensive question-answer pairs
    RL = "rl"


ENCODERS = ("general_encoder", "facial_encoder")
LEVELS = ("low_level", "middle_level", "high_level", "projector")

FREEZE_TABLES: Mapping[str, Mapping[Phase, tuple[str, ...]]] = {
    # FaVChat v4 §2.3 and §3
    "v4": {
        Phase.STAGE_1: (*ENCODERS, "low_level", "high_level", "projector"),
        Phase.STAGE_2: ("middle_level",),  # the text leaves low level and projector open
        Phase.STAGE_3: ("middle_level", "high_level", "language_model"),
        Phase.RL: ("language_model",),
    },
    # The older paper's §4.2. It does not say what stage 1 trains: all levels is our choice.
    "v1": {
        Phase.STAGE_1: LEVELS,
        Phase.STAGE_2: (*ENCODERS, *LEVELS, "language_model"),
        Phase.STAGE_3: ("high_level", "language_model"),
        Phase.RL: ("language_model",),
    },
}
"""Parts that learn, by paper and phase. All others are frozen."""

ADAPTER_PHASES: Mapping[str, tuple[Phase, ...]] = {
    "v4": (Phase.RL,),
    "v1": (Phase.STAGE_2, Phase.STAGE_3, Phase.RL),
}
"""Phases in which the language model learns through LoRA adapters by default."""

ADAPTER_RANK = 64
"""Rank of those adapters where a recipe names none; the papers do not say theirs."""


def trainable_parts(table: str, phase: Phase) -> tuple[str, ...]:
    """The parts that learn in a phase.

    Raises:
        ConfigError: for a table that does not exist.
    """
    if table not in FREEZE_TABLES:
        raise ConfigError(
            f"freeze table {table!r}", f"it is one of {', '.join(FREEZE_TABLES)}", "correct it"
        )
    return FREEZE_TABLES[table][phase]


def default_rank(table: str, phase: Phase) -> int:
    """Rank of the language model's adapters in a phase; 0 where it learns in full or not at all."""
    return ADAPTER_RANK if phase in ADAPTER_PHASES[table] else 0


def check_parts(parts: Iterable[str]) -> None:
    """Refuse part names that do not exist.

    Raises:
        ConfigError: naming them and the parts there are.
    """
    if unknown := [name for name in parts if name not in PARTS]:
        raise ConfigError(
            f"trainable={unknown}", f"known parts: {', '.join(PARTS)}", "correct `trainable`"
        )


def train_only(model: FaVChatForConditionalGeneration, parts: Iterable[str]) -> None:
    """Give gradients to these parts alone.

    Raises:
        ConfigError: for a part that does not exist.
    """
    parts = tuple(parts)
    check_parts(parts)
    model.requires_grad_(False)
    for part in parts:
        for parameter in model.part_parameters(part):
            parameter.requires_grad_(True)
