"""One process of a training run: process group up, train, process group down."""

import os
import socket
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from verl.utils.device import get_device_name, get_nccl_backend, get_torch_device

from verl.dft.peers import meet, store_of_attempt, under_torchrun, watched
from verl.trainer.fsdp_dft_trainer.settings import Launch, complete_config
from verl.trainer.fsdp_dft_trainer.stopping import STOP_FILE, StopRequests, die_with_torchrun, leave, seconds_of

# A rank that waits longer than this for the others gives up. Tokenising a large data set is the longest wait.
COLLECTIVE_TIMEOUT = timedelta(hours=2)


def train(config: DictConfig) -> None:
    """Train as configured. Works under torchrun, and alone as a world of one rank.

    Raises SystemExit with a status of its own when it was asked to stop before the last step, see ``stopping``.
    """
    started = time.monotonic()
    die_with_torchrun()
    _be_a_world_of_one_without_torchrun()
    meet()
    say = _print_line if os.environ["RANK"] == "0" else _say_nothing
    completed = complete_config(config, Launch.of_torchrun(), say)
    say(f"Starting {os.environ['WORLD_SIZE']} rank(s) on {get_device_name()}; verl's engine takes seconds to import.")
    stop_file = Path(completed.trainer.default_local_dir) / STOP_FILE
    with watched(completed.trainer.peer_timeout):
        _start_process_group()

        from verl.trainer.fsdp_dft_trainer.trainer import DFTTrainer, seed_everything

        seed_everything(
            completed.trainer.seed
        )  # the same on every rank: LoRA draws its matrices before they are sharded
        requests = StopRequests(seconds_of(completed.trainer.max_time), started)
        trainer = DFTTrainer(completed, requests)
        if os.environ["RANK"] == "0":
            stop_file.unlink(missing_ok=True)
        requests.listen()
        reason = trainer.fit()
        torch.distributed.destroy_process_group()
    if reason is not None:
        leave(reason, trainer.progress.step, trainer.total_training_steps, stop_file)


def _be_a_world_of_one_without_torchrun() -> None:
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ.update(alone, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def _start_process_group() -> None:
    backend = "gloo"
    if get_device_name() != "cpu":
        get_torch_device().set_device(int(os.environ["LOCAL_RANK"]))
        backend = f"cpu:gloo,{get_device_name()}:{get_nccl_backend()}"
    where: dict[str, Any] = {}
    if under_torchrun():  # after a restart torchrun's own store still has the addresses of the ranks that died
        rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        where = {"store": store_of_attempt(COLLECTIVE_TIMEOUT.total_seconds()), "rank": rank, "world_size": ranks}
    torch.distributed.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT, **where)


def _print_line(text: str) -> None:
    print(text, flush=True)


def _say_nothing(text: str) -> None: ...
