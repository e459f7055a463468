"""A saved policy comes back exactly, or not at all."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.errors import CheckpointError, ConfigError
from policy.checkpoints import load_policy, save_policy
from policy.configuration import FaVChatConfig


@pytest.fixture
def saved(tiny, tmp_path):
    return save_policy(*tiny, tmp_path / "policy")


def test_every_tensor_and_setting_comes_back(tiny, saved):
    model, processor = load_policy(saved)
    ours, theirs = tiny[0].state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert model.language_model.lm_head.weight is model.get_input_embeddings().weight
    for name in FaVChatConfig.__annotations__:
        if name not in FaVChatConfig.sub_configs:
            assert getattr(model.config, name) == getattr(tiny[0].config, name), name
    assert processor.to_dict() == tiny[1].to_dict()
    assert processor.banned_token_ids == tiny[1].banned_token_ids
    question = "Is she happy?"
    assert (
        processor.prompt_tokens(question)[0].tolist() == tiny[1].prompt_tokens(question)[0].tolist()
    )
    assert processor.query_tokens(question) == tiny[1].query_tokens(question)
    assert list(model.generation_config.suppress_tokens) == list(processor.banned_token_ids)


def test_what_was_frozen_stays_frozen(tiny, saved):
    """Else a loaded policy would run its encoders although their features lie in the cache."""
    built = {name for name, one in tiny[0].named_parameters() if not one.requires_grad}
    loaded = {
        name for name, one in load_policy(saved)[0].named_parameters() if not one.requires_grad
    }
    assert loaded == built
    assert any(name.startswith("facial_encoder.") for name in loaded)
    assert any("word_embeddings" in name for name in loaded)


def test_the_auto_classes_read_it(saved, tiny):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    assert type(AutoModelForImageTextToText.from_pretrained(saved)) is type(tiny[0])
    assert type(AutoProcessor.from_pretrained(saved)) is type(tiny[1])


def test_saving_replaces_the_folder_whole(tiny, saved):
    (saved / "stale.txt").write_text("from an older save")
    save_policy(*tiny, saved)
    assert not (saved / "stale.txt").exists()
    assert [path.name for path in saved.parent.iterdir()] == ["policy"]  # nothing left beside


def test_keys_that_differ_are_named(saved):
    path = saved / "model.safetensors"
    weights = load_file(path)
    del weights["projector.general.weight"]
    weights["low_level.text.bias"] = torch.zeros(7)
    weights["low_level.extra"] = torch.zeros(1)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        load_policy(saved)
    text = str(caught.value)
    assert "missing projector.general.weight" in text
    assert "extra low_level.extra" in text
    assert "misshapen low_level.text.bias (file (7,), model (32,))" in text


def test_a_cut_off_file_is_an_error_that_says_so(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_policy(saved)


def test_a_folder_that_is_no_policy_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_policy(tmp_path)


def test_adapters_must_be_merged_before_saving(own_tiny, tmp_path):
    from peft import LoraConfig, get_peft_model

    model, processor = own_tiny
    adapted = get_peft_model(model.language_model, LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ConfigError, match="merge"):
        save_policy(model, processor, tmp_path / "policy")
    model.language_model = adapted.merge_and_unload()
    assert save_policy(model, processor, tmp_path / "policy").is_dir()
