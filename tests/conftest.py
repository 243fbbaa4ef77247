"""Shared fixtures. The default run needs no GPU, no network and no file from outside."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; the suite's processes share few cores

from pathlib import Path

import pandas as pd
import pytest

from tiny_model import save_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def arithmetic_rows(count: int) -> list[dict[str, str]]:
    """Questions and answers of very different lengths."""
    return [
        {
            "question": f"What is {i} + {i * 7 % 50}?",
            "answer": f"{i} plus {i * 7 % 50} is \\boxed{{{i + i * 7 % 50}}}." + " Sure." * (i * i % 11),
        }
        for i in range(count)
    ]


@pytest.fixture(scope="session")
def parquet_files(tmp_path_factory) -> tuple[Path, Path]:
    """Training (40 rows) and validation (13 rows) files with columns question and answer."""
    folder = tmp_path_factory.mktemp("data")
    train, val = folder / "train.parquet", folder / "val.parquet"
    rows = arithmetic_rows(53)
    pd.DataFrame(rows[:40]).to_parquet(train)
    pd.DataFrame(rows[40:]).to_parquet(val)
    return train, val
