"""One process of a training run: process group up, train, process group down."""

import os
import random
import socket
from datetime import timedelta

import numpy as np
import torch
from omegaconf import DictConfig
from verl.utils.device import get_device_name, get_nccl_backend, get_torch_device

from verl.trainer.fsdp_dft_trainer.checks import complete_config

# A rank that waits longer than this for the others gives up. Tokenising a large data set is the longest wait.
COLLECTIVE_TIMEOUT = timedelta(hours=2)


def train(config: DictConfig) -> None:
    """Train as configured. Works under torchrun, and alone as a world of one rank."""
    _be_a_world_of_one_without_torchrun()
    say = _print_line if os.environ["RANK"] == "0" else _say_nothing
    config = complete_config(config, say)
    say(f"Starting {os.environ['WORLD_SIZE']} rank(s) on {get_device_name()}; verl's engine takes seconds to import.")
    _start_process_group()
    _seed_everything(config.trainer.seed)

    from verl.trainer.fsdp_dft_trainer.trainer import DFTTrainer

    trainer = DFTTrainer(config)
    trainer.fit()
    torch.distributed.destroy_process_group()


def _be_a_world_of_one_without_torchrun() -> None:
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ.update(alone, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def _start_process_group() -> None:
    if get_device_name() == "cpu":
        torch.distributed.init_process_group("gloo", timeout=COLLECTIVE_TIMEOUT)
        return
    get_torch_device().set_device(int(os.environ["LOCAL_RANK"]))
    backend = f"cpu:gloo,{get_device_name()}:{get_nccl_backend()}"
    torch.distributed.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)


def _seed_everything(seed: int) -> None:
    """The same seed on every rank: LoRA matrices are drawn before they are sharded, and must agree."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _print_line(text: str) -> None:
    print(text, flush=True)


def _say_nothing(text: str) -> None: ...
