"""Runs under torchrun: the gradient of one global batch, for many engines, objectives and ways to cut the batch up.

torchrun ... gradient_worker.py PLAN.json OUT   with PLAN.json as test_gradients.py writes it. Rank 0 saves per case
OUT/<engine>/<case>.safetensors (gradients) and .json (metrics and the rows that were left without targets).
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor, distribute_tensor

from tiny_model import moved, token_weight
from verl.dft.loss.objectives import objective
from verl.dft.metrics import summarize
from verl.trainer.fsdp_dft_trainer.command_line import compose_config
from verl.trainer.fsdp_dft_trainer.settings import Launch, complete_config
from verl.trainer.fsdp_dft_trainer.stopping import StopRequests
from verl.trainer.fsdp_dft_trainer.trainer import DFTTrainer


def move_parameters(module: torch.nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert isinstance(parameter, DTensor)
            full = moved(name, parameter.detach().full_tensor())
            parameter.data.copy_(distribute_tensor(full, parameter.device_mesh, parameter.placements))


def blank_rows(trainer: DFTTrainer, blank: str) -> list[int]:
    """Rows of the first global batch that lose their targets: one micro-batch's, one rank's, or none."""
    if blank == "none":
        return []
    shares: list = [None] * trainer.batches.ranks
    mine = trainer.batches.rows(1).tolist()
    shares[trainer.batches.rank] = mine
    gathered: list = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, (trainer.batches.rank, mine))
    for rank, rows in gathered:
        shares[rank] = rows
    return shares[-1][:2] if blank == "micro" else shares[-1]


def run_case(trainer: DFTTrainer, case: dict, out: Path) -> None:
    trainer.config.data.update(case["batching"])
    trainer.engine.fused = case["fused"]
    blanks = blank_rows(trainer, case["blank"])
    items = []
    for i in trainer.batches.rows(1):
        item = dict(trainer.train_dataset[int(i)])
        if int(i) in blanks:
            item["loss_mask"] = torch.zeros_like(item["loss_mask"])
        if case["weighted"]:
            item["loss_weight"] = torch.tensor([token_weight(int(i), place) for place in range(len(item["loss_mask"]))])
        items.append(item)
    with trainer.engine.train_mode():  # on leaving it, verl forgets the gradients
        trainer.engine.optimizer_zero_grad()
        loss_function = objective(**case["objective"])
        output = trainer.engine.forward_backward_batch(trainer._batch(items), loss_function, forward_only=False)
        gradients = {
            name: p.grad.full_tensor().clone()
            for name, p in trainer.engine.module.named_parameters()
            if p.requires_grad
        }
    (sums,) = trainer._over_ranks(output["metrics"]["sums"])
    if torch.distributed.get_rank() == 0:
        save_file(gradients, out / f"{case['name']}.safetensors")
        metrics = {**summarize(sums), "blanks": blanks, "micro_batches": len(output["metrics"]["sums"])}
        (out / f"{case['name']}.json").write_text(json.dumps(metrics))


def main() -> None:
    plan, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    torch.distributed.init_process_group("gloo")
    for name, engine in plan.items():
        folder = out / name
        local = [f"trainer.default_local_dir={folder}", "trainer.logger=[]", "trainer.resume_mode=disable"]
        torch.manual_seed(0)
        config = complete_config(
            compose_config([*engine["flags"], *local]), Launch.of_torchrun(), say=lambda text: None
        )
        trainer = DFTTrainer(config, StopRequests())
        assert trainer.engine.fused, "the fused head must be the default"
        move_parameters(trainer.engine.module)
        folder.mkdir(parents=True, exist_ok=True)
        for case in engine["cases"]:
            run_case(trainer, case, folder)
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
