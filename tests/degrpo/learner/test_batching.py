"""Batches and the distribution, against one plain forward per response."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from degrpo.learner.batching import (
    ResponseRow,
    group_batches,
    micro_batches,
    pack_groups,
    pad_rows,
)
from degrpo.learner.distribution import ResponseDistribution

BANNED, TEMPERATURE = (0, 2, 36), 0.7


def oracle(model, row: ResponseRow) -> torch.Tensor:
    """log pi of one response from the model's own logits, bans by renormalising what is left."""
    embeds = model.get_input_embeddings()(torch.from_numpy(row.prompt.token_ids)).detach().clone()
    for n, place in enumerate(np.flatnonzero(row.prompt.visual_mask)):
        embeds[place] = torch.tensor(row.prompt.visual_rows[n]).double()
    answer = model.get_input_embeddings()(torch.tensor(row.token_ids))
    with torch.no_grad():
        logits = model(inputs_embeds=torch.cat([embeds, answer])[None]).logits[0]
    odds = (logits / TEMPERATURE).exp()
    odds[:, list(BANNED)] = 0
    start = len(row.prompt)
    return torch.stack(
        [
            (odds[start - 1 + t, token] / odds[start - 1 + t].sum()).log()
            for t, token in enumerate(row.token_ids)
        ]
    )


@pytest.fixture
def groups(make_prompt):
    prompts = [make_prompt(7, visual=3, seed=1), make_prompt(11, visual=4, seed=2)]
    answers = [[(5, 6, 7, 1), (9,), (30, 31)], [(8, 1), (22, 14, 9, 7, 1), (22,)]]
    return [
        [
            ResponseRow(group=g, member=k, prompt=prompts[g], token_ids=a)
            for k, a in enumerate(answers[g])
        ]
        for g in range(2)
    ]


@pytest.fixture
def model(make_model):
    return make_model().get_base_model()


def test_padded_rows_have_the_log_probs_of_each_alone(model, groups):
    rows = [groups[1][1], groups[0][1], groups[0][0], groups[1][2]]
    distribution = ResponseDistribution(model, BANNED, TEMPERATURE)
    batch = pad_rows(rows, model.get_input_embeddings())
    log_probs = distribution.log_probs(distribution.hidden_states(batch), batch)
    for row, values in zip(rows, log_probs.split(batch.lengths), strict=True):
        torch.testing.assert_close(values, oracle(model, row), rtol=1e-9, atol=1e-9)


def test_responses_that_share_a_prompt_do_not_see_each_other(model, groups):
    distribution = ResponseDistribution(model, BANNED, TEMPERATURE)
    batch = pack_groups(groups, model.get_input_embeddings())
    assert batch.inputs_embeds.shape[:2] == (2, 11 + 1 + 4)  # a prompt, and all but the last tokens
    log_probs = distribution.log_probs(distribution.hidden_states(batch), batch)
    rows = [row for group in groups for row in group]
    for row, values in zip(rows, log_probs.split(batch.lengths), strict=True):
        torch.testing.assert_close(values, oracle(model, row), rtol=1e-9, atol=1e-9)


def test_prompt_ends_are_the_last_prompt_positions(model, groups):
    batch = pad_rows([groups[0][0], groups[1][0]], model.get_input_embeddings())
    assert batch.prompt_ends.tolist() == [6, 10]
    packed = pack_groups(groups, model.get_input_embeddings())
    assert packed.prompt_ends.tolist() == [6, 10]


def test_a_banned_token_has_no_probability(model, make_prompt):
    row = ResponseRow(group=0, member=0, prompt=make_prompt(5), token_ids=(36,))
    distribution = ResponseDistribution(model, BANNED, TEMPERATURE)
    batch = pad_rows([row], model.get_input_embeddings())
    assert distribution.log_probs(distribution.hidden_states(batch), batch).item() == -np.inf


def test_micro_batches_keep_the_budget_and_lose_nothing(groups):
    rows = [row for group in groups for row in group]  # lengths 10, 7, 8, 12, 15, 11
    batches = micro_batches(groups, 24)
    assert [[len(row) for row in batch] for batch in batches] == [[15], [12, 11], [10, 8], [7]]
    assert sorted(map(id, (row for batch in batches for row in batch))) == sorted(map(id, rows))


def test_groups_follow_one_another_whatever_their_responses_lengths(make_prompt):
    lengths = {0: (12, 11), 1: (7, 15)}  # of the sequences; sorted by length they would interleave
    groups = [
        [
            ResponseRow(group=g, member=k, prompt=make_prompt(5), token_ids=(9,) * (length - 4))
            for k, length in enumerate(lengths[g])
        ]
        for g in lengths
    ]
    batches = micro_batches(groups, 30)
    found = [[(row.group, len(row)) for row in batch] for batch in batches]
    assert found == [[(1, 15), (1, 7)], [(0, 12), (0, 11)]]
    # The longest of a batch need not come first in it: 7 and 12 make 24, not 14.
    found = [[(row.group, len(row)) for row in batch] for batch in micro_batches(groups, 24)]
    assert found == [[(1, 15)], [(1, 7), (0, 12)], [(0, 11)]]


def test_a_sequence_over_the_budget_still_gets_a_batch(groups):
    assert [len(batch) for batch in micro_batches(groups[:1], 2)] == [1, 1, 1]
    assert [len(batch) for batch in group_batches(groups, 32)] == [2]  # 16 and 11, padded to 16
    assert [len(batch) for batch in group_batches(groups, 31)] == [1, 1]
