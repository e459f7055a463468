"""Rows are the model's own, whatever their company, and are made once while nothing trains."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch

from common.errors import ConfigError, NoFaceError, SampleError, VideoError
from policy import visual_rows
from policy.build import build_policy
from policy.feature_cache import FeatureCache
from policy.features import FeatureExtractor
from policy.processing import Example
from policy.visual_rows import Question, encode_rows

SHORT, LONG = "Happy?", "Which of the seven basic emotions does the person on the left show first?"
CLIPS = ("single_face.mp4", "WolfgangLanger_Pexels.mp4", "no_face.mp4")


@pytest.fixture
def extractor(tiny, tmp_path):
    return FeatureExtractor(*copy.deepcopy(tiny), FeatureCache(tmp_path / "cache"))


@pytest.fixture
def questions(real_clip):
    pairs = [(0, SHORT), (1, LONG), (0, LONG), (2, SHORT), (1, SHORT)]
    return [Question(video=str(real_clip(CLIPS[clip])), text=text) for clip, text in pairs]


def uncached(extractor) -> FeatureExtractor:
    cache = FeatureCache(extractor.cache.folder, max_bytes=0)
    return FeatureExtractor(extractor.model, extractor.processor, cache)


def own_rows(extractor, question: Question) -> torch.Tensor:
    """From pixels by the model itself, one question at a time."""
    example = Example(video=question.video, question=question.text)
    with torch.no_grad():
        batch = extractor.processor.collate_vision([example])
        return extractor.model.visual_prefix(**batch).rows[0]


def close(result, rows: torch.Tensor, atol: float = 1e-6) -> bool:
    return torch.allclose(result.rows, rows, rtol=0, atol=atol)


def calls_of(model) -> list[str]:
    calls: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    return calls


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (2, 0), (8, 2)])
def test_rows_do_not_depend_on_their_company(extractor, questions, batch_size, num_workers):
    expected = [own_rows(extractor, question) for question in questions]
    spread = torch.stack(expected).std()
    results = encode_rows(
        uncached(extractor), questions, batch_size=batch_size, num_workers=num_workers
    )
    turned = encode_rows(uncached(extractor), questions[::-1], batch_size=batch_size)
    for result, other, rows in zip(results, turned[::-1], expected, strict=True):
        assert close(result, rows)
        assert close(other, rows)
        assert result.stream_weights.sum().item() == pytest.approx(1.0)
    assert (expected[0] - expected[2]).abs().max() > 0.01 * spread  # the question shows
    assert (expected[0] - expected[4]).abs().max() > 0.01 * spread  # the clip shows


def test_frozen_rows_are_made_once(extractor, questions, monkeypatch):
    extractor.model.requires_grad_(False)
    first = encode_rows(extractor, questions)
    kept = list(extractor.cache.folder.rglob("*.safetensors"))
    assert len(kept) == len(questions) + 2 * len(CLIPS)  # rows, and features of both streams
    cache = FeatureCache(extractor.cache.folder)
    fresh = FeatureExtractor(extractor.model, extractor.processor, cache)
    monkeypatch.setattr(extractor.processor, "prepare_clip", None)  # would raise when called
    calls = calls_of(extractor.model)
    second = encode_rows(fresh, questions)
    assert not calls
    assert (cache.rows.hits, cache.rows.misses) == (len(questions), 0)
    assert (cache.features.hits, cache.features.misses) == (0, 0)  # not even read
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.rows, other.rows)
        assert torch.equal(one.stream_weights, other.stream_weights)
        assert torch.equal(one.faces, other.faces)


def test_a_clip_of_many_questions_is_read_and_encoded_once(extractor, questions):
    calls = calls_of(extractor.model)
    encode_rows(uncached(extractor), questions, batch_size=2)
    assert calls.count("general_encoder") == len(CLIPS)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_new_question_about_a_known_clip_encodes_nothing(extractor, real_clip, frozen):
    video = str(real_clip(CLIPS[0]))
    asked = [Question(video=video, text=text) for text in (SHORT, LONG, "Who?")]
    if frozen:
        extractor.model.requires_grad_(False)
    calls = calls_of(extractor.model)
    results = [encode_rows(extractor, [question])[0] for question in asked]
    assert calls.count("general_encoder") == calls.count("facial_encoder") == 1
    for question, result in zip(asked, results, strict=True):
        assert close(result, own_rows(extractor, question))
    # One lookup of each stream's features a question, of which the first found nothing.
    cache = extractor.cache
    assert (cache.features.hits, cache.features.misses) == (4, 2)
    assert (cache.rows.hits, cache.rows.misses) == ((0, 3) if frozen else (0, 0))


@pytest.mark.parametrize("fate", ["replaced", "deleted"])
def test_a_video_that_changes_meanwhile_costs_no_other_and_keeps_no_rows(
    extractor, real_clip, tmp_path, fate
):
    """Rows of what was there before must not lie under the new content's name."""
    extractor.model.requires_grad_(False)
    path, other = tmp_path / "clip.mp4", str(real_clip(CLIPS[1]))
    shutil.copyfile(real_clip(CLIPS[0]), path)

    def change(*_) -> None:
        if fate == "replaced":
            shutil.copyfile(other, path)
        else:
            path.unlink(missing_ok=True)

    handle = extractor.model.general_encoder.register_forward_hook(change)
    asked = [Question(video=str(path), text=SHORT), Question(video=other, text=LONG)]
    results = encode_rows(extractor, asked, batch_size=1)
    handle.remove()
    first = Question(video=str(real_clip(CLIPS[0])), text=SHORT)
    assert close(results[0], own_rows(extractor, first))  # it had been decoded
    assert close(results[1], own_rows(extractor, asked[1]))
    second = Question(video=other, text=SHORT)
    assert close(encode_rows(extractor, [second])[0], own_rows(extractor, second))


def test_rows_of_a_video_replaced_before_it_is_decoded_are_not_kept(
    extractor, real_clip, tmp_path, monkeypatch
):
    extractor.model.requires_grad_(False)
    path, first = tmp_path / "clip.mp4", str(real_clip(CLIPS[0]))
    shutil.copyfile(first, path)
    prepare = extractor.processor.prepare_clip

    def replace_and_prepare(video, **options):
        shutil.copyfile(real_clip(CLIPS[1]), path)
        return prepare(video, **options)

    monkeypatch.setattr(extractor.processor, "prepare_clip", replace_and_prepare)
    encode_rows(extractor, [Question(video=str(path), text=SHORT)])
    monkeypatch.undo()
    asked = Question(video=first, text=SHORT)
    assert close(encode_rows(extractor, [asked])[0], own_rows(extractor, asked))


def test_autocast_changes_no_rows(extractor, questions):
    extractor.model.requires_grad_(False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (made,) = encode_rows(extractor, questions[:1])
    (kept,) = encode_rows(extractor, questions[:1])
    assert made.rows.dtype == torch.float32
    assert torch.equal(made.rows, kept.rows)
    assert close(made, own_rows(extractor, questions[0]))


@pytest.mark.parametrize("place", ["encoder", "levels"])
def test_a_new_version_of_the_code_makes_new_rows(extractor, questions, monkeypatch, place):
    extractor.model.requires_grad_(False)
    encode_rows(extractor, questions[:1])
    if place == "encoder":
        monkeypatch.setattr(type(extractor.model.facial_encoder), "version", "2")
    else:
        monkeypatch.setattr(visual_rows, "ROWS_VERSION", "2")
    encode_rows(extractor, questions[:1])
    assert (extractor.cache.rows.hits, extractor.cache.rows.misses) == (0, 2)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_nothing_is_refused(extractor, questions, batch_size):
    with pytest.raises(ConfigError, match=f"batch_size={batch_size}"):
        encode_rows(extractor, questions, batch_size=batch_size)


@pytest.mark.parametrize("part", ["low_level", "middle_level", "high_level", "projector"])
def test_a_part_in_training_is_asked_each_time(extractor, questions, part):
    parameter = next(extractor.model.part_parameters(part))
    extractor.model.requires_grad_(False)
    parameter.requires_grad_(True)
    encode_rows(extractor, questions[:1])
    parameter.data.mul_(1.5)  # unseen by version counters, as some optimisers write
    calls = calls_of(extractor.model)
    (result,) = encode_rows(extractor, questions[:1])
    assert "projector" in calls
    assert "general_encoder" not in calls  # its features are cached
    assert not result.rows.requires_grad
    assert close(result, own_rows(extractor, questions[0]))


@pytest.mark.parametrize("part", ["general_encoder", "middle_level", "projector"])
def test_new_weights_of_any_vision_part_make_new_rows(extractor, questions, part):
    extractor.model.requires_grad_(False)
    (before,) = encode_rows(extractor, questions[:1])
    with torch.no_grad():
        for parameter in extractor.model.get_submodule(part).parameters():
            parameter.mul_(1.5)
    (after,) = encode_rows(extractor, questions[:1])
    assert not torch.allclose(before.rows, after.rows, atol=1e-3)
    assert close(after, own_rows(extractor, questions[0]))


def test_a_language_model_in_training_leaves_rows_alone(extractor, questions):
    extractor.model.requires_grad_(False)
    extractor.model.language_model.requires_grad_(True)
    encode_rows(extractor, questions)
    with torch.no_grad():
        extractor.model.language_model.lm_head.weight.mul_(2.0)
    calls = calls_of(extractor.model)
    encode_rows(extractor, questions)
    assert not calls


def test_equal_weights_in_another_architecture_are_told_apart(tiny_config, questions, tmp_path):
    """Guided and unguided queries have the same parameters, and different rows."""
    rows = []
    for middle_level in ("text_guided", "unguided"):
        model, processor = build_policy(tiny_config(middle_level=middle_level))
        model.requires_grad_(False)
        extractor = FeatureExtractor(model, processor, FeatureCache(tmp_path))
        (result,) = encode_rows(extractor, questions[1:2])
        assert close(result, own_rows(extractor, questions[1]))
        rows.append(result.rows)
    assert not torch.allclose(*rows, atol=1e-4)


def test_errors_are_values_in_their_places(extractor, questions, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    bad = [Question(video=str(path), text=SHORT) for path in (broken, tmp_path / "missing.mp4")]
    mixed = [bad[0], questions[0], questions[3], bad[1], questions[1]]
    for _ in range(2):  # without and with cached rows
        results = encode_rows(extractor, mixed, face_required=True, batch_size=2)
        assert [type(r) for r in results if isinstance(r, SampleError)] == [
            VideoError,
            NoFaceError,
            VideoError,
        ]
        for index, question in ((1, questions[0]), (4, questions[1])):
            assert close(results[index], own_rows(extractor, question))
    (shown,) = encode_rows(extractor, [questions[3]], face_required=False)
    assert not shown.face_found


def test_dropout_is_off_and_modes_come_back(extractor, questions):
    model = extractor.model
    model.train()
    model.low_level.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    expected = own_rows(extractor, questions[0])  # with dropout
    (result,) = encode_rows(uncached(extractor), questions[:1])
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not close(result, expected, atol=1e-4)
    model.eval()
    assert close(result, own_rows(extractor, questions[0]))


def test_rows_keep_the_models_dtype(extractor, questions):
    extractor.model.to(torch.bfloat16)
    for _ in range(2):
        (result,) = encode_rows(extractor, questions[:1])
        assert result.rows.dtype == torch.bfloat16
