"""A pool of killable processes for the one slow question of grading: are these two expressions equal?

Bounded by killing, not by a signal or a thread: big-integer arithmetic listens to neither. Every question has a
deadline; a worker that misses it is killed and reaped, and a new one is started for the next question. Safe to call
from any thread.
"""

import atexit
import contextlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

WORKER = Path(__file__).with_name("worker.py")
START_SECONDS = 60.0
MAX_QUESTIONS = 2_000  # then a fresh process: the caches of sympy and antlr only grow


class TimedOut(Exception):
    """The worker was killed at the deadline."""


class WorkerDied(Exception):
    """The worker ended by itself: out of memory, or a crash in a library."""


class _Worker:
    def __init__(self):
        environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # a Ctrl-C in the terminal is the parent's business
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.buffer = b""
        self.questions = 0
        self.ready = False

    def ask(self, answer: str, gold: str, seconds: float) -> tuple[bool | None, float]:
        """(equal or None, seconds it took, without the start of the process). After TimedOut or WorkerDied the worker
        is of no use.
        """
        if not self.ready:
            if self._line(time.monotonic() + START_SECONDS) != b"ready":
                raise WorkerDied("the grading worker did not start: is math-verify installed?")
            self.ready = True
        self.questions += 1
        start = time.monotonic()
        try:
            self.stdin.write(json.dumps([answer, gold, seconds]).encode() + b"\n")
            self.stdin.flush()
        except BrokenPipeError:
            raise WorkerDied("the grading worker is gone") from None
        return json.loads(self._line(start + seconds)), time.monotonic() - start

    def _line(self, deadline: float) -> bytes:
        out = self.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while b"\n" not in self.buffer:
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not selector.select(remaining):
                    raise TimedOut
                part = os.read(out, 65_536)
                if not part:
                    raise WorkerDied("the grading worker ended: out of memory, or a crash")
                self.buffer += part
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for pipe in (self.stdin, self.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        self.process.wait()


class SymbolicPool:
    """At most ``size`` workers, started when first needed and kept."""

    def __init__(self, size: int):
        self.size = size
        self.owner = os.getpid()
        self.idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(size):
            self.idle.put(None)
        self.alive: set[_Worker] = set()
        self.lock = threading.Lock()

    def equal(self, answer: str, gold: str, seconds: float) -> tuple[bool | None, float]:
        """(whether math-verify finds them equal, None where it cannot read one; seconds spent).

        Raises TimedOut or WorkerDied.
        """
        worker = self.idle.get() or self._start()
        try:
            result = worker.ask(answer, gold, seconds)
        except BaseException:
            self._end(worker)
            self.idle.put(None)
            raise
        if worker.questions >= MAX_QUESTIONS:
            self._end(worker)
            self.idle.put(None)
        else:
            self.idle.put(worker)
        return result

    def close(self) -> None:
        """End all processes; in a fork of the process that started them, none."""
        if os.getpid() != self.owner:
            return
        with self.lock:
            workers = list(self.alive)
        for worker in workers:
            self._end(worker)

    def _start(self) -> _Worker:
        worker = _Worker()
        with self.lock:
            self.alive.add(worker)
        return worker

    def _end(self, worker: _Worker) -> None:
        worker.close()
        with self.lock:
            self.alive.discard(worker)


_pool: SymbolicPool | None = None
_pool_lock = threading.Lock()


def shared_pool() -> SymbolicPool:
    """The one pool of this process; it ends with the process. A fork starts one of its own: two processes that read
    from one pipe would take each other's answers.
    """
    global _pool
    with _pool_lock:
        if _pool is None or _pool.owner != os.getpid():
            if _pool is None:
                os.register_at_fork(after_in_child=_renew_lock)
            _pool = SymbolicPool(max(1, min(8, os.cpu_count() or 1)))
            atexit.register(_pool.close)
    return _pool


def _renew_lock() -> None:
    """In a fork another thread may have held the lock, and is not there any more."""
    global _pool_lock
    _pool_lock = threading.Lock()
