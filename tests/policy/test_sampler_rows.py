"""What the sampler says about our mixed prompts is what the model itself says.

Prompts go the way of a run (frozen encoders, feature cache, visual rows, vLLM's prompt embeddings),
and are compared with one forward of the whole policy from the videos' pixels.
"""

from __future__ import annotations

import functools

import pytest
import torch

from policy.build import build_policy
from policy.config import PolicyConfig
from policy.feature_cache import FeatureCache
from policy.features import FeatureExtractor
from policy.language import export_language_model
from policy.processing import Example
from policy.prompts import PromptRequest, encode_prompts
from rollouts.config import RolloutConfig
from rollouts.sampler import Sampler
from rollouts.types import RolloutRequest

pytestmark = [pytest.mark.engine, pytest.mark.slow]

TOLERANCE = 1e-3
NUM_TOKENS = 12
CONFIG = RolloutConfig(max_response_tokens=NUM_TOKENS, max_model_len=128, kv_cache_gib=0.1)
ASKED = (
    ("single_face.mp4", "What emotion does this person show?"),
    ("WolfgangLanger_Pexels.mp4", "Sad?"),
    ("no_face.mp4", "Describe the face of the person in the middle, from the brow to the chin."),
    ("single_face.mp4", "Is the mouth open? Explain."),
)


@pytest.fixture(scope="module", params=["tiny", "embedded"])
def policy(request, tiny_config, embedded):
    """``policy(fusion)``, built once and frozen; both of a recipe have one language model."""

    @functools.cache
    def build(fusion: str):
        if request.param == "embedded" and fusion == PolicyConfig().fusion:
            return embedded
        make = tiny_config if request.param == "tiny" else PolicyConfig
        model, processor = build_policy(make(fusion=fusion))
        return model.requires_grad_(False), processor

    return build


@pytest.fixture(scope="module")
def sampler(policy, tmp_path_factory):
    """One engine for each language model, on what a run exports for it."""
    model, processor = policy("sum")
    folder = export_language_model(model, processor, tmp_path_factory.mktemp("export") / "lm")
    engine = Sampler(
        folder,
        CONFIG,
        banned_token_ids=processor.banned_token_ids,
        end_token_id=processor.end_token_id,
        lora_rank=4,
        lora_target_modules=("q_proj",),
    )
    yield engine
    engine.close()


def model_log_probs(model, processor, example: Example, token_ids: list[int]) -> torch.Tensor:
    """Of each token after the prompt, over the tokens that may be said; from pixels."""
    batch = processor.collate([example])
    num_prompt = batch["input_ids"].shape[1]
    response = torch.tensor([token_ids])
    batch["input_ids"] = torch.cat([batch["input_ids"], response], dim=1)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    with torch.no_grad():
        logits = model(**batch).logits[0, num_prompt - 1 : -1]
    logits[:, list(processor.banned_token_ids)] = -torch.inf
    return logits.log_softmax(dim=-1)


@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_greedy_log_probs_are_the_models_own(sampler, policy, fusion, real_clip, tmp_path):
    model, processor = policy(fusion)
    extractor = FeatureExtractor(model, processor, FeatureCache(tmp_path))
    requests = [
        PromptRequest(sample_id=str(index), video=real_clip(clip), question=question)
        for index, (clip, question) in enumerate(ASKED)
    ]
    encode_prompts(model, processor, requests, extractor)
    prompts = encode_prompts(model, processor, requests, extractor)  # from the cache
    assert extractor.cache.rows.hits == len(requests)
    assert len({len(prompt) for prompt in prompts}) > 2
    groups = sampler.generate([RolloutRequest(prompt=prompt, greedy=True) for prompt in prompts])
    for (clip, question), group in zip(ASKED, groups, strict=True):
        (response,) = group.responses
        assert len(response.token_ids) >= 8
        example = Example(video=str(real_clip(clip)), question=question)
        expected = model_log_probs(model, processor, example, list(response.token_ids))
        chosen = expected.gather(1, torch.tensor(response.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(response.log_probs), chosen, atol=TOLERANCE, rtol=0)
        # Greedy: what was said is the likeliest, up to what rounding may turn.
        assert (expected.max(dim=1).values - chosen).max() < TOLERANCE


def test_the_rows_matter_to_what_the_sampler_says(sampler, policy, real_clip, tmp_path):
    """Rows that vLLM dropped or put elsewhere would also agree with a model that ignores them."""
    model, processor = policy("sum")
    extractor = FeatureExtractor(model, processor, FeatureCache(tmp_path))
    question = "What emotion does this person show?"
    prompts = encode_prompts(
        model,
        processor,
        [
            PromptRequest(sample_id=name, video=real_clip(name), question=question)
            for name in ("single_face.mp4", "WolfgangLanger_Pexels.mp4")
        ],
        extractor,
    )
    groups = sampler.generate([RolloutRequest(prompt=prompt, greedy=True) for prompt in prompts])
    first, second = (group.responses[0].log_probs[0] for group in groups)
    assert abs(first - second) > 10 * TOLERANCE
