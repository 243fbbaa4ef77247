"""Checkpoints: ``global_step_N`` with everything for resuming, and a folder ``huggingface`` for everything else.

The ranks write together here; names, locks and what is complete are :mod:`~verl.trainer.fsdp_dft_trainer.run_folder`'s.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig

from verl.dft.data.prompts import PromptFormat
from verl.dft.model.engine import DFTEngine
from verl.dft.model.export import full_state, write_adapter, write_hf_model
from verl.trainer.fsdp_dft_trainer import progress as run_file
from verl.trainer.fsdp_dft_trainer.agreement import NotWritten, everywhere, from_first, on_first
from verl.trainer.fsdp_dft_trainer.identity import differences
from verl.trainer.fsdp_dft_trainer.progress import Progress
from verl.trainer.fsdp_dft_trainer.run_folder import LOCK, RunFolder, make_empty
from verl.trainer.fsdp_dft_trainer.shards import load_shards, save_shards

SEEN_SECONDS = 20  # what one machine writes to a shared disk may take a while to be seen by another
SHARE = (
    "Set trainer.default_local_dir to a folder that all machines share; or save for use only, not for resuming, with "
    "checkpoint.save_contents=[hf_model]."
)


class Checkpoints:
    """Saves and resumes the runs of one folder, which all ranks must see."""

    def __init__(self, engine: DFTEngine, model_config: Any, config: DictConfig, identity: dict[str, Any]) -> None:
        trainer = config.trainer
        self.engine, self.model_config, self.identity = engine, model_config, identity
        self.folder = RunFolder(Path(trainer.default_local_dir), trainer.max_ckpt_to_keep, trainer.default_hdfs_dir)
        self.mode, self.given, self.changed = trainer.resume_mode, trainer.resume_from_path, trainer.resume_changed
        self.contents, self.load_contents = config.checkpoint.save_contents, config.checkpoint.load_contents
        self._own_folder()

    # ---------------------------------------------------------------- resuming

    def resume(self) -> Progress:
        """Load the checkpoint to go on from, if there is one; what the run remembers, at step 0 without one.

        Raises ValueError when the one asked for is not there, or belongs to a run with other settings.
        """
        on_first(self.folder.clear_leftovers)
        path, progress = from_first(self._to_resume)
        if path is None:
            return progress
        if not (path / run_file.FILE).is_file():
            raise ValueError(f"rank 0 resumes {path}, which rank {dist.get_rank()} does not see. {SHARE}")
        load_shards(self.engine, path, optimizer="optimizer" in self.load_contents)
        self.engine.resume_at(progress.step, progress.scaler)
        if dist.get_rank() == 0:
            print(f"Going on from {path}.", flush=True)
            self.folder.point_to_best(progress)
        return progress

    def _to_resume(self) -> tuple[Path | None, Progress]:
        path = self.folder.chosen(self.mode, self.given)
        if path is None:
            return None, Progress()
        progress, stored = run_file.read(path)
        if not (path / "model").is_dir():
            raise ValueError(
                f"{path} was saved for use, not for resuming. Start anew with trainer.resume_mode=disable."
            )
        changed = differences(stored, self.identity)
        if changed and self.changed != "allow":
            raise ValueError(
                f"{path} was trained with other settings: {'; '.join(changed)}. Give the former ones; or start anew, "
                "in another trainer.default_local_dir or with trainer.resume_mode=disable; or go on with the new "
                "ones with trainer.resume_changed=allow."
            )
        if changed:
            print(f"Going on with other settings than before: {'; '.join(changed)}.", flush=True)
        return path, progress

    # ---------------------------------------------------------------- saving

    def save(self, progress: Progress, prompts: PromptFormat, flush_metrics: Callable[[], None] = lambda: None) -> bool:
        """Write ``global_step_<step>``; every rank must call it. False, and a line that says why, if it failed.

        Whatever fails, the checkpoints that were there before stay. flush_metrics: called on rank 0 before, since a
        checkpoint must not be ahead of the metrics.
        """
        name, started = f"global_step_{progress.step}", time.monotonic()
        partial = self.folder.path / f".partial_{name}"
        try:
            on_first(flush_metrics)
            self._write(partial, progress, prompts)
            on_first(lambda: self.folder.publish(partial, self.folder.path / name, progress))
        except NotWritten as error:
            if dist.get_rank() == 0:
                self.folder.clear_leftovers()
                last = self.folder.newest()
                print(f"warning: {name} could not be saved: {error}. The last checkpoint is {last}.", flush=True)
            dist.barrier()
            return False
        if dist.get_rank() == 0:
            print(f"Saved {self.folder.path / name} in {time.monotonic() - started:.2f} s.", flush=True)
        return True

    def _write(self, partial: Path, progress: Progress, prompts: PromptFormat) -> None:
        on_first(lambda: make_empty(partial))
        engine = self.engine
        if "model" in self.contents:
            everywhere(lambda: save_shards(engine, partial, optimizer="optimizer" in self.contents))
        state: dict[str, torch.Tensor] = {}
        if "hf_model" in self.contents:
            state = full_state(engine.module)
        progress.scaler = engine.scaler_state()

        def write_rest() -> None:
            if state:
                folder, dtype = partial / "huggingface", engine.compute_dtype
                write_hf_model(state, engine.module, self.model_config, folder, dtype, prompts.stop[0])
                write_adapter(state, engine.module, partial / "adapter")
                prompts.save(partial / "huggingface")
            prompts.save(partial)
            run_file.write(progress, self.identity, dist.get_world_size(), partial)

        on_first(write_rest)

    def _own_folder(self) -> None:
        """Refuse a folder that another run writes to, and one that not all ranks see.

        The lock ends with the process, however that ends.
        """
        token, lock = from_first(self.folder.take_lock), self.folder.path / LOCK
        waits_until = time.monotonic() + SEEN_SECONDS
        while not (lock.is_file() and lock.read_text(encoding="utf-8") == token) and "model" in self.contents:
            if time.monotonic() > waits_until:
                raise ValueError(
                    f"rank 0 writes to {self.folder.path}, which rank {dist.get_rank()} does not see. {SHARE}"
                )
            time.sleep(0.5)
