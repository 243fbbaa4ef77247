"""Which rows make up which optimizer step, and which rank takes which of them.

The order is a pure function of (seed, epoch), so that a run is resumed by its step number alone, on any number of
ranks. Dealing a global batch out by length changes nothing but speed: the loss divides by the global token count.
"""

from collections.abc import Iterator

import numpy as np
from verl.utils.seqlen_balancing import get_seqlen_balanced_partitions


class TrainBatches:
    """``rows(step)`` = this rank's row indices of a global batch; steps count from 1 over all epochs.

    lengths: ``(rows,)`` tokens per row, or None where they are not known (rows are then dealt out in turn).
    The rows of an epoch that do not fill a batch are left out, others in each epoch; see ``left_over``.
    """

    def __init__(
        self, row_count: int, lengths: np.ndarray | None, batch_size: int, rank: int, ranks: int, seed: int
    ) -> None:
        if row_count < batch_size:
            raise ValueError(
                f"expected at least data.train_batch_size={batch_size} training rows, found {row_count}. "
                "Lower the batch size or add data."
            )
        self.row_count, self.lengths, self.batch_size = row_count, lengths, batch_size
        self.rank, self.ranks, self.seed = rank, ranks, seed
        self.steps_per_epoch = row_count // batch_size
        self.left_over = row_count % batch_size
        self._epoch: tuple[int, np.ndarray] | None = None

    def global_rows(self, step: int) -> np.ndarray:
        """``(batch_size,)`` row indices of a step, over all ranks."""
        epoch, index = divmod(step - 1, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, np.random.default_rng([self.seed, epoch]).permutation(self.row_count))
        return self._epoch[1][index * self.batch_size : (index + 1) * self.batch_size]

    def rows(self, step: int) -> np.ndarray:
        """``(batch_size / ranks,)`` row indices of a step for this rank."""
        rows = self.global_rows(step)
        if self.lengths is None or self.ranks == 1:
            return rows[self.rank :: self.ranks]
        shares = get_seqlen_balanced_partitions(self.lengths[rows].tolist(), self.ranks, equal_size=True)
        return rows[np.asarray(shares[self.rank])]


def validation_batches(row_count: int, rows_per_rank: int, rank: int, ranks: int) -> Iterator[tuple[np.ndarray, int]]:
    """Batches that cover every row exactly once over all ranks: (row indices, how many of them count).

    Ranks must run the same number of equally large batches (FSDP gathers parameters in each), so a short share is
    filled up with row 0, which does not count.
    """
    for start in range(0, row_count, rows_per_rank * ranks):
        chunk = np.arange(start, min(start + rows_per_rank * ranks, row_count))
        mine = chunk[rank::ranks]
        yield np.concatenate([mine, np.zeros(rows_per_rank - len(mine), dtype=mine.dtype)]), len(mine)
