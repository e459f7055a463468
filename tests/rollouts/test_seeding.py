"""Seeds of responses: fixed by what is sampled, never by who samples it."""

from __future__ import annotations

import itertools
import subprocess
import sys

from rollouts.sampler import response_seed


def test_another_process_gets_the_same_seed():
    # Python's own hash() of a string would differ here.
    code = "from rollouts.sampler import response_seed as s; print(s(7, '3f9c2b7a10de44c1', 2, 3))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert int(answer.stdout) == response_seed(7, "3f9c2b7a10de44c1", 2, 3)


def test_every_part_matters_and_parts_do_not_run_together():
    arguments = itertools.product((0, 1, 11), ("a", "b", "1/a", "a/1"), (0, 1, 11), range(4))
    seeds = [response_seed(*each) for each in arguments]
    assert len(set(seeds)) == len(seeds) == 3 * 4 * 3 * 4
    assert all(0 <= seed < 2**62 for seed in seeds)


def test_importing_the_sampler_starts_neither_vllm_nor_ray():
    heavy = "('vllm', 'ray', 'torch')"
    code = f"import sys, rollouts.sampler; print([m for m in {heavy} if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
