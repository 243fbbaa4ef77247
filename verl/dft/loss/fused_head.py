"""The output projection and a token objective in one pass that keeps no logits.

The plain way projects every hidden state onto the vocabulary, keeps N x V logits for the backward pass and reads them
several times. Here a chunk of rows is projected, its losses and the gradient of its logits are worked out in the place
where the logits stood, two products turn that into the gradients of hidden states and weight, and the chunk is
forgotten: 6 N V H operations, as few as there are.

With g = d objective / d log p and S the denominator, the gradient of a row's logits is ``g (onehot - softmax) / S``.
Three choices keep it exact where rounding would show, that is for tokens with p near 1:
the probability of all *other* tokens is summed without the target's, so that 1 - p is never a difference;
logits leave the product in fp32 also where the operands are bf16; and they are rounded to bf16 once, after weighting.
"""

import functools
import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from verl.dft.loss.chunk import Chunk, TorchChunk
from verl.dft.loss.large_pages import prefer_large_pages
from verl.dft.loss.objectives import Objective

# Rows of a chunk on a CPU; its logits take rows x V x 4 bytes (V = 151,936: 148 MiB). Smaller chunks read the weight,
# and add to its gradient, more often.
CPU_ROWS = 256
# On a CPU the logits' product is about a fifth faster when a token's logits are a column, and much slower when the
# number of columns is no multiple of this.
CPU_ROW_BLOCK = 8


def linear_objective(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    objective: Objective,
    denominator: float,
    *,
    chunk_size: int | None = None,
    values: Mapping[str, torch.Tensor] | None = None,
    reference: tuple[torch.Tensor, torch.Tensor] | None = None,
    statistics: tuple[str, ...] = (),
    chunk_type: type[Chunk] | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """``sum_i objective(log softmax(hidden_i weight^T)[targets_i]) / denominator``, and what is known of each token.

    hidden: ``(N, H)``. weight: ``(V, H)``. targets: ``(N,)`` in [0, V). All on one device, hidden and weight of one
    dtype; fp32, fp64 or bf16. Gradients flow to hidden and to weight, each only if it requires them.
    denominator: > 0. chunk_size: rows at a time; None: ``CPU_ROWS``, on a GPU the ``GPU_ROWS`` of the chunk's type.
    values: ``(N,)`` each, token values that the objective needs and that are no statistics of the logits.
    reference: hidden states ``(N, H')`` and weight ``(V, H')`` of the model that ``reference_kl`` compares with.
    statistics: names out of :mod:`verl.dft.loss.statistics` to return beside.
    chunk_type: how the passes over the logits are made; None: :func:`chunk_type_for`.

    Returns the loss, a scalar in fp32 (fp64 for fp64), and ``(N,)`` tensors without gradient: ``log_probs``,
    ``losses``, ``hits`` (no other token is more likely), and the statistics.
    Memory above inputs and gradients: one chunk of fp32 logits, another one for ``reference_kl``.
    The gradients are computed in the forward pass: one backward pass per call.
    """
    assert hidden.dim() == 2 and targets.shape == hidden.shape[:1] and weight.shape[1] == hidden.shape[1], (
        f"{hidden.shape=} {weight.shape=} {targets.shape=}"
    )
    chunk_type = chunk_type or chunk_type_for(hidden.device, hidden.dtype)
    rows = chunk_size or (chunk_type.GPU_ROWS if hidden.is_cuda else CPU_ROWS)
    work = _Work(objective, targets, 1.0 / denominator, rows, dict(values or {}), reference, statistics, chunk_type)
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        loss = _LinearObjective.apply(hidden, weight, work)
    else:
        loss = work.run(hidden, weight, None, None)
    assert isinstance(loss, torch.Tensor)
    return loss, {name: torch.cat(parts) for name, parts in work.results.items()}


def chunk_type_for(device: torch.device, dtype: torch.dtype) -> type[Chunk]:
    """The fastest kind of chunk that works here: Triton's kernels on a GPU for operands of at most 32 bits."""
    if device.type == "cuda" and _wide(dtype) == torch.float32:
        return _kernel_chunk(device) or TorchChunk
    return TorchChunk


@functools.cache
def _kernel_chunk(device: torch.device) -> type[Chunk] | None:
    """Tried out on two rows, because a triton that can be imported may still lack a compiler or know another card."""
    if importlib.util.find_spec("triton") is None:
        warnings.warn("Without triton the output layer makes five times as many passes over its logits.", stacklevel=1)
        return None
    from verl.dft.loss.head_kernels import KernelChunk

    try:
        zeros = torch.zeros(2, KernelChunk.ROW_MULTIPLE, device=device)
        chunk = KernelChunk(zeros, zeros[:, 0].long(), (), None)
        chunk.gradient(zeros[:, 0], zeros[:, 0], torch.bfloat16)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        warnings.warn(
            f"triton does not work here ({type(error).__name__}: {reason}): the output layer makes five times as many "
            "passes over its logits.",
            stacklevel=1,
        )
        return None
    return KernelChunk


class _LinearObjective(torch.autograd.Function):
    """Gradients in the forward pass; the backward pass multiplies them with the one number it is given."""

    @staticmethod
    def forward(ctx, hidden: torch.Tensor, weight: torch.Tensor, work: "_Work") -> torch.Tensor:
        wants_hidden, wants_weight, _ = ctx.needs_input_grad
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        d_weight = None
        if wants_weight:
            # Sums over many chunks are fp32; empty, because the first chunk is written and not added. The product
            # of a GPU rounds a single chunk's sum itself.
            is_sum = len(hidden) > work.rows or not weight.is_cuda
            d_weight = torch.empty_like(weight, dtype=_wide(weight.dtype) if is_sum else weight.dtype)
            prefer_large_pages(d_weight)
        loss = work.run(hidden, weight, d_hidden, d_weight)
        ctx.multiply = work.chunk_type.multiply
        ctx.gradients = d_hidden, None if d_weight is None else d_weight.to(weight.dtype)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: torch.Tensor):
        assert ctx.gradients is not None, "one backward pass per call: the gradients were handed out in place"
        gradients, ctx.gradients = ctx.gradients, None
        # On a CPU the usual factor of 1 costs nothing; on a GPU looking at it would stop the device.
        if upstream.is_cuda or float(upstream) != 1.0:
            for gradient in gradients:
                if gradient is not None:
                    ctx.multiply(gradient, upstream)
        return *gradients, None


@dataclass
class _Work:
    """One call of :func:`linear_objective`: its inputs beside hidden states and weight, and what it finds out."""

    objective: Objective
    targets: torch.Tensor
    scale: float
    rows: int
    values: dict[str, torch.Tensor]
    reference: tuple[torch.Tensor, torch.Tensor] | None
    statistics: tuple[str, ...]
    chunk_type: type[Chunk]

    def __post_init__(self) -> None:
        names = ("log_probs", "losses", "hits", *self.statistics)
        self.results: dict[str, list[torch.Tensor]] = {name: [] for name in names}

    def run(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        d_hidden: torch.Tensor | None,
        d_weight: torch.Tensor | None,
    ) -> torch.Tensor:
        """The loss; fills ``d_hidden`` and ``d_weight`` where they are given."""
        count, device = len(self.targets), hidden.device
        # With autocast on, each product below would be cast once more.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            multiply = _Multiply(weight, self.chunk_type.ROW_MULTIPLE)
            memory = multiply.memory(min(self.rows, count))
            loss = torch.zeros((), dtype=memory.dtype, device=device)
            if count == 0 and d_weight is not None:
                d_weight.zero_()
            # With no target at all one empty chunk still gives every result its shape.
            for start in range(0, max(count, 1), self.rows):
                chunk = slice(start, start + self.rows)
                h = hidden[chunk]
                wanted = len(h) > 0 and (d_hidden is not None or d_weight is not None)
                losses, d_logits = self._score(multiply.logits(h, memory), chunk, multiply.dtype if wanted else None)
                loss += losses.sum() * self.scale
                if d_logits is None:
                    continue
                if d_hidden is not None:
                    multiply.gradient_of_hidden(d_logits, d_hidden[chunk])
                if d_weight is not None:
                    multiply.add_gradient_of_weight(d_logits, h, d_weight, first=start == 0)
        return loss

    def _score(
        self, logits: torch.Tensor, rows: slice, dtype: torch.dtype | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The losses ``(n,)`` of the tokens ``rows`` and, with a dtype, the gradient ``(n, V)`` of their logits.

        The logits are lost in either case.
        """
        given = {name: value[rows] for name, value in self.values.items()}
        names = tuple(dict.fromkeys((*self.objective.statistics, *self.statistics)))
        reference = self._reference_logits(rows) if "reference_kl" in self.objective.needs else None
        chunk = self.chunk_type(logits, self.targets[rows], names, reference)
        if chunk.kl is not None:
            given["reference_kl"] = chunk.kl
        losses, d_log_probs, d_kl = _differentiate(self.objective, chunk.log_probs, {**given, **chunk.statistics})
        for name in self.statistics:
            self.results[name].append(chunk.statistics[name])
        self.results["log_probs"].append(chunk.log_probs)
        self.results["losses"].append(losses)
        self.results["hits"].append(chunk.hits)
        if dtype is None:
            return losses, None
        return losses, chunk.gradient(d_log_probs * self.scale, d_kl * self.scale, dtype)

    def _reference_logits(self, rows: slice) -> torch.Tensor:
        assert self.reference is not None, "reference_kl needs the reference's hidden states and weight"
        hidden, weight = self.reference
        multiply, h = _Multiply(weight, self.chunk_type.ROW_MULTIPLE), hidden[rows]
        return multiply.logits(h, multiply.memory(len(h)))


def _differentiate(
    objective: Objective, log_probs: torch.Tensor, values: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The losses of a chunk and their derivatives by log p and by ``reference_kl``: three detached ``(n,)``."""
    leaves = [log_probs.detach().requires_grad_()]
    if "reference_kl" in values:
        leaves.append(values["reference_kl"].detach().requires_grad_())
        values = {**values, "reference_kl": leaves[1]}
    with torch.enable_grad():
        losses = objective(leaves[0], **values)
        found: tuple[torch.Tensor | None, ...] = (None,) * len(leaves)
        if losses.requires_grad:  # else the objective gives none of these tokens a gradient
            found = torch.autograd.grad(losses.sum(), leaves, allow_unused=True)
    zero = torch.zeros_like(log_probs)
    derivatives = [zero if d is None else d for d in found]
    return losses.detach(), derivatives[0], derivatives[1] if len(derivatives) > 1 else zero


class _Multiply:
    """The three products of a head, with sums in fp32 (fp64 for fp64) whatever the dtype of the operands.

    A GPU multiplies bf16 operands into fp32 results. A CPU has no such product, so there the operands are widened; of
    a bf16 weight that takes one fp32 copy.
    """

    def __init__(self, weight: torch.Tensor, row_multiple: int) -> None:
        self.widen = weight.dtype != _wide(weight.dtype) and not weight.is_cuda
        self.weight = weight.to(_wide(weight.dtype)) if self.widen else weight
        self.dtype = self.weight.dtype  # of the operands
        self.mixed = self.dtype != _wide(self.dtype)
        self.by_rows = weight.is_cuda or row_multiple > 0
        self.pitch = len(weight) + (-len(weight) % row_multiple if row_multiple else 0)

    def memory(self, rows: int) -> torch.Tensor:
        """What :meth:`logits` of at most ``rows`` rows are written to."""
        numbers = rows * self.pitch if self.by_rows else len(self.weight) * (rows + -rows % CPU_ROW_BLOCK)
        memory = torch.empty(numbers, dtype=_wide(self.dtype), device=self.weight.device)
        prefer_large_pages(memory)
        return memory

    def logits(self, hidden: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """``hidden weight^T``, ``(n, V)``, in ``memory``."""
        rows, vocabulary = len(hidden), len(self.weight)
        hidden = hidden.to(self.dtype)
        if self.by_rows:
            out = memory[: rows * self.pitch].view(rows, self.pitch)[:, :vocabulary]
            if self.mixed:
                return torch.mm(hidden, self.weight.t(), out_dtype=out.dtype, out=out)
            return torch.mm(hidden, self.weight.t(), out=out)
        padding = -rows % CPU_ROW_BLOCK
        columns = memory[: vocabulary * (rows + padding)].view(vocabulary, rows + padding)
        torch.mm(self.weight, F.pad(hidden, (0, 0, 0, padding)).t(), out=columns)
        return columns.t()[:rows]

    def gradient_of_hidden(self, d_logits: torch.Tensor, out: torch.Tensor) -> None:
        if out.dtype == d_logits.dtype:
            torch.mm(d_logits, self.weight, out=out)
        else:
            out.copy_(d_logits @ self.weight)

    def add_gradient_of_weight(
        self, d_logits: torch.Tensor, hidden: torch.Tensor, total: torch.Tensor, first: bool
    ) -> None:
        left, right = d_logits.t(), hidden.to(d_logits.dtype)
        if total.dtype == self.dtype:
            torch.addmm(total, left, right, beta=0 if first else 1, out=total)
        else:
            torch.addmm(total, left, right, beta=0 if first else 1, out_dtype=total.dtype, out=total)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
