"""torchrun with an exit status that says why a run stopped: python -m verl.trainer.fsdp_dft_trainer.torchrun ...

Takes torchrun's arguments. torchrun itself ends with status 1 after any signal, crash or not. Here the status is 143
(SIGTERM), 130 (SIGINT) or 75 (trainer.max_time) if the ranks saved and left in order, and torchrun's otherwise. And it
waits for no other machine once its own ranks have left in order.
"""

import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.run import main as torchrun

from verl.trainer.fsdp_dft_trainer.stopping import STATUS_VARIABLE

PATIENCE = 5  # seconds that torchrun has for ending by itself, once its ranks have left in order


def main() -> int:
    """The exit status of a torchrun with this process's arguments."""
    with tempfile.TemporaryDirectory(prefix="verl-dft-") as folder:
        file = Path(folder) / "status"
        os.environ[STATUS_VARIABLE] = str(file)
        threading.Thread(target=_leave_with_the_ranks, args=(file,), daemon=True).start()
        try:
            torchrun()
        except SignalException as error:
            if not file.exists():
                print(f"error: {error}, and no rank left in order (see --shutdown-timeout)", file=sys.stderr)
                return 1
        finally:
            del os.environ[STATUS_VARIABLE]
        return int(file.read_text()) if file.exists() else 0


def _leave_with_the_ranks(file: Path) -> None:
    """End this process when its ranks have left in order and torchrun does not.

    After a signal to one of several machines all ranks leave, and that machine's torchrun; the others' would wait for
    it another five minutes, in a call that no signal interrupts.
    """
    while not file.exists() or _ranks():
        time.sleep(0.5)
    time.sleep(PATIENCE)
    if file.exists() and not _ranks():
        status = int(file.read_text())
        shutil.rmtree(file.parent, ignore_errors=True)
        os._exit(status)


def _ranks() -> list[psutil.Process]:
    """Processes that torchrun has started and that run."""
    ranks = []
    for child in psutil.Process().children():
        try:
            ranks += [child] if "RANK" in child.environ() else []
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has ended meanwhile
            continue
    return ranks


if __name__ == "__main__":
    sys.exit(main())
