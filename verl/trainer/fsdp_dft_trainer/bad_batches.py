"""What happens to a step whose loss or gradient is no finite number: its rows are written down, and the run stops or
leaves the step out. Either way the optimizer has not seen it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from omegaconf import DictConfig

from verl.dft.data.rows import TokenizedRows, decoded_example
from verl.dft.metrics import SUMS
from verl.trainer.fsdp_dft_trainer.agreement import NotWritten, on_first
from verl.trainer.fsdp_dft_trainer.progress import Progress


def trouble(sums: torch.Tensor, grad_norm: float | None = None) -> str | None:
    """What is wrong with a step, or None. sums: ``(len(SUMS), ...)`` of the global batch. grad_norm: None if not known.

    An ``impossible`` token is one with log p > 0 or a loss that is no finite number: a mistake in a head or objective
    that a mean might hide.
    """
    values = dict(zip(SUMS, sums.tolist(), strict=False))
    if not math.isfinite(values["loss"]) or not math.isfinite(values["nll"]):
        return f"the loss is not finite (objective {values['loss']}, log-likelihood {-values['nll']}, summed)"
    if values["impossible"]:
        return f"{int(values['impossible'])} target tokens have log p > 0 or a loss that is not finite"
    if grad_norm is not None and not math.isfinite(grad_norm):
        return f"the gradient's norm is {grad_norm}"
    return None


class BadBatches:
    """Counts the steps that were left out, and ends the run where there are too many.

    skips: ``trainer.on_nonfinite=skip``. limit: ``trainer.max_nonfinite``, how many in a row end the run.
    """

    def __init__(self, trainer: DictConfig) -> None:
        self.skips, self.limit = trainer.on_nonfinite == "skip", trainer.max_nonfinite
        self.folder = Path(trainer.default_local_dir)

    def report(
        self, step: int, what: str, rows: Mapping[int, torch.Tensor], dataset: Any, tokenizer: Any, files: Sequence[str]
    ) -> None:
        """Write ``nonfinite_step_<step>.jsonl``: every row of the batch, those that show trouble by themselves first.

        rows: of this rank, index in the data set -> its sums. files: those of the data set. Every rank must call it.
        """
        gathered: list[dict[int, torch.Tensor]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(gathered, dict(rows))
        total: dict[int, torch.Tensor] = {}
        for part in gathered:
            for row, sums in part.items():  # ranks that share a sequence hold a part of its tokens each
                total[row] = total.get(row, torch.zeros_like(sums)) + sums
        file = self.folder / f"nonfinite_step_{step}.jsonl"

        def write() -> None:
            lines = [_line(row, sums, dataset, tokenizer, files) for row, sums in total.items()]
            lines.sort(key=lambda line: (line["finite"], line["row"]))
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            file.write_text(text, encoding="utf-8", errors="backslashreplace")
            bad = [line["row"] for line in lines if not line["finite"]]
            alone = f"not finite by themselves: rows {bad}" if bad else "each row by itself has a finite loss"
            print(f"step {step}: {what}; the model was not updated. {alone}. Its rows are in {file}.", flush=True)

        try:
            on_first(write)
        except NotWritten as error:
            print(f"step {step}: {what}; its rows could not be written: {error}", flush=True)

    def judge(self, step: int, what: str, progress: Progress, may_skip: bool) -> None:
        """Raises ValueError where the run must not go on. may_skip: whatever ``trainer.on_nonfinite`` says."""
        file = self.folder / f"nonfinite_step_{step}.jsonl"
        if not self.skips and not may_skip:
            raise ValueError(
                f"step {step}: {what}. The model was not updated; the rows of the step are in {file}. Correct them, "
                "lower the learning rate, or leave such steps out with trainer.on_nonfinite=skip."
            )
        if progress.skipped_in_a_row >= self.limit:
            raise ValueError(
                f"step {step}: {what}; {progress.skipped_in_a_row} steps in a row were left out "
                f"(trainer.max_nonfinite={self.limit}). Look at {file}."
            )


def _line(row: int, sums: torch.Tensor, dataset: Any, tokenizer: Any, files: Sequence[str]) -> dict[str, Any]:
    values = dict(zip(SUMS, sums.tolist(), strict=True))
    return {
        "row": row,
        **_place(row, dataset, files),
        "finite": trouble(sums) is None,
        "target_tokens": int(values["target_tokens"]),
        "loss": str(values["loss"]),
        "nll": str(values["nll"]),
        "text": decoded_example(dataset, tokenizer, row),
    }


def _place(row: int, dataset: Any, files: Sequence[str]) -> dict[str, Any]:
    """The file that a row comes from and its number in there, from 0; nothing for data sets of a user's own."""
    if not isinstance(dataset, TokenizedRows):
        return {}
    number = int(dataset.numbers[row])
    for file in files:
        if not Path(file).is_file():
            break  # on another file system; counted over all files, then
        rows = pq.ParquetFile(file).metadata.num_rows
        if number < rows:
            return {"file": file, "row of the file": number}
        number -= rows
    return {"row of the files": int(dataset.numbers[row])}
