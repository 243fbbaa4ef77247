"""Where a training step on GPUs would wait for the device, counted on a CPU by tests/fake_cuda in its own process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FAKE_CUDA = Path(__file__).parents[1] / "fake_cuda"
# Per micro-batch, and once per step: values that the host waits for, blocking copies, all copies; at most. The one wait
# is transformers' look at the mask of packed rows, for an attention that has a mask function registered.
PER_MICRO_BATCH = {"waits": 1, "blocking": 0, "copies": 6}
PER_STEP = {"waits": 1, "blocking": 1, "copies": 1}
CASES = ("tied", "untied", "lora", "padded")


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """guard.cpp, compiled."""
    if not shutil.which("g++"):
        pytest.skip("no g++, which compiles the stand-in for CUDA")
    where, out = Path(torch.__file__).parent, tmp_path_factory.mktemp("guard") / "guard.so"
    command = ["g++", "-O0", "-std=c++20", "-shared", "-fPIC", f"-I{where}/include", "-o", out, FAKE_CUDA / "guard.cpp"]
    command += [f"-L{where}/lib", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{where}/lib"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def run(library: Path, *cases: str) -> dict[str, dict]:
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(FAKE_CUDA.parent)}
    done = subprocess.run(
        [sys.executable, FAKE_CUDA / "worker.py", *cases], env=environment, capture_output=True, text=True
    )
    found = [json.loads(line.removeprefix("RESULT ")) for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert len(found) == len(cases), done.stderr[-3000:]
    return {one["case"]: one for one in found}


def check(name: str, found: dict) -> None:
    assert "error" not in found, (name, found)
    assert found["fused"] and not found["without_gradient"] and found["gradients"] == ["torch.float32"], (name, found)
    counted = found["micro_batches"]
    assert counted["launches"]["read_rows"] >= 2 and counted["launches"]["write_gradient"] >= 2, counted
    counted["copies"] = sum(counted[key] for key in ("blocking", "pageable", "pinned"))
    for key, each in PER_MICRO_BATCH.items():
        assert counted[key] <= 2 * each + PER_STEP[key], (name, key, counted, found["where"])
    assert counted["collectives"] == {"all_reduce": 1}, counted
    assert found["optimizer_step"]["waits"] <= 2 and not found["optimizer_step"]["blocking"], found["optimizer_step"]


def test_a_step_waits_and_copies_no_more_than_this(library):
    check("tied", run(library, "tied")["tied"])


@pytest.mark.slow
def test_a_step_waits_and_copies_no_more_than_this_in_other_cases(library):
    for name, found in run(library, *CASES).items():
        check(name, found)


@pytest.mark.slow
def test_neither_head_waits_or_copies_with_any_objective(library):
    found = run(library, "heads")["heads"]
    assert found.get("combinations", 0) > 50, found
