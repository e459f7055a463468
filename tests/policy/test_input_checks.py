"""What the policy refuses, and that it says what came, what must hold and what to do."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from common.errors import ConfigError, FaVChatError, PolicyInputError
from policy.config import PolicyConfig
from policy.modeling import FaVChatForConditionalGeneration
from tests.policy.small_policies import (
    NUM_FRAMES,
    PAPER,
    VIDEO_TOKEN,
    small_clips,
    small_config,
    small_policy,
    small_prompts,
)


@pytest.fixture(scope="module")
def model():
    return small_policy()


@pytest.fixture
def batch(model):
    return {**small_clips(model.config), **small_prompts(model.config)}


def refused(model, batch: dict, *named: str, error: type[FaVChatError] = PolicyInputError) -> None:
    with pytest.raises(error) as caught:
        model(**batch)
    for text in named:
        assert text in str(caught.value)
    assert all((caught.value.received, caught.value.rule, caught.value.fix))


def test_a_prompt_without_media_token(model, batch):
    words = batch["input_ids"].masked_fill(batch["input_ids"] == VIDEO_TOKEN, 5)
    refused(model, {**batch, "input_ids": words}, "[0, 0] media placeholders", "3 visual rows")


def test_a_prompt_without_its_clip(model, batch):
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    refused(model, text, "[3, 3] media placeholders", "no clip came")


def test_a_prompt_with_one_placeholder_too_many(model, batch):
    ids = batch["input_ids"].clone()
    ids[1, 0] = VIDEO_TOKEN
    refused(model, {**batch, "input_ids": ids}, "[3, 4] media placeholders")


def test_two_clips_for_one_prompt(model, batch):
    one = {name: batch[name][:1] for name in ("input_ids", "attention_mask")}
    refused(model, {**batch, **one}, "2 clips for 1 prompts")


def test_rows_of_two_clips_for_one_placeholder_run(model, batch):
    with torch.no_grad():
        rows = model.visual_prefix(**small_clips(model.config)).rows
    text = {name: batch[name][:1] for name in ("input_ids", "attention_mask")}
    both = rows.flatten(0, 1)[None]
    refused(model, {**text, "visual_rows": both}, "[3] media placeholders", "6 visual rows")


@pytest.mark.parametrize("shape", [(2, 3, 31), (2, 3, 64), (6, 32)])
def test_visual_rows_of_another_width(model, batch, shape):
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    refused(model, {**text, "visual_rows": torch.zeros(shape)}, str(list(shape)), "32]")


@pytest.mark.parametrize("stream", ["general", "facial"])
@pytest.mark.parametrize(
    "shape",
    [
        (2, NUM_FRAMES, 1, 32, 32),  # grey
        (2, 3, NUM_FRAMES, 32, 32),  # channels before frames
        (2 * NUM_FRAMES, 3, 32, 32),  # frames as a batch
        (3, NUM_FRAMES, 3, 32, 32),  # a clip too many
        (2, 0, 3, 32, 32),  # no frame
    ],
)
def test_misshapen_pixels(model, batch, stream, shape):
    name = f"{stream}_pixels"
    refused(model, {**batch, name: torch.zeros(shape)}, name, str(list(shape)), "[2, frames, 3")


def test_misshapen_features(model, batch):
    with torch.no_grad():
        general = model.encode_frames("general", batch.pop("general_pixels"))[-1]
        facial = model.encode_frames("facial", batch.pop("facial_pixels"))
    whole = {**batch, "general_features": general, "facial_features": facial}
    with torch.no_grad():
        model(**whole)
    refused(model, {**whole, "general_features": general[0]}, "general_features", "16 channels")
    refused(model, {**whole, "general_features": general[:, :, :8]}, "general_features")
    refused(model, {**whole, "facial_features": facial[:3]}, "4 maps", "4, 8, 8, 16 channels")
    refused(model, {**whole, "facial_features": facial[::-1]}, "facial_features")
    refused(model, {**whole, "facial_features": facial[-1]}, "facial_features")
    refused(model, {**whole, "facial_features": (*facial[:3], facial[3][:, :2])}, "facial_features")


def test_streams_that_see_different_frames(model, batch):
    shorter = batch["facial_pixels"][:, :-1]
    refused(model, {**batch, "facial_pixels": shorter}, "4 frames", "3 frames", "same frames")


def test_frame_masks(model, batch):
    mask = batch["frame_mask"].clone()
    mask[1] = False
    refused(model, {**batch, "frame_mask": mask}, "clips 1 of the batch", "one frame or more")
    refused(model, {**batch, "frame_mask": mask[:, :-1]}, "frame_mask [2, 3]", "[2, 4]")


@pytest.mark.parametrize("row", [[0, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 1]])
@pytest.mark.parametrize("joint", [False, True])
def test_padded_frames_come_last(row, joint):
    model = small_policy(**(PAPER if joint else {}))
    batch = {**small_clips(model.config), **small_prompts(model.config)}
    batch["frame_mask"][1] = torch.tensor(row, dtype=torch.bool)
    refused(model, batch, "frames of clips 1 of the batch", "come last")
    with pytest.raises(PolicyInputError, match="clips 1 of the batch"):
        model.encode_frames("general", batch["general_pixels"], batch["frame_mask"])


@pytest.mark.parametrize("row", [[0, 0, 1, 1, 1, 1], [1, 1, 0, 1, 1, 1]])
def test_padded_words_come_last(model, batch, row):
    """The Q-Formers count positions from the first token: elsewhere padding would change rows."""
    batch["query_mask"][0] = torch.tensor(row)
    refused(model, batch, "tokens of questions 0", "padding comes last")


def test_a_clip_that_is_nothing_but_padding_reaches_no_joint_time_encoder():
    model = small_policy(**PAPER)
    clips = small_clips(model.config)
    clips["frame_mask"][0] = False
    with pytest.raises(PolicyInputError, match="clips 0 of the batch"):
        model.encode_frames("general", clips["general_pixels"], clips["frame_mask"])


def test_missing_inputs(model, batch):
    for missing in ("general_pixels", "facial_pixels", "input_ids", "query_ids", "query_mask"):
        rest = {name: value for name, value in batch.items() if name != missing}
        refused(model, rest, f"without {missing}")


def test_questions(model, batch):
    long = torch.ones(2, 17, dtype=torch.long)
    refused(model, {**batch, "query_ids": long, "query_mask": long}, "17 tokens", "16 positions")
    refused(model, {**batch, "query_mask": batch["query_mask"][:, 1:]}, "query_mask [2, 5]")
    nothing = batch["query_ids"][:, :0]
    refused(model, {**batch, "query_ids": nothing, "query_mask": nothing}, "query_ids [2, 0]")


@pytest.mark.parametrize("token", [-1, 50, 96])
def test_words_of_another_tokenizer(model, batch, token):
    batch["query_ids"][1, 2] = token
    refused(model, batch, str(token), "words 0 to 49")


def test_frames_to_encode(model, batch):
    pixels = batch["general_pixels"]
    with pytest.raises(PolicyInputError, match=r"\[4, 3, 32, 32\].*\[clips, frames, 3, height"):
        model.encode_frames("general", pixels[0])
    with pytest.raises(PolicyInputError, match=r"'gneral'.*general and facial"):
        model.encode_frames("gneral", pixels)
    alone = small_policy(facial_source="general")
    with pytest.raises(PolicyInputError, match="this policy has general;"):
        alone.encode_frames("facial", pixels)


def test_a_clip_in_two_forms(model, batch):
    clips, text = small_clips(model.config), small_prompts(model.config)
    with torch.no_grad():
        rows = model.visual_prefix(**clips).rows
        words = model.embed_prompt(text["input_ids"], rows)
        general = model.encode_frames("general", clips["general_pixels"])[-1]
    both = "general_pixels, facial_pixels"
    refused(model, {**batch, "visual_rows": rows}, f"visual_rows beside {both}")
    refused(model, {**batch, "inputs_embeds": words}, f"inputs_embeds beside {both}")
    encoded = {"visual_rows": rows, "inputs_embeds": words}
    refused(model, {**text, **encoded}, "visual_rows beside inputs_embeds")
    features = {"general_features": general}
    refused(model, {**batch, **features}, "general_pixels beside general_features")
    with pytest.raises(PolicyInputError, match=f"visual_rows beside {both}"):
        model.generate(**batch, visual_rows=rows)
    with pytest.raises(PolicyInputError, match="inputs_embeds beside input_ids"):
        model.generate(**text, inputs_embeds=words)
    with torch.no_grad():  # the question is no clip
        model(**text, visual_rows=rows, query_ids=clips["query_ids"])


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("general_pixel", "general_pixels"), ("frames_mask", "frame_mask"), ("qury_ids", "query_ids")],
)
def test_a_misspelt_input_does_not_vanish(model, batch, wrong, right):
    batch[wrong] = batch.pop(right)
    refused(model, batch, f"the input {wrong}", f"call it {right}")
    with pytest.raises(PolicyInputError, match=f"call it {right}"):
        model.generate(**batch)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_queries": 0}, r"num_queries=0.*at least 1"),
        ({"num_queries": -1}, r"num_queries=-1.*at least 1"),
        ({"shared_width": 0}, r"shared_width=0.*at least 1"),
        ({"frames_per_clip": -1}, r"frames_per_clip=-1.*not negative"),
        ({"facial_grid": -2}, r"facial_grid=-2.*not negative"),
        ({"fusion": "mean"}, r"fusion=mean.*sum, concat"),
        (
            {"low_level": "visual_query", "facial_source": "general"},
            r"low_level=visual_query, facial_source=general.*without a facial encoder",
        ),
    ],
)
def test_a_configuration_follows_the_rules_of_recipes(changes, named):
    with pytest.raises(ConfigError, match=named):
        small_config(**changes)
    with pytest.raises(ConfigError, match=rf"policy\.{named}".replace(", f", r", policy\.f")):
        PolicyConfig(**changes).check()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": 64}, "hidden_size=64"),
        ({"vocab_size": 98}, "vocab_size=98"),
    ],
)
def test_a_language_model_that_the_config_does_not_describe(changes, named):
    config = small_config()
    other = LlamaForCausalLM(LlamaConfig(**{**config.text_config.to_dict(), **changes}))
    with pytest.raises(ConfigError, match=named):
        FaVChatForConditionalGeneration(config, other)


def test_a_language_model_that_is_given_is_taken():
    config = small_config()
    given = LlamaForCausalLM(config.text_config)
    before = given.model.layers[0].mlp.up_proj.weight.clone()
    model = FaVChatForConditionalGeneration(config, given)
    assert model.language_model is given
    assert torch.equal(given.model.layers[0].mlp.up_proj.weight, before)


def test_a_media_token_outside_the_vocabulary():
    with pytest.raises(ConfigError, match="video_token_id=97"):
        FaVChatForConditionalGeneration(small_config(video_token_id=97))
