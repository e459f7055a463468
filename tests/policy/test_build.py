"""The embedded default: real encoders, real words, a real language model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import CheckpointError, ConfigError
from policy.build import build_policy, build_policy_on_meta
from policy.config import PolicyConfig, PublishedWeights
from policy.encoders import find_encoder
from policy.feature_cache import FeatureCache
from policy.features import FeatureExtractor
from policy.processing import Example
from policy.prompts import PromptRequest, encode_prompts
from tests.policy.small_policies import PAPER
from tests.policy.test_published import SMALLER, published, save

ROOT = Path(__file__).parents[2]


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


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"general_encoder": "umt_l16"}, "umt_l16_qformer"),
        ({"facial_encoder": "facexformer_swin_b"}, "facexformer"),
        ({"qformer": "bert_base"}, "umt_l16_qformer"),
    ],
)
def test_published_weights_that_a_part_needs_are_asked_for(tiny_config, changes, kind):
    with pytest.raises(ConfigError, match=rf"policy\.published\.{kind}") as caught:
        build_policy(tiny_config(**changes))
    assert "`random`" in caught.value.fix
    name = next(iter(changes))
    assert f"policy.{name}={changes[name]}" in caught.value.received


FITTING = {  # sizes of the published general encoder and Q-Former
    "general_encoder": "umt_l16",
    "qformer": "bert_base",
    "qformer_layers": 12,
    "shared_width": 1024,
}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_queries": 97}, r"policy\.num_queries=97.*96 queries"),
        ({"qformer_layers": 11}, r"policy\.qformer_layers=11.*qformer_layers=12"),
        ({"shared_width": 512}, r"policy\.shared_width=512.*shared_width=1024"),
        ({"qformer": "minilm", "qformer_layers": 6}, r"policy\.qformer=minilm.*qformer=bert_base"),
        ({"general_encoder": "tiny"}, r"policy\.general_encoder=tiny.*general_encoder=umt_l16"),
    ],
)
def test_a_recipe_that_published_weights_do_not_fit(tiny_config, changes, named):
    """Refused before anything is built or read, and on the meta device as well."""
    recipe = tiny_config(**{**FITTING, **changes})
    with pytest.raises(ConfigError, match=named) as caught:
        build_policy_on_meta(recipe)
    assert "policy.published.umt_l16_qformer=random" in caught.value.fix
    recipe.published = PublishedWeights(umt_l16_qformer="not/there.pth")
    with pytest.raises(ConfigError, match=named):
        build_policy(recipe)
    recipe.published = PublishedWeights(umt_l16_qformer="random")
    build_policy_on_meta(recipe)


class OwnTower(find_encoder("umt_l16")):
    """One's own encoder with the published shapes."""


def test_ones_own_encoder_may_take_published_weights(tiny_config):
    own = f"{__name__}:OwnTower"
    model = build_policy_on_meta(tiny_config(**{**FITTING, "general_encoder": own}))
    assert type(model.general_encoder).__name__ == "OwnTower"


def test_without_a_facial_encoder_its_weights_are_not_asked_for(tiny_config):
    model, _ = build_policy(
        tiny_config(facial_encoder="facexformer_swin_b", facial_source="general")
    )
    assert list(model.encoders) == ["general"]


def test_published_weights_fill_the_built_policy(tiny_config, tmp_path):
    """The file that the recipe names arrives; test_published.py checks key by key."""
    weights = published("facexformer")
    recipe = tiny_config(
        facial_encoder="facexformer_swin_b",
        facial_encoder_options={"embed_dim": 128 // SMALLER},
        published=PublishedWeights(facexformer=str(save("facexformer", weights, tmp_path))),
    )
    model, _ = build_policy(recipe)
    assert torch.equal(model.facial_encoder.swin.layernorm.weight, weights["backbone.1.weight"])
    assert not any(p.requires_grad for p in model.facial_encoder.parameters())
    save("facexformer", {"backbone.1.weight": weights["backbone.1.weight"]}, tmp_path)
    with pytest.raises(CheckpointError, match="missing"):
        build_policy(recipe)


def test_the_papers_encoders_in_one_policy(tiny_config):
    either = PublishedWeights(umt_l16_qformer="random", facexformer="random")
    model, processor = build_policy(tiny_config(**PAPER, published=either))
    question = {"query_ids": torch.ones(1, 3, dtype=torch.long)}
    question["query_mask"] = question["query_ids"]
    frames = [np.full((40, 50, 3), 10 * number, dtype=np.uint8) for number in range(3)]
    with torch.no_grad():
        prefix = model.visual_prefix(
            **question,
            general_pixels=model.general_encoder.prepare(frames, model.general_encoder.options)[
                None
            ],
            facial_pixels=model.facial_encoder.prepare(frames, model.facial_encoder.options)[None],
        )
    assert torch.isfinite(prefix.rows).all()
    assert processor.num_rows == prefix.rows.shape[1]
    assert processor.general_encoder_options == model.config.general_encoder_options


def test_the_published_qformer_reads_one_word_more(tiny_config):
    recipe = tiny_config(qformer="bert_base", published=PublishedWeights(umt_l16_qformer="random"))
    model, processor = build_policy(recipe)
    assert len(processor.qformer_tokenizer) == 30523
    assert processor.qformer_tokenizer.convert_tokens_to_ids("[DEC]") == 30522
    qformer = model.middle_level.general_qformer
    assert qformer.get_input_embeddings().weight.shape == (30523, 768)
    assert processor.query_tokens("Is she happy?") == [101, 2003, 2016, 3407, 1029, 102]


def test_bfloat16_is_the_same_policy_rounded(tiny_config):
    exact, _ = build_policy(tiny_config())
    rounded, _ = build_policy(tiny_config(dtype="bfloat16"))
    ours = exact.state_dict()
    for name, tensor in rounded.state_dict().items():
        if "language_model.lm_head" in name or "embed_tokens" in name:
            continue  # rows of the media tokens are drawn around the mean of rounded ones
        assert tensor.dtype == torch.bfloat16
        if name != "projector.norm.weight":  # follows the spread of rounded words
            assert torch.equal(tensor, ours[name].bfloat16()), name
    assert rounded.config.visual_scale == pytest.approx(exact.config.visual_scale, rel=1e-3)


FIRST_VALUES = {
    "general_encoder.stages.0.0.weight": 0.17265363,
    "low_level.text.weight": 0.37024614,
    "middle_level.general_queries": 0.02383418,
    "middle_level.facial_qformer.encoder.layer.0.attention.attention.query.weight": 0.00945000,
    "projector.facial.weight": 0.006497506,
    "language_model.model.layers.0.mlp.up_proj.weight": -0.49424154,
}


def test_initial_values_of_a_seed_stay(tiny):
    """Recorded runs depend on them: parts draw in the order of the constructor, then all of ours
    once more after the language model."""
    state = tiny[0].state_dict()
    first = {name: state[name].flatten()[0].item() for name in FIRST_VALUES}
    assert first == pytest.approx(FIRST_VALUES, rel=1e-4)


def test_the_visual_scale_is_the_spread_of_words(tiny):
    model, _ = tiny
    spread = model.get_input_embeddings().weight.std().item()
    assert model.config.visual_scale == pytest.approx(spread, rel=1e-6)
    torch.testing.assert_close(
        model.projector.norm.weight, torch.full((64,), model.config.visual_scale)
    )


ON_META = """
import socket, sys


def refuse(*_):
    raise OSError("a network was asked")


socket.socket.connect = refuse
from policy.build import build_policy_on_meta
from policy.config import PolicyConfig

model = build_policy_on_meta(
    PolicyConfig(
        language_model="Qwen/Qwen2.5-7B-Instruct",
        general_encoder="umt_l16",
        facial_encoder="facexformer_swin_b",
        qformer="bert_base",
        qformer_layers=12,
        shared_width=1024,
        num_queries=96,
        dtype="bfloat16",
    )
)
assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"meta"}
assert {str(p.dtype) for p in model.parameters()} == {"torch.bfloat16"}
for name, part in model.named_children():
    print(name, sum(parameter.numel() for parameter in part.parameters()))
"""


def test_a_7b_policy_on_the_meta_device_needs_neither_weights_nor_network():
    done = subprocess.run(
        [sys.executable, "-c", ON_META], capture_output=True, text=True, check=True, cwd=ROOT
    )
    sizes = {name: int(size) for name, size in (line.split() for line in done.stdout.splitlines())}
    # the model card's 7,615,616,512: its embeddings have room for the media tokens
    assert sizes["language_model"] == 7_615_616_512
    assert sizes["facial_encoder"] == 86_743_224  # torchvision's swin_b without its classifier
    # 23 blocks of ViT-L without key biases, patches of 1×16×16, no class token, no final norm
    block = 12 * 1024**2 + (4096 + 1024) + 3 * 1024 + 4 * 1024
    assert sizes["general_encoder"] == 23 * block + (3 * 256 + 1) * 1024
    assert sizes["projector"] == 2 * (768 + 1) * 3584 + 2 * 3584


def test_shapes_on_meta_are_those_of_the_built_policy(tiny, tiny_config):
    on_meta = build_policy_on_meta(tiny_config())
    shapes = {name: tensor.shape for name, tensor in on_meta.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in tiny[0].state_dict().items()}


MEASURE_BUILDING = """
from policy.build import build_policy
from policy.config import PolicyConfig


def status(field):
    line = next(line for line in open("/proc/self/status") if line.startswith(field))
    return int(line.split()[1]) * 1024


small = {"general_encoder": "tiny", "facial_encoder": "tiny", "qformer": "tiny"}
build_policy(PolicyConfig(language_model="tiny", **small))  # pays for imports
build_policy(PolicyConfig(language_model="tiny"))
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # restarts VmHWM
model, _ = build_policy(PolicyConfig())
print(status("VmHWM") - before, sum(p.numel() * p.element_size() for p in model.parameters()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.usefixtures("embedded")  # has unpacked SmolLM2 where that was not done before
def test_peak_memory_of_building_is_at_most_1_3_times_the_weights():
    """The language model is not held twice."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE_BUILDING],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    peak, size = map(int, done.stdout.split())
    assert size / 2 < peak <= 1.3 * size


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
    question = "What emotion does this person show?"
    requests = [
        PromptRequest(sample_id=name, video=real_clip(name), question=question)
        for name in ("single_face.mp4", "WolfgangLanger_Pexels.mp4")
    ]
    prompts = encode_prompts(*embedded, requests, extractor)
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
