"""``--check FILE``: can this parquet be trained on, and how long are its rows? Reads it as the trainer does."""

from pathlib import Path
from typing import Any

import numpy as np

LENGTHS = (512, 1024, 2048, 4096, 8192)
EXAMPLES = 3
NO_LIMIT = 1 << 30


def check_file(file: str, tokenizer_name: str | None, max_length: int) -> None:
    """Print what the trainer would make of ``file``. ValueError for the first row that it could not train on."""
    from filters import load_tokenizer

    from verl.dft.data.dataset import tokenize_files
    from verl.dft.data.rows import decoded_example
    from verl.dft.diagnose import row_format_of

    if not tokenizer_name:
        raise ValueError("--check: expected --tokenizer, a model folder or hub id, to count tokens with")
    if not Path(file).is_file():
        raise ValueError(f"--check: expected a parquet file, found nothing at {file}")
    tokenizer = load_tokenizer(tokenizer_name)
    row_format, keys = row_format_of(file, tokenizer, max_length=NO_LIMIT)
    rows, report = tokenize_files([file], row_format, tokenizer, "check")
    print(report.text(file, rows))
    print(f"{keys}; prompt format {row_format.prompt_format.name}, response end {row_format.response_end!r}")
    lengths = rows.lengths()
    targets = np.add.reduceat(rows.loss_mask.astype(np.int64), rows.starts[:-1])
    print(f"{'tokens per row':22} {_quantiles(lengths)}")
    print(f"{'target tokens per row':22} {_quantiles(targets)}")
    for limit in sorted({*LENGTHS, max_length}):
        cut = int((lengths > limit).sum())
        print(
            f"rows cut at {limit:5} tokens: {cut} ({cut / len(rows):.2%})" + " <- --max_length" * (limit == max_length)
        )
    middle = np.argsort(lengths, kind="stable")[np.linspace(0, len(rows) - 1, EXAMPLES).astype(int)]
    for name, index in zip(("shortest", "median", "longest"), middle.tolist(), strict=True):
        text = decoded_example(rows, tokenizer, index)
        print(f"--- the {name} row, {lengths[index]} tokens, targets between ⟦ and ⟧\n{_clip(text)}")


def _quantiles(values: Any) -> str:
    points = np.quantile(values, (0, 0.1, 0.5, 0.9, 0.99, 1))
    named = zip(("min", "10 %", "median", "90 %", "99 %", "max"), points, strict=True)
    return "  ".join(f"{name} {value:.0f}" for name, value in named) + f"  mean {values.mean():.1f}"


def _clip(text: str, limit: int = 2000) -> str:
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]}\n[... {len(text) - limit} characters ...]\n{text[-half:]}"
