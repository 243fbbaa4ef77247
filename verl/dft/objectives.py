"""Token objectives: pure functions from per-token log-probabilities to per-token losses.

Every objective here enters training in one way only:

    loss = sum over target tokens of objective(log p)  /  number of target tokens in the global batch

so nothing about batching, packing or parallelism can change its gradient.
"""

from collections.abc import Callable

import torch

Objective = Callable[[torch.Tensor], torch.Tensor]


def sft(log_probs: torch.Tensor) -> torch.Tensor:
    """``-log p``: the cross-entropy of supervised fine-tuning. Gradient on the target's logit: ``-(1 - p)``."""
    return -log_probs


def dft(log_probs: torch.Tensor) -> torch.Tensor:
    """``-stopgrad(p) * log p`` (Dynamic Fine-Tuning, arXiv 2508.05629, eq. 9).

    Its gradient is that of ``1 - p``: ``-p (1 - p)`` on the target's logit. Its *value* is 0 both at p = 0 and at
    p = 1 (largest, 1/e, at p = 1/e), so it does not measure progress; read NLL, 1 - p and accuracy instead.
    Without the stop-gradient a token with p < 1/e would be pushed down.
    """
    return -log_probs.detach().exp() * log_probs


_OBJECTIVES: dict[str, Objective] = {"sft": sft, "dft": dft}


def objective_names() -> list[str]:
    return sorted(_OBJECTIVES)


def objective(name: str, **options: float) -> Objective:
    """The objective called ``name``: a function of log p, any shape, in (-inf, 0], to losses of the same shape.

    Raises ValueError for an unknown name, or for options that the objective does not have.
    """
    if name not in _OBJECTIVES:
        raise ValueError(f"expected objective.name to be one of {', '.join(objective_names())}; found {name!r}")
    if options:
        raise ValueError(f"objective {name!r} has no options; found {', '.join(sorted(options))}. Remove them.")
    return _OBJECTIVES[name]
