"""The middle level: what each Q-Former is asked, what it reads, and the words that both share."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, InstructBlipQFormerConfig

from common.errors import ConfigError
from policy.checkpoints import load_policy, save_policy
from policy.levels.middle_level import MINILM, MiddleLevel, load_minilm, qformer_config
from policy.levels.tokens import PublishedTokens, VisualTokens
from policy.wheels import wheel_file
from tests.policy.level_oracles import layer_norm, part

TABLE = "embeddings.word_embeddings.weight"


def level(
    *,
    channels: int = 32,
    sees_time: bool = True,
    windows: bool = False,
    guided: bool = True,
    config: InstructBlipQFormerConfig | None = None,
    facial_width: int = 16,
) -> MiddleLevel:
    torch.manual_seed(0)
    middle = MiddleLevel(
        config or qformer_config("tiny", 2, 50),
        general_channels=channels,
        general_sees_time=sees_time,
        windows=windows,
        facial_width=facial_width,
        num_queries=3,
        guided=guided,
    ).eval()
    middle.reset_parameters()
    return middle


class Inputs:
    """Two clips in float64: the first has two frames, three words and four facial tokens."""

    def __init__(self, channels: int = 32, frames: int = 3) -> None:
        generator = torch.Generator().manual_seed(1)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.text_ids = torch.tensor([[5, 6, 7, 0], [8, 9, 10, 11]])
        self.text_mask = self.text_ids > 0
        self.general = draw(2, frames, channels, 2, 2)
        self.frame_mask = torch.ones(2, frames, dtype=torch.bool)
        self.frame_mask[0, 2:] = False
        self.facial, self.facial_mask = draw(2, 5, 16), torch.ones(2, 5, dtype=torch.bool)
        self.facial_mask[0, 4] = False

    def __iter__(self):
        return iter(vars(self).values())

    def alone(self, sample: int) -> tuple[torch.Tensor, ...]:
        words, frames = self.text_mask[sample].sum(), self.frame_mask[sample].sum()
        facial = self.facial_mask[sample].sum()
        limits = (words, words, frames, frames, facial, facial)
        return tuple(x[sample : sample + 1, :n] for x, n in zip(self, limits, strict=True))


@pytest.mark.parametrize("guided", [True, False])
def test_each_qformer_asks_its_own_tokens_in_the_light_of_the_prompt(guided):
    middle, inputs = level(guided=guided).double(), Inputs()
    nn.init.normal_(middle.general_tokens.norm.weight)
    ids, _, general, _, facial, _ = inputs.alone(0)
    tokens = torch.stack(
        [general[0, t, :, r, c] for t in range(2) for r in range(2) for c in range(2)]
    )
    norm = part(middle.state_dict(), "general_tokens.norm")
    for rows, qformer, queries, read in (
        (0, middle.general_qformer, middle.general_queries, layer_norm(tokens, norm, 1e-12)[None]),
        (1, middle.facial_qformer, middle.facial_queries, facial),
    ):
        expected = qformer(
            input_ids=ids if guided else None, query_embeds=queries, encoder_hidden_states=read
        ).last_hidden_state[0, :3]
        torch.testing.assert_close(middle(*inputs)[rows][0], expected)


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("sees_time", [True, False])
@pytest.mark.parametrize("frames", [3, 128])
def test_padding_changes_no_row(guided, sees_time, frames):
    middle = level(guided=guided, sees_time=sees_time, windows=True).double()
    inputs = Inputs(frames=frames)
    together = middle(*inputs)
    for sample in (0, 1):
        for rows, expected in zip(together, middle(*inputs.alone(sample)), strict=True):
            torch.testing.assert_close(rows[sample], expected[0])


def test_published_tokens_go_to_the_qformer_that_was_trained_on_them():
    middle = level()
    assert isinstance(middle.general_tokens, PublishedTokens)
    assert not list(middle.general_norm.parameters())
    assert not level(windows=False).general_tokens.time
    assert level(windows=True).general_tokens.time.weight.requires_grad


@pytest.mark.parametrize(("channels", "sees_time"), [(32, False), (16, True)])
def test_other_tokens_learn_their_time_and_width_here(channels, sees_time):
    middle = level(channels=channels, sees_time=sees_time)
    assert isinstance(middle.general_tokens, VisualTokens)
    assert isinstance(middle.general_norm, nn.LayerNorm)
    attention = middle.general_qformer.encoder.layer[0].crossattention.attention
    assert attention.key.in_features == 32


def test_windows_keep_their_order():
    """Positions restart in each window; two equal windows in another order are another clip."""
    inputs = Inputs(frames=4)
    clip = inputs.general[1:]
    for windows in (True, False):
        middle = level(windows=windows).double()

        def rows(maps: torch.Tensor, middle: MiddleLevel = middle) -> torch.Tensor:
            ids, text_mask, _, frames, facial, facial_mask = (x[1:] for x in inputs)
            return middle(ids, text_mask, maps, frames, facial, facial_mask)[0]

        difference = (rows(clip) - rows(torch.cat([clip[:, 2:], clip[:, :2]], dim=1))).abs().max()
        assert difference > 1e-4 if windows else difference < 1e-9


def test_bert_base_is_the_published_qformer():
    with torch.device("meta"):
        middle = level(
            channels=1024, config=qformer_config("bert_base", 12, 30522), facial_width=1024
        )
    own = sum(weight.numel() for weight in middle.general_qformer.parameters())
    assert own == 182_121_216  # the published qformer.bert.* without its index buffer
    shared = sum(weight.numel() for weight in middle.facial_qformer.parameters())
    assert shared == own - 30523 * 768
    for qformer in (middle.general_qformer, middle.facial_qformer):
        reads = [layer.has_cross_attention for layer in qformer.encoder.layer]
        assert reads == [True, False] * 6
        key = qformer.encoder.layer[10].crossattention.attention.key
        assert key.weight.shape == (768, 1024)
        assert qformer.config.layer_norm_eps == 1e-12


@pytest.mark.parametrize(("name", "most"), [("minilm", 6), ("bert_base", 12)])
def test_more_layers_than_there_are_weights_for_are_refused(name, most):
    assert qformer_config(name, most, 30522).num_hidden_layers == most
    with pytest.raises(ConfigError, match=f"qformer_layers={most + 1}.*has {most} layers"):
        qformer_config(name, most + 1, 30522)


def test_an_unknown_qformer_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"qformer=large.*minilm, bert_base, tiny"):
        qformer_config("large", 2, 30522)


def test_qformer_starts_as_minilm():
    """Without queries the Q-Former's text path is BERT: its outputs must be MiniLM's."""
    folder = wheel_file(MINILM, "model", "config.json").parent
    bert = BertModel.from_pretrained(
        folder, config=BertConfig.from_pretrained(folder, num_hidden_layers=3)
    )
    middle = level(config=qformer_config("minilm", 3, 30522), channels=8)
    for qformer in (middle.general_qformer, middle.facial_qformer):
        load_minilm(qformer)
    ids = torch.tensor([[101, 2054, 7603, 102, 0], [101, 2129, 2024, 2017, 102]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    with torch.no_grad():
        expected = bert.eval()(input_ids=ids, attention_mask=mask).last_hidden_state
        for qformer in (middle.general_qformer, middle.facial_qformer):
            got = qformer(input_ids=ids, attention_mask=mask).last_hidden_state
            torch.testing.assert_close(
                got[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-4
            )
            layer = qformer.encoder.layer[0]
            assert torch.equal(
                layer.intermediate_query.dense.weight, layer.intermediate.dense.weight
            )


def share_one_table(middle: MiddleLevel) -> bool:
    tables = [
        qformer.embeddings.word_embeddings
        for qformer in (middle.general_qformer, middle.facial_qformer)
    ]
    return tables[0] is tables[1] and tables[0].weight is tables[1].weight


def test_both_qformers_look_words_up_in_one_table():
    middle = level()
    assert share_one_table(middle)
    assert [name for name in middle.state_dict() if name.endswith(TABLE)] == [
        f"general_qformer.{TABLE}"
    ]
    ids = torch.tensor([[7]])
    table = middle.general_qformer.get_input_embeddings().weight
    before = middle.facial_qformer(input_ids=ids).last_hidden_state
    with torch.no_grad():
        table[7] += torch.linspace(-1, 1, 32)
    assert (middle.facial_qformer(input_ids=ids).last_hidden_state - before).abs().max() > 0.01


@pytest.mark.parametrize(
    "change",
    [
        lambda middle: middle.to(torch.bfloat16),
        lambda middle: middle.to("meta"),
        lambda middle: middle.to("meta").to_empty(device="cpu"),
        copy.deepcopy,
    ],
    ids=["dtype", "meta", "to_empty", "deepcopy"],
)
def test_the_table_stays_one(change):
    assert share_one_table(change(level()))


def test_the_table_is_built_as_one_on_the_meta_device():
    with torch.device("meta"):
        assert share_one_table(level())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_policy_has_one_table_with_the_saved_words(tiny, tmp_path, dtype):
    model, processor = tiny
    loaded, _ = load_policy(save_policy(model, processor, tmp_path / "policy"), dtype=dtype)
    assert share_one_table(loaded.middle_level)
    words = model.middle_level.general_qformer.get_input_embeddings().weight
    table = loaded.middle_level.facial_qformer.get_input_embeddings().weight
    assert torch.equal(table, words.to(dtype))
    assert not table.requires_grad


def test_gradient_checkpointing_changes_no_gradient():
    middle, inputs = level(sees_time=False).double(), Inputs()
    middle.train()
    for module in middle.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0

    def gradients() -> dict[str, torch.Tensor]:
        middle.zero_grad()
        general, facial = middle(*inputs)
        (general[..., 0] * 3 + facial[..., 1]).square().sum().backward()
        return {n: p.grad.clone() for n, p in middle.named_parameters() if p.grad is not None}

    plain = gradients()
    for qformer in (middle.general_qformer, middle.facial_qformer):
        qformer.gradient_checkpointing_enable()
    checkpointed = gradients()
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


def test_bfloat16_gives_what_float64_gives():
    middle, inputs = level(windows=True).double(), Inputs()
    expected = middle(*inputs)
    middle.to(torch.bfloat16)
    general, facial = inputs.general.bfloat16(), inputs.facial.bfloat16()
    got = middle(
        inputs.text_ids,
        inputs.text_mask,
        general,
        inputs.frame_mask,
        facial,
        inputs.facial_mask,
    )
    for ours, exact in zip(got, expected, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - exact).abs().mean() < 0.02  # of rows that spread over 1
