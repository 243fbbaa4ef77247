"""Per-token statistics of a row of logits, which objectives may ask for by the name of a parameter.

Each is a pure function of logits ``(N, V)``, fp32 or wider, and targets ``(N,)`` to ``(N,)``, without gradient.
They make temporaries as large as the logits, so the heads call them on a few rows at a time. Those that follow from a
few sums over a row (:class:`RowSums`), or from its largest logits, need no logits of their own where a kernel has
found these on its way.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch


def entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """``-sum_v pi_v log pi_v`` in nats, in [0, log V]."""
    return torch.special.entr(logits.softmax(-1)).sum(-1)


def top20_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The entropy in nats of the softmax over the 20 largest logits alone, in [0, log 20]."""
    return entropy(logits.topk(min(20, logits.shape[-1]), dim=-1).values, targets)


def sum_of_squares(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """``sum_v pi_v^2``: 1 where one token has all the mass, 1/V where all are alike."""
    return logits.softmax(-1).square().sum(-1)


def logit_gap(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """``z_y - max over v != y of z_v``: positive exactly where the target is the most likely token."""
    others = logits.scatter(-1, targets.unsqueeze(-1), -torch.inf)
    return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - others.amax(-1)


STATISTICS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    function.__name__: function for function in (entropy, top20_entropy, sum_of_squares, logit_gap)
}


@dataclass(frozen=True)
class RowSums:
    """What one pass over a row finds, each ``(N,)``; m is the largest logit but the target's, sums leave it out too.

    of_target: z_y. largest_other: m. others: ``sum e^(z-m)``. first: ``sum e^(z-m) (z-m)``. squares:
    ``sum e^(2(z-m))``.
    """

    of_target: torch.Tensor
    largest_other: torch.Tensor
    others: torch.Tensor
    first: torch.Tensor
    squares: torch.Tensor

    def at_the_top(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """With t the largest logit of all: ``z_y - t``, ``m - t``, and e to the power of both."""
        top = torch.maximum(self.of_target, self.largest_other)
        own, other = self.of_target - top, self.largest_other - top
        return own, other, own.exp(), other.exp()


def _entropy(sums: RowSums) -> torch.Tensor:
    """``log sum e^(z-t) - sum e^(z-t) (z-t) / sum e^(z-t)``: no term is negative."""
    own, other, e_own, e_other = sums.at_the_top()
    rest = e_other * sums.others
    total = e_own + rest
    log_total = torch.where(own == 0, torch.log1p(rest), total.log())
    return log_total - (e_own * own + e_other * sums.first + rest * other) / total


def _sum_of_squares(sums: RowSums) -> torch.Tensor:
    _, _, e_own, e_other = sums.at_the_top()
    return (e_own.square() + e_other.square() * sums.squares) / (e_own + e_other * sums.others).square()


def _logit_gap(sums: RowSums) -> torch.Tensor:
    return sums.of_target - sums.largest_other


# The statistics that follow from the sums, and those that follow from the N largest logits.
FROM_SUMS: dict[str, Callable[[RowSums], torch.Tensor]] = {
    "entropy": _entropy,
    "sum_of_squares": _sum_of_squares,
    "logit_gap": _logit_gap,
}
FROM_LARGEST = {"top20_entropy": 20}

# Rows of logits at a time: 32 x 151,936 x 4 bytes = 19 MiB per temporary.
ROWS = 32


def statistics_of(
    logits: torch.Tensor, targets: torch.Tensor, names: tuple[str, ...], rows: int = ROWS
) -> dict[str, torch.Tensor]:
    """``{name: (N,)}`` for the named statistics, ``rows`` rows at a time."""
    with torch.no_grad():
        return {
            name: torch.cat(
                [STATISTICS[name](z, y) for z, y in zip(logits.split(rows), targets.split(rows), strict=True)]
            )
            for name in names
        }
