"""Real signals to real runs."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

TRAINER = "verl.trainer.fsdp_dft_trainer"


def start(launcher: list[str], tiny_model: Path, file: Path, out: Path, *flags: str) -> subprocess.Popen:
    """A run of very many steps."""
    command = [
        *[*launcher, "-m", TRAINER],
        f"data.train_files={file}",
        f"model.partial_pretrain={tiny_model}",
        f"trainer.default_local_dir={out}",
        "data.train_batch_size=8",
        "data.max_length=256",
        "trainer.total_training_steps=100000",
        "trainer.logger=[]",
        *flags,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_step(process: subprocess.Popen, out: Path, step: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if (out / "metrics.jsonl").exists() and len((out / "metrics.jsonl").read_text().splitlines()) >= step:
            return
        time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate()[0][-3000:])


def assert_saved(out: Path, reason: str, status: int) -> None:
    told = json.loads((out / "stopped.json").read_text())
    assert told["reason"] == reason and told["status"] == status and told["total_steps"] == 100000
    assert (out / f"global_step_{told['step']}" / "run.json").is_file()
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"] == told["step"]


def test_ctrl_c_finishes_the_step_saves_and_leaves_with_130(tiny_model, parquet_files, tmp_path):
    process = start([sys.executable], tiny_model, parquet_files[0], tmp_path)
    wait_for_step(process, tmp_path, 2)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output[-3000:]
    assert "SIGINT: finishing the step" in output and "Traceback" not in output
    assert_saved(tmp_path, "SIGINT", 130)


def test_sigterm_to_our_torchrun_saves_and_ends_with_143(tiny_model, parquet_files, tmp_path):
    launcher = [sys.executable, "-m", f"{TRAINER}.torchrun", "--standalone", "--nproc_per_node=2"]
    process = start(launcher, tiny_model, parquet_files[0], tmp_path)
    wait_for_step(process, tmp_path, 2)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 143, output[-3000:]
    assert_saved(tmp_path, "SIGTERM", 143)


def test_a_time_budget_is_no_failure_to_torchrun(tiny_model, parquet_files, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=1"]
    process = start(launcher, tiny_model, parquet_files[0], tmp_path, "trainer.max_time=1")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output[-3000:]
    assert_saved(tmp_path, "max_time", 75)
