"""The pieces of saving, stopping and going on that need no training run."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from verl.dft.metrics import token_sums
from verl.trainer.fsdp_dft_trainer.bad_batches import trouble
from verl.trainer.fsdp_dft_trainer.command_line import compose_config
from verl.trainer.fsdp_dft_trainer.identity import differences
from verl.trainer.fsdp_dft_trainer.progress import Progress, read, write
from verl.trainer.fsdp_dft_trainer.run_folder import RunFolder
from verl.trainer.fsdp_dft_trainer.run_log import _purge_behind
from verl.trainer.fsdp_dft_trainer.settings import Launch, complete_config
from verl.trainer.fsdp_dft_trainer.stopping import StopRequests, seconds_of

# -------------------------------------------------------------------- the folder of checkpoints


def folder_of(tmp_path: Path, *names: str, keep: int | None = None) -> RunFolder:
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(name)
    return RunFolder(tmp_path, keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_leftovers_of_a_killed_run_are_cleared(tmp_path):
    made = folder_of(tmp_path, "global_step_9", "global_step_10", ".partial_global_step_12", ".removed_global_step_8")
    assert made.chosen("auto", None) == tmp_path / "global_step_10"
    made.clear_leftovers()
    assert names(tmp_path) == ["global_step_10", "global_step_9"]


def test_a_kill_between_two_renames_loses_no_checkpoint(tmp_path):
    made = folder_of(tmp_path, ".old_global_step_4", ".partial_global_step_4", ".old_global_step_2", "global_step_2")
    made.clear_leftovers()
    assert names(tmp_path) == ["global_step_2", "global_step_4"]
    assert (tmp_path / "global_step_4" / "run.json").read_text() == ".old_global_step_4"


def test_a_newer_one_of_the_same_step_takes_the_name_when_it_is_complete(tmp_path):
    made = folder_of(tmp_path, "global_step_4", ".partial_global_step_4")
    made.publish(tmp_path / ".partial_global_step_4", tmp_path / "global_step_4", Progress(step=4))
    assert names(tmp_path) == ["global_step_4", "latest_checkpointed_iteration.txt"]
    assert (tmp_path / "global_step_4" / "run.json").read_text() == ".partial_global_step_4"


def test_old_ones_go_only_behind_the_new_one_and_the_best_stays(tmp_path, monkeypatch):
    made = folder_of(tmp_path, *(f"global_step_{n}" for n in (2, 4, 6, 8)), ".partial_global_step_10", keep=2)
    kept, order = os.replace, []
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(a).name), kept(a, b)))
    made.publish(tmp_path / ".partial_global_step_10", tmp_path / "global_step_10", Progress(10, best_step=4))
    assert [name for name in names(tmp_path) if "global" in name] == [
        "global_step_10",
        "global_step_4",
        "global_step_8",
    ]
    assert os.readlink(tmp_path / "best") == "global_step_4"
    assert [name for name in order if "global" in name] == [".partial_global_step_10", "global_step_2", "global_step_6"]


def test_a_second_run_in_the_same_folder_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("verl.trainer.fsdp_dft_trainer.run_folder.LOCK_SECONDS", 0.1)
    first, second = folder_of(tmp_path), folder_of(tmp_path)
    first.take_lock()
    with pytest.raises(ValueError, match=f"another run, process {os.getpid()} on .*, writes to"):
        second.take_lock()
    assert f"Another run, process {os.getpid()} on " in capsys.readouterr().out
    del first
    second.take_lock()


def test_a_checkpoint_of_another_kind_is_refused_by_name(tmp_path):
    (tmp_path / "model_world_size_2_rank_0.pt").touch()
    with pytest.raises(ValueError, match=r"expected .*run.json, written by this trainer; FileNotFoundError"):
        read(tmp_path)
    (tmp_path / "run.json").write_text('{"settings": {}, "ranks": 1, "stop": 3}')
    with pytest.raises(ValueError, match="unexpected keyword argument 'stop'"):
        read(tmp_path)


def test_progress_and_settings_come_back(tmp_path):
    progress = Progress(7, 2, 1, 0.1 + 0.2, 4, 3, True, {"scale": 65536.0})
    write(progress, {"optim.lr": 1e-5}, 4, tmp_path)
    assert read(tmp_path) == (progress, {"optim.lr": 1e-5})


def test_tensorboard_forgets_what_a_dead_run_wrote_behind_its_checkpoint(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    for values, first in (([1, 2, 3, 4, 5], 1), ([40, 50, 60], 4)):
        writer = SummaryWriter(str(tmp_path), filename_suffix=f".{first}")
        if first > 1:
            _purge_behind(writer, first - 1)
        for step, value in enumerate(values, first):
            writer.add_scalar("train/nll", value, step)
        writer.close()
    found = EventAccumulator(str(tmp_path)).Reload().Scalars("train/nll")
    assert [(event.step, event.value) for event in found] == [(1, 1), (2, 2), (3, 3), (4, 40), (5, 50), (6, 60)]


# -------------------------------------------------------------------- settings


def test_how_rows_are_read_is_told_only_where_it_made_other_rows():
    stored = {"rows of data.train_files": "a", "data.max_length": 512, "optim.lr": 1e-5}
    assert differences(stored, {**stored, "data.max_length": 1024}) == []
    told = differences(stored, {**stored, "rows of data.train_files": "b", "data.max_length": 1024})
    assert told == ["rows of data.train_files (its content)", "data.max_length 512 -> 1024"]
    assert differences(stored, {**stored, "optim.lr": 2e-5}) == ["optim.lr 1e-05 -> 2e-05"]


# -------------------------------------------------------------------- bad numbers


def sums_of(log_probs: list[float], losses: list[float] | None = None) -> torch.Tensor:
    log_p = torch.tensor(log_probs)
    flags = torch.zeros(len(log_probs), dtype=torch.bool)
    return token_sums(-log_p if losses is None else torch.tensor(losses), log_p, flags, flags)


def test_numbers_that_cannot_be_are_found():
    assert trouble(sums_of([-1.0, -2e5, 0.0, 1e-6])) is None
    assert trouble(sums_of([])) is None  # no target tokens: a zero contribution
    assert "not finite" in trouble(sums_of([-1.0, math.nan]))
    assert "not finite" in trouble(sums_of([-1.0, -2.0], [1.0, math.inf]))
    assert trouble(sums_of([-1.0, 0.5, -3.0])) == "1 target tokens have log p > 0 or a loss that is not finite"
    assert "norm is nan" in trouble(sums_of([-1.0]), math.nan)
    assert trouble(sums_of([-1.0]), 1e30) is None


# -------------------------------------------------------------------- the best


@pytest.mark.parametrize("metric, values, best", [("nll", [3, 1, 2, 1], 2), ("accuracy", [0.1, math.nan, 0.3, 0.3], 3)])
def test_the_best_is_the_first_of_the_best(metric, values, best):
    progress = Progress()
    for step, value in enumerate(values, 1):
        progress.note_step(step, was_skipped=False)
        progress.note_validation({f"val/{metric}": value}, metric, None)
    assert progress.best_step == best and not progress.ended


def test_patience_counts_validations_behind_the_best():
    progress = Progress()
    for step, (value, ended) in enumerate([(3, False), (4, False), (2, False), (5, False), (2, True)], 1):
        progress.note_step(step, was_skipped=False)
        progress.note_validation({"val/nll": value}, "nll", 2)
        assert progress.ended == ended


# -------------------------------------------------------------------- stopping


@pytest.mark.parametrize(
    "given, seconds",
    [(None, None), (90, 90), (1.5, 1.5), ("01:30:00", 5400), ("1-00:00:10", 86410)],
)
def test_time_budgets(given, seconds):
    assert seconds_of(given) == seconds


@pytest.mark.parametrize("given", [0, -3, True, "90", "1:75:00", "soon"])
def test_what_is_no_time_budget_is_refused(given):
    with pytest.raises(ValueError, match="expected trainer.max_time in seconds or as hours:minutes:seconds"):
        seconds_of(given)


def test_a_reason_is_agreed_from_the_flags_of_all_ranks():
    asked, calm = StopRequests(), StopRequests(max_time=1e6, started=time.monotonic())
    asked.signals.add("SIGINT")
    for requests in (asked, calm):
        requests.note(asked.flags() + calm.flags())
        assert requests.reason == "SIGINT"
    calm.note(calm.flags())
    assert calm.reason is None


ALONE = """
import os, sys, time
import torch.distributed as dist
from verl.trainer.fsdp_dft_trainer.run_folder import RunFolder
from verl.trainer.fsdp_dft_trainer.run_log import _purge_behind
from verl.trainer.fsdp_dft_trainer.stopping import StopRequests
os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
dist.init_process_group("gloo")
requests = StopRequests()
requests.listen()
print("listening", flush=True)
while not requests.signals:
    time.sleep(0.01)
print(*requests.signals, flush=True)
time.sleep(60)
"""


def test_one_signal_is_a_request_and_a_second_ctrl_c_ends_the_process():
    process = subprocess.Popen([sys.executable, "-c", ALONE], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "listening\n"
    process.send_signal(signal.SIGINT)
    assert "SIGINT: finishing the step" in process.stdout.readline()
    assert process.stdout.readline() == "SIGINT\n"
    time.sleep(1.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130


# -------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    "flag, message",
    [
        ("trainer.max_time=soon", "expected trainer.max_time in seconds or as hours:minutes:seconds; found 'soon'"),
        ("trainer.resume_changed=yes", "expected trainer.resume_changed to be one of refuse, allow; found"),
        ("trainer.on_nonfinite=ignore", "expected trainer.on_nonfinite to be one of stop, skip; found 'ignore'"),
        ("trainer.max_nonfinite=null", "expected trainer.max_nonfinite to be 1 or more; found None"),
        ("trainer.max_ckpt_to_keep=0", "expected trainer.max_ckpt_to_keep to be 1 or more; found 0"),
        (
            "trainer.best_metric=loss",
            "expected trainer.best_metric to be one of None, nll, one_minus_p, accuracy; found",
        ),
        ("trainer.best_metric=nll", "trainer.best_metric=nll needs data.val_files"),
        ("trainer.patience=2", "trainer.patience needs trainer.best_metric"),
        ("checkpoint.save_contents=[extra]", "expected checkpoint.save_contents to hold model or hf_model"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(flag, message, tiny_model, parquet_files):
    flags = [f"model.partial_pretrain={tiny_model}", f"data.train_files={parquet_files[0]}", flag]
    with pytest.raises(ValueError) as error:
        complete_config(compose_config(flags), Launch(), say=lambda text: None)
    assert message in str(error.value)
