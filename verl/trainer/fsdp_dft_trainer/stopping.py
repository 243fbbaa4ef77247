"""Ending a run in good order: SIGTERM, SIGINT and a time budget are requests to finish the step, save and leave.

A request that reaches one rank must stop all of them after the same step, so it travels with the sums that the ranks
add up in every step anyway.
"""

import ctypes
import json
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist

# Why a run ends before its last step, and the exit status that says so. 128 + signal is what a shell reports for a
# process that the signal ended; 75 is EX_TEMPFAIL of sysexits.h, "try again later".
STATUS = {"SIGTERM": 128 + signal.SIGTERM, "SIGINT": 128 + signal.SIGINT, "max_time": 75}
REASONS = tuple(STATUS)
STOP_FILE = "stopped.json"  # in trainer.default_local_dir, until the run goes on
STATUS_VARIABLE = "VERL_DFT_STATUS_FILE"  # set by our way into torchrun
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


class StopRequests:
    """What this process was asked for, and in ``reason`` what all ranks have agreed to stop for.

    max_time: seconds from ``started`` (of time.monotonic) on, or None.
    """

    reason: str | None = None

    def __init__(self, max_time: float | None = None, started: float = 0.0) -> None:
        self.ends = float("inf") if max_time is None else started + max_time
        self.signals: set[str] = set()
        self.listening = False

    def listen(self) -> None:
        """From here on signals are requests. Every rank must call it.

        torchrun also ends the ranks with SIGTERM when one of them died. Those would wait for the dead one for ever, in
        code where Python handles no signal; so a thread, woken by the signal itself, watches whether the other ranks
        of this machine still live.
        """
        places: list[tuple[str, int]] = [("", 0)] * dist.get_world_size()
        dist.all_gather_object(places, (socket.gethostname(), os.getpid()))
        neighbours = [pid for host, pid in places if host == socket.gethostname() and pid != os.getpid()]
        receiving, sending = socket.socketpair()
        sending.setblocking(False)
        signal.set_wakeup_fd(sending.detach(), warn_on_full_buffer=False)
        for name in ("SIGTERM", "SIGINT"):
            signal.signal(getattr(signal, name), lambda *_: None)
        self.listening = True
        threading.Thread(target=self._watch, args=(receiving, neighbours), daemon=True).start()

    def done(self) -> None:
        """The last file is written: no neighbour is needed any more."""
        self.listening = False

    def flags(self) -> torch.Tensor:
        """``(len(REASONS),)`` float64, 1 for each request; to be added up over the ranks."""
        asked = {**dict.fromkeys(self.signals, True), "max_time": time.monotonic() > self.ends}
        return torch.tensor([float(asked.get(reason, False)) for reason in REASONS], dtype=torch.float64)

    def note(self, flags: torch.Tensor) -> None:
        """flags: those of all ranks, added up."""
        self.reason = next((reason for reason, flag in zip(REASONS, flags.tolist(), strict=True) if flag), None)

    def _watch(self, receiving: socket.socket, neighbours: list[int]) -> None:
        first = 0.0
        while True:
            try:
                number = receiving.recv(1)[0]
            except TimeoutError:
                pass
            else:
                again = first and number == signal.SIGINT and time.monotonic() - first > 1
                if again:  # a person who presses Ctrl-C twice does not want to wait
                    os._exit(128 + number)
                first = first or time.monotonic()
                name = signal.Signals(number).name
                self.signals.add(name)
                if os.environ.get("RANK", "0") == "0":
                    print(f"{name}: finishing the step, then saving and leaving.", flush=True)
                receiving.settimeout(0.5)
            if self.listening and not all(map(_lives, neighbours)):
                os._exit(128 + signal.SIGTERM)


def seconds_of(max_time: object) -> float | None:
    """``trainer.max_time``: seconds, or ``[days-]hours:minutes:seconds`` as Slurm writes it. Raises ValueError."""
    if max_time is None:
        return None
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]?\d):([0-5]?\d)", str(max_time))
    if found:
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60.0 + seconds
    if isinstance(max_time, int | float) and not isinstance(max_time, bool) and max_time > 0:
        return float(max_time)
    raise ValueError(f"expected trainer.max_time in seconds or as hours:minutes:seconds; found {max_time!r}")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def die_with_torchrun() -> None:
    """Under torchrun, let the kernel kill this process when torchrun is gone: else it would train on, unseen."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def leave(reason: str, step: int, total_steps: int, file: Path) -> NoReturn:
    """End this process with the status of ``reason``, once it is written to ``file``.

    Under torchrun with status 0: any other is a failure to torchrun, which would start the ranks again. Our own way
    into torchrun (``verl.trainer.fsdp_dft_trainer.torchrun``) is told the status, and ends with it.
    """
    status = STATUS[reason]
    if os.environ["RANK"] == "0":
        content = {"reason": reason, "status": status, "step": step, "total_steps": total_steps}
        file.write_text(json.dumps(content) + "\n", encoding="utf-8")
        print(f"Stopped after step {step} of {total_steps} ({reason}). The same command goes on from it.", flush=True)
    if os.environ["LOCAL_RANK"] == "0" and STATUS_VARIABLE in os.environ:
        Path(os.environ[STATUS_VARIABLE]).write_text(str(status), encoding="utf-8")
    raise SystemExit(0 if "TORCHELASTIC_RUN_ID" in os.environ else status)
