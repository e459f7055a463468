"""Language models and their media tokens; what vLLM is given."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from common.errors import ConfigError, MachineError
from common.paths import CACHE_VARIABLE
from policy.language import (
    MEDIA_TOKENS,
    add_media_tokens,
    export_language_model,
    language_model_config,
    load_language_model,
    load_tokenizer,
)
from policy.language.media_tokens import num_rows, register_media_tokens
from policy.language.published import PUBLISHED
from policy.wheels import build_once, wheel_file
from tests.policy import backbone_tokenizers as backbones


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
    for load in (load_tokenizer, language_model_config):
        with pytest.raises(ConfigError, match=r"tiny, a folder with a config\.json, or a hub id"):
            load("smollm3")


def test_a_hub_model_that_cannot_be_reached_says_what_to_do():
    for load in (load_tokenizer, language_model_config):
        with pytest.raises(ConfigError, match=r"hf download nobody/nothing .*HF_HUB_OFFLINE=0"):
            load("nobody/nothing")
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE=0"):
        load_language_model("Qwen/Qwen3-8B", seed=0)


def small_model(*, rows: int) -> LlamaForCausalLM:
    """Its output table is apart from its input table, as in the published 7B models."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=rows,
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            tie_word_embeddings=False,
        )
    )


def tables(model) -> tuple[torch.Tensor, torch.Tensor]:
    modules = model.get_input_embeddings(), model.get_output_embeddings()
    return tuple(module.weight.detach().clone() for module in modules)


def test_qwens_padded_vocabulary_stays_as_it_is():
    tokenizer = backbones.qwen2_5()
    model = small_model(rows=400)
    before = tables(model)
    assert len(tokenizer) < 400
    length, ids = len(tokenizer), tokenizer.convert_tokens_to_ids(MEDIA_TOKENS)
    add_media_tokens(model, tokenizer, seed=0)
    assert (len(tokenizer), tokenizer.convert_tokens_to_ids(MEDIA_TOKENS)) == (length, ids)
    assert model.config.vocab_size == 400
    assert all(torch.equal(*pair) for pair in zip(before, tables(model), strict=True))


def test_new_tokens_in_a_padded_vocabulary_get_rows_like_the_others():
    tokenizer = backbones.llama3()
    first = len(tokenizer)
    model = small_model(rows=400)
    before = tables(model)
    add_media_tokens(model, tokenizer, seed=0)
    assert tokenizer.convert_tokens_to_ids(MEDIA_TOKENS) == [first, first + 1, first + 2]
    assert model.config.vocab_size == 400
    noise = torch.randn(2, 3, 48, generator=torch.Generator().manual_seed(0))
    for old, new, drawn in zip(before, tables(model), noise, strict=True):
        known = old[:first].double()
        torch.testing.assert_close(
            new[first : first + 3].double(), known.mean(0) + known.std(0) * drawn.double()
        )
        assert torch.equal(new[:first], old[:first])
        assert torch.equal(new[first + 3 :], old[first + 3 :])


def test_a_full_vocabulary_grows_in_both_tables_and_the_seed_decides_how():
    grown = []
    for seed in (3, 3, 4):
        tokenizer = backbones.llama3()
        rows = len(tokenizer)
        model = small_model(rows=rows)
        before = tables(model)
        add_media_tokens(model, tokenizer, seed=seed)
        assert model.config.vocab_size == rows + 3
        after = tables(model)
        for old, new in zip(before, after, strict=True):
            assert new.shape == (rows + 3, 48)
            assert torch.equal(new[:rows], old)
        grown.append(torch.stack([table[rows:] for table in after]))
        assert not torch.equal(*grown[-1])  # untied tables differ
        assert model(input_ids=torch.tensor([[rows + 2]])).logits.shape[-1] == rows + 3
    assert torch.equal(grown[0], grown[1])
    assert not torch.equal(grown[0], grown[2])


def test_a_media_token_that_is_an_ordinary_word_becomes_special():
    tokenizer = backbones.llama3()
    tokenizer.add_tokens(["<|video_pad|>"])
    index = tokenizer.convert_tokens_to_ids("<|video_pad|>")
    assert not tokenizer.added_tokens_decoder[index].special
    assert register_media_tokens(tokenizer) == ["<|vision_start|>", "<|vision_end|>"]
    assert tokenizer.added_tokens_decoder[index].special
    ids = tokenizer("a<|video_pad|>", add_special_tokens=False).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a"


def test_a_tokenizer_that_splits_media_tokens_is_refused(tmp_path):
    backbones.qwen2_5().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, split_special_tokens=True)
    with pytest.raises(ConfigError, match=r"reads <\|video_pad\|> as .*split_special_tokens"):
        register_media_tokens(tokenizer)


def with_vocabulary(ids: dict[str, int]) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab=ids, merges=[])))


def test_ids_with_gaps_need_more_rows_than_there_are_tokens():
    tokenizer = with_vocabulary({"a": 0, "b": 1, "c": 9})
    register_media_tokens(tokenizer)
    assert (len(tokenizer), num_rows(tokenizer)) == (6, 10)


def test_a_tokenizer_that_gives_an_id_twice_is_refused():
    tokenizer = with_vocabulary({"a": 0, "b": 1, "c": 3})
    with pytest.raises(ConfigError, match=r"which is also 'c'"):
        register_media_tokens(tokenizer)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("Qwen/Qwen3-8B", 8_190_735_360),
        ("mistralai/Mistral-7B-Instruct-v0.2", 7_241_732_096),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
    ],
)
def test_published_shapes_have_the_published_parameters(name, published):
    config = language_model_config(name)
    assert config.vocab_size >= PUBLISHED[name]["num_tokens"]
    new_rows = config.vocab_size - PUBLISHED[name]["vocab_size"]
    assert new_rows == (0 if name.startswith("Qwen") else 3)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    # input and output table are apart in all four
    assert model.num_parameters() - 2 * new_rows * config.hidden_size == published


def test_a_config_is_the_loaded_models(tiny, tmp_path):
    folder = export_language_model(*tiny, tmp_path / "language_model")
    for name in ("tiny", "smollm2-135m", str(folder)):
        model, _ = load_language_model(name, seed=0)
        loaded, config = model.config.to_dict(), language_model_config(name).to_dict()
        apart = {"_name_or_path", "_model_name_or_path", "architectures"}  # of the files
        assert {k: v for k, v in loaded.items() if k not in apart} == {
            k: v for k, v in config.items() if k not in apart
        }
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(language_model_config(name))
        assert empty.num_parameters() == model.num_parameters()


def test_a_folder_whose_vocabulary_has_no_room_counts_the_rows_to_come(tmp_path):
    tokenizer = backbones.llama3()
    small_model(rows=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert language_model_config(str(tmp_path)).vocab_size == len(tokenizer) + 3
    assert load_language_model(str(tmp_path), seed=0)[0].config.vocab_size == len(tokenizer) + 3


def test_weights_come_in_the_dtype_asked_for(tiny, tmp_path):
    folder = export_language_model(*tiny, tmp_path / "language_model")
    for name in ("tiny", str(folder)):
        whole, _ = load_language_model(name, seed=0)
        half, _ = load_language_model(name, seed=0, dtype=torch.bfloat16)
        assert half.dtype == half.config.dtype == torch.bfloat16
        for (key, value), expected in zip(
            half.state_dict().items(), whole.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(value, expected.bfloat16(), msg=key)


def test_an_incomplete_folder_is_refused(tmp_path):
    incomplete = "download config, tokenizer and safetensors files"
    model = small_model(rows=400)
    for config in (Qwen2Config(), model.config):
        config.save_pretrained(tmp_path)
        with pytest.raises(ConfigError, match=incomplete):
            load_tokenizer(str(tmp_path))
    backbones.llama3().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=incomplete):
        load_language_model(str(tmp_path), seed=0)
    state = model.state_dict()
    norm = state.pop("model.norm.weight")
    state["lm_head.weight"] = state["lm_head.weight"][:-1]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"without fitting lm_head\.weight, model\.norm\.weight;"):
        load_language_model(str(tmp_path), seed=0)
    save_file({"norm": norm}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"and \d more"):
        load_language_model(str(tmp_path), seed=0)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="cannot be read"):
        load_language_model(str(tmp_path), seed=0)


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
