"""The ablations of the paper's Table 3 train with one override each, all three stages."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from common.config import load_config
from common.errors import ConfigError
from corpus.schema import Sample, save_samples
from degrpo.config import TrainConfig
from sft.run import run_stages
from sft.stages import trainable

EPOCHS = 8
CONFIGS = Path(__file__).parents[2] / "configs"

OVERRIDES = {
    "no facial encoder": "policy.facial_source=general",
    "no low-level chain": "policy.low_level=none",
    "no weight adapters": "policy.gate=static",
}
ABSENT = {"no facial encoder": {"facial_encoder"}, "no weight adapters": {"high_level"}}

# FaVChat v4 §2.3 and §3, written out again: what learns in each stage.
LEARNS = {
    1: {"general_encoder", "facial_encoder", "low_level", "high_level", "projector"},
    2: {"middle_level"},
    3: {"middle_level", "high_level", "language_model"},
}
SPLITS = {1: "summary", 2: "qa", 3: "emotion_qa"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """One ablation, trained through all stages; policies by stage, 0 being the start."""

    name: str
    models: list
    processor: object
    metrics: dict[int, dict]


@pytest.fixture(scope="module")
def recipe(samples, tmp_path_factory) -> Path:
    """A tiny recipe over two clips, which names no ablation."""
    folder = tmp_path_factory.mktemp("recipe")
    save_samples(samples, folder / "samples.jsonl")
    stage = {"epochs": EPOCHS, "batch_size": 2, "lr": 5e-3}
    sft = {f"stage_{number}": stage for number in LEARNS}
    path = folder / "recipe.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "base": str(CONFIGS / "tiny.yaml"),
                "corpus": {"path": str(folder)},
                "policy": {"qformer": "tiny", "num_frames": 2, "num_queries": 2},
                "sft": {**sft, "evaluate": False, "tensorboard": False, "checkpoint_every": 0},
            }
        )
    )
    return path


@pytest.fixture(scope="module", params=OVERRIDES)
def trained(request, recipe, tmp_path_factory) -> Trained:
    from policy.build import build_policy
    from policy.checkpoints import load_policy

    config = load_config(TrainConfig, recipe, [OVERRIDES[request.param]])
    config.sft.output_dir = str(tmp_path_factory.mktemp("sft"))
    last = run_stages(config.sft, config.policy, config.corpus)
    folders = [last.with_name(f"stage-{number}") for number in LEARNS]
    start, processor = build_policy(config.policy)
    return Trained(
        name=request.param,
        models=[start, *(load_policy(folder)[0] for folder in folders)],
        processor=processor,
        metrics={
            number: json.loads((folder / "metrics.json").read_text())
            for number, folder in zip(LEARNS, folders, strict=True)
        },
    )


def batch_of(processor, samples: list[Sample]) -> dict[str, torch.Tensor]:
    from policy.collation import Example

    return processor.collate(
        [
            Example(
                video=sample.video,
                question=sample.question,
                answer=sample.answer,
                clip=processor.prepare_clip(sample.video),
            )
            for sample in samples
        ]
    )


@pytest.mark.slow
def test_every_stage_learns_its_samples(trained, samples):
    """By the loss of the policy's own forward, which the trainer does not use."""
    for number, split in SPLITS.items():
        metrics = trained.metrics[number]
        losses = metrics["epoch_losses"]
        assert len(losses) == EPOCHS
        assert all(math.isfinite(loss) for loss in losses), number
        batch = batch_of(trained.processor, [s for s in samples if s.split == split])
        with torch.no_grad():
            before, after = (
                trained.models[stage](**batch).loss.item() for stage in (number - 1, number)
            )
        assert metrics["train"]["loss"] == pytest.approx(after, abs=2e-4), number
        assert after < 0.98 * before, number


@pytest.mark.slow
def test_every_stage_moves_what_its_table_names_and_the_policy_has(trained):
    absent = ABSENT.get(trained.name, set())
    states = [model.state_dict() for model in trained.models]
    parts = {name.split(".")[0] for name in states[0]}
    assert parts == {*LEARNS[1], *LEARNS[2], *LEARNS[3]} - absent
    for number, expected in LEARNS.items():
        before, after = states[number - 1], states[number]
        assert before.keys() == after.keys()
        moved = {name.split(".")[0] for name in before if not before[name].equal(after[name])}
        assert moved == expected - absent, number


@pytest.mark.slow
def test_what_was_left_out_has_no_say_in_the_trained_policy(trained, samples):
    model = trained.models[-1].double()
    batch = batch_of(trained.processor, [s for s in samples if s.split == "qa"])
    vision = {
        name: value.double() if value.is_floating_point() else value
        for name, value in batch.items()
        if name.startswith(("query_", "general_", "facial_", "frame_"))
    }
    with torch.no_grad():
        prefix = model.visual_prefix(**vision)
        one_half = torch.full_like(prefix.stream_weights, 0.5)
        assert torch.equal(prefix.stream_weights, one_half) == (
            trained.name == "no weight adapters"
        )
        if trained.name == "no facial encoder":
            assert "facial_pixels" not in vision
            assert trained.processor.prepare_clip(samples[0].video).facial_pixels is None
            return
        # The pyramid's finer stages speak through the chain alone.
        fine, last = {}, {}
        *stages, coarsest = model.encode_frames("facial", vision.pop("facial_pixels"))
        fine["facial_features"] = (*(-maps for maps in stages), coarsest)
        last["facial_features"] = (*stages, -coarsest)
        without_fine, without_last = (
            (model.visual_prefix(**vision, **changed).rows - prefix.rows).abs().max().item()
            for changed in (fine, last)
        )
    assert without_last > 1e-6
    if trained.name == "no low-level chain":
        assert without_fine == 0
        assert not [name for name, _ in model.low_level.named_parameters() if "attention" in name]
    else:
        assert without_fine > 1e-6


@pytest.mark.parametrize(
    ("name", "part"),
    [("no weight adapters", "high_level"), ("no facial encoder", "facial_encoder")],
)
def test_a_stage_left_without_parts_says_so_and_leaves_nothing(recipe, tmp_path, name, part):
    stage = f"sft.stage_3.trainable=[{part}]"
    config = load_config(TrainConfig, recipe, [OVERRIDES[name], stage])
    config.sft.output_dir = str(tmp_path / "sft")
    with pytest.raises(ConfigError, match=rf"sft.stage_3 that trains {part}.*no parameters"):
        run_stages(config.sft, config.policy, config.corpus)
    assert not list((tmp_path / "sft").glob("stage-*"))  # said before the first stage


@pytest.mark.slow
@pytest.mark.parametrize("name", OVERRIDES)
def test_the_papers_scale_builds_and_every_stage_has_its_parts(name):
    from policy.build import build_policy_on_meta

    recipe = CONFIGS / "favchat_qwen2_5_7b.yaml"
    config = load_config(TrainConfig, recipe, [OVERRIDES[name]])
    model = build_policy_on_meta(config.policy)
    for number, expected in LEARNS.items():
        with trainable(model, config.sft.stage(number)):
            learning = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
        assert learning == expected - ABSENT.get(name, set()), number
    if name == "no low-level chain":
        # One projection of Swin-B's coarsest maps, 1024 channels, with its positions (three times
        # 16 sines and cosines), and a layer norm on either side. No attention.
        expected = (1024 * 1024 + 1024) + 3 * 32 * 1024 + 2 * (1024 + 1024)
        assert sum(p.numel() for p in model.part_parameters("low_level")) == expected
