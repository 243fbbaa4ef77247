"""Per-token statistics of a row of logits, which objectives may ask for by the name of a parameter.

Each is a pure function of logits ``(N, V)``, fp32 or wider, and targets ``(N,)`` to ``(N,)``, without gradient.
They make temporaries as large as the logits, so the heads call them on a few rows at a time.
"""

from collections.abc import Callable

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

# Rows of logits at a time: 32 x 151,936 x 4 bytes = 19 MiB per temporary.
ROWS = 32


def statistics_of(logits: torch.Tensor, targets: torch.Tensor, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """``{name: (N,)}`` for the named statistics, a few rows at a time."""
    with torch.no_grad():
        return {
            name: torch.cat(
                [STATISTICS[name](z, y) for z, y in zip(logits.split(ROWS), targets.split(ROWS), strict=True)]
            )
            for name in names
        }
