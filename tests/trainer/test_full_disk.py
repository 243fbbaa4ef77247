"""A disk that is really full: a small tmpfs. Mounting one takes root."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path):
    """A disk for some two checkpoints of the tiny model."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "none", disk]).returncode:
        pytest.skip("mounting a tmpfs takes root")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def run(model: Path, file: Path, out: Path) -> subprocess.CompletedProcess:
    command = [
        *[sys.executable, "-m", "verl.trainer.fsdp_dft_trainer"],
        f"data.train_files={file}",
        f"model.partial_pretrain={model}",
        f"trainer.default_local_dir={out}",
        "data.train_batch_size=8",
        "data.max_length=256",
        "trainer.save_freq=1",
        "trainer.logger=[]",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.slow  # two starts; test_resume.py has the default run's, with a disk that says it is full
def test_a_full_disk_ends_no_run_and_the_same_command_goes_on_when_there_is_room(small_disk, tiny_model, parquet_files):
    (small_disk / "ballast").write_bytes(b"0" * 300_000)
    done = run(tiny_model, parquet_files[0], small_disk)
    told = [line for line in done.stdout.splitlines() if line.startswith("warning: global_step")]
    saved = {path.name for path in small_disk.glob("global_step_*")}
    assert told and saved, done.stdout[-3000:] + done.stderr[-3000:]
    assert all("could not be saved" in line and "No space left on device" in line for line in told)
    assert len(told) + len(saved) == 5 and not list(small_disk.glob(".*_global_step_*"))
    assert done.returncode == 1 and "the last checkpoint, of step 5, could not be saved" in done.stderr

    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    again = run(tiny_model, parquet_files[0], small_disk)
    assert again.returncode == 0, again.stderr[-3000:]
    assert f"Going on from {small_disk}/global_step_{len(saved)}." in again.stdout
    lines = [json.loads(line) for line in (small_disk / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
