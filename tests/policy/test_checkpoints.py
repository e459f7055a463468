"""A saved policy comes back exactly, or not at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from common.errors import CheckpointError, ConfigError
from policy.checkpoints import load_policy, save_policy
from policy.configuration import FaVChatConfig
from policy.modeling import FaVChatForConditionalGeneration
from policy.video import file_sha256

ROOT = Path(__file__).parents[2]


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


class Stopped(KeyboardInterrupt):
    """Ctrl-C, but no other one than the test's own."""


def test_an_interrupted_save_leaves_the_last_policy_and_nothing_else(
    tiny, saved, tmp_path, monkeypatch
):
    model, processor = tiny
    before = contents(saved)

    def interrupt(folder):
        assert any(Path(folder).glob("*.safetensors"))  # the model is written by now
        raise Stopped

    monkeypatch.setattr(processor, "save_pretrained", interrupt)
    for folder in (saved, tmp_path / "first"):
        with pytest.raises(Stopped):
            save_policy(model, processor, folder)
    assert contents(saved) == before
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_an_interrupt_between_the_renames_puts_the_last_policy_back(tiny, saved, monkeypatch):
    before = contents(saved)
    rename = Path.rename

    def interrupt(path, target):
        if path.name == ".policy.new":
            raise Stopped
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupt)
    with pytest.raises(Stopped):
        save_policy(*tiny, saved)
    assert contents(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["policy"]


@pytest.mark.parametrize("moment", ["writing", "between the renames", "clearing away"])
def test_what_a_killed_save_left_is_taken_up(tiny, saved, moment):
    """The folders that SIGKILL leaves in each of its moments."""
    parent = saved.parent
    whole = contents(saved)
    if moment == "writing":
        (parent / ".policy.new").mkdir()
        (parent / ".policy.new" / "config.json").write_text("half")
    elif moment == "between the renames":
        shutil.copytree(saved, parent / ".policy.new")
        saved.rename(parent / ".policy.old")
    else:
        shutil.copytree(saved, parent / ".policy.old")
    load_policy(saved)
    assert contents(saved) == whole
    save_policy(*tiny, saved)
    assert [path.name for path in parent.iterdir()] == ["policy"]


def test_a_killed_writer_holds_no_lock(tiny, saved, tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path;"
        "from policy.folders import replaced_folder\n"
        "with replaced_folder(Path(sys.argv[1])) as new:\n"
        "    (new / 'half').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(saved)], cwd=ROOT, check=False)
    assert done.returncode == -9
    assert (tmp_path / ".policy.new" / "half").is_file()
    save_policy(*tiny, saved)
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): file_sha256(path) for path in files}


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


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
def test_weights_come_in_the_dtype_that_is_asked_for(own_tiny, tmp_path, stored, wanted):
    model, processor = own_tiny
    save_policy(model.to(stored), processor, tmp_path / "policy")
    file = load_file(tmp_path / "policy" / "model.safetensors")
    assert {tensor.dtype for tensor in file.values()} == {stored}
    loaded, _ = load_policy(tmp_path / "policy", dtype=wanted)
    state = loaded.state_dict()
    for name, tensor in file.items():
        assert torch.equal(state[name], tensor.to(wanted)), name
    assert loaded.language_model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert not any(p.requires_grad for e in loaded.encoders.values() for p in e.parameters())


def test_pickles_are_not_read(saved, tmp_path):
    """A folder with another program's ``pytorch_model.bin`` runs nothing of it."""

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (saved / "model.safetensors").unlink()
    torch.save({"projector.general.weight": Evil()}, saved / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_policy(saved)
    assert not (tmp_path / "ran").exists()


def test_an_unknown_language_model_is_named(saved):
    config = json.loads((saved / "config.json").read_text())
    config["text_config"]["model_type"] = "gpt9"
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="model_type=gpt9"):
        load_policy(saved)


def test_an_option_that_does_not_exist_is_named(saved):
    config = json.loads((saved / "config.json").read_text())
    config["gate"] = "random"
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"gate=random; it is one of text, feature, static"):
        load_policy(saved)


MEASURE_LOADING = """
import sys
from policy.checkpoints import load_policy


def status(field):
    line = next(line for line in open("/proc/self/status") if line.startswith(field))
    return int(line.split()[1]) * 1024


load_policy(sys.argv[2])  # pays for imports that loading needs
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # restarts VmHWM
model, _ = load_policy(sys.argv[1])
total = sum(float(p.double().sum()) for p in model.parameters())  # every page is there by now
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_peak_memory_of_loading_is_at_most_1_3_times_the_weights(tiny, saved, tmp_path):
    """Weights stored in float32, 400 MB; what the sums take is a fraction of one tensor."""
    text = LlamaConfig(
        vocab_size=8192,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=6,
        num_attention_heads=16,
    )
    config = FaVChatConfig(**{**tiny[0].config.to_dict(), "text_config": text, "video_token_id": 7})
    model = FaVChatForConditionalGeneration(config)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    save_policy(model, tiny[1], tmp_path / "large")
    command = [sys.executable, "-c", MEASURE_LOADING, str(tmp_path / "large"), str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert size <= int(done.stdout) <= 1.3 * size
