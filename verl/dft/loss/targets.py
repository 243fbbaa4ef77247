"""Where the target tokens of a micro-batch are predicted. Worked out on the host, so that the device never waits."""

from dataclasses import dataclass, replace

import torch

from verl.dft.transfer import send


@dataclass(frozen=True)
class Targets:
    """The target tokens whose predictions this rank computes, in the order of the packed micro-batch.

    positions: ``(n,)`` where each is predicted, in the flattened positions of the model's input on this rank.
    ids: ``(n,)`` the tokens themselves. rows: ``(n,)`` the row of the micro-batch that each belongs to.
    row_count: rows in the micro-batch. reference_log_probs: ``(n,)`` log p of each under the reference, where the data
    holds it. weights: ``(n,)`` what multiplies each loss, or None for 1.
    """

    positions: torch.Tensor
    ids: torch.Tensor
    rows: torch.Tensor
    row_count: int
    reference_log_probs: torch.Tensor | None = None
    weights: torch.Tensor | None = None

    def to(self, device: torch.device | str | int) -> "Targets":
        """The same targets on ``device``, copied without waiting."""
        positions, ids, rows = (send(x, device) for x in (self.positions, self.ids, self.rows))
        known, weights = (None if x is None else send(x, device) for x in (self.reference_log_probs, self.weights))
        return Targets(positions, ids, rows, self.row_count, known, weights)


def find_targets(
    input_ids: torch.Tensor,
    loss_mask: torch.Tensor,
    borders: torch.Tensor,
    reference_log_probs: torch.Tensor | None = None,
    loss_weight: torch.Tensor | None = None,
) -> Targets:
    """The targets of packed rows; positions index the packed sequence.

    input_ids, loss_mask: ``(T,)``; reference_log_probs and loss_weight too, read at targets only.
    borders: ``(rows + 1,)``, row i is ``[borders[i], borders[i + 1])``.
    A token is predicted from the position before it. No row starts with a target (see ``verl.dft.data.dataset``), so no
    target is looked for in the row before.
    """
    places = loss_mask.nonzero().squeeze(1)
    rows = torch.searchsorted(borders, places, right=True) - 1
    known, weights = (None if x is None else x[places] for x in (reference_log_probs, loss_weight))
    return Targets(places - 1, input_ids[places], rows, len(borders) - 1, known, weights)


def within_slice(targets: Targets, start: int, length: int) -> Targets:
    """Those predicted in ``[start, start + length)`` of the packed sequence, with positions counted from ``start``."""
    here = (targets.positions >= start) & (targets.positions < start + length)
    known, weights = (None if x is None else x[here] for x in (targets.reference_log_probs, targets.weights))
    positions = targets.positions[here] - start
    return Targets(positions, targets.ids[here], targets.rows[here], targets.row_count, known, weights)


def within_padded_rows(targets: Targets, borders: torch.Tensor, width: int) -> Targets:
    """The same targets in rows padded on the right to ``width`` and flattened, ``(rows * width,)``."""
    positions = targets.rows * width + targets.positions - borders[targets.rows]
    return replace(targets, positions=positions)


def row_means(values: torch.Tensor, targets: Targets, group: torch.distributed.ProcessGroup | None) -> torch.Tensor:
    """For each target the mean of ``values`` ``(n,)`` over the targets of its row, without gradient.

    group: the ranks over which the row is spread by sequence parallelism, or None.
    """
    sums = torch.zeros(2, targets.row_count, dtype=torch.float64, device=values.device)
    sums[0].index_add_(0, targets.rows, values.detach().double())
    sums[1].index_add_(0, targets.rows, torch.ones_like(values, dtype=torch.float64))
    if group is not None:
        torch.distributed.all_reduce(sums, group=group)
    return (sums[0] / sums[1]).to(values.dtype)[targets.rows]
