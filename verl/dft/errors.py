"""One line for a user's mistake, a full trace for ours; the same among the ranks of a run."""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable

TRACEBACK_VARIABLE = "VERL_DFT_TRACEBACK"
SECONDS_TO_BE_ENDED = 10.0
SECONDS_TO_END = 3.0  # a failing process may not be able to take down its process group


def run_reporting_errors(main: Callable[[], None]) -> int:
    """Exit status of ``main()``: 0, or 1 after printing a ValueError as ``error: ...`` on one line.

    The whole trace is printed when the environment variable VERL_DFT_TRACEBACK is set. Other exceptions are our bugs
    and pass through. Under torchrun, of all ranks the first that fails says so, see :mod:`verl.dft.peers`; the others
    end in silence.
    """
    try:
        main()
    except Exception as error:
        if under_torchrun():
            return _report_among_ranks(error)
        if not isinstance(error, ValueError):
            raise
        _print_trace_if_wanted(error)
        print(f"error: {_one_line(error)}", file=sys.stderr, flush=True)
        return 1
    return 0


def under_torchrun() -> bool:
    """Whether torchrun started this process and keeps a store for it."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _report_among_ranks(error: Exception) -> int:
    from verl.dft import peers

    failure = peers.report_failure(error, _one_line(error))
    is_mine = failure.rank == int(os.environ["RANK"])
    if is_mine:
        _print_trace_if_wanted(error)
    if not peers.tell(failure):
        # torchrun ends this process as soon as the one that speaks is gone; whoever goes first is its root cause.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(SECONDS_TO_BE_ENDED)
    end = threading.Timer(SECONDS_TO_END, os._exit, (1,))
    end.daemon = True
    end.start()
    return 1


def _print_trace_if_wanted(error: Exception) -> None:
    if not isinstance(error, ValueError) or os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(type(error), error, error.__traceback__)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
