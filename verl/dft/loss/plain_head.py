"""A token objective on logits that a model has made: for output layers that the fused head does not know, and as the
reference that the fused head is tested against. Autograd finds the gradients.
"""

from collections.abc import Mapping

import torch
from torch.utils.checkpoint import checkpoint

from verl.dft.loss.objectives import Objective
from verl.dft.loss.statistics import statistics_of

# Rows of logits held in fp32 at a time while log p is read off: 512 x 151,936 x 4 bytes = 297 MiB.
LOGIT_ROWS = 512


def plain_objective(
    logits: torch.Tensor,
    targets: torch.Tensor,
    objective: Objective,
    denominator: float,
    *,
    values: Mapping[str, torch.Tensor] | None = None,
    reference_logits: torch.Tensor | None = None,
    statistics: tuple[str, ...] = (),
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """:func:`~verl.dft.loss.fused_head.linear_objective` of logits ``(N, V)`` instead of hidden states and weight.

    reference_logits: ``(N, V)`` of the model that ``reference_kl`` compares with.
    Of bf16 logits no full fp32 copy ever exists: slices of rows are widened, and widened again in the backward pass.
    """
    given, needs_kl = dict(values or {}), "reference_kl" in objective.needs
    found: dict[str, list[torch.Tensor]] = {name: [] for name in ("log_probs", "hits", "reference_kl")}
    asked: dict[str, list[torch.Tensor]] = {name: [] for name in dict.fromkeys((*objective.statistics, *statistics))}
    # At least one slice, so that an empty micro-batch stays in the graph and every rank runs the same backward.
    for start in range(0, max(len(targets), 1), LOGIT_ROWS):
        rows = slice(start, start + LOGIT_ROWS)
        of_reference = None
        if needs_kl:
            assert reference_logits is not None, "reference_kl needs the reference's logits"
            of_reference = _wide(reference_logits[rows])
            of_reference = of_reference - of_reference.logsumexp(-1, keepdim=True)
        arguments = logits[rows], targets[rows], of_reference
        if logits.dtype in (torch.bfloat16, torch.float16):
            log_probs, kl = checkpoint(_read, *arguments, use_reentrant=False)
        else:
            log_probs, kl = _read(*arguments)
        found["log_probs"].append(log_probs)
        found["reference_kl"].append(kl)
        wide, labels = _wide(logits[rows].detach()), targets[rows]
        found["hits"].append(wide.gather(-1, labels.unsqueeze(-1)).squeeze(-1) >= wide.amax(-1))
        for name, value in statistics_of(wide, labels, tuple(asked)).items():
            asked[name].append(value)
    log_probs = torch.cat(found["log_probs"])
    known = {name: torch.cat(parts) for name, parts in asked.items()}
    if needs_kl:
        given["reference_kl"] = torch.cat(found["reference_kl"])
    losses = objective(log_probs, **given, **known)
    return losses.sum() / denominator, {
        "log_probs": log_probs.detach(),
        "losses": losses.detach(),
        "hits": torch.cat(found["hits"]),
        **{name: known[name] for name in statistics},
    }


def _read(
    logits: torch.Tensor, targets: torch.Tensor, reference: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """``log softmax(logits)[targets]`` and KL(reference || softmax(logits)) of a slice; reference: log-probabilities.

    By logsumexp: torch's fp32 ``log_softmax`` on a CPU loses the tail of a large vocabulary.
    """
    logits = _wide(logits)
    lse = logits.logsumexp(-1)
    log_probs = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - lse
    if reference is None:
        return log_probs, torch.zeros_like(lse)
    return log_probs, (reference.exp() * (reference - logits + lse.unsqueeze(-1))).sum(-1)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
