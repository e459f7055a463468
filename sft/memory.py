"""How much memory a stage takes on each rank, before anybody rents one.

Weights, gradients and optimiser states are counted parameter by parameter, as DDP and DeepSpeed
(ZeRO 2 and 3, arXiv:1910.02054) lay them out; activations are measured on the meta device
(sft.memory_step). DeepSpeed's own estimators count every parameter as trained, which is wrong by
far for stages that freeze most of the policy, and know no activations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from common.errors import ConfigError
from sft.config import StageConfig

if TYPE_CHECKING:
    from policy.modeling import FaVChatForConditionalGeneration
    from sft.memory_step import StepMemory, StepShape

GIB = 2**30
ZERO_STAGES = (0, 2, 3)
RESERVED_SHARE = 0.1
"""Of a device, left free for CUDA, NCCL and cuBLAS, and for the allocator's fragments (our choice;
nothing of it is known before a run)."""

FLOAT32 = 4
MAX_LIVE_PARAMETERS = 10**9
"""ZeRO 3 gathers at most so many parameters at a time (configs/deepspeed/zero3.json)."""
SUB_GROUP = 10**9
"""ZeRO 3 updates so many parameters at a time (DeepSpeed's default)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """Over how many ranks a stage is trained, and what they share.

    Example: eight ranks that each hold an eighth of everything:
        >>> Sharding(ranks=8, zero=3)
    """

    ranks: int
    zero: int  # 0: all on every rank (DDP); 2: gradients, optimiser states; 3: weights, too

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise ConfigError(f"ranks={self.ranks}", "there is at least one", "set ranks=1")
        if self.zero not in ZERO_STAGES:
            raise ConfigError(
                f"zero={self.zero}", "estimates know ZeRO 0, 2 and 3", "choose one of them"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class StateMemory:
    """Bytes on one rank that do not depend on the batch."""

    weights: int  # parameters and buffers
    gradients: int
    optimizer: int  # AdamW's states and, under ZeRO, the float32 master weights
    buffers: int  # of communication: gradient buckets, gathered weights
    update: int  # for the moment of the optimiser's step, when activations are gone


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """Bytes that one stage takes on each rank."""

    state: StateMemory
    step: StepMemory

    @property
    def total(self) -> int:
        """The peak: of forward and backward pass or, if that is higher, of the optimiser's step."""
        held = self.state.weights + self.state.gradients + self.state.optimizer
        work = self.step.inputs + self.step.activations + self.step.temporary
        return held + self.state.buffers + max(work, self.state.update)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One way to train a stage."""

    stage: StageConfig
    shape: StepShape
    sharding: Sharding


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """Changes to a plan, the plan that they lead to, and what it takes."""

    changes: tuple[str, ...]
    plan: Plan
    memory: StageMemory


def state_memory(model: FaVChatForConditionalGeneration, sharding: Sharding) -> StateMemory:
    """Memory of weights, gradients and AdamW for the parameters that require gradients.

    Without ZeRO what learns is held in float32 (sft.stages.learning_in_float32), and so are its
    gradients and AdamW's two states, beside a step counter. Under ZeRO every rank keeps its share
    of float32 master weights and states, and turns its share of gradients into float32 for the
    update. Padding to whole shares, some bytes, is left out.

    Args:
        model: may be on the meta device, inside :func:`sft.stages.trainable`.
    """
    learns = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = sum(p.nbytes for p in model.parameters()) + sum(b.nbytes for b in model.buffers())
    if sharding.zero == 0:
        size = FLOAT32 * sum(p.numel() for p in learns)
        copies = sum(p.nbytes for p in learns if p.itemsize < FLOAT32)
        return StateMemory(
            weights=weights - sum(p.nbytes for p in learns) + size,
            gradients=size,
            optimizer=2 * size + FLOAT32 * len(learns),
            # DDP's buckets hold gradients once more; autocast keeps half-precision weights.
            buffers=(size if sharding.ranks > 1 else 0) + copies,
            update=0,  # Trainer's AdamW is fused on GPUs
        )
    item = model.dtype.itemsize
    width: int = model.config.text_config.hidden_size
    share = math.ceil(sum(p.numel() for p in learns) / sharding.ranks)
    bucket = 2 * item * reduce_bucket(width)  # one is filled while the other is sent
    if sharding.zero == 2:
        return StateMemory(
            weights=weights,
            gradients=item * share,
            optimizer=3 * FLOAT32 * share,
            buffers=bucket,
            update=(item + FLOAT32) * share,  # flattened, then in float32
        )
    sizes: list[int] = [p.numel() for p in model.parameters()]
    sharded = sum(math.ceil(size / sharding.ranks) for size in sizes)
    persistent = sum(size for size in sizes if size <= persistence_threshold(width))
    gathered = min(MAX_LIVE_PARAMETERS, sum(sizes) - persistent)
    return StateMemory(
        weights=item * (sharded + persistent) + sum(b.nbytes for b in model.buffers()),
        gradients=item * share,
        optimizer=3 * FLOAT32 * share,
        buffers=bucket + item * gathered,
        update=FLOAT32 * min(share, SUB_GROUP),
    )


def reduce_bucket(hidden_size: int) -> int:
    """Elements of a gradient bucket, as ``Trainer`` fills in ``reduce_bucket_size: auto``."""
    return hidden_size**2


def persistence_threshold(hidden_size: int) -> int:
    """ZeRO 3 leaves parameters of up to so many elements whole, as ``Trainer`` fills it in."""
    return 10 * hidden_size


class MemoryEstimator:
    """Estimates of one policy's stages; what was measured once is not measured again.

    Args:
        model: on the meta device (:func:`policy.build.build_policy_on_meta`).
    """

    def __init__(self, model: FaVChatForConditionalGeneration) -> None:
        self._model = model
        self._steps: dict[tuple[object, ...], StepMemory] = {}

    def __call__(self, plan: Plan) -> StageMemory:
        """Memory of one rank under this plan."""
        from sft.memory_step import measure_step

        with _adapters_as_trained(self._model, plan) as model:
            state = state_memory(model, plan.sharding)
            stage = plan.stage
            cast = bool(plan.sharding.zero and stage.lora_rank)
            key = (tuple(stage.trainable), stage.lora_rank, cast, plan.shape)
            if key not in self._steps:
                self._steps[key] = measure_step(model, stage, plan.shape)
        return StageMemory(state=state, step=self._steps[key])

    def remedy(self, plan: Plan, *, room: float) -> Remedy:
        """Changes that make a plan fit into ``room`` bytes, or all there are if it never does.

        One after the other, cheapest first: gradient checkpointing, ZeRO 2 and 3, one clip at a
        time, and adapters on the language model, which change what is learnt and so come last.
        """
        changes: list[str] = []
        memory = self(plan)
        # After every change the cheaper ones are tried again: what hid their gain may be gone.
        while memory.total > room and (better := next(self._better(plan, memory), None)):
            name, plan, memory = better
            changes.append(name)
        return Remedy(changes=tuple(changes), plan=plan, memory=memory)

    def _better(self, plan: Plan, memory: StageMemory) -> Iterator[tuple[str, Plan, StageMemory]]:
        for name, change in _CHANGES:
            changed = change(plan)
            if changed != plan and (estimate := self(changed)).total < memory.total:
                yield name, changed, estimate


@contextmanager
def _adapters_as_trained(
    model: FaVChatForConditionalGeneration, plan: Plan
) -> Iterator[FaVChatForConditionalGeneration]:
    from sft.stages import trainable

    dtype = model.dtype
    with trainable(model, plan.stage):
        if plan.sharding.zero:  # DeepSpeed gives one dtype to all; PEFT makes adapters float32
            model.to(dtype)
        yield model


def _with_checkpointing(plan: Plan) -> Plan:
    return replace(plan, shape=replace(plan.shape, gradient_checkpointing=True))


def _with_zero(zero: int) -> Callable[[Plan], Plan]:
    def change(plan: Plan) -> Plan:
        ranks = plan.sharding.ranks
        better = ranks > 1 and zero > plan.sharding.zero
        return replace(plan, sharding=Sharding(ranks=ranks, zero=zero)) if better else plan

    return change


def _with_one_clip(plan: Plan) -> Plan:
    return replace(plan, shape=replace(plan.shape, batch_size=1))


def _with_adapters(plan: Plan) -> Plan:
    if "language_model" not in plan.stage.trainable or plan.stage.lora_rank:
        return plan
    return replace(plan, stage=replace(plan.stage, lora_rank=64))


_CHANGES: Sequence[tuple[str, Callable[[Plan], Plan]]] = (
    ("gradient checkpointing", _with_checkpointing),
    ("ZeRO 2", _with_zero(2)),
    ("ZeRO 3", _with_zero(3)),
    ("one clip at a time", _with_one_clip),
    ("LoRA of rank 64", _with_adapters),
)


_COLUMNS = (
    *("weights", "gradients", "optimiser", "buffers"),
    *("batch", "activations", "temporary", "update", "peak"),
)


def format_memory(stages: dict[str, StageMemory]) -> str:
    """GiB on each rank: a row per stage, its peak in the last column."""
    rows: list[tuple[str, ...]] = [("stage", *_COLUMNS)]
    for name, memory in stages.items():
        state, step = memory.state, memory.step
        held = (state.weights, state.gradients, state.optimizer, state.buffers)
        work = (step.inputs, step.activations, step.temporary, state.update)
        rows.append((name, *(gib(size) for size in (*held, *work, memory.total))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def gib(size: float) -> str:
    """Bytes in GiB.

    Example:
        >>> gib(3 * 2**30), gib(2**20), gib(0)
        ('3.00', '<0.01', '–')
    """
    if not size:
        return "–"
    return "<0.01" if size < 0.01 * GIB else f"{size / GIB:.2f}"


def verdict(name: str, memory: StageMemory, remedy: Remedy | None, *, gib_per_rank: float) -> str:
    """One line: does it fit, and if not, what helps.

    Args:
        remedy: what :meth:`MemoryEstimator.remedy` found; None when the stage fits as it is.
    """
    usable = room(gib_per_rank)
    device = f"{gib_per_rank:g} GiB, of which {usable / GIB:.1f} may be filled"
    if memory.total <= usable:
        return f"{name}: fits in {device}; {gib(usable - memory.total)} GiB to spare"
    lacks = f"{name}: needs {gib(memory.total - usable)} GiB more than {device}"
    if remedy is None or not remedy.changes:
        return f"{lacks}; train on more ranks or larger ones"
    changes = ", ".join(remedy.changes)
    if remedy.memory.total <= usable:
        return f"{lacks}; fits with {changes}: {gib(remedy.memory.total)} GiB"
    return (
        f"{lacks}; with {changes} it still needs {gib(remedy.memory.total)} GiB: "
        "train on more ranks or larger ones"
    )


def room(gib_per_rank: float) -> float:
    """Bytes of a device that a stage may fill (:data:`RESERVED_SHARE` stays free).

    Raises:
        ConfigError: for a device without memory.
    """
    if gib_per_rank <= 0:
        raise ConfigError(f"gib={gib_per_rank:g}", "a device has memory", "set gib=80")
    return gib_per_rank * GIB * (1 - RESERVED_SHARE)
