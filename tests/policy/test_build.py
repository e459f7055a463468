"""The embedded default: real encoders, real words, a real language model."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from common.errors import ConfigError
from policy.build import build_policy
from policy.config import PolicyConfig
from policy.feature_cache import FeatureCache
from policy.features import FeatureExtractor
from policy.processing import Example
from policy.prompts import encode_prompt


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, policy, policy.config, policy.mixed_prompt;"
        "print(sorted({'torch', 'transformers', 'cv2', 'ray', 'vllm'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"qformer": "bert"}, "qformer=bert"),
        ({"qformer": "minilm", "qformer_layers": 7}, "qformer_layers=7"),
        ({"low_level": "visual"}, "low_level=visual"),
        ({"general_encoder": "resnet"}, "resnet"),
    ],
)
def test_a_recipe_that_cannot_be_built_is_refused(tiny_config, changes, named):
    with pytest.raises(ConfigError, match=named):
        build_policy(tiny_config(**changes))


@pytest.fixture(scope="module")
def embedded():
    return build_policy(PolicyConfig())


@pytest.mark.slow
def test_the_language_model_knows_what_comes_next(embedded):
    """Loaded right, SmolLM2 continues a known sentence; wrongly permuted heads would not."""
    model, processor = embedded
    ids = torch.tensor([processor.tokenizer("The capital of France is").input_ids])
    with torch.no_grad():
        best = model.language_model(input_ids=ids).logits[0, -1].argmax()
    assert processor.tokenizer.decode(best).strip() == "Paris"


@pytest.mark.slow
def test_real_clips_give_different_rows_at_the_scale_of_words(embedded, real_clip, tmp_path):
    model, processor = embedded
    extractor = FeatureExtractor(model, processor, FeatureCache(tmp_path))
    prompts = [
        encode_prompt(
            *embedded,
            sample_id=name,
            video=real_clip(name),
            question="What emotion does this person show?",
            extractor=extractor,
        )
        for name in ("single_face.mp4", "WolfgangLanger_Pexels.mp4")
    ]
    first, second = (torch.from_numpy(prompt.visual_rows) for prompt in prompts)
    words = model.get_input_embeddings().weight.std()
    assert first.shape == (8, 576)
    assert first.std().item() == pytest.approx(words.item(), rel=0.05)
    assert (first - second).std() > 0.3 * words  # the clip shows before any training
    assert len(prompts[0]) == 26


@pytest.mark.slow
def test_ten_steps_tell_two_faces_apart(real_clip, tmp_path):
    """The visual path trains at once: no level drowns the clip in what all clips share.

    A random language model, so that nothing but the rows can carry the answer.
    """
    model, processor = build_policy(PolicyConfig(language_model="tiny"))
    extractor = FeatureExtractor(model, processor, FeatureCache(tmp_path))
    question = "What emotion does this person show?"
    truth = {"single_face.mp4": "happy", "WolfgangLanger_Pexels.mp4": "sad"}
    examples = [
        Example(video="", question=question, answer=word, clip=extractor(real_clip(name)))
        for name, word in truth.items()
    ]
    batch = processor.collate(examples)
    happy, sad = (processor.answer_tokens(word)[0] for word in truth.values())
    model.requires_grad_(False)
    trained = ("low_level", "middle_level", "high_level", "projector")
    parameters = [parameter for part in trained for parameter in model.part_parameters(part)]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    for _ in range(11):
        optimizer.zero_grad()
        output = model(**batch)
        output.loss.backward()
        optimizer.step()
    first = int((batch["labels"][0] != -100).nonzero()[0])  # of the answer; both prompts are equal
    margin = output.logits[:, first - 1, happy] - output.logits[:, first - 1, sad]
    assert margin[0] > 2.0
    assert margin[1] < -2.0
