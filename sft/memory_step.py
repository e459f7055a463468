"""One training step without values: how much memory activations take, measured on the meta device.

The policy's own forward, the stages' own loss and autograd run as in training, on tensors that have
shapes and no values. What autograd keeps is therefore counted, not guessed: frozen parts keep
little, a frozen language model under trained visual rows keeps what its inputs' gradients need, and
gradient checkpointing keeps what it keeps. A step of a 7B policy takes seconds and no memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

from policy.freezing import PARTS
from sft.config import StageConfig

if TYPE_CHECKING:
    from policy.modeling import FaVChatForConditionalGeneration

aten = torch.ops.aten


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """What one rank computes at a time.

    Example: the paper's first stage on eight ranks, two clips each:
        >>> StepShape(batch_size=2, num_frames=8, question_tokens=64, answer_tokens=256)
    """

    batch_size: int
    num_frames: int
    question_tokens: int  # of the prompt, template included, visual rows not
    answer_tokens: int
    gradient_checkpointing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """Bytes of one forward and backward pass beside weights and gradients."""

    inputs: int  # pixels and features of the batch
    activations: int  # what lives between forward and backward
    temporary: int  # what the step needs for a moment beyond that, at its highest


def measure_step(
    model: FaVChatForConditionalGeneration, stage: StageConfig, shape: StepShape
) -> StepMemory:
    """Memory of a step in which the parts that require gradients learn.

    Computation is in the weights' dtype, without autocast. Attention is counted as a fused kernel
    (scores are never stored), which is what accelerators run. Gradients are let go as soon as they
    are whole: how many of them stay depends on the sharding, not on the step.

    Args:
        model: on the meta device, inside :func:`sft.stages.trainable`. Its mode is left changed.
        stage: the parts that it trains; encoders among them are given pixels, others features.
    """
    from sft.trainer import score_answers

    batch = _batch(model, stage, shape)
    model.train()
    for part in PARTS:
        if part not in stage.trainable and hasattr(model, part):
            getattr(model, part).eval()
    known = [*model.parameters(), *model.buffers(), *(t for t in tree_iter(batch) if _is_meta(t))]
    live = _LiveBytes(known)
    with (
        _checkpointing(model, shape.gradient_checkpointing),
        _no_gradients_kept(model),
        live,
        _ShapesAlone(),
        _FusedAttention(),
    ):
        loss = score_answers(model, batch).losses.sum()
        activations = live.now
        loss.backward()
    return StepMemory(
        inputs=_num_bytes(t for t in tree_iter(batch) if isinstance(t, Tensor)),
        activations=activations,
        temporary=live.peak - activations,
    )


def _batch(
    model: FaVChatForConditionalGeneration, stage: StageConfig, shape: StepShape
) -> dict[str, Any]:
    """A batch as the collator makes it. Token ids are real; pixels and features are shapes."""
    size, rows = shape.batch_size, model.config.num_visual_rows
    length = rows + shape.question_tokens + shape.answer_tokens
    video = model.config.video_token_id
    ids = torch.full((size, length), 0 if video else 1)
    ids[:, :rows] = video
    labels = ids.clone()
    labels[:, : -shape.answer_tokens] = -100
    limit = model.config.qformer_config.max_position_embeddings
    query = torch.ones(size, min(shape.question_tokens, limit), dtype=torch.long)
    batch: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "query_ids": query,
        "query_mask": torch.ones_like(query),
    }
    for stream in model.encoders:
        pixels = _pixels(model, stream, shape)
        if f"{stream}_encoder" in stage.trainable:
            batch[f"{stream}_pixels"] = pixels
            continue
        with torch.no_grad():
            maps = model.encode_frames(stream, pixels)
        batch[f"{stream}_features"] = maps[0] if stream == "general" else maps
    return batch


def _pixels(model: FaVChatForConditionalGeneration, stream: Any, shape: StepShape) -> Tensor:
    import numpy as np

    encoder = model.encoders[stream]
    (image,) = encoder.prepare([np.zeros((8, 8, 3), dtype=np.uint8)], encoder.options)
    return torch.empty(shape.batch_size, shape.num_frames, *image.shape, device="meta")


@contextmanager
def _checkpointing(model: nn.Module, wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    # Function modes are off inside of backward: what is computed again there switches it on again.
    model.gradient_checkpointing_enable(
        {"use_reentrant": False, "context_fn": lambda: (nullcontext(), _FusedAttention())}
    )
    try:
        yield
    finally:
        model.gradient_checkpointing_disable()


@contextmanager
def _no_gradients_kept(model: nn.Module) -> Iterator[None]:
    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    with ExitStack() as stack:
        for parameter in model.parameters():
            if parameter.requires_grad:
                handle = parameter.register_post_accumulate_grad_hook(drop)
                stack.callback(handle.remove)
        yield


class _LiveBytes(TorchDispatchMode):
    """Bytes of the storages on the meta device that were made inside and are still referred to.

    (torch's own ``MemTracker`` hooks every parameter and refuses frozen ones.)
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._kept = [tensor.untyped_storage() for tensor in known]  # so that no key is reused
        self._seen = {storage._cdata for storage in self._kept}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if _is_meta(tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._let_go, key, size)

    def _let_go(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


class _ShapesAlone(TorchDispatchMode):
    """Lets token ids and masks with values work together with tensors that have none.

    Masks are true everywhere in the batches made here, so that is the answer when a model asks
    whether one is.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default and args[0].is_meta:
            return True
        tensors = [leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, Tensor)]
        on_meta = sum(tensor.is_meta for tensor in tensors)
        if 0 < on_meta < len(tensors) and func is not aten._to_copy.default:
            if func is aten.index.Tensor:  # a mask's shape does not say how many it selects
                args = (args[0], _positions(args[1]))
            args, kwargs = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
        return func(*args, **kwargs)


def _positions(indices: Iterable[Tensor | None]) -> list[Tensor | None]:
    found: list[Tensor | None] = []
    for index in indices:
        masked = index is not None and index.dtype == torch.bool
        found.extend(index.nonzero(as_tuple=True) if masked else [index])  # type: ignore[union-attr]
    return found


class _FusedAttention(TorchFunctionMode):
    """Gives attention on the meta device the memory of a fused kernel.

    PyTorch would take the unfused path there, which stores the scores and no accelerator runs.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if attn_mask is not None and attn_mask.dtype == torch.bool:  # kernels add their masks
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(
            ~attn_mask, float("-inf")
        )
    if attn_mask is not None and attn_mask.requires_grad:  # Swin's position bias
        return aten._scaled_dot_product_efficient_attention(
            query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
        )[0]
    return aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]


def _is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
