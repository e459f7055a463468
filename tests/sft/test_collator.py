"""Labels cover the answers and their end tokens, and nothing else."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from policy.features import FeatureExtractor
from sft.collator import AnswerCollator
from sft.data import rows
from sft.stages import trainable
from tests.sft.conftest import write_video


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
                {"sample_id": "qa-red", "video": videos["blue"], "earlier": []},
                {"sample_id": "qa-red", "video": videos["green"], "earlier": []},
            ]
        )
        blue, green = (extract(videos[name]).facial_pixels for name in ("blue", "green"))
    assert not torch.equal(blue, green)
    assert torch.equal(batch["facial_pixels"], torch.stack([blue, green]))


def test_a_conversation_has_labels_on_each_of_its_answers(policy, samples):
    """The chat written out by hand; later questions come without the clip."""
    model, processor = policy
    asked = [sample for sample in samples if sample.video == samples[1].video]
    assert len(asked) == 3
    (row,) = rows(asked, turns=3)
    collate = AnswerCollator(samples, processor, FeatureExtractor(model, processor))
    batch = collate([row])
    ids, labels = [], []
    for number, sample in enumerate(asked):
        clip = "<|vision_start|><|video_pad|><|video_pad|><|vision_end|>" if number == 0 else ""
        before = "\n" if number else ""
        prompt = processor.tokenizer(
            f"{before}<|im_start|>user\n{clip}{sample.question}<|im_end|>\n<|im_start|>assistant\n",
            add_special_tokens=False,
        ).input_ids
        answer = processor.tokenizer(
            f"{sample.answer}<|im_end|>", add_special_tokens=False
        ).input_ids
        ids += prompt + answer
        labels += [-100] * len(prompt) + answer
    assert batch["input_ids"][0].tolist() == ids
    assert batch["labels"][0].tolist() == labels
    assert batch["sample_ids"] == ["summary-red+qa-red+emotion_qa-red"]
    assert collate.num_tokens(row) == len(ids)
    # The clip is seen in the light of the first question.
    query = batch["query_ids"][0][batch["query_mask"][0].bool()].tolist()
    assert query == processor.query_tokens(asked[0].question)


def test_samples_of_a_batch_do_not_see_each_other(tiny, samples, videos, faces, tmp_path):
    """Clips of two and four frames, texts of any length: each loses what it loses alone."""
    from policy.build import build_policy
    from sft.trainer import score_answers

    dynamic = dataclasses.replace(tiny, sampling="fps", fps=4.0, num_frames=4)
    model, processor = build_policy(dynamic)
    model.eval()
    short = write_video(tmp_path / "short.mp4", faces[:2], (1.0, 1.0, 1.0))
    extract = FeatureExtractor(model, processor)
    assert [extract(video).num_frames for video in (videos["red"], short)] == [4, 2]
    collate = AnswerCollator(samples, processor, extract)
    chosen = [
        {**row, "video": short if n % 2 else row["video"]} for n, row in enumerate(rows(samples))
    ]

    def losses(chosen):
        batch = collate(chosen)
        del batch["sample_ids"]
        with torch.no_grad():
            scores = score_answers(model, batch)
        return [scores.losses[scores.rows == place].sum().item() for place in range(len(chosen))]

    together = losses(chosen)
    assert together == pytest.approx([losses([row])[0] for row in chosen], rel=1e-5)
    assert len({round(loss, 3) for loss in together}) == len(together)
