"""The loss against an independent cross-entropy, what training may change, and what stops it."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from common.errors import ConfigError, TrainingError
from policy.features import FeatureExtractor
from policy.freezing import PARTS
from sft.checkpoints import CheckpointWriter
from sft.collator import AnswerCollator
from sft.data import rows
from sft.evaluation.measure import mean_scores
from sft.scale import Scale
from sft.stages import learning_in_float32, trainable

EMBEDDINGS = "qformer.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def built(tiny):
    from policy.build import build_policy

    return build_policy(tiny)


@pytest.fixture
def policy(built):
    """A copy to train."""
    model, processor = built
    return copy.deepcopy(model), processor


@pytest.fixture
def make_trainer(policy, samples, tmp_path):
    from sft.trainer import StageTrainer

    model, processor = policy

    def make(stage, seed=0, scale=None):
        chosen = [sample for sample in samples if sample.split == stage.split]
        return StageTrainer(
            model,
            stage=stage,
            rows=rows(chosen, turns=stage.turns),
            scale=scale,
            collator=AnswerCollator(samples, processor, FeatureExtractor(model, processor)),
            tokenizer=processor.tokenizer,
            seed=seed,
            folder=tmp_path,
            tensorboard=False,
        )

    return make


@torch.no_grad()
def independent_losses(model, batch):
    """Per answer token, from the whole logits and a log-softmax written out."""
    inputs = {key: value for key, value in batch.items() if key not in ("labels", "sample_ids")}
    logits = model(**inputs).logits.double()
    losses = []
    for row in range(len(logits)):
        for position in range(1, logits.shape[1]):
            label = int(batch["labels"][row, position])
            if label != -100:
                before = logits[row, position - 1]
                losses.append(float(before.exp().sum().log() - before[label]))
    return losses


def test_the_loss_is_the_mean_cross_entropy_of_the_answer_tokens(policy, make_trainer, sft):
    model, _ = policy
    with trainable(model, sft.stage_3):
        trainer = make_trainer(sft.stage_3)
        batch = trainer.data_collator(trainer.train_dataset)
        expected = independent_losses(model.eval(), batch)
        count = int((batch["labels"] != -100).sum())
        assert len(expected) == count
        assert len(set(batch["attention_mask"].sum(dim=1).tolist())) == 2  # padding is involved
        loss = trainer.compute_loss(model, dict(batch))
        assert loss.item() == pytest.approx(sum(expected) / count, rel=1e-5)
        # With gradient accumulation the tokens of all micro-batches share one denominator.
        loss = trainer.compute_loss(model, dict(batch), num_items_in_batch=torch.tensor(100))
        assert loss.item() == pytest.approx(sum(expected) / 100, rel=1e-5)


def test_the_gradient_of_the_first_step_is_that_of_the_mean_answer_loss(policy, make_trainer, sft):
    """Guards the scale that reaches the optimiser, through Trainer's own token counting."""
    model, _ = policy
    stage = dataclasses.replace(sft.stage_3, trainable=["projector"])
    with trainable(model, stage):
        trainer = make_trainer(stage)
        trainer.args.max_grad_norm = 0.0
        batch = trainer.data_collator(trainer.train_dataset)
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "sample_ids")}
        logits = model(**inputs).logits[:, :-1]
        expected = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100
        )
        expected.backward()
        wanted = {n: p.grad.clone() for n, p in model.projector.named_parameters()}
        model.zero_grad()
        trainer.create_optimizer()
        seen = {}
        trainer.optimizer.register_step_pre_hook(
            lambda *_: seen.update(
                {n: p.grad.clone() for n, p in model.projector.named_parameters()}
            )
        )
        trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-4)
    for name, gradient in wanted.items():
        torch.testing.assert_close(seen[name], gradient, rtol=1e-3, atol=1e-6)


def test_measuring_weighs_every_answer_token_the_same(policy, make_trainer, sft):
    model, _ = policy
    stage = dataclasses.replace(sft.stage_3, batch_size=1)  # the answers differ in length
    with trainable(model, stage):
        trainer = make_trainer(stage)
        batch = trainer.data_collator(trainer.train_dataset)
        expected = independent_losses(model.eval(), batch)
        measured = measure(model, trainer.data_collator, trainer)
    assert measured["loss"] == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    assert mean_scores(model, trainer.data_collator, [], 1, what="losses") is None


def measure(model, collate, trainer):
    chosen = [dict(row) for row in trainer.train_dataset]
    size = trainer.args.per_device_train_batch_size
    return mean_scores(model, collate, chosen, size, what="losses")


def test_token_accuracy_counts_the_most_likely_tokens(policy, make_trainer, sft):
    model, _ = policy
    with trainable(model, sft.stage_3):
        trainer = make_trainer(sft.stage_3)
        batch = trainer.data_collator(trainer.train_dataset)
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "sample_ids")}
        with torch.no_grad():
            best = model.eval()(**inputs).logits.argmax(dim=-1)
        # Ask for what the model says anyway in the first row's answer, and for something else
        # in the second's.
        labels = batch["labels"]
        answer = [int((row != -100).sum()) for row in labels]
        first, second = ((row != -100).nonzero().squeeze(1) for row in labels)
        labels[0, first] = best[0, first - 1]
        labels[1, second] = (best[1, second - 1] + 1) % 1000
        measured = measure(model, lambda _: {**batch, "sample_ids": ["a", "b"]}, trainer)
    assert measured["token_accuracy"] == pytest.approx(answer[0] / sum(answer))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_stage_changes_its_own_parts_and_no_bit_of_the_others(policy, make_trainer, sft, number):
    model, _ = policy
    stage = getattr(sft, f"stage_{number}")
    before = copy.deepcopy(model.state_dict())
    with trainable(model, stage):
        make_trainer(stage).train()
    changed = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert {name.split(".")[0] for name in changed} == set(stage.trainable)
    assert not any("word_embeddings" in name for name in changed)  # frozen in every stage


def test_adapters_train_the_language_model_and_are_merged(policy, make_trainer, sft):
    model, _ = policy
    stage = dataclasses.replace(sft.stage_3, lora_rank=4)
    before = copy.deepcopy(model.state_dict())
    with trainable(model, stage):
        trainer = make_trainer(stage)
        adapters = [n for n, p in model.language_model.named_parameters() if p.requires_grad]
        assert adapters
        assert all("lora_" in name for name in adapters)
        trainer.train()
        adapted = measure(model, trainer.data_collator, trainer)
    assert list(model.state_dict()) == list(before)
    changed = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    layers = {name for name in changed if name.startswith("language_model.")}
    assert {name.rsplit(".", 2)[-2] for name in layers} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    merged = measure(model, trainer.data_collator, trainer)
    assert merged["loss"] == pytest.approx(adapted["loss"], abs=2e-3)


def test_frozen_parts_keep_their_dropout_off_while_others_train(policy, make_trainer, sft):
    model, _ = policy
    seen = {}
    with trainable(model, sft.stage_1):
        trainer = make_trainer(sft.stage_1)
        model.projector.register_forward_hook(
            lambda *_: seen.update({part: getattr(model, part).training for part in PARTS})
        )
        trainer.train()
    assert not seen["middle_level"]
    assert not seen["language_model"]
    assert seen["low_level"]
    assert seen["projector"]


def test_what_requires_gradients_is_as_before_afterwards(policy, make_trainer, sft):
    model, _ = policy
    before = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(RuntimeError, match="stop"), trainable(model, sft.stage_2):
        raise RuntimeError("stop")
    assert [parameter.requires_grad for parameter in model.parameters()] == before


def test_the_models_forward_is_its_own_again(policy, make_trainer, sft):
    model, _ = policy
    with trainable(model, sft.stage_1):
        make_trainer(sft.stage_1)
    assert model.forward.__func__ is type(model).forward


def test_a_loss_that_is_not_finite_names_its_samples(policy, make_trainer, sft):
    model, _ = policy
    with trainable(model, sft.stage_3):
        trainer = make_trainer(sft.stage_3)
        batch = trainer.data_collator(trainer.train_dataset)
        red = batch["sample_ids"].index("emotion_qa-red")
        batch["general_features"][red] = float("nan")
        with pytest.raises(TrainingError) as caught:
            trainer.compute_loss(model, batch)
    assert "a loss of nan on samples emotion_qa-red;" in str(caught.value)
    assert "green" not in str(caught.value)


def test_a_diverging_stage_stops(policy, make_trainer, sft):
    model, _ = policy
    stage = dataclasses.replace(sft.stage_3, lr=1e30, epochs=4.0)
    with (
        trainable(model, stage),
        pytest.raises(TrainingError, match=r"emotion_qa-red.*lower the stage's lr"),
    ):
        make_trainer(stage).train()


def test_nothing_is_sent_and_nothing_printed(policy, make_trainer, sft, monkeypatch, capsys):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(
        "trl.trainer.base_trainer.send_telemetry", lambda **_: pytest.fail("telemetry was sent")
    )
    model, _ = policy
    with trainable(model, sft.stage_1):
        make_trainer(sft.stage_1).train()
    captured = capsys.readouterr()
    assert "loss" not in captured.out
    assert "training" in captured.err  # the progress bar


def test_outputs_are_refused_rather_than_computed_twice(policy, make_trainer, sft):
    model, _ = policy
    with trainable(model, sft.stage_1), pytest.raises(ValueError, match="returns losses"):
        make_trainer(sft.stage_1).compute_loss(model, {}, return_outputs=True)


def test_adapters_left_inside_would_be_refused_by_saving(policy, sft, tmp_path):
    """Why `trainable` merges: a policy with adapters does not load back."""
    from policy.checkpoints import save_policy

    model, processor = policy
    stage = dataclasses.replace(sft.stage_3, lora_rank=4)
    with trainable(model, stage), pytest.raises(ConfigError):
        save_policy(model, processor, tmp_path / "with-adapters")
    save_policy(model, processor, tmp_path / "merged")


def gradients_of_first_step(trainer, part):
    """What reaches the optimiser in the first step, and the loss that is logged."""
    trainer.create_optimizer()
    seen = {}

    def look(*_):
        if not seen:
            seen.update({n: p.grad.clone() for n, p in part.named_parameters()})

    trainer.optimizer.register_step_pre_hook(look)
    trainer.train()
    return seen, trainer.state.log_history[0]["loss"]


@pytest.mark.parametrize("loss", ["tokens", "samples"])
@pytest.mark.parametrize("micro_batch_size", [0, 1])
def test_what_weighs_the_same_in_a_batch(policy, make_trainer, sft, loss, micro_batch_size):
    """Against means written out: over tokens, or over each answer first; in micro-batches, too."""
    model, _ = policy
    stage = dataclasses.replace(sft.stage_3, trainable=["projector"], loss=loss, max_grad_norm=0.0)
    with trainable(model, stage):
        trainer = make_trainer(stage, scale=Scale(micro_batch_size=micro_batch_size))
        batch = trainer.data_collator([dict(row) for row in trainer.train_dataset])
        labels = batch["labels"][:, 1:]
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "sample_ids")}
        losses = torch.nn.functional.cross_entropy(
            model(**inputs).logits[:, :-1].transpose(1, 2), labels, reduction="none"
        )
        sizes = (labels != -100).sum(dim=1)
        assert sizes[0] != sizes[1]
        expected = losses.sum() / sizes.sum()
        if loss == "samples":
            expected = (losses.sum(dim=1) / sizes).mean()
        expected.backward()
        wanted = {n: p.grad.clone() for n, p in model.projector.named_parameters()}
        model.zero_grad()
        seen, logged = gradients_of_first_step(trainer, model.projector)
    assert logged == pytest.approx(expected.item(), rel=1e-4)
    for name, gradient in wanted.items():
        torch.testing.assert_close(seen[name], gradient, rtol=1e-2, atol=1e-5)


def test_gradient_checkpointing_reaches_a_frozen_language_model_and_changes_no_gradient(
    policy, make_trainer, sft
):
    model, _ = policy
    stage = dataclasses.replace(sft.stage_3, trainable=["projector"])
    found = {}
    for switch in (False, True):
        runs = []
        handles = [
            layer.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
            for layer in model.language_model.model.layers
        ]
        start = copy.deepcopy(model.state_dict())
        with trainable(model, stage):
            trainer = make_trainer(stage, scale=Scale(gradient_checkpointing=switch))
            trainer.args.max_steps = 1
            found[switch] = gradients_of_first_step(trainer, model.projector)
        model.load_state_dict(start)
        model.gradient_checkpointing_disable()
        for handle in handles:
            handle.remove()
        # A checkpointed layer is computed once more for the backward pass.
        assert len(runs) == (2 if switch else 1) * len(handles)
        assert not any(part.training for part in model.language_model.model.layers[0].children())
    assert found[True][1] == found[False][1]
    for name, gradient in found[False][0].items():
        torch.testing.assert_close(found[True][0][name], gradient, rtol=1e-5, atol=1e-9)


def test_rows_that_fill_up_a_batch_count_for_nothing(policy, make_trainer, sft):
    model, _ = policy
    with trainable(model, sft.stage_3):
        trainer = make_trainer(sft.stage_3)
        first, second = ({**row} for row in trainer.train_dataset)
        alone = trainer.data_collator([first])
        filled = trainer.data_collator([first, {**second, "filler": True}])
        empty = trainer.data_collator([{**first, "filler": True}])
        model.eval()
        loss = trainer.compute_loss(model, dict(alone))
        assert trainer.compute_loss(model, dict(filled)).item() == pytest.approx(loss.item())
        nothing = trainer.compute_loss(model, dict(empty), num_items_in_batch=torch.tensor(5))
        assert nothing.item() == 0
        nothing.backward()  # takes part in the ranks' sums
        gradients = [p.grad for p in model.projector.parameters()]
        assert all(gradient.abs().max() == 0 for gradient in gradients)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_learning_rate_takes_the_stages_course(policy, make_trainer, sft, schedule):
    import math

    model, _ = policy
    stage = dataclasses.replace(
        sft.stage_3,
        trainable=["projector"],
        schedule=schedule,
        epochs=10.0,
        warmup_fraction=0.2,
        lr=1e-3,
        weight_decay=0.1,
    )
    with trainable(model, stage):
        trainer = make_trainer(stage)
        trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    left = [(10 - step) / 8 for step in range(2, 10)]  # of the steps after the warm-up
    course = {
        "cosine": [0.5 * (1 - math.cos(math.pi * share)) for share in left],
        "linear": left,
        "constant": [1.0] * 8,
    }[schedule]
    assert rates == pytest.approx([0.0, 0.5e-3, *(1e-3 * share for share in course)])
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.0, 0.1}


@pytest.mark.parametrize("number", [1, 3])
def test_small_updates_of_bfloat16_weights_are_not_lost(built, make_trainer, policy, sft, number):
    """Against the same stage in float32 throughout: updates far below bfloat16's last bit."""
    model, _ = policy
    stage = dataclasses.replace(
        getattr(sft, f"stage_{number}"), lr=1e-5, epochs=20.0, schedule="constant"
    )
    model.to(torch.bfloat16)
    start = {name: value.detach().float() for name, value in model.named_parameters()}
    with trainable(model, stage), learning_in_float32(model):
        make_trainer(stage).train()
        moved = {
            name: (parameter - start[name]).abs().max().item()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
        assert any(p.dtype == torch.bfloat16 for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert "forward" not in model.__dict__  # no autocast stays around it
    # AdamW moves a weight by about the learning rate at every one of 20 steps.
    assert max(moved.values()) == pytest.approx(20e-5, rel=0.2)


@pytest.mark.parametrize("group_by_length", [False, True])
def test_a_stage_of_micro_batches_goes_on_in_mid_epoch(
    policy, samples, sft, tmp_path, group_by_length
):
    """Three steps an epoch, resumed after the fourth: the last weights are those of one run."""
    from sft.trainer import StageTrainer

    model, processor = policy
    stage = dataclasses.replace(
        sft.stage_3, trainable=["projector"], epochs=2.0, group_by_length=group_by_length
    )
    start = copy.deepcopy(model.projector.state_dict())

    def train(name, checkpoint=None):
        folder = tmp_path / name
        folder.mkdir()
        model.projector.load_state_dict(start)
        with trainable(model, stage):
            trainer = StageTrainer(
                model,
                stage=stage,
                rows=rows(samples[1:]),
                collator=AnswerCollator(samples, processor, FeatureExtractor(model, processor)),
                tokenizer=processor.tokenizer,
                seed=5,
                folder=folder,
                tensorboard=False,
                checkpoints=CheckpointWriter(folder, fingerprint="f", every=4),
                scale=Scale(micro_batch_size=1),
            )
            trainer.train(resume_from_checkpoint=checkpoint)
        assert trainer.state.global_step == 6
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return losses, copy.deepcopy(model.projector.state_dict())

    losses, weights = train("whole")
    resumed, after = train("resumed", str(tmp_path / "whole" / "checkpoints" / "checkpoint-4"))
    assert resumed == losses
    assert all(weights[name].equal(after[name]) for name in weights)
