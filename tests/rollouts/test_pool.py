"""The pool on a real Ray and a real engine, with workers killed under it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import ray

from common.errors import ConfigError, MachineError
from rollouts.config import RolloutConfig
from rollouts.parity import compare
from rollouts.pool import RolloutPool
from rollouts.types import RolloutRequest

pytestmark = [pytest.mark.engine, pytest.mark.slow]

CONFIG = RolloutConfig(
    max_response_tokens=80,
    max_model_len=128,
    temperature=0.7,
    kv_cache_gib=0.05,
    probe_tokens=6,
    timeout_seconds=120,
)


@pytest.fixture(scope="module")
def pool(tiny_policy) -> Iterator[RolloutPool]:
    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=80 * 2**20)
    try:
        pool = RolloutPool(CONFIG, tiny_policy.sampler_arguments)
        yield pool
        pool.close()
    finally:
        ray.shutdown()


@contextmanager
def _killing(pool: RolloutPool, may_kill: Callable[[int], bool]) -> Iterator[None]:
    """Kill the pool's worker shortly after each time it is up, as long as ``may_kill(kills)``."""
    stop = threading.Event()

    def run() -> None:
        killed: list[int] = []
        while may_kill(len(killed)) and not stop.wait(0.3):
            if (process := pool.process_ids[0]) not in killed:
                os.kill(process, signal.SIGKILL)
                killed.append(process)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _requests(tiny_policy, count: int) -> list[RolloutRequest]:
    prompts = [tiny_policy.prompt(f"s{index}", 20 + index % 20) for index in range(count)]
    return [RolloutRequest(prompt=prompt, num_responses=4, seed=1) for prompt in prompts]


def _token_ids(groups):
    return [[response.token_ids for response in group.responses] for group in groups]


def test_a_killed_worker_is_replaced_at_the_current_weights_and_no_group_is_lost(pool, tiny_policy):
    adapted = tiny_policy.adapted(seed=1)
    pool.sync(tiny_policy.adapter(adapted, policy_version=4))
    requests, first = _requests(tiny_policy, 64), list(pool.process_ids)
    with _killing(pool, lambda kills: kills < 1):
        groups = pool.generate(requests)

    assert len(pool.losses) == 1
    assert set(pool.losses[0].sample_ids) <= {request.prompt.sample_id for request in requests}
    assert pool.losses[0].sample_ids
    assert pool.process_ids != first
    assert [group.sample_id for group in groups] == [r.prompt.sample_id for r in requests]
    assert all(len(group.responses) == 4 and group.error is None for group in groups)
    assert {r.policy_version for group in groups for r in group.responses} == {4}
    for request, group in zip(requests[:3], groups, strict=False):
        response = group.responses[0]
        theirs = tiny_policy.chosen_log_probs(request.prompt, response.token_ids, model=adapted)
        np.testing.assert_allclose(response.log_probs, theirs, atol=1e-4)
    assert _token_ids(pool.generate(requests)) == _token_ids(groups)


def test_a_probe_after_a_sync_agrees_with_the_learner(pool, tiny_policy):
    prompts = [tiny_policy.prompt(name, 70) for name in "ab"]
    pool.probe(prompts)  # leaves prefixes of the old weights in the cache
    adapted = tiny_policy.adapted(seed=2)
    pool.sync(tiny_policy.adapter(adapted, policy_version=5))
    groups = pool.probe(prompts)
    assert [group.sample_id for group in groups] == ["a", "b", "a", "b"]
    responses = [group.responses[0] for group in groups]
    by_id = {prompt.sample_id: prompt for prompt in prompts}
    learner = [
        tiny_policy.chosen_log_probs(by_id[group.sample_id], response.token_ids, model=adapted)
        for group, response in zip(groups, responses, strict=True)
    ]
    report = compare(
        [response.log_probs for response in responses],
        [row.tolist() for row in learner],
        sample_ids=[group.sample_id for group in groups],
        sampler_version=responses[0].policy_version,
        learner_version=5,
        max_allowed=1e-4,
        mean_allowed=2e-5,
    )
    assert report.num_tokens == sum(len(response.token_ids) for response in responses) > 0


def test_an_adapter_of_another_recipe_is_refused_without_losing_the_worker(pool, tiny_policy):
    from dataclasses import replace

    losses = len(pool.losses)
    with pytest.raises(ConfigError, match="rank 8"):
        pool.sync(replace(tiny_policy.zero_adapter(), rank=8))
    assert len(pool.losses) == losses
    pool.sync(tiny_policy.zero_adapter())


def test_an_engine_that_cannot_start_says_why(pool, tiny_policy):
    # The KV cache must hold one whole sequence: 128 tokens of 2 layers need more than 0.00005 GiB.
    config = RolloutConfig(max_response_tokens=80, max_model_len=128, kv_cache_gib=0.00005)
    started = time.monotonic()
    with pytest.raises(MachineError, match=r"KV cache.*rollouts\.kv_cache_gib"):
        RolloutPool(config, tiny_policy.sampler_arguments)
    assert time.monotonic() - started < 100


def test_prompts_that_cost_two_workers_stop_the_run_by_name(pool, tiny_policy):
    """Last: it leaves the pool without a worker."""
    with (
        _killing(pool, lambda kills: kills < 2),
        pytest.raises(MachineError, match=r"2 rollout workers lost on samples .*\bs39\b"),
    ):
        pool.generate(_requests(tiny_policy, 64))
