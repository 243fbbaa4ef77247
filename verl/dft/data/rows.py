"""Tokenised rows as flat arrays, as text with their targets marked, and once per machine.

A row of n tokens is ``input_ids`` (n,), ``position_ids`` 0 .. n-1 and ``loss_mask`` (n,), 1 at the target tokens.
"""

import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class TokenizedRows(torch.utils.data.Dataset):
    """Tokenised rows: all ids in one array, all masks in one, where each row starts, and which row of the files it was.

    input_ids: ``(T,)`` int32. loss_mask: ``(T,)`` uint8. starts: ``(rows + 1,)`` int64.
    numbers: ``(rows,)`` int64, counted from 0 over all files; those of dropped rows are missing.
    reference_log_probs: ``(T,)`` float32, read at targets only; of no size where the data hold none.
    weights: ``(T,)`` float32, what multiplies the loss of a target token; of no size where it is 1 everywhere.
    """

    ARRAYS = ("input_ids", "loss_mask", "starts", "numbers", "reference_log_probs", "weights")

    def __init__(
        self,
        input_ids: np.ndarray,
        loss_mask: np.ndarray,
        starts: np.ndarray,
        numbers: np.ndarray,
        reference_log_probs: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        self.input_ids, self.loss_mask, self.starts, self.numbers = input_ids, loss_mask, starts, numbers
        nothing = np.zeros(0, dtype=np.float32)
        self.reference_log_probs = nothing if reference_log_probs is None else reference_log_probs
        self.weights = nothing if weights is None else weights

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        span = slice(self.starts[index], self.starts[index + 1])
        ids = torch.from_numpy(self.input_ids[span].astype(np.int64))
        row = {
            "input_ids": ids,
            "position_ids": torch.arange(ids.numel()),
            "loss_mask": torch.from_numpy(self.loss_mask[span].astype(np.int64)),
        }
        if len(self.reference_log_probs):
            row["reference_log_probs"] = torch.from_numpy(self.reference_log_probs[span].astype(np.float32))
        if len(self.weights):
            row["loss_weight"] = torch.from_numpy(self.weights[span].astype(np.float32))
        return row

    def lengths(self) -> np.ndarray:
        """``(rows,)`` tokens per row."""
        return np.diff(self.starts)

    def save(self, folder: Path) -> None:
        """Write the arrays into ``folder``, for :meth:`map`."""
        for name in self.ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def map(cls, folder: Path) -> "TokenizedRows":
        """The rows saved in ``folder``, memory-mapped: processes of one machine share the pages."""
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in cls.ARRAYS))


def decoded_example(rows: TokenizedRows, tokenizer: Any, index: int = 0) -> str:
    """Row ``index`` as text, with the targets between ⟦ and ⟧."""
    row = rows[index]
    ids, mask = row["input_ids"].tolist(), row["loss_mask"].tolist()
    pieces, start = [], 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or mask[end] != mask[start]:
            text = tokenizer.decode(ids[start:end])
            pieces.append(f"⟦{text}⟧" if mask[start] else text)
            start = end
    return "".join(pieces)


def share_within_node(build: Callable[[], TokenizedRows]) -> TokenizedRows:
    """``build()`` on the first rank of each machine; the other ranks map its arrays. Errors reach every rank.

    Outside a process group: just ``build()``.
    """
    dist = torch.distributed
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return build()
    first = os.environ["LOCAL_RANK"] == "0"
    with tempfile.TemporaryDirectory(prefix="verl-dft-", ignore_cleanup_errors=True) as folder:
        outcome: Any = None
        if first:
            try:
                build().save(Path(folder))
                outcome = folder
            except ValueError as error:
                outcome = error
        outcomes: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(outcomes, (socket.gethostname(), outcome))
        for _, result in outcomes:
            if isinstance(result, ValueError):
                raise result
        shared = next(result for host, result in outcomes if host == socket.gethostname() and result is not None)
        rows = TokenizedRows.map(Path(shared))
        dist.barrier()  # mapped by all: the files may go, their pages stay
    return rows
