"""model.compile_layers computes what the same command computes without it. Compiling takes minutes on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

LR, FP32_NOISE = 1e-3, 1e-5  # compiled kernels add in another order


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_compiled_layers_train_the_same_model_with_checkpointing_and_length_buckets(
    ranks, tmp_path, tiny_model, parquet_files
):
    common = [
        f"data.train_files={parquet_files[0]}",
        f"model.partial_pretrain={tiny_model}",
        "data.train_batch_size=16",
        "data.max_length=256",
        "data.max_token_len_per_gpu=300",  # micro-batches of several lengths
        "model.activation_checkpointing=full",
        f"optim.lr={LR}",
        "optim.override_optimizer_config={eps:1e-6}",  # else Adam makes steps of rounding in gradients near 0
    ]
    compiled = ["model.compile_layers=true", "engine.pad_to_length=true", "engine.pad_to_length_bucket=64"]
    (tmp_path / "runs.json").write_text(json.dumps({"eager": common, "compiled": [*common, *compiled]}))
    worker = Path(__file__).with_name("grid_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    done = subprocess.run([*command, str(worker), str(tmp_path / "runs.json"), str(tmp_path)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]

    eager, other = (tmp_path / f"{name}-{ranks}" for name in ("eager", "compiled"))
    for first, second in zip(*(steps(folder) for folder in (eager, other)), strict=True):
        assert second["train/nll"] == pytest.approx(first["train/nll"], rel=FP32_NOISE)
        assert second["train/grad_norm"] == pytest.approx(first["train/grad_norm"], rel=FP32_NOISE)
    weights, others = (load_file(folder / "full.safetensors") for folder in (eager, other))
    for name, weight in weights.items():
        assert (weight - others[name]).abs().max() < 0.01 * LR, name


def steps(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
