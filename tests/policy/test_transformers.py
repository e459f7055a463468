"""The policy as a model of transformers: saved, loaded, dispatched, generating, adapted."""

from __future__ import annotations

import itertools
import json
import logging

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    GenerationConfig,
    set_seed,
)

from common.errors import PolicyInputError
from policy.build import register_policy
from policy.configuration import FaVChatConfig
from policy.modeling import FaVChatForConditionalGeneration
from tests.policy.small_policies import (
    NUM_QUERIES,
    PAPER,
    UMT,
    VOCABULARY,
    small_clips,
    small_config,
    small_policy,
    small_prompts,
)

LEVELS = [
    dict(zip(("low_level", "middle_level", "gate", "fusion", "facial_source"), choice, strict=True))
    for choice in itertools.product(
        ("text_query", "visual_query", "final_cross_attention", "none"),
        ("text_guided", "unguided"),
        ("text", "feature", "static"),
        ("sum", "concat"),
        ("facial", "general"),
    )
    if not (choice[0] == "visual_query" and choice[-1] == "general")
]
ENCODERS = {
    "paper": PAPER,
    "swin blocks": {
        **PAPER,
        "facial_encoder_options": {**PAPER["facial_encoder_options"], "granularity": "block"},
    },
    "umt for other q-former": {**PAPER, "general_encoder_options": {**UMT, "width": 16}},
    "windows": {**PAPER, "frames_per_clip": 3, "facial_grid": 4},
    "embedded": {"general_encoder": "efficientnet_lite0", "facial_encoder": "mini_xception"},
    "swapped": {"general_encoder": "mini_xception", "facial_encoder": "efficientnet_lite0"},
    "untied": {"tied": False},
}


def output(model, **inputs):
    with torch.no_grad():
        return model(**inputs).logits


def batch_of(model, **prompts):
    config = model.config
    return {**small_clips(config), **small_prompts(config, **prompts)}


def same_output(model, loaded) -> None:
    """Equal but for the last bits, which follow where in memory a tensor happens to lie.

    Logits go up to 7, and pass through layers that each round to float32.
    """
    batch = batch_of(model)
    theirs, ours = output(loaded.eval(), **batch), output(model, **batch)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


def same_state(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """Parameters and all buffers, the non-persistent ones included."""
    left, right = ours.state_dict(), theirs.state_dict()
    assert left.keys() == right.keys()
    left.update(ours.named_buffers())
    right.update(theirs.named_buffers())
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different


@pytest.mark.parametrize("changes", LEVELS, ids=lambda c: "-".join(c.values()))
def test_every_combination_of_levels_comes_back_exactly(changes, tmp_path):
    model = small_policy(**changes)
    model.save_pretrained(tmp_path)
    loaded, info = FaVChatForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info.values()), info
    same_state(model, loaded)
    same_output(model, loaded)


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
@pytest.mark.parametrize("encoders", ENCODERS)
def test_every_encoder_comes_back_exactly(encoders, shard, tmp_path):
    """Batch norms' statistics, Swin's legacy names inside a larger model, sharded or not."""
    model = small_policy(**ENCODERS[encoders])
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "20KB")
    loaded, info = FaVChatForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info.values()), info
    same_state(model, loaded)
    same_output(model, loaded)


def test_loading_draws_nothing_at_random(tmp_path):
    small_policy(**PAPER).save_pretrained(tmp_path)
    before = torch.get_rng_state()
    FaVChatForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_a_file_lacks_is_drawn_and_the_rest_of_its_module_stays(tmp_path):
    """As for every model of transformers; ``load_policy`` refuses such a file."""
    model = small_policy()
    state = {k: v for k, v in model.state_dict().items() if k != "middle_level.facial_queries"}
    model.save_pretrained(tmp_path, state_dict=state)
    loaded, info = FaVChatForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert list(info["missing_keys"]) == ["middle_level.facial_queries"]
    drawn = loaded.middle_level.facial_queries
    assert 0.01 < drawn.std().item() < 0.03  # of the initialisation
    assert torch.equal(loaded.middle_level.general_queries, model.middle_level.general_queries)


def test_the_auto_classes_know_it(tmp_path):
    register_policy()
    model = small_policy()
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), FaVChatConfig)
    for auto in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        assert type(auto.from_pretrained(tmp_path)) is type(model)
    assert type(AutoModelForImageTextToText.from_config(model.config)) is type(model)


@pytest.mark.parametrize("changes", [LEVELS[0], LEVELS[-1], PAPER, {"tied": False}])
def test_the_config_comes_back_from_json(changes):
    config = small_config(**changes)
    again = FaVChatConfig.from_dict(json.loads(config.to_json_string(use_diff=False)))
    assert again.to_dict() == config.to_dict()
    short = FaVChatConfig.from_dict(json.loads(config.to_json_string()))
    assert short.to_dict() == config.to_dict()


@pytest.mark.parametrize("encoders", ["paper", "embedded"])
def test_bfloat16_is_the_rounded_policy(encoders, tmp_path):
    model = small_policy(**ENCODERS[encoders])
    model.save_pretrained(tmp_path)
    loaded = FaVChatForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert loaded.dtype == torch.bfloat16
    ours = model.state_dict()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, ours[name].to(tensor.dtype)), name
        assert tensor.dtype == torch.bfloat16 or not tensor.is_floating_point(), name
    frequencies = loaded.language_model.model.rotary_emb.inv_freq
    assert frequencies.dtype == torch.float32  # positions beyond 256 would collide
    batch = batch_of(model)
    exact, rounded = output(model, **batch), output(loaded, **batch)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).std() < 0.15 * exact.std()
    answer = loaded.generate(**batch, max_new_tokens=3)
    assert answer.shape == (2, batch["input_ids"].shape[1] + 3)
    loaded.save_pretrained(tmp_path / "again")
    again = FaVChatForConditionalGeneration.from_pretrained(tmp_path / "again", dtype="auto")
    same_state(loaded, again)


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, "auto"])
def test_device_maps(device_map, tmp_path):
    model = small_policy(**PAPER)
    model.save_pretrained(tmp_path)
    loaded = FaVChatForConditionalGeneration.from_pretrained(tmp_path, device_map=device_map)
    same_state(model, loaded)
    same_output(model, loaded)


@pytest.mark.filterwarnings("ignore:You are calling .generate")  # the first part is on disk
@pytest.mark.parametrize("encoders", ["paper", "windows", "untied"])
def test_parts_on_disk_compute_the_same(encoders, tmp_path):
    """``device_map="auto"`` with too little memory: whole parts stay on disk until they are run."""
    model = small_policy(**ENCODERS[encoders])
    model.save_pretrained(tmp_path / "model")
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    loaded = FaVChatForConditionalGeneration.from_pretrained(
        tmp_path / "model",
        device_map="auto",
        max_memory={"cpu": int(0.8 * size)},
        offload_folder=tmp_path / "offload",
    ).eval()
    assert "disk" in loaded.hf_device_map.values()
    places = {name.split(".")[0] for name in loaded.hf_device_map}
    vision = {name for name, _ in loaded.named_children()} - {"language_model"}
    assert not [n for n in loaded.hf_device_map if "." in n and n.split(".")[0] in vision]
    assert places <= vision | {"language_model"}
    same_output(model, loaded)
    ids = loaded.generate(**batch_of(model, left=True), max_new_tokens=3)
    assert torch.equal(ids, model.generate(**batch_of(model, left=True), max_new_tokens=3))


def test_padding_on_either_side_gives_the_same_logits():
    model = small_policy(**PAPER).double()
    clips = small_clips(model.config)
    right, left = (small_prompts(model.config, left=side) for side in (False, True))
    got = [output(model, **clips, **prompts) for prompts in (right, left)]
    real = [logits[prompts["attention_mask"].bool()] for logits, prompts in zip(
        got, (right, left), strict=True)]  # fmt: skip
    torch.testing.assert_close(real[0], real[1], atol=1e-10, rtol=1e-10)
    alone = {name: value[1:] for name, value in {**clips, **right}.items()}
    length = int(right["attention_mask"][1].sum())
    alone["input_ids"] = alone["input_ids"][:, :length]
    alone["attention_mask"] = alone["attention_mask"][:, :length]
    torch.testing.assert_close(
        output(model, **alone)[0], got[0][1, :length], atol=1e-10, rtol=1e-10
    )


def test_a_cache_continues_left_padded_prompts():
    """The same positions whether a prompt comes whole or in two pieces."""
    model = small_policy().double()
    batch = batch_of(model, left=True)
    whole = output(model, **batch)
    first = {**batch, "input_ids": batch["input_ids"][:, :-2]}
    first["attention_mask"] = batch["attention_mask"][:, :-2]
    with torch.no_grad():
        cache = model(**first, use_cache=True).past_key_values
        rest = model(
            input_ids=batch["input_ids"][:, -2:],
            attention_mask=batch["attention_mask"],
            past_key_values=cache,
        ).logits
    torch.testing.assert_close(rest, whole[:, -2:], atol=1e-10, rtol=1e-10)


def test_generating_in_batches_with_and_without_cache_is_generating_alone():
    model = small_policy(**PAPER).double()
    batch = batch_of(model, left=True)
    together = model.generate(**batch, max_new_tokens=6, do_sample=False)
    assert torch.equal(together[:, : batch["input_ids"].shape[1]], batch["input_ids"])
    uncached = model.generate(**batch, max_new_tokens=6, do_sample=False, use_cache=False)
    assert torch.equal(together, uncached)
    rows = model.visual_prefix(**small_clips(model.config)).rows
    for index, row in enumerate(batch["input_ids"]):
        prompt = row[batch["attention_mask"][index].bool()][None]
        answer = model.generate(prompt, visual_rows=rows[index, None], max_new_tokens=6)
        expected = prompt
        for _ in range(6):
            logits = output(model, input_ids=expected, visual_rows=rows[index, None])
            expected = torch.cat([expected, logits[:, -1:].argmax(dim=-1)], dim=1)
            if expected[0, -1] == 2:  # the end token
                break
        assert torch.equal(answer, expected)
        assert torch.equal(together[index, -6:][: answer.shape[1] - prompt.shape[1]],
                           answer[0, prompt.shape[1]:])  # fmt: skip


def test_beams_and_samples():
    model = small_policy()
    batch = batch_of(model, left=True)
    length = batch["input_ids"].shape[1]
    beams = model.generate(
        **batch, num_beams=3, num_return_sequences=2, max_new_tokens=4,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    assert beams.sequences.shape[0] == 4  # two of each prompt, prompts first
    assert torch.equal(beams.sequences[:, :length], batch["input_ids"].repeat_interleave(2, dim=0))
    assert (beams.sequences_scores[::2] >= beams.sequences_scores[1::2]).all()
    set_seed(0)
    samples = model.generate(**batch, do_sample=True, num_return_sequences=8, max_new_tokens=4)
    assert torch.equal(samples[:, :length], batch["input_ids"].repeat_interleave(8, dim=0))
    assert len({tuple(row.tolist()) for row in samples[:8, length:]}) > 1


def test_settings_that_are_not_given_are_the_policys_own():
    model = small_policy()
    batch = batch_of(model, left=True)
    free = model.generate(**batch, max_new_tokens=1)[:, -1].tolist()
    model.generation_config.suppress_tokens = free
    for asked in ({"max_new_tokens": 1}, {"generation_config": GenerationConfig(max_new_tokens=1)}):
        assert not set(model.generate(**batch, **asked)[:, -1].tolist()) & set(free)
    assert model.generation_config.max_new_tokens is None  # asking changes no defaults


def warnings_of_transformers(caplog) -> str:
    """What was logged so far; transformers says most of its warnings there."""
    return " ".join(record.getMessage() for record in caplog.records)


@pytest.fixture
def heard(caplog):
    """caplog, with the messages of transformers."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
def test_lengths_that_nobody_set_count_from_the_end_of_the_prompt(heard):
    """20 new tokens, as for every model of transformers, however long the prompt is."""
    model = small_policy()
    batch = batch_of(model, left=True, lengths=(30, 26))
    length = batch["input_ids"].shape[1]
    never_ends = {"eos_token_id": None}
    model.language_model.generation_config.eos_token_id = None
    assert model.generate(**batch, **never_ends).shape[1] == length + 20
    assert model.generate(**batch, max_new_tokens=30, **never_ends).shape[1] == length + 30
    shortest = {"max_new_tokens": 5, "min_new_tokens": 3}
    assert model.generate(**batch, **shortest, **never_ends).shape[1] == length + 5
    assert model.generate(**batch, max_length=length + 4, **never_ends).shape[1] == length + 4
    model.generation_config.max_new_tokens = 6
    assert model.generate(**batch, **never_ends).shape[1] == length + 6
    assert "seem to have been set" not in warnings_of_transformers(heard)


def test_the_language_models_own_settings_do_not_mix_in():
    """A language model from the hub brings its own; loaded back it has none."""
    model = small_policy()
    batch = batch_of(model, left=True)
    said = model.generate(**batch, max_new_tokens=6)
    model.language_model.generation_config.repetition_penalty = 50.0
    model.language_model.generation_config.do_sample = True
    assert torch.equal(model.generate(**batch, max_new_tokens=6), said)


def test_states_come_with_what_was_generated(heard):
    model = small_policy()
    batch = batch_of(model, left=True)
    output = model.generate(
        **batch, max_new_tokens=3, min_new_tokens=3, output_hidden_states=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    assert len(output.hidden_states) == 3
    assert "deprecated" not in warnings_of_transformers(heard)


def test_prompts_may_be_called_inputs():
    model = small_policy()
    batch = batch_of(model, left=True)
    said = model.generate(**batch, max_new_tokens=4)
    ids = batch.pop("input_ids")
    assert torch.equal(model.generate(inputs=ids, **batch, max_new_tokens=4), said)
    with pytest.raises(PolicyInputError, match="inputs beside input_ids"):
        model.generate(ids, inputs=ids, **batch)
    with pytest.raises(PolicyInputError, match="without input_ids"):
        model.generate(**batch)


@pytest.mark.parametrize(
    "changes",
    [{}, {"device_map": "cpu"}, {"output_loading_info": True}, {"dtype": torch.bfloat16}],
    ids=str,
)
def test_loading_freezes_what_building_freezes(changes, tmp_path):
    register_policy()
    model = small_policy(**PAPER)
    model.save_pretrained(tmp_path)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {
        "general_encoder", "facial_encoder", "middle_level"
    }  # fmt: skip
    for auto in (FaVChatForConditionalGeneration, AutoModelForImageTextToText):
        loaded = auto.from_pretrained(tmp_path, **changes)
        if "output_loading_info" in changes:
            loaded, info = loaded
            assert not any(info.values())
        assert {name for name, p in loaded.named_parameters() if not p.requires_grad} == frozen


@pytest.mark.parametrize("encoders", ["paper", "swin blocks"])
def test_gradient_checkpointing_gives_the_same_gradients(encoders):
    """In the encoders, the Q-Formers and the language model: their layers run a second time."""
    model = small_policy(**ENCODERS[encoders]).double().train()
    model.requires_grad_(True)
    batch = batch_of(model)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    layers = [
        model.general_encoder.blocks[0].attn,
        model.facial_encoder.swin.encoder.layers[0].blocks[0].attention,
        model.middle_level.general_qformer.encoder.layer[0].attention,
        model.middle_level.facial_qformer.encoder.layer[0].attention,
        model.language_model.model.layers[0].self_attn,
    ]

    def gradients() -> tuple[list[torch.Tensor | None], list[int]]:
        calls = [0] * len(layers)

        def count(index: int):
            def hook(*_):
                calls[index] += 1

            return hook

        hooks = [
            layer.register_forward_pre_hook(count(index)) for index, layer in enumerate(layers)
        ]
        model.zero_grad()
        torch.manual_seed(0)  # of dropout in the Q-Formers
        model(**batch, labels=labels).loss.backward()
        for hook in hooks:
            hook.remove()
        return [p.grad for p in model.parameters()], calls

    plain, once = gradients()
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    checkpointed, twice = gradients()
    assert all(once)
    assert all(again > calls for again, calls in zip(twice, once, strict=True)), (once, twice)
    for (name, _), ours, theirs in zip(model.named_parameters(), plain, checkpointed, strict=True):
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            torch.testing.assert_close(theirs, ours, atol=1e-9, rtol=1e-7, msg=name)
    model.gradient_checkpointing_disable()
    assert gradients()[1] == once


def test_adapters_on_the_whole_policy_switch_off():
    """``get_peft_model`` on the policy itself, with the language model's layers as targets."""
    from peft import LoraConfig, get_peft_model

    model = small_policy(**PAPER)
    batch = batch_of(model, left=True)
    before, said = output(model, **batch), model.generate(**batch, max_new_tokens=4)
    adapted = get_peft_model(
        model,
        LoraConfig(
            r=2, target_modules=r"language_model\..*\.(q|v)_proj", task_type="CAUSAL_LM",
            init_lora_weights=False,
        ),
    )  # fmt: skip
    trained = [name for name, one in adapted.named_parameters() if one.requires_grad]
    assert len(trained) == 2 * 2 * 2  # layers, projections, halves
    assert all("language_model" in name for name in trained)
    assert (output(adapted, **batch) - before).abs().max() > 1e-2
    assert adapted.generate(**batch, max_new_tokens=4).shape[0] == 2
    with adapted.disable_adapter():
        torch.testing.assert_close(output(adapted, **batch), before)
        assert torch.equal(adapted.generate(**batch, max_new_tokens=4), said)
    merged = adapted.merge_and_unload()
    assert type(merged) is type(model)


def test_adapters_in_place_of_the_language_model_generate():
    """As training has them: ``model.language_model = get_peft_model(model.language_model, …)``."""
    from peft import LoraConfig, get_peft_model

    model = small_policy()
    batch = batch_of(model, left=True)
    said = model.generate(**batch, max_new_tokens=4)
    model.language_model = get_peft_model(
        model.language_model,
        LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    )
    assert torch.equal(model.generate(**batch, max_new_tokens=4)[:, :-4], batch["input_ids"])
    with model.language_model.disable_adapter():
        assert torch.equal(model.generate(**batch, max_new_tokens=4), said)
    model.train()
    model.gradient_checkpointing_enable()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    trained = {n for n, p in model.language_model.named_parameters() if p.requires_grad}
    reached = {n for n, p in model.language_model.named_parameters() if p.grad is not None}
    assert trained == reached
    assert all("lora_" in name for name in trained)


@pytest.mark.parametrize("tied", [True, False])
def test_resizing_the_vocabulary(tied, tmp_path):
    model = small_policy(tied=tied)
    batch = batch_of(model)
    before, words = output(model, **batch), model.num_parameters()
    model.resize_token_embeddings(VOCABULARY + 8, mean_resizing=False)
    tables = 1 if tied else 2
    assert model.num_parameters() == words + tables * 8 * 32
    assert model.config.text_config.vocab_size == VOCABULARY + 8
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    torch.testing.assert_close(output(model, **batch)[..., :VOCABULARY], before)
    loss = model(**batch, labels=batch["input_ids"]).loss  # flattens by the vocabulary
    assert torch.isfinite(loss)
    model.save_pretrained(tmp_path)
    loaded = FaVChatForConditionalGeneration.from_pretrained(tmp_path).eval()
    same_state(model, loaded)


def test_size_is_the_sum_of_what_is_learnt_and_tied_tables_count_once():
    model = small_policy()
    distinct = {id(p): p.numel() for p in model.parameters()}
    assert model.num_parameters() == sum(distinct.values())
    assert model.dtype == torch.float32
    names = {name for name, _ in model.named_parameters()}
    assert "language_model.lm_head.weight" not in names


def test_outputs_come_as_a_tuple_on_request():
    model = small_policy()
    batch = batch_of(model)
    with torch.no_grad():
        as_tuple = model(**batch, return_dict=False)
        named = model(**batch)
    assert isinstance(as_tuple, tuple)
    torch.testing.assert_close(as_tuple[0], named.logits)


def attention(model) -> dict[str, str]:
    middle = model.middle_level
    parts = {
        "general_qformer": middle.general_qformer,
        "facial_qformer": middle.facial_qformer,
        "language_model": model.language_model,
    }
    return {name: part.config._attn_implementation for name, part in parts.items()}


def test_attention_can_be_chosen_for_all_and_by_part(heard):
    model = small_policy()
    batch = batch_of(model)
    before = output(model, **batch)
    qformers = ("general_qformer", "facial_qformer")
    every = dict.fromkeys((*qformers, "language_model"), "sdpa")
    assert attention(model) == every
    for choice, changed in (
        ({"text_config": "eager"}, {"language_model": "eager"}),
        ({"qformer_config": "eager"}, dict.fromkeys(qformers, "eager")),
        ({"text_config": "sdpa"}, {"language_model": "sdpa"}),
        ("sdpa", dict.fromkeys(qformers, "sdpa")),
        ("eager", dict.fromkeys(every, "eager")),
    ):
        model.set_attn_implementation(choice)
        every |= changed
        assert attention(model) == every, choice
        assert model.config.qformer_config._attn_implementation == every["facial_qformer"]
        torch.testing.assert_close(output(model, **batch), before, atol=1e-4, rtol=1e-4)
    assert "sub-model" not in warnings_of_transformers(heard)


def test_attention_can_be_chosen_at_loading(tmp_path):
    model = small_policy()
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, attn_implementation="eager")
    assert set(attention(loaded).values()) == {"eager"}
    again = type(model).from_pretrained(tmp_path, attn_implementation={"qformer_config": "eager"})
    assert attention(again) == {**attention(loaded), "language_model": "sdpa"}


def test_flash_attention_is_not_promised_for_all_parts():
    """Swin has none, for its relative positions; the language model can be given it alone."""
    assert not FaVChatForConditionalGeneration._supports_flash_attn


def test_rows_per_clip_are_the_configs():
    for fusion, factor in (("sum", 1), ("concat", 2)):
        model = small_policy(fusion=fusion)
        assert model.config.num_visual_rows == factor * NUM_QUERIES
        with torch.no_grad():
            rows = model.visual_prefix(**small_clips(model.config)).rows
        assert rows.shape[1] == factor * NUM_QUERIES
