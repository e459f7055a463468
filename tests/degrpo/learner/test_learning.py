"""Twenty updates raise the reward of a toy task, sampled here by the model's own forward."""

from __future__ import annotations

import numpy as np
import torch

from degrpo.config import TrainConfig
from degrpo.learner.learner import Learner
from degrpo.types import TrainGroup
from policy.mixed_prompt import MixedPrompt
from rollouts.types import Response, StopReason

GROUP, TOKENS = 8, 2


@torch.no_grad()
def sample(learner: Learner, prompt: MixedPrompt, generator: torch.Generator) -> list[Response]:
    """Ancestral sampling of ``GROUP`` responses with the model's own logits."""
    table = learner.language_model.get_input_embeddings()
    embeds = table(torch.from_numpy(prompt.token_ids)).clone()
    embeds[torch.from_numpy(prompt.visual_mask)] = torch.tensor(prompt.visual_rows)
    sequence = embeds.repeat(GROUP, 1, 1)
    tokens, log_probs = [], []
    for _ in range(TOKENS):
        logits = learner.language_model(inputs_embeds=sequence, logits_to_keep=1).logits[:, 0]
        logits[:, list(learner._processor.banned_token_ids)] = -torch.inf
        log_odds = logits.log_softmax(-1)
        drawn = torch.multinomial(log_odds.exp(), 1, generator=generator)
        tokens.append(drawn)
        log_probs.append(log_odds.gather(1, drawn))
        sequence = torch.cat([sequence, table(drawn)], dim=1)
    return [
        Response(
            text="",
            token_ids=tuple(row),
            log_probs=tuple(values),
            stop_reason=StopReason.LENGTH,
            policy_version=learner.policy_version,
        )
        for row, values in zip(
            torch.cat(tokens, 1).tolist(), torch.cat(log_probs, 1).tolist(), strict=True
        )
    ]


def test_mean_reward_rises(tiny_folder):
    config = TrainConfig(seed=0)
    config.rollouts.group_size = GROUP
    config.rollouts.max_response_tokens = TOKENS
    config.learner.lr = 2e-2
    learner = Learner(config, tiny_folder)
    # A quarter of the vocabulary is rewarded: the tokens that lie furthest along one direction.
    along = learner.language_model.get_input_embeddings().weight[:, 0].detach()
    rewarded = along > along.quantile(0.75)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    prompts = []
    for n in range(4):
        mask = np.zeros(12, dtype=bool)
        mask[2:6] = True
        prompts.append(
            MixedPrompt(
                sample_id=str(n),
                token_ids=rng.integers(100, 40000, 12),
                visual_mask=mask,
                visual_rows=rng.normal(0, 0.2, (4, 64)).astype(np.float32),
            )
        )
    history = []
    for _ in range(20):
        groups = []
        for prompt in prompts:
            responses = sample(learner, prompt, generator)
            groups.append(
                TrainGroup(
                    sample_id=prompt.sample_id,
                    prompt=prompt,
                    responses=tuple(responses),
                    rewards=tuple(
                        rewarded[list(r.token_ids)].float().mean().item() for r in responses
                    ),
                )
            )
        result = learner.update(groups)
        history.append(result.metrics["reward/mean"])
        assert result.metrics["rollout/log_prob_diff/max"] < 1e-3
        assert not result.failed
    print("mean reward per update", np.round(history, 2))
    assert np.mean(history[-4:]) > np.mean(history[:4]) + 0.2
