"""torchrun with an exit status that says why a run stopped: python -m verl.trainer.fsdp_dft_trainer.torchrun ...

Takes torchrun's arguments. torchrun itself ends with status 1 after any signal, crash or not. Here the status is 143
(SIGTERM), 130 (SIGINT) or 75 (trainer.max_time) if the ranks saved and left in order, and torchrun's otherwise.
"""

import os
import sys
import tempfile
from pathlib import Path

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.run import main as torchrun

from verl.trainer.fsdp_dft_trainer.stopping import STATUS_VARIABLE


def main() -> int:
    """The exit status of a torchrun with this process's arguments."""
    with tempfile.TemporaryDirectory(prefix="verl-dft-") as folder:
        file = Path(folder) / "status"
        os.environ[STATUS_VARIABLE] = str(file)
        try:
            torchrun()
        except SignalException as error:
            if not file.exists():
                print(f"error: {error}, and no rank left in order (see --shutdown-timeout)", file=sys.stderr)
                return 1
        finally:
            del os.environ[STATUS_VARIABLE]
        return int(file.read_text()) if file.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
