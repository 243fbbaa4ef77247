"""Scores a parquet once: the same rows with log p of each target token under a model in one more column.

python -m verl.dft.score --model MODEL --data train.parquet --out scored.parquet

Objectives that need no more of their reference than that (iw_sft, iw_sft_token) then train without a second model in
memory: data.train_files=scored.parquet objective.reference_key=reference. Rows become tokens by the trainer's own code.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from verl.dft.data.dataset import tokenize_files
from verl.dft.data.reference_column import ENTRY, check_one_each, entry
from verl.dft.data.rows import TokenizedRows
from verl.dft.diagnose import add_row_options, load, row_format_from
from verl.dft.errors import run_reporting_errors
from verl.dft.model.scoring import score_rows

DEFAULT_KEY = "reference"


def log_probs_of_rows(model: torch.nn.Module, rows: TokenizedRows) -> list[np.ndarray]:
    """Per row ``(targets of the row,)`` float32, in the order of ``rows``."""
    found: list[np.ndarray] = [np.zeros(0, dtype=np.float32)] * len(rows)
    for part in score_rows(model, rows):
        counts = part.is_target.sum(1).tolist()
        for index, log_probs in zip(part.indices, part.values["log_probs"].float().split(counts), strict=True):
            found[index] = log_probs.numpy()
    return found


def score(options: argparse.Namespace) -> None:
    """Write ``options.out``: every row of ``options.data``, in order, with the column ``options.key``.

    A row that would not be trained (no target is left within max_length) gets null. Raises ValueError for what cannot
    be read, and where the column or the file to be written exists.
    """
    source, out = Path(options.data), Path(options.out)
    if out.exists():
        raise ValueError(f"--out {out} exists. Remove it, or choose another name.")
    if source.is_file() and options.key in pq.read_schema(source).names:
        raise ValueError(f"--key {options.key}: {source} has a column of that name. Choose another.")
    model, tokenizer = load(options.model, options.device)
    how, flags = row_format_from(options, tokenizer)
    rows, report = tokenize_files([options.data], how, tokenizer, "the data")
    print(report.text(options.data, rows))
    check_one_each(rows)
    table = pq.read_table(source)
    values: list[dict | None] = [None] * len(table)
    for index, log_probs in enumerate(log_probs_of_rows(model, rows)):
        values[int(rows.numbers[index])] = entry(rows, index, log_probs)
    part = out.with_name(out.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.append_column(options.key, pa.array(values, type=ENTRY)), part)
    os.replace(part, out)
    targets = int(rows.loss_mask.sum(dtype=np.int64))
    print(
        f"wrote {out}: log p of {targets} target tokens in {len(rows)} rows under {options.model}, in {model.dtype}\n"
        f"train with data.train_files={out} {flags} data.max_length={options.max_length} "
        f"objective.reference_key={options.key}"
    )


def parser() -> argparse.ArgumentParser:
    """The command line of ``python -m verl.dft.score``."""
    p = argparse.ArgumentParser(
        prog="python -m verl.dft.score",
        description="Adds log p of each target token under a model to a parquet.",
        allow_abbrev=False,
    )
    p.add_argument("--model", required=True, help="the reference: hub id, HF folder or trainer checkpoint")
    p.add_argument("--data", required=True, help="training or validation parquet")
    p.add_argument("--out", required=True, help="parquet to write: the same rows and one more column")
    p.add_argument("--key", default=DEFAULT_KEY, help="name of the column (default: %(default)s)")
    add_row_options(p)
    return p


def main() -> None:
    """Run it. Raises ValueError for what cannot be scored."""
    score(parser().parse_args())


if __name__ == "__main__":
    sys.exit(run_reporting_errors(main))
