"""Per-response gradients against autograd, one response at a time, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from common.errors import ConfigError
from degrpo.algorithm import response_coefficients
from degrpo.learner.gradient_statistics import AdapterSpace, GroupGradients, response_objective

MAX_LENGTH = 6
PROMPTS = ([5, 9, 11, 4], [7, 3, 8, 21, 30, 2])
RESPONSES = (  # two groups of three, lengths 1 to 6
    ([4, 6, 9, 1], [12, 1], [30, 31, 3, 4, 5, 1]),
    ([8], [22, 14, 9, 7, 1], [22, 14, 1]),
)
ADVANTAGES = torch.tensor([[0.7, -0.4, -0.3], [1.1, 0.2, -0.9]], dtype=torch.float64)


@dataclass
class Batch:
    input_ids: Tensor  # [N, T]
    attention_mask: Tensor  # [N, T]
    starts: list[int]  # where each response begins
    responses: list[list[int]]


def pad(members: list[tuple[int, int]], side: str) -> Batch:
    """Prompt and response of each (group, member), padded to a common length."""
    sequences = [PROMPTS[g] + RESPONSES[g][k] for g, k in members]
    width = max(map(len, sequences))
    ids = torch.zeros(len(members), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    starts = []
    for n, (sequence, (g, _)) in enumerate(zip(sequences, members, strict=True)):
        offset = width - len(sequence) if side == "left" else 0
        ids[n, offset : offset + len(sequence)] = torch.tensor(sequence)
        mask[n, offset : offset + len(sequence)] = 1
        starts.append(offset + len(PROMPTS[g]))
    return Batch(ids, mask, starts, [RESPONSES[g][k] for g, k in members])


def token_log_probs(model: torch.nn.Module, batch: Batch) -> tuple[list[Tensor], Tensor]:
    """log pi of every response's tokens, and the embeddings they were computed from."""
    embeds = model.get_input_embeddings()(batch.input_ids).requires_grad_()
    positions = (batch.attention_mask.cumsum(1) - 1).clamp(min=0)
    output = model(
        inputs_embeds=embeds, attention_mask=batch.attention_mask, position_ids=positions
    )
    log_probs = output.logits.log_softmax(-1)
    picked = [
        log_probs[n, start - 1 : start - 1 + len(tokens)].gather(1, torch.tensor(tokens)[:, None])[
            :, 0
        ]
        for n, (start, tokens) in enumerate(zip(batch.starts, batch.responses, strict=True))
    ]
    return picked, embeds


def token_weights(g: int, k: int) -> Tensor:
    """Importance weights, different for every token."""
    generator = torch.Generator().manual_seed(10 * g + k)
    return 0.5 + 1.5 * torch.rand(len(RESPONSES[g][k]), dtype=torch.float64, generator=generator)


def oracle_gradients(model: torch.nn.Module, space: AdapterSpace) -> Tensor:
    """g of every response, ``[2, 3, D]``: each alone in its batch, one autograd call each."""
    rows = []
    for g in range(2):
        for k in range(3):
            (log_probs,), _ = token_log_probs(model, pad([(g, k)], "right"))
            mean = (token_weights(g, k) * log_probs).sum() / len(log_probs)
            gradients = torch.autograd.grad(mean, space.parameters)
            rows.append(torch.cat([x.flatten() for x in gradients]))
    return torch.stack(rows).view(2, 3, -1)


def recorded_groups(
    model: torch.nn.Module, space: AdapterSpace, batches: list[list[tuple[int, int]]], side: str
) -> list[GroupGradients]:
    groups = [GroupGradients(space, 3) for _ in range(2)]
    for members in batches:
        with space.record([groups[g].row(k) for g, k in members]):
            log_probs, embeds = token_log_probs(model, pad(members, side))
            weights = torch.cat([token_weights(g, k) for g, k in members])
            objective = response_objective(
                torch.cat(log_probs), weights, [len(x) for x in log_probs]
            )
            torch.autograd.backward(objective, inputs=[embeds])
        for g, k in members:
            groups[g].arrived(k)
    return groups


ALL = [(g, k) for g in range(2) for k in range(3)]
SPLIT = [[(0, 0), (1, 2), (0, 2)], [(1, 0)], [(1, 1), (0, 1)]]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batches", [[ALL], SPLIT], ids=["one batch", "groups split"])
def test_gram_matches_one_autograd_call_per_response(make_model, batches, side):
    model = make_model()
    space = AdapterSpace(model)
    gradients = oracle_gradients(model, space)
    groups = recorded_groups(model, space, batches, side)
    for g, group in enumerate(groups):
        expected = gradients[g] @ gradients[g].T
        assert expected.diagonal().min() > 0.1  # a gradient of zeros would match anything
        torch.testing.assert_close(group.gram(), expected, rtol=1e-10, atol=1e-10)
        for k in range(3):  # every entry, so that errors cannot cancel in a product
            torch.testing.assert_close(group.row(k), gradients[g, k], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("side", ["left", "right"])
def test_gram_with_transformers_own_norms(make_model, side):
    model = make_model(double_norms=False)
    space = AdapterSpace(model)
    gradients = oracle_gradients(model, space)
    for g, group in enumerate(recorded_groups(model, space, SPLIT, side)):
        expected = gradients[g] @ gradients[g].T
        # Their RMSNorm goes through float32, in another order for another batch shape.
        scale = expected.diagonal().max().item()
        torch.testing.assert_close(group.gram(), expected, rtol=0, atol=1e-6 * scale)


def explicit_loss(log_probs: dict[tuple[int, int], Tensor], denominator: str) -> Tensor:
    """The policy loss written out: every denominator is a different sum over tokens."""
    weighted = {
        (g, k): -ADVANTAGES[g, k] * token_weights(g, k) * x for (g, k), x in log_probs.items()
    }
    if denominator == "sequence":
        return torch.stack([x.mean() for x in weighted.values()]).mean()
    if denominator == "token":
        return torch.cat(list(weighted.values())).mean()
    return torch.cat(list(weighted.values())).sum() / (len(weighted) * MAX_LENGTH)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batches", [[ALL], SPLIT], ids=["one batch", "groups split"])
@pytest.mark.parametrize("denominator", ["constant", "sequence", "token"])
def test_assembled_gradient_matches_autograd_of_the_loss(make_model, batches, side, denominator):
    model = make_model()
    space = AdapterSpace(model)
    alone = {m: token_log_probs(model, pad([m], "right"))[0][0] for m in ALL}
    expected = torch.autograd.grad(explicit_loss(alone, denominator), space.parameters)

    total = space.zeros()
    for g, group in enumerate(recorded_groups(model, space, batches, side)):
        coefficients = response_coefficients(
            torch.tensor([len(r) for r in RESPONSES[g]], dtype=torch.float64),
            denominator=denominator,
            num_responses=6,
            num_tokens=sum(len(r) for responses in RESPONSES for r in responses),
            max_length=MAX_LENGTH,
        )
        total += group.combine(coefficients * ADVANTAGES[g])
    space.assign_gradients(-total)
    for parameter, gradient in zip(space.parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-12)


def test_recording_leaves_no_hooks_and_no_gradients(make_model):
    model = make_model()
    space = AdapterSpace(model)
    recorded_groups(model, space, [ALL], "right")
    assert all(p.grad is None for p in space.parameters)
    assert not any(m._forward_hooks for m in model.modules())
    with pytest.raises(RuntimeError, match="inside"), space.record([space.zeros()]):
        raise RuntimeError("inside")
    assert not any(m._forward_hooks for m in model.modules())


def test_an_incomplete_group_has_no_gram(make_model):
    space = AdapterSpace(make_model())
    group = GroupGradients(space, 2)
    group.arrived(0)
    assert not group.complete
    with pytest.raises(RuntimeError, match=r"\[1\]"):
        group.gram()


def test_a_batch_must_bring_a_place_for_every_row(make_model):
    model = make_model()
    space = AdapterSpace(model)
    with pytest.raises(ValueError, match="2 rows"), space.record([space.zeros()]):
        token_log_probs(model, pad([(0, 0), (0, 1)], "right"))


def test_other_trainable_parameters_are_refused(make_model):
    model = make_model()
    model.get_input_embeddings().weight.requires_grad_(True)
    with pytest.raises(ConfigError, match="embed_tokens"):
        AdapterSpace(model)


def test_dropout_is_refused(make_model):
    model = make_model().unload()
    lora = LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.1)
    with pytest.raises(ConfigError, match="dropout"):
        AdapterSpace(get_peft_model(model, lora))
