"""Fixtures of the evaluation's tests. Benchmark files are looked for outside: none is copied into this repository."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("VERL_DFT_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"no benchmark files at {SHARED}; set VERL_DFT_SHARED_DATA to their folder")
    return SHARED
