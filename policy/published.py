"""Weights of published checkpoints, copied into a policy strictly key by key.

What a file looks like is data (policy.published_layouts). Files are mapped, not read, and let go of
as their tensors are copied, so that loading needs little memory beside the model's own.
"""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from common.errors import CheckpointError, ConfigError
from policy.published_layouts import LAYOUTS, Layout, Part

MAX_NAMED = 5
"""A broken checkpoint's error names so many keys of each kind."""

REMAP_BYTES = 16 * 2**20
"""After so many bytes, or an eighth of the model's weights if that is more, a file is mapped anew:
pages read so far go. Mapping takes tenths of a second."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What a file's values may be."""

DAMAGE = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
    SafetensorError,
)
"""What ``torch.load`` and safetensors have been seen to raise on truncated and altered files."""

QUERY_PARAMETERS = ("middle_level.general_queries", "middle_level.facial_queries")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    """A tensor of the model and where a file keeps its values."""

    target: Tensor
    key: str
    shape: tuple[int, ...]  # that the file's tensor must have
    rows: tuple[int, int, int]  # dimension, start, length of what is taken from it


@torch.no_grad()
def load_published(model: nn.Module, kind: str, path: str | Path) -> None:
    """Fill the parts of a policy that a published checkpoint has weights for.

    Values are converted to the model's dtype; which tensors take gradients stays as it is. The file
    is checked whole, values included, before the first one changes. A file of ``torch.save`` is
    read as tensors only, a ``.safetensors`` file with the same keys serves as well. Beside the
    model's own weights this takes memory for an eighth of them, or 16 MiB if that is more, and one
    tensor; for the whole file if it predates PyTorch 1.6.

    Both Q-Formers start from the published one. Published queries beyond the policy's number are
    left out, and ``extra_query_tokens``, which files of VideoChat2's first stage lack, may be
    missing where none of them is needed.

    Args:
        model: a policy whose encoder is the published one.
        kind: key of :data:`policy.published_layouts.LAYOUTS`.

    Raises:
        ConfigError: for another kind, or a policy without the parts or with too many queries.
        CheckpointError: for a file that is missing, damaged or of another kind, for keys that are
            missing, extra or misshapen, and for values that are not finite in the model's dtype;
            it names the keys.
    """
    if kind not in LAYOUTS:
        raise ConfigError(
            f"published weights of kind {kind!r}",
            f"it is one of {', '.join(LAYOUTS)}",
            "correct the kind",
        )
    layout, path = LAYOUTS[kind], Path(path)
    _check_encoder(model, kind, layout)
    copies = _copies(model, kind, layout)
    differences = _differences(copies, _state_dict(path, kind), layout)
    if differences := differences or _non_finite(copies, path, kind):
        raise CheckpointError(
            f"{kind} weights {path} with {differences}",
            "a published file must match the policy key by key",
            f"get the published file again; the policy needs {layout.setting}",
        )
    _visit(copies, path, kind, lambda copy, values: copy.target.copy_(values))


def _check_encoder(model: nn.Module, kind: str, layout: Layout) -> None:
    encoder = getattr(model, layout.encoder, None)
    if getattr(encoder, "published_kind", None) != kind:
        has = "no" if encoder is None else type(encoder).__name__ + " as"
        raise ConfigError(
            f"{kind} weights for a policy with {has} {layout.encoder}",
            "they fit the published encoder alone",
            f"set {layout.setting}",
        )


def _copies(model: nn.Module, kind: str, layout: Layout) -> list[_Copy]:
    """Every tensor to fill, ordered by key so that both Q-Formers take one reading."""
    try:
        copies = [
            copy
            for part in layout.parts
            for name in part.modules
            for copy in _part_copies(part, model.get_submodule(name))
        ]
        if layout.queries:
            for name in QUERY_PARAMETERS:
                copies += _query_copies(layout.queries, model.get_parameter(name))
    except AttributeError as error:
        raise ConfigError(
            f"{kind} weights for a policy without a part ({error})",
            "all parts of the file have a place in the policy",
            f"set {layout.setting}",
        ) from error
    if any(copy.target.is_meta for copy in copies):
        raise ConfigError(
            f"{kind} weights for a policy on the meta device",
            "weights are copied into memory",
            "build the policy on another device",
        )
    return sorted(copies, key=lambda copy: copy.key)


def _part_copies(part: Part, module: nn.Module) -> Iterator[_Copy]:
    for name, target in module.state_dict().items():
        key, position = part.source(name)
        length, *others = target.shape
        start, height = 0, length
        if position is not None:
            start, height = position * length, len(part.fused) * length
        yield _Copy(target=target, key=key, shape=(height, *others), rows=(0, start, length))


def _query_copies(published: Mapping[str, int], queries: Tensor) -> Iterator[_Copy]:
    """The first queries of all published ones."""
    _, number, width = queries.shape
    if number > sum(published.values()):
        raise ConfigError(
            f"policy.num_queries={number}",
            f"{sum(published.values())} queries are published",
            f"set policy.num_queries={sum(published.values())} or fewer",
        )
    start = 0
    for key, rows in published.items():
        taken = min(rows, max(0, number - start))
        target = queries.data.narrow(1, min(start, number), taken)
        yield _Copy(target=target, key=key, shape=(1, rows, width), rows=(1, 0, taken))
        start += rows


def _differences(copies: Iterable[_Copy], found: Mapping[str, Tensor], layout: Layout) -> str:
    """What keeps a file from filling the model, in words; empty when nothing does."""
    missing, misshapen, used = set(), set(), set()
    for copy in copies:
        used.add(copy.key)
        tensor = found.get(copy.key)
        if tensor is None:
            if copy.target.numel():
                missing.add(copy.key)
        elif oddity := _oddity(tensor):
            misshapen.add(f"{copy.key} (file {oddity}, model {copy.target.dtype})")
        elif tuple(tensor.shape) != copy.shape:
            misshapen.add(f"{copy.key} (file {tuple(tensor.shape)}, model {copy.shape})")
    extra = {
        key
        for key in found.keys() - used
        if not any(fnmatchcase(key, pattern) for pattern in layout.dropped)
    }
    return named_differences(missing=missing, extra=extra, misshapen=misshapen)


def _oddity(tensor: Tensor) -> str:
    """Why a file's tensor cannot be copied whatever its shape; empty when it can."""
    if tensor.is_meta:
        return "without values"
    if tensor.is_nested or tensor.is_quantized:
        return "nested" if tensor.is_nested else "quantised"
    if tensor.layout is not torch.strided:
        return str(tensor.layout)
    return "" if tensor.dtype in FLOATS else str(tensor.dtype)


def _non_finite(copies: Collection[_Copy], path: Path, kind: str) -> str:
    """Keys whose values would be infinite or not a number in the model, in words."""
    keys = set()

    def check(copy: _Copy, values: Tensor) -> None:
        largest = torch.finfo(copy.target.dtype).max
        low, high = values.aminmax()  # makes no other tensor of their size; NaN comes through
        if not (-largest <= low and high <= largest):
            keys.add(copy.key)

    _visit(copies, path, kind, check)
    return named_differences(**{"not finite": keys})


def named_differences(**kinds: Iterable[str]) -> str:
    """``missing a, b; extra c``: up to :data:`MAX_NAMED` keys of each kind, the others counted."""
    return "; ".join(f"{kind} {named(keys)}" for kind, keys in kinds.items() if keys)


def named(keys: Iterable[str]) -> str:
    """The first :data:`MAX_NAMED` keys in order; the others are counted."""
    keys = sorted(keys)
    more = f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else ""
    return ", ".join(keys[:MAX_NAMED]) + more


def _visit(
    copies: Collection[_Copy], path: Path, kind: str, use: Callable[[_Copy, Tensor], object]
) -> None:
    """Call ``use`` with each copy that is not empty and its values in the file.

    ``use`` keeps no values: those of a mapped file would keep all of its pages.
    """
    tensors, read = _state_dict(path, kind), 0
    mapped = _is_mapped(path)
    limit = max(REMAP_BYTES, sum(copy.target.nbytes for copy in copies) // 8)
    for copy in copies:
        if not copy.target.numel():
            continue
        values = tensors[copy.key].narrow(*copy.rows)
        use(copy, values)
        read += values.nbytes
        del values
        if mapped and read >= limit:
            del tensors
            tensors, read = _state_dict(path, kind), 0


def _state_dict(path: Path, kind: str) -> dict[str, Tensor]:
    """The tensors of a file by their published keys; values stay on disk until they are used."""
    content = _content(path, kind)
    layout = LAYOUTS[kind]
    wrapped = path.suffix == ".safetensors" or not layout.must_wrap
    for key in layout.wrappers:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content, wrapped = content[key], True
    if not isinstance(content, dict) or not wrapped:
        _refuse_content(
            path, kind, content, f"its weights lie under {' or '.join(layout.wrappers)}"
        )
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        _refuse_content(path, kind, content, "its weights are tensors by name")
    return content


def _is_mapped(path: Path) -> bool:
    """False for files of PyTorch before 1.6, which can only be read whole."""
    return path.suffix == ".safetensors" or zipfile.is_zipfile(path)


def _content(path: Path, kind: str) -> object:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_mapped(path))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{kind} weights {path}", "there is no such file", "correct the path"
        ) from error
    except pickle.UnpicklingError as error:
        objects = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it refers to {objects[1]}" if objects else "it is no file of tensors"
        raise CheckpointError(
            f"{kind} weights {path}",
            f"only tensors are read, no other Python object is made, and {what}",
            "get the published file again, or save its tensors alone",
        ) from error
    except DAMAGE as error:
        reason = str(error).split(". ")[0] or type(error).__name__
        raise CheckpointError(
            f"{kind} weights {path}", f"the file is damaged: {reason}", "get it again"
        ) from error


def _refuse_content(path: Path, kind: str, content: object, rule: str) -> NoReturn:
    holds = type(content).__name__
    if isinstance(content, dict):
        holds = f"keys {named(map(str, content))}"
    raise CheckpointError(
        f"{kind} weights {path} with {holds}", rule, "pass the published file of this kind"
    )
