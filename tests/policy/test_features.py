"""Each clip is encoded once, and again only when something it depends on changed."""

from __future__ import annotations

import pytest
import torch

from common.errors import NoFaceError
from policy.feature_cache import FeatureCache
from policy.features import FeatureExtractor
from policy.modeling import VISION_INPUTS
from policy.processing import Example


@pytest.fixture
def extractor(own_tiny, tmp_path):
    return FeatureExtractor(*own_tiny, FeatureCache(tmp_path))


def files(extractor) -> set[str]:
    return {path.name for path in extractor.cache.folder.glob("*.safetensors")}


def test_features_are_the_frozen_encoders_outputs(extractor, real_clip):
    path = real_clip("single_face.mp4")
    clip, again = extractor(path), extractor(path)
    pixels = extractor.processor.prepare_clip(path)
    with torch.no_grad():
        general = extractor.model.general_encoder.frame_maps(pixels.general_pixels)[-1]
        facial = extractor.model.facial_encoder.frame_maps(pixels.facial_pixels)
    assert clip.general_pixels is clip.facial_pixels is None
    assert torch.equal(clip.general_features, general)
    for got, hit, want in zip(clip.facial_features, again.facial_features, facial, strict=True):
        assert torch.equal(got, want)
        assert torch.equal(hit, want)


def test_a_hit_reads_no_video(extractor, real_clip, monkeypatch):
    path = real_clip("single_face.mp4")
    first = extractor(path)
    monkeypatch.setattr(extractor.processor, "prepare_clip", None)  # would raise when called
    assert torch.equal(extractor(path).general_features, first.general_features)


def test_an_encoder_in_training_gets_pixels_and_gradient(extractor, real_clip):
    model, processor = extractor.model, extractor.processor
    path = real_clip("single_face.mp4")
    for parameter in model.part_parameters("facial_encoder"):
        parameter.requires_grad_(True)
    clip = extractor(path)
    assert clip.facial_features is None
    assert torch.equal(clip.facial_pixels, processor.prepare_clip(path).facial_pixels)
    assert torch.equal(clip.facial_pixels, extractor(path).facial_pixels)
    batch = processor.collate([Example(video="", question="?", answer="Yes.", clip=clip)])
    model(**batch).loss.backward()
    assert model.facial_encoder.stages[0][0].weight.grad.abs().max() > 0
    assert model.general_encoder.stages[0][0].weight.grad is None


def test_new_weights_are_encoded_anew(extractor, real_clip):
    path = real_clip("single_face.mp4")
    before, known = extractor(path), files(extractor)
    with torch.no_grad():
        extractor.model.facial_encoder.stages[0][0].weight.mul_(2.0)
    after = extractor(path)
    assert len(files(extractor) - known) == 1  # the facial entry; the general one is still good
    assert torch.equal(after.general_features, before.general_features)
    assert (after.facial_features[0] - before.facial_features[0]).abs().max() > 0.01


def test_a_damaged_entry_is_made_again(extractor, real_clip):
    path = real_clip("single_face.mp4")
    before = extractor(path)
    for entry in extractor.cache.folder.glob("*.safetensors"):
        entry.write_bytes(b"not tensors")
    after = extractor(path)
    assert torch.equal(after.general_features, before.general_features)


def test_a_clip_without_a_face_stays_one_from_the_cache(extractor, real_clip):
    path = real_clip("no_face.mp4")
    for _ in range(2):
        with pytest.raises(NoFaceError):
            extractor(path)
        assert not extractor(path, face_required=False).face_found


def test_extracted_clips_give_what_pixels_give(extractor, real_clip):
    model, processor = extractor.model, extractor.processor
    path = real_clip("single_face.mp4")
    rows = []
    for clip in (extractor(path), processor.prepare_clip(path)):
        batch = processor.collate_vision([Example(video="", question="Happy?", clip=clip)])
        with torch.no_grad():
            rows.append(model.visual_prefix(**batch).rows)
        assert set(batch) <= set(VISION_INPUTS)
    torch.testing.assert_close(rows[0], rows[1], atol=1e-5, rtol=1e-5)
