"""One gradient per response for the price of one backward (FaVChat v4, Eq. 9).

Write l_k = (1/|y_k|) sum_t w_kt log pi(y_kt | x, y_k,<t) for response k, with w_kt the truncated
importance weights, held constant, and g_k for its gradient. At the first optimiser step on a
rollout the ratio of Eq. 14 is 1, so that the policy gradient is a linear combination of the very
g_k whose pairwise distances Eq. 9 asks for:

    one backward of sum_k l_k        rows of a batch do not interact, so what arrives at row k of a
                                     layer is the gradient of l_k alone
    at each LoRA layer y += s B A x  h = A x;  e = dl/dh,  d = dl/d(B h), the scale s included
                                     grad A_k = e_k^T x_k,  grad B_k = d_k^T h_k  (sums over tokens)
    K_ij = <g_i, g_j>                the Gram matrix, all that Eq. 9 reads
    p.grad = -sum_k c_k A_k g_k      the update, c_k from degrpo.algorithm.response_coefficients

The backward is told to end at the input embeddings, so that autograd does not also form the
adapters' summed gradient, which nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from common.errors import ConfigError

GRAM_COLUMNS = 1 << 18  # columns taken to float64 at a time


class AdapterSpace:
    """All LoRA weights of a model, end to end in one vector of ``size`` entries.

    Args:
        model: holds ``peft.tuners.lora.Linear`` layers; nothing else in it may be trainable.
        adapter: PEFT's name of the adapter.

    Raises:
        ConfigError: when there is no such adapter, when another parameter is trainable (its
            gradient would be missing from Eq. 9 and from the update), or when the adapter has
            dropout (each response of a group would see another policy) or is not plain LoRA.
    """

    def __init__(self, model: nn.Module, adapter: str = "default") -> None:
        self._linears: list[nn.Linear] = []
        self.names: list[str] = []
        for name, layer in model.named_modules():
            if adapter not in getattr(layer, "lora_A", {}):
                continue
            if layer.lora_variant or not isinstance(layer.lora_dropout[adapter], nn.Identity):
                raise ConfigError(
                    f"LoRA layer {name} with dropout or a variant",
                    "per-response gradients are formed for plain LoRA without dropout",
                    "set lora_dropout=0 and use_dora=False",
                )
            self._linears += [layer.lora_A[adapter], layer.lora_B[adapter]]
            self.names += [f"{name}.lora_A.weight", f"{name}.lora_B.weight"]
        self.parameters: list[nn.Parameter] = [linear.weight for linear in self._linears]
        self._refuse_other_trainables(model, adapter)
        edges = torch.tensor([0] + [p.numel() for p in self.parameters]).cumsum(0).tolist()
        self._slices = [slice(a, b) for a, b in pairwise(edges)]
        self.size: int = edges[-1]
        # Half-precision weights still get float32 gradients: the Gram subtracts near-equal numbers.
        self.dtype = torch.promote_types(self.parameters[0].dtype, torch.float32)
        self.device = self.parameters[0].device

    def _refuse_other_trainables(self, model: nn.Module, adapter: str) -> None:
        known = {id(p) for p in self.parameters}
        others = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in known]
        if others or not known:
            raise ConfigError(
                f"trainable parameters {others[:3]}" if others else f"no LoRA adapter {adapter!r}",
                "the learner trains the weights of one LoRA adapter and nothing else",
                "freeze the model, then add the adapter with peft",
            )

    def zeros(self, *leading: int) -> Tensor:
        """Zeros of shape ``[*leading, D]``."""
        return torch.zeros(*leading, self.size, dtype=self.dtype, device=self.device)

    @contextmanager
    def record(self, rows: Sequence[Tensor]) -> Iterator[None]:
        """Within, a forward and its backward add batch row n's gradient to ``rows[n]``, ``[D]``.

        Both must run inside the block. The hooks are gone afterwards, whatever happened inside.
        """
        hooks = [
            linear.register_forward_hook(self._forward_hook(part, rows))
            for linear, part in zip(self._linears, self._slices, strict=True)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _forward_hook(self, part: slice, rows: Sequence[Tensor]) -> Callable[..., None]:
        def forward_hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if output.shape[0] != len(rows):
                raise ValueError(
                    f"a batch of {output.shape[0]} rows needs as many places, got {len(rows)}"
                )
            if output.requires_grad:
                output.register_hook(partial(self._store, part, rows, inputs[0].detach()))

        return forward_hook

    def _store(self, part: slice, rows: Sequence[Tensor], inputs: Tensor, gradient: Tensor) -> None:
        """grad W_n = sum_t gradient[n, t] inputs[n, t]^T of one linear layer, for every row n."""
        factors = torch.bmm(gradient.to(self.dtype).transpose(1, 2), inputs.to(self.dtype))
        for row, factor in zip(rows, factors, strict=True):
            row[part] += factor.flatten()

    def assign_gradients(self, gradient: Tensor) -> None:
        """Set ``p.grad`` of every adapter weight from one vector ``[D]``."""
        for parameter, part in zip(self.parameters, self._slices, strict=True):
            parameter.grad = gradient[part].view_as(parameter).to(parameter.dtype)


class GroupGradients:
    """The gradients of one group's G responses, in whichever micro-batches they arrive.

    They are kept until the group is complete: dropped any earlier, the Gram matrix would lose the
    products of responses that came in different micro-batches.
    """

    def __init__(self, space: AdapterSpace, group_size: int) -> None:
        self._rows = space.zeros(group_size)
        self._missing = set(range(group_size))

    def row(self, member: int) -> Tensor:
        """Where :meth:`AdapterSpace.record` adds g of response ``member``."""
        return self._rows[member]

    def arrived(self, member: int) -> None:
        self._missing.discard(member)

    @property
    def complete(self) -> bool:
        return not self._missing

    def gram(self) -> Tensor:
        """K_ij = <g_i, g_j>, ``[G, G]`` float64, summed in float64."""
        self._require_complete()
        size = len(self._rows)
        gram = torch.zeros(size, size, dtype=torch.float64, device=self._rows.device)
        for columns in self._rows.split(GRAM_COLUMNS, dim=1):
            wide = columns.double()
            gram += wide @ wide.T
        return gram

    def combine(self, coefficients: Tensor) -> Tensor:
        """sum_k coefficients_k g_k, ``[D]``."""
        self._require_complete()
        return coefficients.to(self._rows) @ self._rows

    def _require_complete(self) -> None:
        if self._missing:
            raise RuntimeError(
                f"responses {sorted(self._missing)} of the group have no gradient yet"
            )


def response_objective(log_probs: Tensor, weights: Tensor, lengths: Sequence[int]) -> Tensor:
    """sum_k l_k with l_k = (1/|y_k|) sum_t w_kt log pi_kt: what one backward starts from.

    Args:
        log_probs: ``[sum |y_k|]``, the responses' tokens end to end.
        weights: the same shape; truncated importance weights, constants.
        lengths: |y_k| of each response.
    """
    counts = torch.tensor(lengths, device=log_probs.device)
    return (log_probs * weights.detach() / counts.repeat_interleave(counts)).sum()
