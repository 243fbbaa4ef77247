"""A rank of a run that goes wrong: python -m torch.distributed.run ... peer_worker.py HOW SILENCE"""

import os
import signal
import sys
import time

import torch.distributed as dist

from verl.dft.errors import run_reporting_errors
from verl.dft.peers import meet, report, store_of_attempt, watched


def main() -> None:
    how, silence = sys.argv[1], float(sys.argv[2])
    meet()
    with watched(silence):
        rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group("gloo", store=store_of_attempt(60), rank=rank, world_size=ranks)
        dist.barrier()
        print("all ranks have met", flush=True)
        if how == "once":
            if dist.get_rank() == 1 and not os.path.exists(sys.argv[3]):
                open(sys.argv[3], "w").close()
                raise ValueError("expected one, found two")
            dist.barrier()
        if how == "all":
            raise ValueError("expected one,\nfound two")
        if dist.get_rank() == 1:
            if how == "mistake":
                raise ValueError("expected one,\nfound two")
            if how == "bug":
                raise KeyError("missing")
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
        if how == "mistake":  # as NCCL does when its other side has gone
            time.sleep(300)
        if how == "silent":
            time.sleep(300)
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(run_reporting_errors(main, report))
