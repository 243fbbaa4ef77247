"""The head's Triton kernels without a GPU: right in Triton's interpreter, and compiled for three kinds of GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="triton is in requirements-dev.txt")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from verl.dft.loss import head_kernels  # noqa: E402

HERE = Path(__file__).parent
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
READ = {
    "logits": "*fp32", "targets": "*i64", "found": "*fp32", "lanes": "*fp32", "V": "i32", "width": "i32",
    "stride": "i32", "MOMENTS": "constexpr", "LANES": "constexpr", "BLOCK": "constexpr",
}  # fmt: skip
DIVERGENCE = {
    "reference": "*fp32", "logits": "*fp32", "reference_tops": "*fp32", "tops": "*fp32", "found": "*fp32", "V": "i32",
    "width": "i32", "reference_stride": "i32", "stride": "i32", "BLOCK": "constexpr",
}  # fmt: skip
WRITE = {
    "logits": "*fp32", "targets": "*i64", "tops": "*fp32", "others": "*fp32", "at_target": "*fp32", "out": "*bf16",
    "V": "i32", "width": "i32", "stride": "i32", "out_stride": "i32", "reference": "*fp32", "reference_tops": "*fp32",
    "factors": "*fp32", "reference_stride": "i32", "KL": "constexpr", "BLOCK": "constexpr",
}  # fmt: skip
# V itself is 16 times something for few models; rows are laid out so that their width and stride always are.
ALIGNED = ("logits", "reference", "out", "found", "lanes", "width", "stride", "out_stride", "reference_stride")
# name: kernel, signature, constants, its most registers per thread (255 is the most there is)
KERNELS = {
    "read": (head_kernels.read_rows, READ, {"MOMENTS": False, "LANES": False}, 80),
    "read_moments": (head_kernels.read_rows, READ, {"MOMENTS": True, "LANES": False}, 112),
    "read_lanes": (head_kernels.read_rows, READ, {"MOMENTS": False, "LANES": True}, 80),
    "divergence": (head_kernels.read_divergence, DIVERGENCE, {}, 64),
    "write": (head_kernels.write_gradient, WRITE, {"KL": False}, 32),
    "write_kl": (head_kernels.write_gradient, WRITE, {"KL": True}, 32),
}


def test_the_kernels_are_right_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "interpreted_kernels.py"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout[-5000:] + done.stderr[-2000:]


def matrices_of(name: str) -> set[str]:
    """The matrices that a kernel reads."""
    _, signature, constants, _ = KERNELS[name]
    return {"logits", "reference"} & set(signature) if constants.get("KL", True) else {"logits"}


def compiled(name: str, capability: int):
    kernel, signature, constants, _ = KERNELS[name]
    names = list(signature)
    aligned = {(names.index(argument),): [["tt.divisibility", 16]] for argument in ALIGNED if argument in names}
    source = ASTSource(
        fn=kernel, signature=signature, constexprs={**constants, "BLOCK": head_kernels.BLOCK}, attrs=aligned
    )
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": head_kernels.WARPS})


def resources(cubin: bytes, folder: Path) -> dict[str, int]:
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    out = subprocess.run([CUOBJDUMP, "-res-usage", file], capture_output=True, text=True, check=True).stdout
    return {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", out)}


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("name", KERNELS)
def test_compiled_a_kernel_reads_16_bytes_at_a_time_and_needs_no_stack(name, capability, tmp_path):
    made = compiled(name, capability)
    loads = re.findall(r"ld\.global\S*", made.asm["ptx"])
    of_rows = [load for load in loads if ".v" in load]
    assert of_rows and all(".v4.b32" in load or ".v4.f32" in load for load in of_rows), loads
    assert len(of_rows) == len(matrices_of(name)) * head_kernels.BLOCK // (head_kernels.WARPS * 32) // 4
    used = resources(made.asm["cubin"], tmp_path)
    assert used["STACK"] == 0 and used["LOCAL"] == 0 and used["REG"] <= KERNELS[name][3]
