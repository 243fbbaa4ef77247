"""The logits of a chunk of rows: what is read off them, and the gradient that takes their place.

Two ways of the same contract: :class:`TorchChunk` here, in about nine passes over the logits, and
:class:`~verl.dft.loss.head_kernels.KernelChunk`, in two.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from verl.dft.loss.statistics import ROWS, statistics_of


class Chunk(ABC):
    """What a token objective can know of ``n`` rows of logits ``z``, all ``(n,)`` and without gradient.

    log_probs: ``log softmax(z)`` at the targets, from the mass of all other tokens so that 1 - p is no difference.
    hits: whether no other token is more likely. statistics: the named ones of :mod:`verl.dft.loss.statistics`.
    kl: ``KL(softmax(reference) || softmax(z))``, None without a reference.

    Built from logits ``(n, V)`` in fp32 or wider, targets ``(n,)``, names of statistics, and either None or a
    reference's logits ``(n, V)``. Both matrices are lost: they are the memory in which :meth:`gradient` is made.
    """

    # A row of logits begins at a multiple of this many numbers; 0 leaves the layout to whoever multiplies.
    ROW_MULTIPLE: ClassVar[int]
    # Rows of a chunk on a GPU.
    GPU_ROWS: ClassVar[int]
    # Memory that a chunk takes on a GPU, in units of its fp32 logits; one more for a reference.
    SIZE: ClassVar[float]

    log_probs: torch.Tensor
    hits: torch.Tensor
    statistics: dict[str, torch.Tensor]
    kl: torch.Tensor | None

    @abstractmethod
    def __init__(
        self, logits: torch.Tensor, targets: torch.Tensor, names: tuple[str, ...], reference: torch.Tensor | None
    ) -> None: ...

    @abstractmethod
    def gradient(self, d_log_probs: torch.Tensor, d_kl: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """``d_log_probs (onehot - softmax(z)) + d_kl (softmax(z) - softmax(reference))``, ``(n, V)``, rounded once.

        d_log_probs, d_kl: ``(n,)``, the derivatives of the loss by ``log_probs`` and ``kl``. Can be called once.
        """

    @staticmethod
    def multiply(gradient: torch.Tensor, factor: torch.Tensor) -> None:
        """``gradient *= factor``, one number, without looking at it from the host."""
        gradient.mul_(factor)


class TorchChunk(Chunk):
    """With torch's own operations: on any device, in any wide dtype."""

    ROW_MULTIPLE = 0
    GPU_ROWS = 2048
    SIZE = 1.5  # the gradient is copied when it is rounded to bf16

    def __init__(
        self, logits: torch.Tensor, targets: torch.Tensor, names: tuple[str, ...], reference: torch.Tensor | None
    ) -> None:
        self.column = targets.unsqueeze(1)
        self.statistics = statistics_of(logits, targets, names)
        self.reference, self.kl = None, None
        if reference is not None:
            self.reference = reference.sub_(reference.logsumexp(1, keepdim=True)).exp_()
            self.kl = _kl(self.reference, logits)
        of_target = logits.gather(1, self.column).squeeze(1)
        largest_other = logits.scatter_(1, self.column, -torch.inf).amax(1)
        largest = torch.maximum(of_target, largest_other)
        self.others = logits.sub_(largest.unsqueeze(1)).exp_()  # 0 at the target
        self.own, self.rest = (of_target - largest).exp(), self.others.sum(1)
        self.log_probs = log_probability(of_target - largest, self.own, self.rest)
        self.hits = of_target >= largest_other

    def gradient(self, d_log_probs: torch.Tensor, d_kl: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        total = self.own + self.rest
        d_logits = self.others.mul_(((d_kl - d_log_probs) / total).unsqueeze(1))
        at_target = (d_log_probs * self.rest + d_kl * self.own) / total
        d_logits.scatter_(1, self.column, at_target.unsqueeze(1))
        if self.reference is not None:
            d_logits.sub_(self.reference.mul_(d_kl.unsqueeze(1)))
        return d_logits.to(dtype)


def log_probability(height: torch.Tensor, own: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    """``log(own / (own + rest))`` for ``own = exp(height)``, all ``(n,)``.

    Near p = 1 the difference of logits and log of their sum would round to a few steps of 1e-7.
    """
    return torch.where(own > rest, -torch.log1p(rest / own), height - (own + rest).log())


def _kl(reference: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """``KL(reference || softmax(logits))`` per row, for probabilities and logits ``(n, V)``; a few rows at a time."""
    parts = []
    for r, z in zip(reference.split(ROWS), logits.split(ROWS), strict=True):
        log_probs = z - z.logsumexp(1, keepdim=True)
        parts.append(-torch.special.entr(r).sum(1) - (r * log_probs).sum(1))
    return torch.cat(parts)
