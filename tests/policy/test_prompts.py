"""The record that goes to sampler and learner, and answers to a person."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from common.errors import NoFaceError, PromptError, VideoError
from policy.feature_cache import FeatureCache
from policy.features import FeatureExtractor
from policy.mixed_prompt import MixedPrompt
from policy.processing import Example
from policy.prompts import PromptRequest, answer, encode_prompts

QUESTION = "What emotion does this person show?"


@pytest.fixture
def extractor(tiny, tmp_path):
    return FeatureExtractor(*tiny, FeatureCache(tmp_path))


def request(sample_id: str, video, question: str = QUESTION) -> PromptRequest:
    return PromptRequest(sample_id=sample_id, video=video, question=question)


def test_a_mixed_prompt_gives_the_models_own_logits(tiny, extractor, real_clip):
    model, processor = tiny
    path = real_clip("single_face.mp4")
    (prompt,) = encode_prompts(model, processor, [request("s", path)], extractor)
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


def test_many_prompts_are_each_ones_own(tiny, extractor, real_clip, tmp_path):
    """Order, names, texts, flags and errors stay with their requests; one call or several."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    requests = [
        request("a", real_clip("single_face.mp4")),
        request("b", broken),
        request("c", real_clip("no_face.mp4"), "Is anybody there, and what do they feel?"),
        request("d", real_clip("single_face.mp4"), "  "),
        request("e", real_clip("WolfgangLanger_Pexels.mp4"), "Sad?"),
        request("f", tmp_path / "missing.mp4"),
        request("g", real_clip("single_face.mp4"), "half a \ud83d"),
        request("h", "a\0b.mp4"),
    ]
    results = encode_prompts(*tiny, requests, extractor, batch_size=4)
    kinds = [type(result) for result in results]
    assert kinds[:4] == [MixedPrompt, VideoError, MixedPrompt, PromptError]
    assert kinds[4:] == [MixedPrompt, VideoError, PromptError, VideoError]
    assert [results[i].sample_id for i in (0, 2, 4)] == ["a", "c", "e"]
    assert [results[i].flags for i in (0, 2, 4)] == [(), ("no_face",), ()]
    off = FeatureExtractor(*tiny, FeatureCache(tmp_path, max_bytes=0))
    for index in (0, 2, 4):
        (alone,) = encode_prompts(*tiny, [requests[index]], off)
        assert np.array_equal(alone.token_ids, results[index].token_ids)
        assert np.array_equal(alone.visual_mask, results[index].visual_mask)
        np.testing.assert_allclose(alone.visual_rows, results[index].visual_rows, atol=1e-6)
    assert encode_prompts(*tiny, [], extractor) == []


def test_a_prompt_travels_between_processes(tiny, extractor, real_clip):
    (prompt,) = encode_prompts(*tiny, [request("a", real_clip("no_face.mp4"))], extractor)
    back = pickle.loads(pickle.dumps(prompt))
    assert back.flags == ("no_face",)
    assert back.visual_rows.dtype == np.float32
    for name in ("token_ids", "visual_mask", "visual_rows"):
        assert type(getattr(prompt, name)) is np.ndarray
        assert np.array_equal(getattr(back, name), getattr(prompt, name))


def test_a_prompt_without_flags_has_none():
    ids, mask = np.arange(3), np.array([False, True, False])
    prompt = MixedPrompt(
        sample_id="a", token_ids=ids, visual_mask=mask, visual_rows=np.zeros((1, 2), np.float32)
    )
    assert prompt.flags == ()


def test_bad_clips_are_sample_errors(tiny, extractor, real_clip, tmp_path, monkeypatch):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    monkeypatch.setattr(tiny[1], "face_required", True)
    for path, error in ((broken, VideoError), (real_clip("no_face.mp4"), NoFaceError)):
        (found,) = encode_prompts(*tiny, [request("s", path)], extractor)
        assert type(found) is error
        assert path.name in str(found)


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
    with pytest.raises(NoFaceError):
        answer(*tiny, video=path, question="?", face_required=True, extractor=extractor)
