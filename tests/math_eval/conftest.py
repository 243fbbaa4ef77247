"""Fixtures of the evaluation's tests. Benchmark files are looked for outside: none is copied into this repository."""

import json
import os
from pathlib import Path

import pytest

from verl.math_eval.backends.transformers_backend import TransformersBackend
from verl.math_eval.options import EvalOptions

SHARED = Path(os.environ.get("VERL_DFT_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"no benchmark files at {SHARED}; set VERL_DFT_SHARED_DATA to their folder")
    return SHARED


@pytest.fixture(scope="module")
def backend(tiny_model) -> TransformersBackend:
    """The tiny model, to be asked in this process."""
    return TransformersBackend(str(tiny_model), device="cpu")


@pytest.fixture
def data(tmp_path) -> Path:
    """Six sums."""
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps({"question": f"{i} + 1?", "answer": i + 1}) + "\n" for i in range(6)))
    return path


@pytest.fixture
def options(data) -> EvalOptions:
    """Three short samples of each of the six."""
    return EvalOptions(data_names=(str(data),), n_sampling=3, temperature=1.0, max_tokens_per_call=8)
