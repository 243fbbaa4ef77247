"""One line for a user's mistake, a full trace for ours."""

import os
import sys
import traceback
from collections.abc import Callable

TRACEBACK_VARIABLE = "VERL_DFT_TRACEBACK"


def run_reporting_errors(main: Callable[[], None], among_ranks: Callable[[Exception], int] | None = None) -> int:
    """Exit status of ``main()``: 0, or 1 after printing a ValueError as ``error: ...`` on one line.

    The whole trace is printed when the environment variable VERL_DFT_TRACEBACK is set. Other exceptions are our bugs
    and pass through. among_ranks: in a run of several processes, what reports any exception and returns the status.
    """
    try:
        main()
    except Exception as error:
        if among_ranks:
            return among_ranks(error)
        if not isinstance(error, ValueError):
            raise
        print_trace_if_wanted(error)
        print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
        return 1
    return 0


def print_trace_if_wanted(error: Exception) -> None:
    """Print the trace of a bug, and of a user's mistake if the environment asks for it."""
    if not isinstance(error, ValueError) or os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(type(error), error, error.__traceback__)


def one_line(error: Exception) -> str:
    """The message of an exception without line breaks; of a bug, with its type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
