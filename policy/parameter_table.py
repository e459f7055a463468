"""How large a policy is, part by part, and how much of each part learns in each phase."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from policy.freezing import PARTS, check_parts

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from policy.modeling import FaVChatForConditionalGeneration


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What learns in one phase.

    Example: the paper's RL:
        >>> Training(parts=("language_model",), lora_rank=16)
    """

    parts: tuple[str, ...]
    lora_rank: int = 0  # of the language model's adapters; 0: the language model itself


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCount:
    """Parameters of one part.

    Example: a projector that learns in the first stage:
        >>> PartCount(part="projector", total=5_512_192, trainable={"stage 1": 5_512_192, "RL": 0})
    """

    part: str
    total: int
    trainable: dict[str, int]  # by phase


def count_parameters(
    model: FaVChatForConditionalGeneration, phases: Mapping[str, Training]
) -> list[PartCount]:
    """One row per part that the model has. Works on the meta device.

    Parameters that two modules share are counted once, in the part that has them first.

    Args:
        phases: what learns, by the name of the phase.

    Raises:
        ConfigError: for a part that does not exist.
    """
    for training in phases.values():
        check_parts(training.parts)
    seen: set[int] = set()
    counts = []
    for part in PARTS:
        module = getattr(model, part, None)
        if module is None:
            continue
        trainable = {
            phase: _trainable(model, part, training) if part in training.parts else 0
            for phase, training in phases.items()
        }
        total = _size(p for p in module.parameters() if id(p) not in seen)
        seen |= {id(parameter) for parameter in module.parameters()}
        counts.append(PartCount(part=part, total=total, trainable=trainable))
    return counts


def _trainable(model: FaVChatForConditionalGeneration, part: str, training: Training) -> int:
    if part == "language_model" and training.lora_rank:
        return count_adapters(model.language_model, training.lora_rank)
    return _size(model.part_parameters(part))


def count_adapters(language_model: PreTrainedModel, rank: int) -> int:
    """Parameters of LoRA adapters on all linear layers but the output head."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(
        copy.deepcopy(language_model).to("meta"), config, low_cpu_mem_usage=True
    )
    return _size(p for name, p in adapted.named_parameters() if "lora_" in name)


def _size(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def format_table(counts: Sequence[PartCount], phases: Iterable[str]) -> str:
    """The counts as text: a row per part and their sum, in thousands, millions or billions."""
    phases = tuple(phases)
    rows = [("part", "total", *phases)]
    for count in counts:
        rows.append((count.part, short(count.total), *_learns(count.trainable, phases)))
    sums = {phase: sum(count.trainable[phase] for count in counts) for phase in phases}
    rows.append(("sum", short(sum(count.total for count in counts)), *_learns(sums, phases)))
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _learns(trainable: Mapping[str, int], phases: Sequence[str]) -> list[str]:
    return [short(trainable[phase]) if trainable[phase] else "–" for phase in phases]


def short(number: int) -> str:
    """A count in at most six characters.

    Example:
        >>> short(7_615_616_512), short(58_423), short(512)
        ('7.62B', '58.4K', '512')
    """
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            value = number / size
            return f"{value:.{2 if value < 10 else 1}f}{unit}"
    return str(number)
