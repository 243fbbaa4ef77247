"""Runs under torchrun: scenarios of stopping and going on, many in one process group, for test_resume.py.

torchrun ... resume_worker.py FOLDER SCENARIO ...   writes FOLDER/<scenario>-<ranks>.json, what the scenario saw.
A process that dies is played by an exception that leaves the trainer where it stands; real kills are in test_chaos.py.
"""

import contextlib
import errno
import gc
import io
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from verl.trainer.fsdp_dft_trainer import checkpoints, run_folder
from verl.trainer.fsdp_dft_trainer.command_line import compose_config
from verl.trainer.fsdp_dft_trainer.settings import Launch, complete_config
from verl.trainer.fsdp_dft_trainer.stopping import StopRequests
from verl.trainer.fsdp_dft_trainer.trainer import DFTTrainer, seed_everything

FOLDER = Path(sys.argv[1])
RANK, RANKS = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


class Died(Exception):
    """As if the process were gone."""


def trainer(out: str, *flags: str, model: str = "model", max_time: float | None = None) -> DFTTrainer:
    common = [
        f"data.train_files={FOLDER}/train.parquet",
        f"data.val_files={FOLDER}/val.parquet",
        f"model.partial_pretrain={FOLDER}/{model}",
        f"trainer.default_local_dir={FOLDER}/{out}",
        "data.train_batch_size=8",
        "data.max_length=256",
        "data.truncation=drop",
        "optim.lr=1e-3",
        "optim.override_optimizer_config={eps:1e-6}",
        "trainer.total_training_steps=6",
        "trainer.logger=[]",
        "trainer.diagnose=false",
    ]
    config = complete_config(compose_config([*common, *flags]), Launch.of_torchrun(), say=lambda text: None)
    seed_everything(config.trainer.seed)
    return DFTTrainer(config, StopRequests(max_time))


def outcome(out: str, *flags: str, model: str = "model") -> dict:
    """What a run to the end prints, and the error it ends with; its lock is given back."""
    said, error = io.StringIO(), None
    with contextlib.redirect_stdout(said):
        try:
            made = trainer(out, *flags, model=model)
            made.fit()
        except (ValueError, Died) as raised:
            error = f"{type(raised).__name__}: {raised}"
    made = None
    gc.collect()  # the lock of a folder ends with its process; here the process goes on
    dist.barrier()
    return {"said": said.getvalue(), "error": error}


SAVES = ("trainer.save_freq=2", "trainer.test_freq=2")


def whole() -> dict:
    """The uninterrupted run."""
    return outcome(f"whole-{RANKS}", *SAVES)


def pieces() -> dict:
    """The run with dropout, which dies in a step, in the middle of saving, and before the last rename."""

    def dies(place, name, when):
        kept, calls = getattr(place, name), []

        def instead(*arguments, **more):
            calls.append(1)
            if len(calls) == when:
                raise Died(name)
            return kept(*arguments, **more)

        setattr(place, name, instead)
        seen.append(outcome("pieces", *SAVES, model="model-dropout")["error"])
        seen.append(sorted(path.name for path in (FOLDER / "pieces").iterdir()))
        setattr(place, name, kept)
        dist.barrier()

    seen: list = []
    outcome("whole-dropout", *SAVES, model="model-dropout")
    dies(DFTTrainer, "train_step", 4)
    dies(dcp, "save", 2)  # of the second tensors: weights are there, the optimizer's state is not
    dies(checkpoints, "on_first", 5)  # clearing up, metrics, making the folder, the other files; then renaming
    last = outcome("pieces", *SAVES, model="model-dropout")
    return {"seen": seen, "last": last}


def stop_in_time() -> dict:
    made = trainer("timed", *SAVES, max_time=1e-9 if RANK == RANKS - 1 else None)
    reason = made.fit()
    return {"reason": reason, "step": made.progress.step}


def other_ranks() -> dict:
    """Goes on from step 2 of what another number of ranks has trained."""
    return outcome(f"other-ranks-{RANKS}", *SAVES)


def full_disk() -> dict:
    """On the last rank the disk is full at the second save; then rank 0's, at the last one."""
    kept, calls = dcp.HuggingFaceStorageWriter.write_data, []

    def write_data(self, plan, planner):
        calls.append(1)
        if RANK == RANKS - 1 and len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return kept(self, plan, planner)

    dcp.HuggingFaceStorageWriter.write_data = write_data
    goes_on = outcome("full", *SAVES, "trainer.max_ckpt_to_keep=1")
    goes_on["left"] = sorted(path.name for path in (FOLDER / "full").iterdir())
    dcp.HuggingFaceStorageWriter.write_data = kept

    flush = run_folder.flush
    run_folder.flush = lambda folder: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    at_the_end = outcome("full-at-end")
    at_the_end["left"] = sorted(path.name for path in (FOLDER / "full-at-end").iterdir())
    run_folder.flush = flush
    return {"goes_on": goes_on, "at_the_end": at_the_end}


def changed() -> dict:
    """Going on with the finished run under other settings."""
    one = f"whole-{RANKS}"
    return {
        "batch": outcome(one, *SAVES, "data.train_batch_size=4")["error"],
        "rows": outcome(one, *SAVES, f"data.train_files={FOLDER}/val.parquet")["error"],
        "same rows": outcome(one, *SAVES, f"data.train_files={FOLDER}/same.parquet")["error"],
        "model": outcome(one, *SAVES, model="model-other")["error"],
        "objective": outcome(one, *SAVES, "objective.name=sft")["error"],
        "speed": outcome(one, *SAVES, "data.micro_batch_size_per_gpu=2", "use_remove_padding=false")["error"],
        "allowed": outcome(one, *SAVES, "objective.name=sft", "trainer.resume_changed=allow"),
    }


def poisoned() -> dict:
    """The model's embedding of Z is infinite, and one row of the data has a Z."""
    stopped = outcome("poison-stop", model="model-infinite")
    stopped["left"] = sorted(path.name for path in (FOLDER / "poison-stop").iterdir())

    def state(made: DFTTrainer) -> list[torch.Tensor]:
        held = list(made.engine.module.parameters())
        held += [value for values in made.engine.optimizer.state.values() for value in values.values()]
        return [(t.to_local() if hasattr(t, "to_local") else t).detach().clone() for t in held]

    made = trainer("poison-skip", "trainer.on_nonfinite=skip", model="model-infinite")
    lines, kept, rates = [], [], []
    with contextlib.redirect_stdout(io.StringIO()):
        for step in range(1, 6):
            before = state(made)
            lines.append(made.train_step(step))
            after = state(made)
            kept.append(len(before) == len(after) and all(map(torch.equal, before, after)))
            rates.append(made.engine.lr_scheduler.get_last_lr()[0])
    del made
    mine = f"objective.path={FOLDER}/mine.py"
    made = trainer("poison-flat", mine, "objective.name=flat", "trainer.on_nonfinite=skip")
    before = state(made)
    with contextlib.redirect_stdout(io.StringIO()):
        line = made.train_step(1)
    flat = {
        "skipped": line["train/skipped"],
        "norm": str(line["train/grad_norm"]),
        "kept": len(before) == len(state(made)) and all(map(torch.equal, before, state(made))),
    }
    return {
        "stopped": stopped,
        "skipped": [line["train/skipped"] for line in lines],
        "kept": kept,
        "rates": rates,
        "flat": flat,
        "too_many": outcome(
            "poison-all", mine, "objective.name=broken", "trainer.on_nonfinite=skip", "trainer.max_nonfinite=3"
        ),
        "gradient": outcome("poison-gradient", mine, "objective.name=steep"),
    }


def best() -> dict:
    """The learning rate is so high that validation gets worse and worse."""
    flags = (
        "trainer.test_freq=1",
        "trainer.best_metric=nll",
        "trainer.max_ckpt_to_keep=1",
        "optim.lr=0.3",
        "trainer.total_training_steps=20",
        "optim.warmup_steps_ratio=0.1",
    )
    first = outcome("best", *flags, "trainer.patience=3")
    again = outcome("best", *flags, "trainer.patience=3")
    left = sorted(path.name for path in (FOLDER / "best").iterdir())
    return {"first": first, "again": again, "left": left, "link": os.readlink(FOLDER / "best" / "best")}


def lora() -> dict:
    flags = ("model.lora_rank=4", "optim.lr=1e-2", "trainer.save_freq=2", "optim.warmup_steps_ratio=0")
    whole_run = outcome("lora-whole", *flags)

    kept, calls = DFTTrainer.train_step, []

    def train_step(self, step):
        calls.append(step)
        if len(calls) == 4:
            raise Died("in step 4")
        return kept(self, step)

    DFTTrainer.train_step = train_step
    died = outcome("lora-pieces", *flags)
    DFTTrainer.train_step = kept
    return {"whole": whole_run, "died": died, "last": outcome("lora-pieces", *flags)}


def main() -> None:
    dist.init_process_group("gloo")
    for name in sys.argv[2:]:
        seen = globals()[name]()
        if RANK == 0:
            (FOLDER / f"{name}-{RANKS}.json").write_text(json.dumps(seen))
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
