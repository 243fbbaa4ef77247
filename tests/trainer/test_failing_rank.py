"""A rank that raises, wherever it is, ends the run within 30 seconds with its message last on the screen."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

FILE = Path(__file__).with_name("failing_rank.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def screen_of(command: list[str], sign: str, **environment: str) -> tuple[str, float]:
    """What a run that fails prints, and the seconds from the first line with ``sign`` to its end."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    )
    timer = threading.Timer(240, process.kill)
    timer.start()
    lines, seen = [], 0.0
    for line in process.stdout:
        lines.append(line)
        if sign in line and not seen:
            seen = time.monotonic()
    assert process.wait() == 1, "".join(lines)
    timer.cancel()
    return "".join(lines), time.monotonic() - seen


def last_line(screen: str) -> str:
    """The last line but for the ruler below torchrun's summary."""
    return [line for line in screen.splitlines() if line.strip("=-* ")][-1]


stages = [
    pytest.param(stage, marks=() if stage == "step" else pytest.mark.slow)
    for stage in ("dataset", "engine", "step", "validation", "saving")
]


@pytest.mark.parametrize("stage", stages)
def test_a_rank_that_raises_ends_all_and_has_the_last_word(stage, tmp_path, tiny_model, parquet_files):
    flags = [
        f"data.train_files={parquet_files[0]}",
        f"data.val_files={parquet_files[1]}",
        f"data.custom_cls.path={FILE}",
        "data.custom_cls.name=Rows",
        f"model.partial_pretrain={tiny_model}",
        f"trainer.default_local_dir={tmp_path}",
        "data.train_batch_size=8",
        "data.max_length=256",
        "trainer.total_training_steps=2",
    ]
    message = f"rank 1 fails in its {stage}"
    command = [*TORCHRUN, "-m", "verl.trainer.fsdp_dft_trainer", *flags]
    screen, seconds = screen_of(command, message, FAILING_STAGE=stage)
    assert seconds < 30
    assert message in last_line(screen), screen[-3000:]
    assert screen.count("error: ") <= 2  # its own line, and torchrun's "error_file: "


@pytest.mark.slow
def test_a_rank_whose_settings_are_refused_ends_all(tmp_path, tiny_model, parquet_files):
    """The objective's file is read before the process group exists."""
    file = tmp_path / "mine.py"
    raising = "if os.environ['RANK'] == '1':\n    raise ValueError('rank 1 has no such file')\n"
    file.write_text(f"import os\n{raising}def f(log_probs):\n    return -log_probs\n")
    pd.DataFrame([{"question": "a", "answer": "b"}]).to_parquet(tmp_path / "rows.parquet")
    flags = [f"data.train_files={tmp_path}/rows.parquet", f"model.partial_pretrain={tiny_model}"]
    command = [*TORCHRUN, "-m", "verl.trainer.fsdp_dft_trainer", *flags, f"objective.path={file}", "objective.name=f"]
    screen, seconds = screen_of(command, "rank 1 has no such file")
    assert seconds < 30 and "rank 1 has no such file" in last_line(screen), screen[-3000:]
