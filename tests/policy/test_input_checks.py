"""What the policy refuses, and that it says what came, what must hold and what to do."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from common.errors import ConfigError, FaVChatError, PolicyInputError
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


def test_a_clip_that_is_nothing_but_padding_reaches_no_joint_time_encoder():
    model = small_policy(**PAPER)
    clips = small_clips(model.config)
    clips["frame_mask"][0] = False
    with pytest.raises(PolicyInputError, match="clips 0 of the batch"):
        model.encode_frames("general", clips["general_pixels"], clips["frame_mask"])


def test_missing_inputs(model, batch):
    for missing in ("general_pixels", "facial_pixels", "input_ids"):
        rest = {name: value for name, value in batch.items() if name != missing}
        refused(model, rest, f"without {missing}")


def test_questions(model, batch):
    long = torch.ones(2, 17, dtype=torch.long)
    refused(model, {**batch, "query_ids": long, "query_mask": long}, "17 tokens", "16 positions")
    refused(model, {**batch, "query_mask": batch["query_mask"][:, 1:]}, "query_mask [2, 5]")


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
