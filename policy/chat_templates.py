"""How each family of language models writes a conversation, and how its answers end.

Four families are known by the control tokens of their tokenizers:

======== ============================================= =============== ==========================
family   one turn                                      an answer ends  padding
======== ============================================= =============== ==========================
chatml   ``<|im_start|>user\\nHi.<|im_end|>\\n``         ``<|im_end|>``  ``<|endoftext|>``
qwen3    chatml; answers start after an empty          ``<|im_end|>``  ``<|endoftext|>``
         ``<think>`` block, so the model does not think
mistral  ``[INST] Hi. [/INST]`` after one ``<s>``      ``</s>``        ``<unk>``
llama3   ``<|start_header_id|>user<|end_header_id|>``  ``<|eot_id|>``  ``<|finetune_right_pad_id|>``
         ``\\n\\nHi.<|eot_id|>``                                         or a reserved token
======== ============================================= =============== ==========================

SmolLM2, Qwen2 and Qwen2.5 write chatml. No template adds a system prompt of its own: every token of
it would be paid for in each rollout.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ConfigError
from policy.language.media_tokens import VIDEO_PAD, VISION_END, VISION_START

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FLATTEN = (
    "{% set flat = namespace(messages=[]) %}"
    "{% for message in messages %}"
    "{% set flat.text = '' %}"
    "{% if message['content'] is string %}{% set flat.text = message['content'] %}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}"
    f"{{% set flat.text = flat.text + '{VISION_START}{VIDEO_PAD}{VISION_END}' %}}"
    "{% else %}{% set flat.text = flat.text + part['text'] %}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% set flat.messages = flat.messages + [dict(message, content=flat.text)] %}"
    "{% endfor %}"
    "{% set messages = flat.messages %}"
)
"""Put before a template: contents become strings, with the media tokens where the videos are.

So templates that know only strings take videos too, and a saved template needs no other code.
"""

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

QWEN3 = (
    "{% set last = namespace(user=messages|length) %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{% set last.user = loop.index0 %}{% endif %}"
    "{% endfor %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and loop.index0 > last.user %}"
    "{{ '<think>\n\n</think>\n\n' }}"
    "{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}"
    "{% endif %}"
)
"""As published with ``enable_thinking=False``: only answers to the last question keep a block."""

LLAMA3 = (
    "{{ '<|begin_of_text|>' }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)

MISTRAL = (
    "{{ '<s>' }}"
    "{% set held = namespace(system='') %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}"
    "{% set held.system = held.system + message['content'] + '\n\n' %}"
    "{% elif message['role'] == 'user' %}"
    "{{ '@OPEN' + held.system + message['content'] + '@CLOSE' }}{% set held.system = '' %}"
    "{% else %}{{ '@ANSWER' + message['content'] + '</s>' }}{% endif %}"
    "{% endfor %}"
    "{% if held.system %}"
    "{{ raise_exception('a system message is followed by a user message') }}"
    "{% endif %}"
)
"""There is no system turn: a system message starts the next user message.

What stands around messages depends on the tokenizer (:func:`_mistral_template`).
"""

MISTRAL_MARKERS = ("[INST]", "[/INST]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFormat:
    """How conversations are written for one tokenizer.

    Example: for Qwen2.5:
        >>> ChatFormat(
        ...     name="chatml", template="...", end_token="<|im_end|>", pad_token="<|endoftext|>")
    """

    name: str
    """`chatml`, `qwen3`, `mistral`, `llama3`, `tokenizer`, or the path of a .jinja file."""

    template: str
    """Jinja; takes message contents as strings or as lists of video and text parts."""

    end_token: str
    """Ends an answer."""

    pad_token: str
    """Fills up batches; never the end token where the vocabulary has another that text lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    name: str
    markers: tuple[str, ...]
    template: str
    end_token: str
    pad_tokens: tuple[str, ...]


_CHATML_MARKERS = ("<|im_start|>", "<|im_end|>")
_FAMILIES = (
    _Family(
        name="qwen3",
        markers=(*_CHATML_MARKERS, "<think>", "</think>"),
        template=QWEN3,
        end_token="<|im_end|>",
        pad_tokens=("<|endoftext|>",),
    ),
    _Family(
        name="chatml",
        markers=_CHATML_MARKERS,
        template=CHATML,
        end_token="<|im_end|>",
        pad_tokens=("<|endoftext|>",),
    ),
    _Family(
        name="llama3",
        markers=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        template=LLAMA3,
        end_token="<|eot_id|>",
        pad_tokens=("<|finetune_right_pad_id|>", "<|reserved_special_token_0|>"),
    ),
)
_MISTRAL = _Family(
    name="mistral",
    markers=("<s>", "</s>"),
    template=MISTRAL,
    end_token="</s>",
    pad_tokens=("<unk>",),
)


def chat_format(tokenizer: PreTrainedTokenizerBase, choice: str = "auto") -> ChatFormat:
    """The format of ``tokenizer``'s conversations; the tokenizer itself stays as it is.

    Args:
        choice: ``auto`` (the family's template), ``tokenizer`` (the tokenizer's own), or the path
            of a .jinja file. End and padding follow the family in every case; a tokenizer of no
            known family keeps its own.

    Raises:
        ConfigError: under ``auto`` for an unknown family; for a file that is missing; for a
            template that is no Jinja or loses the video or the question; for a tokenizer without
            end token.
    """
    family = _find_family(tokenizer)
    if choice == "auto":
        if family is None:
            raise ConfigError(
                "policy.chat_template=auto with a tokenizer of an unknown family",
                f"known are {', '.join(known.name for known in (*_FAMILIES, _MISTRAL))}",
                "set policy.chat_template=tokenizer, or the path of a .jinja file",
            )
        name = family.name
        template = _mistral_template(tokenizer) if family is _MISTRAL else family.template
    elif choice == "tokenizer":
        name, template = choice, _own_template(tokenizer)
    else:
        name, template = choice, _read_template(Path(choice))
    if not template.startswith(FLATTEN):
        template = FLATTEN + template
    end_token = family.end_token if family else tokenizer.eos_token
    if not end_token:
        raise ConfigError(
            "a tokenizer without end token",
            "answers end with one",
            "set eos_token in its tokenizer_config.json",
        )
    found = ChatFormat(
        name=name,
        template=template,
        end_token=end_token,
        pad_token=_pad_token(tokenizer, end_token, family.pad_tokens if family else ()),
    )
    _check_template(tokenizer, found)
    return found


def apply_chat_format(tokenizer: PreTrainedTokenizerBase, chat: ChatFormat) -> None:
    """Set end token, padding token and template of ``tokenizer``; all are saved with it."""
    tokenizer.eos_token = chat.end_token
    tokenizer.pad_token = chat.pad_token
    tokenizer.chat_template = chat.template


def plain_text(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """User text without the strings that would act as control tokens; each becomes a space.

    These are the special tokens, other added tokens in brackets such as ``<think>``, and
    Mistral's ``[INST]``, which most of its tokenizers write in ordinary letters. NUL, which no
    writing uses, becomes a space too: what holds one is never a user's text.
    """
    control = re.compile("|".join(map(re.escape, (*control_strings(tokenizer), "\x00"))))
    # Again until nothing is found: a space put in may complete a token that holds one.
    while (plain := control.sub(" ", text)) != text:
        text = plain
    return text.strip()


def control_strings(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """What :func:`plain_text` takes out beside NUL, the longest first."""
    added = tokenizer.added_tokens_decoder.values()
    found = {
        token.content
        for token in added
        if token.special or re.fullmatch(r"<.+>|\[.+\]", token.content)
    }
    if found.issuperset(_MISTRAL.markers):
        found.update(MISTRAL_MARKERS)
    return tuple(sorted(found, key=lambda token: (-len(token), token)))


def _find_family(tokenizer: PreTrainedTokenizerBase) -> _Family | None:
    added = tokenizer.added_tokens_encoder
    for family in _FAMILIES:
        if all(marker in added for marker in family.markers):
            return family
    # Llama 2, Vicuna and others have the same tokens; only the template tells them apart.
    own = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    speaks_inst = "[INST]" in own and "<<SYS>>" not in own
    has_tokens = all(marker in added for marker in _MISTRAL.markers)
    return _MISTRAL if has_tokens and ("[INST]" in added or speaks_inst) else None


def _mistral_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Reference tokens in every tokenizer: ``▁[INST]▁Hi.▁[/INST]▁No.``, each ▁ a space.

    Until v0.2 the markers are ordinary text, from v0.3 on they are tokens and have a space on
    their right alone. A sentencepiece tokenizer writes a first space of its own: most of them after
    each special token, others only where a text begins, so that the template has to write it.
    """
    mark = "▁"
    if not tokenizer.tokenize("a", add_special_tokens=False)[0].startswith(mark):
        raise ConfigError(
            "a Mistral tokenizer that reads an answer without the space before it",
            "the model was trained with that space",
            "use the tokenizer.json that was published with the model; if it is this one, set "
            "policy.chat_template=tokenizer",
        )
    writes_spaces = tokenizer.tokenize("<s>a", add_special_tokens=False)[1].startswith(mark)
    space = "" if writes_spaces else " "
    if "[INST]" in tokenizer.added_tokens_encoder:
        open_, close, answer = f"[INST]{space}", "[/INST]", space
    else:
        open_, close, answer = f"{space}[INST] ", " [/INST]", " "
    template = MISTRAL.replace("@OPEN", open_).replace("@CLOSE", close)
    return template.replace("@ANSWER", answer)


def _pad_token(tokenizer: PreTrainedTokenizerBase, end: str, candidates: Sequence[str]) -> str:
    added = tokenizer.added_tokens_encoder
    reserved = [token for token in candidates if token in added]
    for token in (tokenizer.pad_token, *reserved, tokenizer.unk_token):
        if token and token != end:
            return token
    return end


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.chat_template is None:
        raise ConfigError(
            "policy.chat_template=tokenizer with a tokenizer that has no template",
            "the template comes from its chat_template.jinja or tokenizer_config.json",
            "set policy.chat_template=auto, or the path of a .jinja file",
        )
    return tokenizer.get_chat_template()


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"policy.chat_template={path} ({error})",
            "it is auto, tokenizer, or the path of a .jinja file",
            "set policy.chat_template=auto, or correct the path",
        ) from error


def _check_template(tokenizer: PreTrainedTokenizerBase, chat: ChatFormat) -> None:
    """Write a question about a video; the video and the words must come out once each."""
    import jinja2
    from transformers.utils.chat_template_utils import render_jinja_template

    question = "Is she happy?"
    content = [{"type": "video"}, {"type": "text", "text": question}]
    received = f"policy.chat_template={chat.name}"
    try:
        rendered, _ = render_jinja_template(
            [[{"role": "user", "content": content}]],
            chat_template=chat.template,
            add_generation_prompt=True,
            **tokenizer.special_tokens_map,
        )
    except (jinja2.TemplateError, TypeError) as error:
        raise ConfigError(
            f"{received}, which cannot be rendered ({error})",
            "it is a Jinja template over messages and add_generation_prompt",
            "correct the template, or set policy.chat_template=auto",
        ) from error
    if (rendered[0].count(VIDEO_PAD), rendered[0].count(question)) != (1, 1):
        raise ConfigError(
            f"{received}, which writes {rendered[0]!r}",
            "a message's content is written once, with its media tokens",
            "correct the template, or set policy.chat_template=auto",
        )
