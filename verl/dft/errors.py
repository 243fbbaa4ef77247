"""One line for a user's mistake, a full trace for ours."""

import os
import sys
import time
import traceback
from collections.abc import Callable

TRACEBACK_VARIABLE = "VERL_DFT_TRACEBACK"


def run_reporting_errors(main: Callable[[], None]) -> int:
    """Exit status of ``main()``: 0, or 1 after printing a ValueError as ``error: ...`` on one line.

    The whole trace is printed when the environment variable VERL_DFT_TRACEBACK is set. Under torchrun the message
    is also handed to the launcher, which repeats the first failing rank's message in its summary. Other exceptions
    are our bugs and pass through.
    """
    try:
        main()
    except ValueError as error:
        _tell_torchrun(error)
        if os.environ.get("RANK", "0") != "0":
            # Every rank finds the same mistake. Rank 0 says it, and torchrun then ends the others while they wait
            # here; a mistake that only this rank sees is printed when the wait is over.
            time.sleep(5)
        if os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exc()
        print("error: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
        return 1
    return 0


def _tell_torchrun(error: BaseException) -> None:
    if os.environ.get("TORCHELASTIC_ERROR_FILE"):
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)
