"""A rank that fails ends all ranks of the run, with its message, wherever they are waiting.

torchrun ends the other processes of the same machine, and knows nothing of other machines until their processes end. A
collective whose other side has gone may wait for hours: NCCL's always does, gloo's when a cable is pulled. So each rank
watches the store that torchrun keeps for the run. A failing rank leaves its message there (the first one stays), every
machine leaves a sign of life, and a rank that finds the one, or misses the other for too long, ends.

torchrun keeps one store for all its attempts, and nobody knows the number of an attempt (machines count differently).
What an attempt leaves in the store would mislead the next one, which would call the ports of dead processes. So the
ranks :func:`meet` first, under a name that this attempt alone has.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from torch.distributed import DistError, PrefixStore, Store, TCPStore

from verl.dft.errors import one_line, print_trace_if_wanted

PERIOD = 1.0  # seconds between two looks at the store
GRACE = 5.0  # seconds in which a rank may come out of a collective by itself
STORE_TIMEOUT = 10.0  # seconds for the store's answer to a failing rank
MEETING_TIMEOUT = 600.0  # seconds until all ranks must have begun; the first start from a slow disk takes minutes
SECONDS_TO_BE_ENDED = 10.0  # by torchrun, for a rank that leaves the word to another
SECONDS_TO_END = 3.0  # a failing process may not be able to take down its process group
ATTEMPT_VARIABLE = "VERL_DFT_ATTEMPT"

FINISHED = "finished"


@dataclass(frozen=True)
class Failure:
    """What ended the run: a rank's message, and on which of the machines, numbered by torchrun, it was."""

    rank: int
    machine: int
    host: str
    message: str


def under_torchrun() -> bool:
    """Whether torchrun started this process and keeps a store for it."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def meet() -> None:
    """Give this attempt of torchrun's a name of its own, once all its ranks have begun. Every rank must call it.

    Rank 0 makes the name. The others may find that of an earlier attempt; they know the right one by being listed.
    Does nothing in a process that torchrun did not start. Raises ValueError when ranks do not come.
    """
    if not under_torchrun():
        return
    rank, ranks, me = _number("RANK"), _number("WORLD_SIZE"), os.urandom(8).hex()
    store, ends = PrefixStore("verl-dft", _torchruns_store(MEETING_TIMEOUT)), time.monotonic() + MEETING_TIMEOUT
    if rank == 0:
        store.set("attempt", me)
    while time.monotonic() < ends:
        attempt = store.get("attempt").decode()
        store.set(f"{attempt}/{rank}", me)
        places = [f"{attempt}/{other}" for other in range(ranks)]
        if rank == 0 and store.check(places):
            store.set(f"{attempt}/all", " ".join(store.get(place).decode() for place in places))
        if store.check([f"{attempt}/all"]) and me in store.get(f"{attempt}/all").decode():
            os.environ[ATTEMPT_VARIABLE] = attempt
            return
        time.sleep(0.1)
    raise ValueError(
        f"expected {ranks} ranks, but not all have begun within {MEETING_TIMEOUT:g} s. See their machines."
    )


def store_of_attempt(timeout: float) -> Store:
    """torchrun's store, under a prefix that only this attempt has. timeout: seconds, of each answer."""
    return PrefixStore(f"verl-dft/{os.environ[ATTEMPT_VARIABLE]}", _torchruns_store(timeout))


def report(error: Exception) -> int:
    """Exit status 1, after the first rank that failed has said so, and the others nothing."""
    failure = report_failure(error, one_line(error))
    if failure.rank == _number("RANK"):
        print_trace_if_wanted(error)
    if not tell(failure):
        # torchrun ends this process as soon as the one that speaks is gone; whoever goes first is its root cause.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(SECONDS_TO_BE_ENDED)
    end = threading.Timer(SECONDS_TO_END, os._exit, (1,))
    end.daemon = True
    end.start()
    return 1


def report_failure(error: Exception, message: str) -> Failure:
    """Leave ``message`` for the other ranks, unless one of them has failed before; the failure that counts."""
    mine = Failure(_number("RANK"), _number("GROUP_RANK"), socket.gethostname(), message)
    if ATTEMPT_VARIABLE not in os.environ:  # before they met: the flags are wrong, which all ranks find
        time.sleep(GRACE if mine.rank else 0)
        return mine
    if isinstance(error, DistError) or "gloo" in message:
        time.sleep(GRACE)  # most likely another rank's end is felt here: that rank, or torchrun for it, comes first
    elif mine.rank:
        time.sleep(PERIOD)  # where all ranks find the same mistake, rank 0 says it

    def claim() -> Failure:
        stored = store_of_attempt(STORE_TIMEOUT).compare_set("failure", "", json.dumps(asdict(mine)))
        return Failure(**json.loads(stored))

    found = _within(STORE_TIMEOUT, claim)
    return found if isinstance(found, Failure) else mine


def tell(failure: Failure) -> bool:
    """Print a failure if it falls to this process, and hand it to torchrun for its summary; whether it did.

    The rank that failed speaks, and on each other machine the first rank.
    """
    here = failure.machine == _number("GROUP_RANK")
    if failure.rank != _number("RANK") and (here or _number("LOCAL_RANK")):
        return False
    # torchrun shows the earliest failure as the root cause, in whole seconds; a rank ended by it must not come first.
    message = failure.message if here else f"rank {failure.rank} on {failure.host}: {failure.message}"
    if os.environ.get("TORCHELASTIC_ERROR_FILE"):
        stamp = {"message": message, "extraInfo": {"timestamp": str(int(time.time()) - 1)}}
        with open(os.environ["TORCHELASTIC_ERROR_FILE"], "w", encoding="utf-8") as file:
            json.dump({"message": stamp}, file)
    print(f"\nerror: {message}", file=sys.stderr, flush=True)  # a progress bar may have left its line open
    return True


@contextlib.contextmanager
def watched(silence: float) -> Iterator[None]:
    """While the body runs, the process ends when another rank fails or a machine gives no sign of life.

    silence: seconds. The ranks must have met. Does nothing in a process that torchrun did not start.
    """
    if not under_torchrun():
        yield
        return
    watch = _Watch(silence)
    watch.start()
    try:
        yield
    except BaseException:
        watch.over.set()
        raise
    watch.finish()


class _Watch(threading.Thread):
    """Looks at the store once a period. A thread, for the main one may wait in a collective for ever."""

    def __init__(self, silence: float) -> None:
        super().__init__(name="watch over other ranks", daemon=True)
        self.silence, self.over = silence, threading.Event()
        self.store = store_of_attempt(silence)
        self.machine, self.machines = _number("GROUP_RANK"), _number("GROUP_WORLD_SIZE", 1)
        self.speaks = not _number("LOCAL_RANK")  # for its machine
        now = time.monotonic()
        self.heard = {machine: ("", now) for machine in range(self.machines) if machine != self.machine}

    def run(self) -> None:
        while not self.over.wait(PERIOD):
            failure = _within(self.silence, self._look)
            if isinstance(failure, Failure):
                self._end(failure)
            elif failure is not None:  # no answer in time, or the connection is broken
                where = f"{os.environ['MASTER_ADDR']}, which keeps the run together,"
                lost = self._lost(f"{where} does not answer any more: that machine or the network is down")
                self._end(lost, with_torchrun=True)

    def finish(self) -> None:
        """The work is done: this machine will be silent, which is no failure."""
        self.over.set()
        if self.speaks:
            _within(STORE_TIMEOUT, lambda: self.store.set(f"life/{self.machine}", FINISHED))

    def _look(self) -> Failure | None:
        if self.store.check(["failure"]):
            return Failure(**json.loads(self.store.get("failure")))
        if not self.speaks or self.machines == 1:
            return None
        now = time.monotonic()
        self.store.set(f"life/{self.machine}", f"{now} {socket.gethostname()}")
        for machine, (last, when) in self.heard.items():
            sign = self.store.get(f"life/{machine}").decode() if self.store.check([f"life/{machine}"]) else ""
            if sign != last:
                self.heard[machine] = (sign, now)
            elif sign != FINISHED and now - when > self.silence:
                name = sign.partition(" ")[2] or f"number {machine}"
                lost = self._lost(
                    f"machine {name} has given no sign of life for {self.silence:g} s: it or its network is down"
                )
                return Failure(**json.loads(self.store.compare_set("failure", "", json.dumps(asdict(lost)))))
        return None

    def _lost(self, message: str) -> Failure:
        return Failure(_number("RANK"), self.machine, socket.gethostname(), message)

    def _end(self, failure: Failure, with_torchrun: bool = False) -> None:
        if self.over.wait(GRACE):  # the main thread came out of its collective, and reports
            return
        tell(failure)
        if with_torchrun and self.speaks:
            os.kill(os.getppid(), signal.SIGKILL)  # it waits for the same answer, deaf to gentler signals
        os._exit(1)


def _torchruns_store(timeout: float) -> Store:
    address, port, wait = os.environ["MASTER_ADDR"], _number("MASTER_PORT"), timedelta(seconds=timeout)
    return TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=wait)


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """``call()``, or the exception it raised, or TimeoutError: a store behind a dead network blocks without end."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0] if outcome else TimeoutError()


def _number(name: str, default: int = 0) -> int:
    return int(os.environ.get(name, default))
