"""optim.clip_grad=0 switches clipping off; verl's own arithmetic would scale every gradient to the norm 0."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_clip_grad_0_trains_as_with_a_bound_that_is_never_reached(tmp_path, tiny_model, parquet_files):
    common = [
        f"data.train_files={parquet_files[0]}",
        f"model.partial_pretrain={tiny_model}",
        "data.train_batch_size=4",
        "data.max_length=256",
        "optim.optimizer=SGD",
        "optim.lr=0.5",
        "trainer.total_training_steps=3",
    ]
    runs = {name: [*common, f"optim.clip_grad={bound}"] for name, bound in (("off", 0), ("high", 1e9), ("low", 1e-4))}
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    worker = str(Path(__file__).with_name("grid_worker.py"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1", worker]
    done = subprocess.run([*command, str(tmp_path / "runs.json"), str(tmp_path)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    off, high, low = (
        [json.loads(line)["train/nll"] for line in (tmp_path / f"{name}-1" / "metrics.jsonl").read_text().splitlines()]
        for name in runs
    )
    assert off == high
    assert off != low
