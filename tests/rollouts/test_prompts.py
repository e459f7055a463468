"""What a mixed prompt must be, and the form in which vLLM gets it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from policy.mixed_prompt import MixedPrompt
from rollouts.prompts import engine_prompt, prompt_problem

LIMITS = {"max_prompt": 4, "hidden_size": 2, "vocab_size": 10}


def _prompt(ids=(5, 99, 99, 9), mask=(False, True, True, False), rows=((1.0, 2.0), (3.0, 4.0))):
    return MixedPrompt(
        sample_id="s",
        token_ids=np.array(ids),
        visual_mask=np.array(mask),
        visual_rows=np.array(rows, dtype=np.float32),
    )


def test_a_placeholder_outside_the_vocabulary_is_no_problem():
    assert prompt_problem(_prompt(), **LIMITS) is None


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        (
            _prompt(ids=(5, 99, 99, 9, 9), mask=(False, True, True, False, False)),
            "5 tokens; 1 to 4",
        ),
        (_prompt(rows=((1.0,), (2.0,))), "width 1; the language model's width is 2"),
        (_prompt(rows=((1.0, np.nan), (3.0, 4.0))), "not finite"),
        (_prompt(ids=(5, 99, 99, 10)), "from 5 to 10; the vocabulary has 10"),
        (_prompt(ids=(-1, 99, 99, 9)), "from -1 to 9"),
    ],
)
def test_what_is_refused(prompt, says):
    assert says in prompt_problem(prompt, **LIMITS)


def test_engine_prompt_by_hand():
    built = engine_prompt(_prompt(), "float32", filler_id=2)
    assert built["prompt_token_ids"] == [5, 2, 2, 9]
    assert built["prompt_is_token_ids"] == [True, False, False, True]
    expected = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0], [0.0, 0.0]])
    torch.testing.assert_close(built["prompt_embeds"], expected)
