"""What a model, outside of training, makes of the target tokens of tokenised rows."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from verl.dft.data.rows import TokenizedRows
from verl.dft.loss.fused_head import linear_objective
from verl.dft.loss.objectives import objective
from verl.dft.loss.plain_head import plain_objective
from verl.dft.model.output_layer import output_layer, reading, reason_against_fusing

TOGETHER = 16  # rows after which the time is looked at
BATCH_TOKENS = {"cpu": 4096, "cuda": 32768}  # rows x longest row


@dataclass(frozen=True)
class ScoredRows:
    """The targets of a few rows, row after row.

    indices: of the rows. is_target: ``(rows, longest - 1)``, whether the token after a position is a target. ids:
    ``(n,)`` the targets. values: ``(n,)`` each, ``log_probs`` and the statistics that were asked for.
    """

    indices: list[int]
    is_target: torch.Tensor
    ids: torch.Tensor
    values: dict[str, torch.Tensor]


@torch.no_grad()
def score_rows(
    model: torch.nn.Module,
    rows: TokenizedRows,
    statistics: tuple[str, ...] = (),
    seconds: float | None = None,
    seed: int = 0,
) -> Iterator[ScoredRows]:
    """Every row once, those of about one length together, the longest first; all results on the host.

    Only target positions are projected onto the vocabulary, a few hundred at a time, in fp32 or wider. seconds: rows in
    random order until this time is over, at least TOGETHER of them.
    """
    device = next(model.parameters()).device
    is_product = reason_against_fusing(model, device) is None
    budget = BATCH_TOKENS["cpu" if device.type == "cpu" else "cuda"]
    start, spent = time.monotonic(), 0.0
    with _progress(len(rows), seconds) as bar:
        for portion in _portions(rows.lengths(), budget, seconds, seed):
            for batch in portion:
                ids, mask, lengths = _padded([rows[i] for i in batch])
                predicted = mask[:, 1:].bool()
                arguments = ids.to(device), lengths.to(device), predicted.to(device), is_product, statistics
                values = {name: value.cpu() for name, value in _values(model, *arguments).items()}
                yield ScoredRows(batch, predicted, ids[:, 1:][predicted], values)
                spent = time.monotonic() - start
                bar.update(len(batch) if seconds is None else min(spent, seconds) - bar.n)
            if seconds is not None and spent >= seconds:
                break


def _progress(rows: int, seconds: float | None) -> tqdm:
    if seconds is None:
        return tqdm(total=rows, desc="measuring", unit=" rows", mininterval=1.0)
    return tqdm(total=seconds, desc="measuring", mininterval=1.0, bar_format="{l_bar}{bar}| {n:.0f} of {total:.0f} s")


def _portions(lengths: np.ndarray, budget: int, seconds: float | None, seed: int) -> Iterator[list[list[int]]]:
    """Batches in portions after which one may stop: all of them, or TOGETHER random rows each, so that the rows
    measured by any time are a fair sample and not the longest ones.
    """
    if seconds is None:
        yield list(_batches(lengths, budget))
        return
    order = np.random.default_rng(seed).permutation(len(lengths))
    for start in range(0, len(order), TOGETHER):
        some = order[start : start + TOGETHER]
        yield [[int(some[i]) for i in batch] for batch in _batches(lengths[some], budget)]


def _values(
    model: torch.nn.Module,
    ids: torch.Tensor,
    lengths: torch.Tensor,
    predicted: torch.Tensor,
    is_product: bool,
    statistics: tuple[str, ...],
) -> dict[str, torch.Tensor]:
    """log p and statistics at the positions before the targets, ``predicted`` (rows, length - 1)."""
    targets = ids[:, 1:][predicted]
    attended = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    arguments = {"input_ids": ids, "attention_mask": attended.long(), "use_cache": False}
    nll, layer = objective("sft"), output_layer(model)
    if not is_product:
        logits = model(**arguments).logits[:, :-1][predicted]
        return plain_objective(logits, targets, nll, 1.0, statistics=statistics)[1]
    seen: list[torch.Tensor] = []

    def keep(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        seen.append(hidden[:, :-1][predicted])
        return hidden[..., :1]  # nobody reads these logits

    with reading(layer, keep):
        model(**arguments)
    return linear_objective(seen[0], layer.weight, targets, nll, 1.0, statistics=statistics)[1]


def _batches(lengths: np.ndarray, budget: int) -> Iterator[list[int]]:
    """Rows of about one length together, the longest first."""
    order = np.argsort(-lengths, kind="stable").tolist()
    start = 0
    while start < len(order):
        size = max(1, budget // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size


def _padded(rows: Sequence[dict[str, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids and masks ``(rows, longest)``, zeros on the right, and the lengths ``(rows,)``."""
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad([row["input_ids"] for row in rows], batch_first=True)
    return (
        ids,
        pad([row["loss_mask"] for row in rows], batch_first=True),
        torch.tensor([len(r["input_ids"]) for r in rows]),
    )
