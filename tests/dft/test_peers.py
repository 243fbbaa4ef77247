"""Ranks that fail, under torchrun, on one machine and on two (two torchruns that know each other by address only)."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORKER = str(Path(__file__).with_name("peer_worker.py"))


def start(how: str, *options: str, silence: float = 60, more: tuple[str, ...] = ()) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", *options, WORKER, how, str(silence), *more]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def two_machines(how: str, *options: str, **more) -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}"]
    # Ranks are dealt out by address.
    return [
        start(how, *common, *options, f"--rdzv_conf=is_host={i == 0}", f"--local-addr=127.0.0.{i + 1}", **more)
        for i in (0, 1)
    ]


def end(process: subprocess.Popen) -> tuple[str, str]:
    """(what is last on the screen but for torchrun's ruler, all of it)"""
    try:
        _, screen = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    return [line for line in screen.splitlines() if line.strip("=-* ")][-1], screen


def wait_for_meeting(process: subprocess.Popen) -> None:
    assert "met" in process.stdout.readline()


def errors(screen: str) -> list[str]:
    return [line for line in screen.splitlines() if line.startswith("error: ")]


def test_a_rank_that_fails_ends_another_that_waits_for_ever_and_its_message_is_last():
    process = start("mistake", "--standalone", "--nproc_per_node=2")
    wait_for_meeting(process)
    started = time.monotonic()
    last, screen = end(process)
    assert time.monotonic() - started < 20
    assert last.endswith("expected one, found two")
    assert errors(screen) == ["error: expected one, found two"]


@pytest.mark.slow
def test_a_bug_on_one_rank_is_shown_with_its_trace_and_the_collective_of_the_others_is_not():
    last, screen = end(start("bug", "--standalone", "--nproc_per_node=2"))
    assert last.endswith("KeyError: 'missing'")
    assert screen.count("Traceback") - screen.count("ChildFailedError: ") == 1
    assert "raise KeyError" in screen and "gloo" not in screen


@pytest.mark.slow
def test_a_mistake_of_all_ranks_is_said_once():
    last, screen = end(start("all", "--standalone", "--nproc_per_node=2"))
    assert last.endswith("expected one, found two")
    assert errors(screen) == ["error: expected one, found two"]
    assert re.search(r"rank +: 0 ", screen)


@pytest.mark.slow
def test_a_rank_that_is_killed_is_the_root_cause():
    last, screen = end(start("killed", "--standalone", "--nproc_per_node=2"))
    assert "Signal 9 (SIGKILL)" in last and not errors(screen)


def test_a_failure_on_one_machine_is_last_on_the_screens_of_both():
    first, second = two_machines("mistake")
    wait_for_meeting(first)
    started = time.monotonic()
    ends = [end(first)[0], end(second)[0]]
    assert time.monotonic() - started < 25
    assert ends[0].endswith(f"rank 1 on {socket.gethostname()}: expected one, found two")
    assert ends[1].endswith(": expected one, found two") and "rank 1 on" not in ends[1]


def test_torchrun_starts_the_ranks_of_all_machines_again(tmp_path):
    machines = two_machines("once", "--max-restarts=2", more=(str(tmp_path / "has failed"),))
    screens = [machine.communicate(timeout=120)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], screens
    assert "error: expected one, found two" in screens[1]


@pytest.mark.parametrize("lost", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_machine_that_falls_silent_ends_the_other(lost):
    machines = two_machines("silent", silence=4)
    wait_for_meeting(machines[0])
    for group in groups_below(machines[lost].pid):
        os.killpg(group, signal.SIGSTOP)
    started = time.monotonic()
    try:
        last, _ = end(machines[1 - lost])
        assert time.monotonic() - started < 30
        assert ("does not answer any more" if lost == 0 else "has given no sign of life for 4 s") in last
    finally:
        for group in groups_below(machines[lost].pid):
            os.killpg(group, signal.SIGKILL)
        machines[lost].communicate()


def groups_below(pid: int) -> set[int]:
    """The process groups of a torchrun and its ranks."""
    import psutil

    return {os.getpgid(process.pid) for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]}
