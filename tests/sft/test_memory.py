"""Predicted memory against real optimiser states, the allocator's own account, and DeepSpeed."""

from __future__ import annotations

import dataclasses
import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.errors import ConfigError
from policy.features import FeatureExtractor
from policy.freezing import PARTS
from sft.collator import AnswerCollator
from sft.data import rows
from sft.memory import (
    GIB,
    MAX_LIVE_PARAMETERS,
    SUB_GROUP,
    MemoryEstimator,
    Plan,
    Sharding,
    StageMemory,
    StateMemory,
    format_memory,
    persistence_threshold,
    reduce_bucket,
    room,
    state_memory,
    verdict,
)
from sft.memory_step import StepMemory, StepShape, measure_step
from sft.stages import trainable
from tests.sft.conftest import small_stage

CONFIGS = Path(__file__).parents[2] / "configs" / "deepspeed"
SHAPE = StepShape(batch_size=3, num_frames=2, question_tokens=200, answer_tokens=4)
TOLERANCE = {False: 0.002, True: 0.015}
"""With checkpointing each block keeps the random generator's state, 5 KB on the CPU."""

STAGES = {
    "stage 1": small_stage("summary", "general_encoder", "facial_encoder", "low_level",
                           "high_level", "projector"),
    "stage 2": small_stage("qa", "middle_level"),
    "stage 3": small_stage("emotion_qa", "middle_level", "high_level", "language_model"),
    "stage 3 with adapters": small_stage("emotion_qa", "language_model", lora_rank=4),
}  # fmt: skip


@pytest.fixture(scope="module")
def built(tiny):
    from policy.build import build_policy

    return build_policy(tiny)


@pytest.fixture(scope="module")
def shapes(tiny):
    """The same policy without values."""
    from policy.build import build_policy_on_meta

    return build_policy_on_meta(tiny)


# -- weights, gradients, optimiser ------------------------------------------------------------


@pytest.mark.parametrize("name", STAGES)
def test_states_are_those_of_a_real_step_to_the_byte(built, shapes, samples, tmp_path, name):
    from sft.trainer import StageTrainer

    model, processor = built
    stage = STAGES[name]
    seen = {}
    with trainable(model, stage):
        trainer = StageTrainer(
            model,
            stage=stage,
            rows=rows([sample for sample in samples if sample.split == stage.split]),
            collator=AnswerCollator(samples, processor, FeatureExtractor(model, processor)),
            tokenizer=processor.tokenizer,
            seed=0,
            folder=tmp_path,
            tensorboard=False,
        )
        trainer.create_optimizer()
        trainer.optimizer.register_step_pre_hook(lambda *_: seen.update(gradients=gradients(model)))
        trainer.train()
        weights = {t.data_ptr(): t.nbytes for t in [*model.parameters(), *model.buffers()]}
        states = trainer.optimizer.state.values()
        optimizer = sum(tensor.nbytes for state in states for tensor in state.values())
    with trainable(shapes, stage):
        predicted = state_memory(shapes, Sharding(ranks=1, zero=0))
    assert predicted.gradients == seen["gradients"]
    assert predicted.optimizer == optimizer
    assert predicted.weights == sum(weights.values())
    assert predicted.buffers == 0


def gradients(model: nn.Module) -> int:
    return sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)


def by_hand() -> nn.Module:
    """Frozen 10x10 and 10, trained 5x5, in bfloat16; the language model would be 2 wide."""
    frozen, trained = nn.Linear(10, 10), nn.Linear(5, 5, bias=False)
    model = nn.Sequential(frozen.requires_grad_(False), trained).to(torch.bfloat16)
    model.dtype = torch.bfloat16
    model.config = SimpleNamespace(text_config=SimpleNamespace(hidden_size=2))
    return model


def test_sharing_by_hand():
    model = by_hand()
    # 25 of 135 learn, in float32: weights 110 · 2 + 25 · 4, AdamW 2 · 25 · 4 and a counter; DDP
    # copies gradients into buckets, and autocast keeps the 25 weights in bfloat16.
    assert state_memory(model, Sharding(ranks=3, zero=0)) == StateMemory(
        weights=320, gradients=100, optimizer=204, buffers=150, update=0
    )
    # A third of 25 is 9 with padding: master weight and two states of 4 bytes each. Two buckets
    # of 2 · 2 elements of 2 bytes. For the update 9 flattened ones and 9 in float32.
    assert state_memory(model, Sharding(ranks=3, zero=2)) == StateMemory(
        weights=270, gradients=18, optimizer=108, buffers=16, update=54
    )
    # 100 -> 34, 25 -> 9, 10 -> 4, and the bias of 10, no more than 10 · 2, also stays whole.
    assert state_memory(model, Sharding(ranks=3, zero=3)) == StateMemory(
        weights=2 * (34 + 9 + 4 + 10), gradients=18, optimizer=108, buffers=16 + 2 * 125, update=36
    )


def test_where_everything_learns_deepspeeds_own_estimate_agrees():
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    with torch.device("meta"):
        model = nn.Linear(4096, 4096, bias=False).to(torch.bfloat16)
    model.dtype = torch.bfloat16
    model.config = SimpleNamespace(text_config=SimpleNamespace(hidden_size=64))
    total = 4096**2

    def held(zero: int) -> int:
        state = state_memory(model, Sharding(ranks=8, zero=zero))
        # Theirs adds gradients in float32 to those in bfloat16, and knows no flattened copy.
        return state.weights + state.gradients + state.optimizer + 4 * total // 8

    _, theirs = estimate_zero2_model_states_mem_needs(total, 8, 1, cpu_offload=False)
    assert held(2) == theirs
    _, theirs, largest = estimate_zero3_model_states_mem_needs(
        total, total, 8, 1, cpu_offload=False, cpu_offload_params=False
    )
    # Theirs counts a share of the weights or of their gradients in bfloat16; both are there.
    assert held(3) == theirs - largest + 2 * total // 8


@pytest.mark.parametrize(
    ("wrong", "words"), [({"ranks": 0, "zero": 2}, "ranks=0"), ({"ranks": 8, "zero": 1}, "zero=1")]
)
def test_sharding_that_cannot_be_is_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        Sharding(**wrong)


# -- activations ------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", STAGES)
def test_activations_are_those_that_the_allocator_hands_out(built, shapes, name, checkpointing):
    """A real step on the CPU, whose allocator reports every block to the profiler."""
    shape = dataclasses.replace(SHAPE, gradient_checkpointing=checkpointing)
    check_activations(built[0], shapes, STAGES[name], shape)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_of_the_embedded_policy(checkpointing):
    from policy.build import build_policy, build_policy_on_meta
    from policy.config import PolicyConfig

    config = PolicyConfig()
    shape = StepShape(batch_size=2, num_frames=8, question_tokens=24, answer_tokens=32,
                      gradient_checkpointing=checkpointing)  # fmt: skip
    model, _ = build_policy(config)
    check_activations(model, build_policy_on_meta(config), STAGES["stage 3"], shape)


def check_activations(model, shapes, stage, shape) -> None:
    from sft.memory_step import _batch

    with trainable(shapes, stage), fused_on_cpu(shapes):
        predicted = measure_step(shapes, stage, shape)
        batch = {name: real(value) for name, value in _batch(shapes, stage, shape).items()}
    # A policy without values does not know its tokenizer, and so has another placeholder.
    placeholders = batch["input_ids"] == shapes.config.video_token_id
    batch["input_ids"] = torch.where(placeholders, model.config.video_token_id, 1)
    with trainable(model, stage), fused_on_cpu(model):
        held, peak = allocated(model, stage, shape, batch)
    tolerance = TOLERANCE[shape.gradient_checkpointing]
    assert predicted.activations == pytest.approx(held, rel=tolerance)
    assert predicted.activations + predicted.temporary == pytest.approx(peak, rel=tolerance)


def allocated(model, stage, shape, batch) -> tuple[int, int]:
    """Bytes that a real step holds after its forward pass, and at most."""
    from sft.memory_step import _checkpointing, _no_gradients_kept
    from sft.trainer import score_answers

    model.train()
    for part in PARTS:
        if part not in stage.trainable:
            getattr(model, part).eval()
    with _checkpointing(model, shape.gradient_checkpointing), _no_gradients_kept(model):
        with allocations() as forward:
            loss = score_answers(model, batch).losses.sum()
        with allocations() as backward:
            loss.backward()
    model.eval()
    held = sum(forward)
    return held, held + max(cumulated(backward))


def real(value):
    if isinstance(value, tuple):
        return tuple(map(real, value))
    return torch.zeros(value.shape) if value.is_floating_point() else value


@contextmanager
def allocations():
    """Sizes of the blocks that are allocated inside, and minus those that are freed, in order."""
    sizes: list[int] = []
    with torch.profiler.profile(profile_memory=True) as profile:
        yield sizes
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes.extend(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))


def cumulated(sizes: list[int]) -> list[int]:
    total, sums = 0, [0]
    for size in sizes:
        total += size
        sums.append(total)
    return sums


@contextmanager
def fused_on_cpu(model: nn.Module):
    """Attention without dropout: with it the CPU has no fused kernel, as GPUs do."""
    kept = [
        (module, module.attention_dropout)
        for module in model.middle_level.modules()
        if hasattr(module, "attention_dropout")
    ]
    assert kept
    for module, _ in kept:
        module.attention_dropout = 0.0
    yield
    for module, dropout in kept:
        module.attention_dropout = dropout


def test_measuring_leaves_no_trace(shapes):
    stage = STAGES["stage 3"]
    shape = dataclasses.replace(SHAPE, gradient_checkpointing=True)
    with trainable(shapes, stage):
        first = measure_step(shapes, stage, shape)
        assert all(parameter.grad is None for parameter in shapes.parameters())
        assert not shapes.is_gradient_checkpointing
        assert measure_step(shapes, stage, shape) == first


def test_logits_of_answers_alone_are_counted(shapes):
    """One more answer token per row costs at least its logits in float32."""
    stage = STAGES["stage 2"]
    with trainable(shapes, stage):
        base = measure_step(shapes, stage, SHAPE)
        answer = measure_step(shapes, stage, dataclasses.replace(SHAPE, answer_tokens=5))
    vocabulary = shapes.config.text_config.vocab_size
    assert answer.activations - base.activations >= SHAPE.batch_size * vocabulary * 4


# -- plans ------------------------------------------------------------------------------------


@pytest.fixture
def estimator(shapes):
    return MemoryEstimator(shapes)


def plan(name: str, *, ranks: int = 4, zero: int = 0, **shape) -> Plan:
    return Plan(
        stage=STAGES[name],
        shape=dataclasses.replace(SHAPE, **shape),
        sharding=Sharding(ranks=ranks, zero=zero),
    )


def test_peak_is_of_the_pass_or_of_the_update():
    step = StepMemory(inputs=1, activations=20, temporary=4)
    state = StateMemory(weights=100, gradients=200, optimizer=400, buffers=800, update=24)
    assert StageMemory(state=state, step=step).total == 1525
    state = dataclasses.replace(state, update=30)
    assert StageMemory(state=state, step=step).total == 1530


def test_remedies_come_in_order_and_stop_as_soon_as_it_fits(estimator):
    start = plan("stage 3")
    memory = estimator(start)
    assert estimator.remedy(start, room=memory.total).changes == ()
    little = estimator.remedy(start, room=memory.total - 1)
    assert little.changes == ("gradient checkpointing",)
    assert little.memory == estimator(plan("stage 3", gradient_checkpointing=True))
    all_of_it = estimator.remedy(start, room=0)
    # ZeRO 3 is passed over: it would gather all the weights of so small a policy at a time.
    assert all_of_it.changes == (
        "gradient checkpointing", "ZeRO 2", "one clip at a time", "LoRA of rank 64",
    )  # fmt: skip
    assert all_of_it.plan.stage.lora_rank == 64
    assert all_of_it.plan.shape.batch_size == 1
    assert all_of_it.memory.total < little.memory.total


def test_a_single_rank_has_nobody_to_share_with(estimator):
    changes = estimator.remedy(plan("stage 2", ranks=1), room=0).changes
    assert not any("ZeRO" in change for change in changes)
    assert "LoRA of rank 64" not in changes  # the stage does not train the language model


def memory_of(gib: float) -> StageMemory:
    state = StateMemory(weights=int(gib * GIB), gradients=0, optimizer=0, buffers=0, update=0)
    return StageMemory(state=state, step=StepMemory(inputs=0, activations=0, temporary=0))


def test_verdicts():
    assert room(80) == 72 * GIB
    assert verdict("stage 1", memory_of(60), None, gib_per_rank=80) == (
        "stage 1: fits in 80 GiB, of which 72.0 may be filled; 12.00 GiB to spare"
    )
    remedy = SimpleNamespace(changes=("ZeRO 2", "ZeRO 3"), memory=memory_of(40))
    assert verdict("stage 3", memory_of(74), remedy, gib_per_rank=80) == (
        "stage 3: needs 2.00 GiB more than 80 GiB, of which 72.0 may be filled; "
        "fits with ZeRO 2, ZeRO 3: 40.00 GiB"
    )
    remedy.memory = memory_of(73)
    assert "with ZeRO 2, ZeRO 3 it still needs 73.00 GiB: train on more ranks" in verdict(
        "stage 3", memory_of(74), remedy, gib_per_rank=80
    )
    with pytest.raises(ConfigError, match="gib=0"):
        room(0)


def test_table():
    state = StateMemory(weights=GIB, gradients=0, optimizer=2 * GIB, buffers=1, update=GIB)
    step = StepMemory(inputs=GIB // 2, activations=3 * GIB, temporary=GIB // 4)
    header, rule, row = format_memory({"stage 1": StageMemory(state=state, step=step)}).split("\n")
    assert header.split() == ["stage", "weights", "gradients", "optimiser", "buffers", "batch",
                              "activations", "temporary", "update", "peak"]  # fmt: skip
    assert set(rule) == {"-"}
    assert row.split() == ["stage", "1", "1.00", "–", "2.00", "<0.01", "0.50", "3.00", "0.25",
                           "1.00", "6.75"]  # fmt: skip
    assert len(header) == len(rule) == len(row)


# -- DeepSpeed's configs ----------------------------------------------------------------------


@pytest.fixture
def arguments(tmp_path):
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
        max_grad_norm=0.5,
        use_cpu=True,
        bf16=True,
    )


@pytest.mark.parametrize("zero", [2, 3])
def test_shipped_configs_resolve_to_what_estimates_assume(arguments, zero):
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    from sft.deepspeed_config import resolve_deepspeed_config

    config = resolve_deepspeed_config(CONFIGS / f"zero{zero}.json", arguments, hidden_size=3584)
    assert '"auto"' not in json.dumps(config)
    assert config["train_micro_batch_size_per_gpu"] == 2
    assert config["train_batch_size"] == 6
    assert config["gradient_clipping"] == 0.5
    assert config["bf16"] == {"enabled": True}
    shared = config["zero_optimization"]
    assert shared["stage"] == zero
    assert shared["overlap_comm"]  # two buckets
    assert shared["reduce_bucket_size"] == reduce_bucket(3584) == 12_845_056
    if zero == 3:
        assert shared["stage3_param_persistence_threshold"] == persistence_threshold(3584) == 35_840
        assert shared["stage3_max_live_parameters"] == MAX_LIVE_PARAMETERS
        assert DeepSpeedZeroConfig(**shared).sub_group_size == SUB_GROUP


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"zero_optimization": {"stage": 5}}, "stage"),
        ({"zero_optimization": {"stage": 3, "stage3_max_life_parameters": 1}}, "max_life"),
        ({"train_micro_batch_size_per_gpu": 7}, "per_device_train_batch_size=2"),
        ([], "a list in it"),
    ],
)
def test_configs_that_training_would_refuse(arguments, tmp_path, content, words):
    from sft.deepspeed_config import resolve_deepspeed_config

    path = tmp_path / "zero.json"
    sizes = {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto"}
    path.write_text(json.dumps({**sizes, **content} if isinstance(content, dict) else content))
    with pytest.raises(ConfigError, match=words):
        resolve_deepspeed_config(path, arguments, hidden_size=64)
    with pytest.raises(ConfigError, match="cannot be read"):
        resolve_deepspeed_config(tmp_path / "none.json", arguments, hidden_size=64)
