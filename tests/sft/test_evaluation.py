"""A tiny policy, evaluated: each number against another way to get it."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from pathlib import Path

import pytest
import torch

from common.errors import ConfigError
from corpus.schema import FacialTargets, Sample
from policy.features import FeatureExtractor
from policy.prompts import answer
from policy.video import read_clip as read_frames
from sft.collator import AnswerCollator
from sft.data import rows
from sft.evaluation.ablations import frame_order, reorder_frames, without_prompt
from sft.evaluation.measure import EvaluationOptions, evaluate, generate_answers, measure_losses
from sft.evaluation.reading import read_answer
from sft.evaluation.records import Ablation, Evaluation

SHORT = EvaluationOptions(batch_size=2, max_new_tokens=4)
LEVELS = ("low_level", "middle_level", "high_level")


@pytest.fixture(scope="module")
def policy(tiny):
    from policy.build import build_policy

    return build_policy(tiny)


@pytest.fixture(scope="module")
def read_clip(policy):
    return FeatureExtractor(*policy)


@pytest.fixture(scope="module")
def questions(videos) -> list[Sample]:
    """Two clips, three questions each, of other kinds, levels and lengths."""
    asked = {
        "appearance": ("low", "What is the hair like?", {"attributes": ("brown hair", "bangs")}),
        "emotion": ("high", "How do they feel?", {"emotion": ("happy",)}),
        "action": ("high", "What is this person doing in the video?", {"action": ("nodding",)}),
    }
    found = []
    for clip, (kind, (level, question, targets)) in itertools.product(
        ("red", "green"), asked.items()
    ):
        phrases = " and ".join(next(iter(targets.values())))
        found.append(
            Sample(
                sample_id=f"{kind}-{clip}",
                video=videos[clip],
                question=question,
                answer=f"In {clip}: {phrases}.",
                targets=FacialTargets(**targets),
                source="clips",
                split="held_out",
                extra={"kind": kind, "level": level, "stratum": clip},
            )
        )
    return found


@pytest.fixture(scope="module")
def evaluation(policy, read_clip, questions) -> Evaluation:
    return evaluate(*policy, read_clip, questions, SHORT)


@torch.no_grad()
def alone(model, processor, read_clip, sample, video=None, clip=None):
    """Loss, right tokens and tokens of one answer: a batch of one, all logits, softmax by hand."""
    video = video or sample.video
    collate = AnswerCollator([sample], processor, lambda _: clip or read_clip(video))
    batch = collate([{"sample_id": sample.sample_id, "video": video, "earlier": []}])
    batch.pop("sample_ids")
    labels = batch.pop("labels")[0]
    logits = model.eval()(**batch).logits[0].double()
    places = [place for place, label in enumerate(labels.tolist()) if label != -100]
    losses = [-float(logits[p - 1].softmax(-1)[labels[p]].log()) for p in places]
    right = sum(int(logits[p - 1].argmax()) == int(labels[p]) for p in places)
    return sum(losses), right, len(places)


def test_each_answers_loss_is_its_own_whatever_its_batch(policy, read_clip, questions, evaluation):
    assert [record.sample_id for record in evaluation.answers] == [s.sample_id for s in questions]
    assert len({record.num_tokens for record in evaluation.answers}) > 1  # padding is involved
    for record, sample in zip(evaluation.answers, questions, strict=True):
        loss, right, tokens = alone(*policy, read_clip, sample)
        assert record.loss == pytest.approx(loss, rel=1e-4)
        assert (record.num_correct, record.num_tokens) == (right, tokens)


def test_token_accuracy_counts_what_the_policy_finds_most_likely(policy, read_clip, questions):
    """Asked for its own greedy answer, token for token, the policy is always right."""
    model, processor = policy
    batch = AnswerCollator(questions, processor, read_clip)(rows(questions[:2]))
    inputs = {name: v for name, v in batch.items() if name not in ("labels", "sample_ids")}
    with torch.no_grad():
        best = model.eval()(**inputs).logits.argmax(dim=-1)
    first, second = ((row != -100).nonzero().squeeze(1) for row in batch["labels"])
    batch["labels"][0, first] = best[0, first - 1]
    batch["labels"][1, second] = (best[1, second - 1] + 1) % 1000
    losses, skipped = measure_losses(model, lambda _: dict(batch), rows(questions[:2]), 2, what="")
    right, wrong = losses.values()
    assert right.num_correct == right.num_tokens == len(first)
    assert (wrong.num_correct, wrong.num_tokens) == (0, len(second))
    assert not skipped


def test_answers_are_those_that_the_policy_gives_to_a_person(
    policy, read_clip, questions, evaluation
):
    for record, sample in zip(evaluation.answers, questions, strict=True):
        said = answer(
            *policy,
            video=sample.video,
            question=sample.question,
            max_new_tokens=SHORT.max_new_tokens,
            extractor=read_clip,
        )
        assert record.answer == said.text
        assert record.truncated  # an untrained policy does not end
        assert record.readings == read_answer(sample.targets, answer=said.text, gold=sample.answer)


def test_long_answers_end_at_the_bound_without_a_warning(policy, read_clip, questions, caplog):
    options = EvaluationOptions(max_new_tokens=30)  # beyond transformers' own 20
    logger = logging.getLogger("transformers")  # which does not hand on to the root
    logger.addHandler(caplog.handler)
    try:
        said = generate_answers(*policy, read_clip, questions[:1], options)
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.messages
    expected = answer(
        *policy,
        video=questions[0].video,
        question=questions[0].question,
        max_new_tokens=30,
        extractor=read_clip,
    )
    assert said == {questions[0].sample_id: (expected.text, True)}


def test_answers_are_greedy_whatever_the_model_says(policy, read_clip, questions, monkeypatch):
    """Published language models come with a repetition penalty and with sampling."""
    options = EvaluationOptions(max_new_tokens=30)
    before = generate_answers(*policy, read_clip, questions[:1], options)
    settings = policy[0].generation_config
    for name, value in {"repetition_penalty": 5.0, "do_sample": True, "num_beams": 2}.items():
        monkeypatch.setattr(settings, name, value)
        assert generate_answers(*policy, read_clip, questions[:1], options) == before


def test_an_answer_that_ends_is_not_truncated(policy, read_clip, questions):
    model, processor = policy
    settings, ending = model.generation_config, processor.end_token_id
    before = settings.suppress_tokens
    settings.suppress_tokens = [
        i for i in range(model.config.text_config.vocab_size) if i != ending
    ]
    try:
        said = generate_answers(model, processor, read_clip, questions[:1], SHORT)
    finally:
        settings.suppress_tokens = before
    assert said == {questions[0].sample_id: ("", False)}


def test_levels_and_kinds_hold_their_own_answers(questions, evaluation):
    assert evaluation.overall.num_answers == 6
    assert evaluation.overall.num_clips == 2
    assert {n: s.num_answers for n, s in evaluation.levels.items()} == {"low": 2, "high": 4}
    assert list(evaluation.kinds) == ["appearance", "emotion", "action"]
    assert {n: s.num_answers for n, s in evaluation.strata.items()} == {"green": 3, "red": 3}
    low = [record for record in evaluation.answers if record.level == "low"]
    assert evaluation.levels["low"].loss.value == pytest.approx(
        sum(r.loss for r in low) / sum(r.num_tokens for r in low), abs=1e-5
    )
    assert list(evaluation.levels["low"].parts) == ["facts", "attributes"]
    assert evaluation.kinds["action"].parts["action"].recall.count == 2


def test_the_same_policy_and_samples_give_the_same_evaluation(
    policy, read_clip, questions, evaluation
):
    torch.manual_seed(7)
    again = evaluate(*policy, read_clip, questions, SHORT)
    assert again == evaluation
    assert Evaluation.from_json(again.to_json()) == evaluation


def expected_increase(policy, read_clip, samples, without) -> float:
    """``without`` gives what to pass to :func:`alone` for a sample."""
    intact = [alone(*policy, read_clip, s) for s in samples]
    ablated = [alone(*policy, read_clip, s, **without(s)) for s in samples]
    change = sum(loss for loss, _, _ in ablated) - sum(loss for loss, _, _ in intact)
    return change / sum(tokens for _, _, tokens in intact)


def test_swapped_clips_are_the_other_clips(policy, read_clip, questions, evaluation, videos):
    other = {videos["red"]: videos["green"], videos["green"]: videos["red"]}
    found = evaluation.ablations["swapped_clips"]
    assert found.num_answers == 6
    expected = expected_increase(policy, read_clip, questions, lambda s: {"video": other[s.video]})
    assert abs(expected) > 1e-5
    assert found.loss_increase.value == pytest.approx(expected, abs=2e-6)


def backwards(processor, video):
    """The clip's frames in the other order, prepared from the start."""
    frames = read_frames(video, num_frames=2).frames[::-1].copy()
    return processor.prepare_clip(frames)


def test_reversed_frames_are_the_action_questions_clips_run_backwards(
    policy, read_clip, questions, evaluation
):
    found = evaluation.ablations["reversed_frames"]
    assert found.num_answers == 2
    actions = [sample for sample in questions if sample.extra["kind"] == "action"]
    expected = expected_increase(
        policy, read_clip, actions, lambda s: {"clip": backwards(policy[1], s.video)}
    )
    assert abs(expected) > 1e-5
    assert found.loss_increase.value == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("trained", [False, True])
def test_frames_that_attend_to_each_other_are_encoded_anew(tiny, videos, trained):
    from policy.build import build_policy

    umt = {"width": 32, "num_layers": 2, "num_heads": 2, "mlp_width": 48}
    model, processor = build_policy(
        dataclasses.replace(
            tiny,
            general_encoder="umt_l16",
            general_encoder_options={**umt, "image_side": 32, "patch_side": 16},
            published=dataclasses.replace(tiny.published, umt_l16_qformer="random"),
        )
    )
    model.eval()
    for parameter in model.part_parameters("general_encoder"):
        parameter.requires_grad_(trained)
    clip = FeatureExtractor(model, processor)(videos["red"])
    assert (clip.general_features is None) is trained
    found = reorder_frames(model, processor, videos["red"], clip, order=(1, 0))
    wanted = backwards(processor, videos["red"])
    if trained:
        torch.testing.assert_close(found.general_pixels, wanted.general_pixels)
        return
    with torch.no_grad():
        expected = model.encode_frames("general", wanted.general_pixels[None])[0][0]
    torch.testing.assert_close(found.general_features, expected)
    assert not torch.allclose(found.general_features, clip.general_features.flip(0), atol=1e-3)
    for stage, before in zip(found.facial_features, clip.facial_features, strict=True):
        assert stage.equal(before.flip(0))


def test_frames_are_reversed_or_permuted_the_same_way_for_every_clip():
    assert frame_order(Ablation.REVERSED_FRAMES, 3) == [2, 1, 0]
    order = frame_order(Ablation.SHUFFLED_FRAMES, 8)
    assert sorted(order) == list(range(8))
    assert order not in (list(range(8)), list(range(7, -1, -1)))
    assert frame_order(Ablation.SHUFFLED_FRAMES, 8) == order
    assert frame_order(Ablation.SHUFFLED_FRAMES, 2) == [1, 0]


def test_reordering_moves_all_that_belongs_to_a_frame(policy, read_clip, videos):
    clip = read_clip(videos["red"])
    three = dataclasses.replace(
        clip,
        general_features=torch.arange(3.0)[:, None, None, None],
        facial_features=(torch.arange(3.0)[:, None, None, None] + 10,),
        faces=torch.tensor([True, False, False]),
        times=torch.tensor([0.0, 0.5, 1.0]),
    )
    found = reorder_frames(*policy, videos["red"], three, order=(2, 0, 1))
    assert found.general_features.flatten().tolist() == [2, 0, 1]
    assert found.facial_features[0].flatten().tolist() == [12, 10, 11]
    assert found.faces.tolist() == [False, True, False]
    assert found.times.tolist() == [1.0, 0.0, 0.5]
    assert found.general_pixels is None


@torch.no_grad()
def rows_by_hand(model, processor, batch, unprompted):
    """The levels in a row, each with the question or with an empty one."""
    empty = torch.tensor([processor.query_tokens("")] * len(batch["query_ids"]))
    questions = {
        level: (empty, torch.ones_like(empty).bool())
        if level in unprompted
        else (batch["query_ids"], batch["query_mask"].bool())
        for level in LEVELS
    }
    words = {level: model.middle_level.words(ids) for level, (ids, _) in questions.items()}
    frames, general = batch["frame_mask"], batch["general_features"]
    facial, facial_mask = model.low_level(
        words["low_level"],
        questions["low_level"][1],
        list(batch["facial_features"]),
        frames,
        general,
    )
    streams = model.middle_level(*questions["middle_level"], general, frames, facial, facial_mask)
    weights = model.high_level(*streams, words["high_level"], questions["high_level"][1])
    return model.projector(*streams, weights)


@pytest.mark.parametrize("unprompted", [(), *((level,) for level in LEVELS), LEVELS])
def test_an_unprompted_level_reads_an_empty_question(policy, read_clip, questions, unprompted):
    model, processor = policy
    model.eval()
    batch = AnswerCollator(questions, processor, read_clip)(rows(questions))
    vision = {
        name: batch[name] for name in ("query_ids", "query_mask", "frame_mask", "general_features")
    } | {"facial_features": batch["facial_features"]}
    expected = rows_by_hand(model, processor, batch, unprompted)
    with torch.no_grad():
        before = model.visual_prefix(**vision).rows
        with without_prompt(model, processor, unprompted):
            found = model.visual_prefix(**vision).rows
        after = model.visual_prefix(**vision).rows
    torch.testing.assert_close(found, expected)
    assert after.equal(before)
    assert found.equal(before) is (not unprompted)


def test_ablations_without_the_prompt_are_all_measured(evaluation):
    names = [ablation.value for ablation in Ablation]
    assert list(evaluation.ablations) == names
    assert names[3].startswith("no_prompt")
    increases = {name: evaluation.ablations[name].loss_increase.value for name in names[3:]}
    assert all(increases.values())
    assert len(set(increases.values())) == 4


def test_ablations_that_do_not_apply_are_left_out(policy, read_clip, questions):
    emotion = [s for s in questions if s.sample_id == "emotion-red"]  # one clip, no action
    options = EvaluationOptions(
        max_new_tokens=1, ablations=(Ablation.SWAPPED_CLIPS, Ablation.REVERSED_FRAMES)
    )
    assert evaluate(*policy, read_clip, emotion, options).ablations == {}


def test_a_sample_that_cannot_be_used_costs_itself_alone(
    policy, read_clip, questions, evaluation, tmp_path
):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"this is no video" * 100)
    broken = dataclasses.replace(questions[0], sample_id="broken", video=str(bad))
    endless = dataclasses.replace(questions[1], sample_id="endless", answer="very " * 5000)
    model, processor = policy
    limit = processor.max_prompt_tokens
    processor.max_prompt_tokens = 2000
    options = dataclasses.replace(SHORT, ablations=(Ablation.SWAPPED_CLIPS,))
    try:
        found = evaluate(
            model, processor, read_clip, [broken, *questions[:3], endless, *questions[3:]], options
        )
    finally:
        processor.max_prompt_tokens = limit
    assert list(found.skipped) == ["broken", "endless"]
    assert "bad.mp4" in found.skipped["broken"]
    assert "tokens" in found.skipped["endless"]
    assert found.overall.num_answers == 6
    assert [r.answer for r in found.answers] == [r.answer for r in evaluation.answers]
    assert found.overall.loss.value == pytest.approx(evaluation.overall.loss.value, abs=1e-5)


def test_no_usable_sample_is_an_empty_evaluation(policy, read_clip, questions):
    gone = dataclasses.replace(questions[0], video=str(Path("gone.mp4")))
    found = evaluate(*policy, read_clip, [gone], SHORT)
    assert found.overall is None
    assert (found.levels, found.ablations, found.answers) == ({}, {}, ())
    assert list(found.skipped) == [gone.sample_id]


def test_every_modules_training_mode_is_as_before(policy, read_clip, questions):
    model, _ = policy
    model.train()
    model.high_level.eval()  # frozen in a stage; the middle level has dropout
    before = [module.training for module in model.modules()]
    options = EvaluationOptions(max_new_tokens=1, ablations=())
    first = evaluate(*policy, read_clip, questions[:2], options)
    assert [module.training for module in model.modules()] == before
    assert evaluate(*policy, read_clip, questions[:2], options) == first  # without dropout
    model.eval()


def test_options_that_cannot_be_meant_are_refused():
    with pytest.raises(ConfigError, match="max_new_tokens=0"):
        EvaluationOptions(max_new_tokens=0)
