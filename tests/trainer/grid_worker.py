"""Runs under torchrun: trains once per flag list of a JSON file and saves the trained parameters and the metrics.

torchrun ... grid_worker.py RUNS.json OUT   with RUNS.json = {"name": ["flag=value", ...], ...}
One process group serves all runs, because starting one takes longer than a run.
"""

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from verl.utils.fsdp_utils import get_fsdp_full_state_dict

from verl.trainer.fsdp_dft_trainer.command_line import compose_config
from verl.trainer.fsdp_dft_trainer.settings import Launch, complete_config
from verl.trainer.fsdp_dft_trainer.stopping import StopRequests
from verl.trainer.fsdp_dft_trainer.trainer import DFTTrainer


def main() -> None:
    runs, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    torch.distributed.init_process_group("gloo")
    for name, flags in runs.items():
        folder = out / f"{name}-{os.environ['WORLD_SIZE']}"
        local = [f"trainer.default_local_dir={folder}", "trainer.logger=[]", "checkpoint.save_contents=[model]"]
        torch.manual_seed(0)
        config = complete_config(compose_config([*flags, *local]), Launch.of_torchrun(), say=lambda text: None)
        trainer = DFTTrainer(config, StopRequests())
        trainer.fit()
        state = get_fsdp_full_state_dict(trainer.engine.module)
        if torch.distributed.get_rank() == 0:
            save_file({key: value.contiguous().clone() for key, value in state.items()}, folder / "full.safetensors")
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
