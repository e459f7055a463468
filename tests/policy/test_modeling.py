"""The whole policy, on tiny parts: what reaches the answer, what may not, and how it is trained."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from policy.build import build_policy
from policy.freezing import PARTS
from policy.modeling import VISION_INPUTS
from policy.processing import ClipInputs, Example

QUESTION = "What emotion does this person show?"
OTHER_QUESTION = "Does he wear glasses?"


def clip_of(seed: int, frames: int = 3) -> ClipInputs:
    generator = torch.Generator().manual_seed(seed)
    return ClipInputs(
        general_pixels=torch.randn(frames, 3, 32, 32, generator=generator),
        facial_pixels=torch.randn(frames, 3, 32, 32, generator=generator),
    )


def example(clip: ClipInputs, question: str = QUESTION, answer: str | None = "Happy.") -> Example:
    return Example(video="unread.mp4", question=question, answer=answer, clip=clip)


def rows(policy, clip: ClipInputs, question: str = QUESTION) -> torch.Tensor:
    model, processor = policy
    with torch.no_grad():
        return model.visual_prefix(**processor.collate_vision([example(clip, question)])).rows[0]


def logits(policy, *examples: Example) -> torch.Tensor:
    model, processor = policy
    with torch.no_grad():
        return model(**processor.collate(examples)).logits


def flipped(clip: ClipInputs, *streams: str) -> ClipInputs:
    return replace(clip, **{name: getattr(clip, name).flip(0) for name in streams})


def test_another_clip_gives_other_logits(tiny):
    first, second = logits(tiny, example(clip_of(0))), logits(tiny, example(clip_of(1)))
    assert (first - second).abs().max() > 1e-2


@pytest.mark.parametrize("stream", ["general_pixels", "facial_pixels"])
def test_reversing_the_frames_of_either_stream_changes_the_rows(tiny, stream):
    clip = clip_of(0)
    assert (rows(tiny, clip) - rows(tiny, flipped(clip, stream))).abs().max() > 3e-4


def test_time_is_what_tells_a_clip_from_its_reverse(own_tiny):
    """Without the time columns of the positions the reverse is the same set of tokens."""
    model, processor = own_tiny
    with torch.no_grad():
        for tokens in (*model.low_level.stages, model.middle_level.general_tokens):
            tokens.position.weight[:, :32] = 0.0  # 16 sines and 16 cosines of the frame index
    clip = clip_of(0)
    backwards = flipped(clip, "general_pixels", "facial_pixels")
    forwards = rows((model, processor), clip)
    torch.testing.assert_close(forwards, rows((model, processor), backwards), atol=1e-5, rtol=1e-4)


def test_the_loss_reaches_every_part(own_tiny):
    model, processor = own_tiny
    for name in PARTS:
        for parameter in model.part_parameters(name):
            parameter.requires_grad_(True)
    examples = [example(clip_of(0)), example(clip_of(1), OTHER_QUESTION, "No.")]
    model(**processor.collate(examples)).loss.backward()
    for part in PARTS:
        parameters = list(model.part_parameters(part))
        unreached = [p for p in parameters if p.grad is None or p.grad.abs().max() == 0]
        # The last Q-Former layers compute text that nobody reads: 2 linear maps and a norm each.
        assert len(unreached) == (12 if part == "middle_level" else 0), part
    tables = [p.weight for p in model._word_embeddings()]
    assert all(table.grad is None and not table.requires_grad for table in tables)


@pytest.mark.parametrize("levels", ["low", "middle", "none"])
def test_each_level_alone_makes_the_rows_depend_on_the_question(tiny_config, levels):
    policy = build_policy(
        tiny_config(
            low_level="text_query" if levels == "low" else "none",
            middle_level="text_guided" if levels == "middle" else "unguided",
            gate="static",
        )
    )
    clip = clip_of(0)
    difference = (rows(policy, clip) - rows(policy, clip, OTHER_QUESTION)).abs().max()
    assert difference == 0 if levels == "none" else difference > 1e-3


@pytest.mark.parametrize("gate", ["text", "static"])
def test_the_high_level_alone_weighs_the_streams_by_the_question(tiny_config, gate):
    model, processor = build_policy(
        tiny_config(low_level="none", middle_level="unguided", gate=gate)
    )
    clip = clip_of(0)
    batch = processor.collate_vision([example(clip), example(clip, OTHER_QUESTION)])
    with torch.no_grad():
        prefix = model.visual_prefix(**batch)
    assert prefix.stream_weights.sum(dim=1).tolist() == pytest.approx([1.0, 1.0])
    if gate == "static":
        assert prefix.stream_weights.tolist() == [[0.5, 0.5], [0.5, 0.5]]
        assert not list(model.part_parameters("high_level"))
    else:
        assert (prefix.stream_weights[0] - prefix.stream_weights[1]).abs().max() > 1e-3
        assert (prefix.rows[0] - prefix.rows[1]).abs().max() > 1e-4


def test_without_the_low_level_the_fine_stages_are_out(tiny_config):
    model, processor = build_policy(tiny_config(low_level="none"))
    features = [
        torch.randn(1, 3, channels, 4, 4, requires_grad=True)
        for channels in model.facial_encoder.stage_channels
    ]
    batch = processor.collate_vision([example(clip_of(0))])
    del batch["facial_pixels"]
    model.visual_prefix(**batch, facial_features=features).rows.sum().backward()
    assert [stage.grad is not None for stage in features] == [False, False, False, True]


@pytest.fixture
def tiny64(own_tiny):
    """In float64, where rounding cannot hide what padding does."""
    model, processor = own_tiny
    return model.double(), processor


def as64(clip: ClipInputs) -> ClipInputs:
    return replace(
        clip,
        general_pixels=clip.general_pixels.double(),
        facial_pixels=clip.facial_pixels.double(),
    )


def test_padding_changes_no_logits(tiny64):
    """Text of the question, of the answer, and frames; on the right, with other examples beside."""
    short = example(as64(clip_of(0, frames=2)), "Happy?", "Yes.")
    long = example(as64(clip_of(1)), QUESTION, "The person looks happy.")
    alone = logits(tiny64, short)[0]
    beside = logits(tiny64, short, long)[0]
    assert beside.shape[0] > alone.shape[0]
    torch.testing.assert_close(beside[: len(alone)], alone, atol=1e-9, rtol=1e-9)


def test_padding_on_the_left_changes_no_logits(tiny64):
    short = example(as64(clip_of(0, frames=2)), "Happy?", None)
    long = example(as64(clip_of(1)), QUESTION, None)
    alone = logits(tiny64, short)[0]
    beside = logits(tiny64, short, long)[0]
    torch.testing.assert_close(beside[-len(alone) :], alone, atol=1e-9, rtol=1e-9)


def test_features_give_what_pixels_give(tiny):
    model, processor = tiny
    batch = processor.collate([example(clip_of(0)), example(clip_of(1))])
    with torch.no_grad():
        expected = model(**batch).logits
        general = model.encode_frames("general", batch.pop("general_pixels"))[-1]
        facial = model.encode_frames("facial", batch.pop("facial_pixels"))
        got = model(**batch, general_features=general, facial_features=facial).logits
    torch.testing.assert_close(got, expected)


def test_the_language_model_alone_gives_the_same_logits_from_rows(tiny):
    model, processor = tiny
    clip = clip_of(0)
    token_ids, visual_mask = processor.prompt_tokens(QUESTION)
    embeddings = model.language_model.get_input_embeddings()(torch.from_numpy(token_ids)).detach()
    embeddings[torch.from_numpy(visual_mask)] = rows(tiny, clip)
    with torch.no_grad():
        got = model.language_model(inputs_embeds=embeddings[None]).logits
    torch.testing.assert_close(got, logits(tiny, example(clip, answer=None)), atol=1e-5, rtol=1e-5)


def test_rows_have_the_spread_of_word_embeddings(tiny):
    model, _ = tiny
    words = model.get_input_embeddings().weight
    assert rows(tiny, clip_of(0)).std().item() == pytest.approx(words.std().item(), rel=0.05)


def test_the_loss_is_the_mean_over_answer_tokens(tiny):
    model, processor = tiny
    batch = processor.collate([example(clip_of(0)), example(clip_of(1), answer="A sad man.")])
    with torch.no_grad():
        output = model(**batch)
    log_probs = F.log_softmax(output.logits, dim=-1)
    terms = [
        -log_probs[b, position - 1, token].item()
        for b, labels in enumerate(batch["labels"])
        for position, token in enumerate(labels)
        if token != -100
    ]
    assert len(terms) == sum(
        len(processor.answer_tokens(text)) for text in ("Happy.", "A sad man.")
    )
    assert output.loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    assert output.stream_weights.shape == (2, 2)


def test_generate_takes_the_likeliest_token_that_is_not_banned(tiny):
    model, processor = tiny
    batch = processor.collate([example(clip_of(0), answer=None)])
    prompt = batch["input_ids"]
    visual_rows = rows(tiny, clip_of(0))[None]
    expected = prompt
    for _ in range(5):
        with torch.no_grad():
            scores = model(input_ids=expected, visual_rows=visual_rows).logits[0, -1]
        scores[list(processor.banned_token_ids)] = -math.inf
        expected = torch.cat([expected, scores.argmax().view(1, 1)], dim=1)
    assert model.generate(**batch, max_new_tokens=5).tolist() == expected.tolist()


def test_generate_gives_a_batch_what_it_gives_each_alone(tiny):
    model, processor = tiny
    examples = [example(clip_of(0), "Happy?", None), example(clip_of(1), QUESTION, None)]
    together = model.generate(**processor.collate(examples), max_new_tokens=4)[:, -4:]
    alone = [model.generate(**processor.collate([e]), max_new_tokens=4)[0, -4:] for e in examples]
    assert together.tolist() == [row.tolist() for row in alone]


def test_a_prompt_without_its_clip_is_refused(tiny):
    model, processor = tiny
    batch = processor.collate([example(clip_of(0))])
    text = {name: value for name, value in batch.items() if name not in VISION_INPUTS}
    with pytest.raises(ValueError, match="placeholders"):
        model(**text)


def test_adapters_on_the_language_model_change_the_answer_and_switch_off(own_tiny):
    from peft import LoraConfig, get_peft_model

    model, _ = own_tiny
    before = logits(own_tiny, example(clip_of(0)))
    model.language_model = get_peft_model(
        model.language_model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    )
    with torch.no_grad():
        for name, parameter in model.language_model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    assert (logits(own_tiny, example(clip_of(0))) - before).abs().max() > 1e-2
    with model.language_model.disable_adapter():
        torch.testing.assert_close(logits(own_tiny, example(clip_of(0))), before)


def test_the_same_seed_builds_the_same_policy_and_another_another(tiny, tiny_config):
    same, other = build_policy(tiny_config()), build_policy(tiny_config(seed=1))
    for (name, ours), theirs in zip(
        tiny[0].state_dict().items(), same[0].state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert (rows(tiny, clip_of(0)) - rows(other, clip_of(0))).abs().max() > 1e-2
