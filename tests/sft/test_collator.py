"""Labels cover the answers and their end tokens, and nothing else."""

from __future__ import annotations

import pytest
import torch

from policy.features import FeatureExtractor
from sft.collator import AnswerCollator
from sft.data import rows
from sft.stages import trainable


@pytest.fixture(scope="module")
def policy(tiny):
    from policy.build import build_policy

    return build_policy(tiny)


@pytest.fixture
def make_batch(policy, samples):
    model, processor = policy

    def make(*sample_ids):
        collate = AnswerCollator(samples, processor, FeatureExtractor(model, processor))
        by_id = {row["sample_id"]: row for row in rows(samples)}
        return collate([by_id[sample_id] for sample_id in sample_ids])

    return make


def test_every_label_is_a_token_of_the_answer_or_its_end(policy, samples, make_batch):
    tokenizer = policy[1].tokenizer
    by_id = {sample.sample_id: sample for sample in samples}
    batch = make_batch("summary-red", "qa-green", "emotion_qa-red")
    assert batch["sample_ids"] == ["summary-red", "qa-green", "emotion_qa-red"]
    for row, sample_id in enumerate(batch["sample_ids"]):
        sample = by_id[sample_id]
        # The tokenizer's own reading of the whole conversation, built here by hand.
        prompt = (
            "<|im_start|>user\n<|vision_start|><|video_pad|><|video_pad|><|vision_end|>"
            f"{sample.question}<|im_end|>\n<|im_start|>assistant\n"
        )
        before = tokenizer(prompt, add_special_tokens=False).input_ids
        answer = tokenizer(f"{sample.answer}<|im_end|>", add_special_tokens=False).input_ids
        length = len(before) + len(answer)
        ids, labels = batch["input_ids"][row].tolist(), batch["labels"][row].tolist()
        assert ids[:length] == before + answer
        assert labels == [-100] * len(before) + answer + [-100] * (len(labels) - length)
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (len(ids) - length)


def test_a_stream_comes_as_features_when_its_encoder_is_frozen_and_as_pixels_when_not(
    policy, make_batch, sft
):
    with trainable(policy[0], sft.stage_1):  # trains the facial encoder, not the general one
        batch = make_batch("qa-red", "qa-green")
    assert "general_features" in batch
    assert "general_pixels" not in batch
    assert "facial_pixels" in batch
    assert "facial_features" not in batch


def test_each_row_gets_the_clip_it_names(policy, videos, samples, sft):
    model, processor = policy
    with trainable(model, sft.stage_1):
        extract = FeatureExtractor(model, processor)
        batch = AnswerCollator(samples, processor, extract)(
            [
                {"sample_id": "qa-red", "video": videos["blue"]},
                {"sample_id": "qa-red", "video": videos["green"]},
            ]
        )
        blue, green = (extract(videos[name]).facial_pixels for name in ("blue", "green"))
    assert not torch.equal(blue, green)
    assert torch.equal(batch["facial_pixels"], torch.stack([blue, green]))
