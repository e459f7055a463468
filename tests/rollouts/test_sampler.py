"""The sampler on a real engine, with transformers and PEFT as oracles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2

from common.errors import ConfigError
from rollouts.config import RolloutConfig
from rollouts.sampler import Sampler
from rollouts.types import RolloutRequest, StopReason

BANNED, END = (0, 1, 3, 7, 8), 2  # as in conftest.py
pytestmark = pytest.mark.engine


def _greedy(sampler, prompts):
    groups = sampler.generate([RolloutRequest(prompt=prompt, greedy=True) for prompt in prompts])
    return [group.responses[0] for group in groups]


def _sampled(sampler, prompt, num_responses, **fields):
    request = RolloutRequest(prompt=prompt, num_responses=num_responses, **fields)
    return sampler.generate([request])[0]


def test_greedy_log_probs_are_transformers_over_the_tokens_that_may_be_sampled(
    sampler, tiny_policy
):
    prompts = [
        tiny_policy.prompt(name, length) for name, length in (("a", 40), ("b", 33), ("c", 70))
    ]
    for prompt, response in zip(prompts, _greedy(sampler, prompts), strict=True):
        rows = tiny_policy.log_probs(prompt, response.token_ids)
        assert rows.argmax(-1).tolist() == list(response.token_ids)
        ours = tiny_policy.chosen_log_probs(prompt, response.token_ids)
        np.testing.assert_allclose(response.log_probs, ours, atol=1e-4)
        # At another temperature, or with the banned tokens in the sum, they are far off.
        hot = tiny_policy.chosen_log_probs(prompt, response.token_ids, temperature=1.0)
        assert np.abs(np.array(response.log_probs) - hot).max() > 1e-2


def test_sampled_log_probs_are_of_the_same_distribution(sampler, tiny_policy):
    prompt = tiny_policy.prompt("a")
    for response in _sampled(sampler, prompt, 4).responses:
        ours = tiny_policy.chosen_log_probs(prompt, response.token_ids)
        np.testing.assert_allclose(response.log_probs, ours, atol=1e-4)


def test_banned_tokens_are_never_sampled_however_likely(sampler, tiny_policy):
    prompt = tiny_policy.prompt("a")
    group = _sampled(sampler, prompt, 40)
    tokens = [token for response in group.responses for token in response.token_ids]
    assert len(tokens) == group.tokens > 200
    assert not set(tokens) & set(BANNED)
    # Without the ban they take nearly all of the mass at most positions.
    logits = tiny_policy.logits(prompt, group.responses[0].token_ids)
    assert logits.softmax(-1)[:, list(BANNED)].sum(-1).median() > 0.99


def test_first_tokens_follow_the_softmax(sampler, tiny_policy):
    prompt, draws = tiny_policy.prompt("a"), 2000
    group = _sampled(sampler, prompt, draws, max_tokens=1)
    counts = np.bincount([r.token_ids[0] for r in group.responses], minlength=512)
    expected = draws * tiny_policy.log_probs(prompt, [END])[0].exp().numpy()
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    statistic = ((observed - wanted) ** 2 / wanted).sum()
    assert common.sum() >= 20
    assert statistic < chi2.ppf(0.999, df=len(wanted) - 1)


def test_a_response_ends_with_the_end_token_and_counts_it(sampler, tiny_policy):
    responses = _sampled(sampler, tiny_policy.prompt("a"), 200, max_tokens=40).responses
    ended = [r for r in responses if r.stop_reason is StopReason.END]
    assert ended
    for response in responses:
        assert len(response.log_probs) == len(response.token_ids)
        assert END not in response.token_ids[:-1]
        assert (response.token_ids[-1] == END) == (response.stop_reason is StopReason.END)
        assert "</s>" not in response.text
    cut = [r for r in responses if r.stop_reason is StopReason.LENGTH]
    assert all(len(response.token_ids) == 40 for response in cut)


def test_seeds_fix_responses_whatever_else_is_in_the_batch(sampler, tiny_policy):
    prompt = tiny_policy.prompt("a")
    alone = _sampled(sampler, prompt, 4, seed=5, visit=1)
    crowd = [RolloutRequest(prompt=tiny_policy.prompt(name), num_responses=3) for name in "bcd"]
    crowd.insert(2, RolloutRequest(prompt=prompt, num_responses=4, seed=5, visit=1))
    in_company = sampler.generate(crowd)[2]
    assert [r.token_ids for r in in_company.responses] == [r.token_ids for r in alone.responses]
    assert len({r.token_ids for r in alone.responses}) == 4
    for other in ({"seed": 6, "visit": 1}, {"seed": 5, "visit": 2}):
        fresh = _sampled(sampler, prompt, 4, **other)
        assert not {r.token_ids for r in fresh.responses} & {r.token_ids for r in alone.responses}


def test_after_a_sync_log_probs_are_pefts_even_for_cached_prefixes(sampler, tiny_policy):
    prompts = [tiny_policy.prompt(name, 70) for name in "ab"]  # two full cache blocks each
    before = _greedy(sampler, prompts)
    adapted = tiny_policy.adapted(seed=1)
    sampler.load_adapter(tiny_policy.adapter(adapted, policy_version=7))
    for _ in range(2):  # the second time from the prefix cache
        for prompt, response in zip(prompts, _greedy(sampler, prompts), strict=True):
            theirs = tiny_policy.chosen_log_probs(prompt, response.token_ids, model=adapted)
            base = tiny_policy.chosen_log_probs(prompt, response.token_ids)
            difference = np.abs(np.array(response.log_probs) - theirs).max()
            assert difference < 1e-4
            assert np.abs(theirs - base).max() > 1000 * difference
            assert response.policy_version == 7
    sampler.load_adapter(tiny_policy.adapter(tiny_policy.adapted(seed=2), policy_version=8))
    sampler.load_adapter(tiny_policy.zero_adapter())
    for old, new in zip(before, _greedy(sampler, prompts), strict=True):
        assert new.token_ids == old.token_ids  # syncs start from the base and do not add up
        np.testing.assert_allclose(new.log_probs, old.log_probs, atol=1e-5)


def test_an_adapter_that_does_not_fit_leaves_the_weights_alone(sampler, tiny_policy):
    prompt, adapter = tiny_policy.prompt("a"), tiny_policy.adapter(tiny_policy.adapted(seed=1), 3)
    before = _greedy(sampler, [prompt])[0]
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    broken = {key: tensor for key, tensor in adapter.tensors.items() if key != name}
    for wrong in (replace(adapter, tensors=broken), replace(adapter, rank=8)):
        with pytest.raises(ConfigError):
            sampler.load_adapter(wrong)
    assert _greedy(sampler, [prompt])[0] == before


def test_a_bad_prompt_costs_only_itself(sampler, tiny_policy):
    good, long = tiny_policy.prompt("a"), tiny_policy.prompt("long", 128 - 12 + 1)
    narrow = replace(tiny_policy.prompt("narrow"), visual_rows=np.zeros((4, 63), dtype=np.float32))
    requests = [RolloutRequest(prompt=p, num_responses=2) for p in (long, good, narrow, good)]
    groups = sampler.generate(requests)
    assert [group.sample_id for group in groups] == ["long", "a", "narrow", "a"]
    assert [len(group.responses) for group in groups] == [0, 2, 0, 2]
    assert "117 tokens; 1 to 116" in groups[0].error
    assert "width 63" in groups[2].error
    assert groups[1].error is None
    assert groups[1].tokens == sum(len(r.token_ids) for r in groups[1].responses)
    fits = tiny_policy.prompt("fits", 128 - 12)
    assert sampler.generate([RolloutRequest(prompt=fits)])[0].error is None


def test_nothing_to_sample(sampler):
    assert sampler.generate([]) == []


def test_an_end_token_that_is_banned_is_refused(tiny_policy):
    arguments = tiny_policy.sampler_arguments | {"banned_token_ids": (END,)}
    with pytest.raises(ConfigError, match="end token"):
        Sampler(config=RolloutConfig(), **arguments)
