"""The record that goes to sampler and learner, and answers to a person."""

from __future__ import annotations

import pytest
import torch

from common.errors import NoFaceError, VideoError
from policy.feature_cache import FeatureCache
from policy.features import FeatureExtractor
from policy.processing import Example
from policy.prompts import answer, encode_prompt

QUESTION = "What emotion does this person show?"


@pytest.fixture
def extractor(tiny, tmp_path):
    return FeatureExtractor(*tiny, FeatureCache(tmp_path))


def test_a_mixed_prompt_gives_the_models_own_logits(tiny, extractor, real_clip):
    model, processor = tiny
    path = real_clip("single_face.mp4")
    prompt = encode_prompt(
        model, processor, sample_id="s", video=path, question=QUESTION, extractor=extractor
    )
    table = model.language_model.get_input_embeddings().weight.detach()
    embeddings = table[torch.from_numpy(prompt.token_ids)].clone()
    embeddings[torch.from_numpy(prompt.visual_mask)] = torch.from_numpy(prompt.visual_rows)
    batch = processor.collate([Example(video=str(path), question=QUESTION)])
    with torch.no_grad():
        got = model.language_model(inputs_embeds=embeddings[None]).logits
        expected = model(**batch).logits
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert prompt.sample_id == "s"
    assert prompt.token_ids[prompt.visual_mask].tolist() == [processor.video_token_id] * 4


def test_prompts_are_encoded_without_dropout(own_tiny, tmp_path, real_clip):
    model, processor = own_tiny
    extractor = FeatureExtractor(model, processor, FeatureCache(tmp_path))

    def encode():
        return encode_prompt(
            model,
            processor,
            sample_id="s",
            video=real_clip("single_face.mp4"),
            question=QUESTION,
            extractor=extractor,
        ).visual_rows

    expected = encode()
    model.train()
    assert (encode() == expected).all()
    assert model.training


def test_bad_clips_are_sample_errors(tiny, extractor, real_clip, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    for path, error in ((broken, VideoError), (real_clip("no_face.mp4"), NoFaceError)):
        with pytest.raises(error):
            encode_prompt(*tiny, sample_id="s", video=path, question="?", extractor=extractor)


def test_an_answer_is_the_greedy_continuation(tiny, extractor, real_clip):
    model, processor = tiny
    path = real_clip("single_face.mp4")
    reply = answer(*tiny, video=path, question=QUESTION, max_new_tokens=6, extractor=extractor)
    batch = processor.collate([Example(video=str(path), question=QUESTION)])
    tokens = model.generate(**batch, max_new_tokens=6)[0, batch["input_ids"].shape[1] :]
    assert reply.text == processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert sum(reply.stream_weights) == pytest.approx(1.0)
    assert reply.face_found


def test_an_answer_about_a_clip_without_a_face_says_so(tiny, extractor, real_clip):
    path = real_clip("no_face.mp4")
    reply = answer(*tiny, video=path, question="?", max_new_tokens=2, extractor=extractor)
    assert not reply.face_found
