"""Checkpoints: ``global_step_N`` with verl's shards for resuming and a folder ``huggingface`` for everything else.

A checkpoint is written under another name and renamed when it is complete, so a folder called ``global_step_N`` is
never half a checkpoint.
"""

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from omegaconf import DictConfig
from verl.utils import hdfs_io

from verl.dft.engine import DFTEngine
from verl.dft.export import export_hf_model
from verl.dft.prompts import PromptFormat

TRACKER = "latest_checkpointed_iteration.txt"  # verl's name for it


class Checkpoints:
    """Saves and resumes the runs of one folder."""

    def __init__(self, engine: DFTEngine, model_config: Any, trainer: DictConfig, export: bool) -> None:
        self.engine, self.model_config, self.export = engine, model_config, export
        self.folder = Path(trainer.default_local_dir)
        self.hdfs_folder, self.keep = trainer.default_hdfs_dir, trainer.max_ckpt_to_keep
        self.mode, self.given = trainer.resume_mode, trainer.resume_from_path

    def resume(self) -> int:
        """Load the checkpoint to go on from, if there is one; its step, or 0.

        Raises ValueError when the one asked for is not there, or was written by another number of ranks.
        """
        path = self._to_resume()
        if path is None:
            return 0
        world, rank = dist.get_world_size(), dist.get_rank()
        if not (path / f"model_world_size_{world}_rank_{rank}.pt").is_file():
            raise ValueError(
                f"expected {path} to hold the shards of {world} ranks; found others or none. Start as many ranks as "
                "wrote it, or start anew with trainer.resume_mode=disable."
            )
        self.engine.load_checkpoint(local_path=str(path), del_local_after_load=False)
        if rank == 0:
            print(f"Going on from {path}.", flush=True)
        return _step_of(path)

    def save(self, step: int, prompts: PromptFormat) -> None:
        """Write ``global_step_<step>``; every rank must call it."""
        final, partial = self.folder / f"global_step_{step}", self.folder / f".partial_global_step_{step}"
        if _first_on_node():
            shutil.rmtree(partial, ignore_errors=True)
        dist.barrier()
        self.engine.save_checkpoint(local_path=str(partial), global_step=step)
        if self.export:
            engine, model = self.engine, self.model_config
            export_hf_model(
                engine.module, model.hf_config, model.generation_config, partial / "huggingface", engine.compute_dtype
            )
        if dist.get_rank() == 0:
            prompts.save(partial)
            prompts.save(partial / "huggingface")
        dist.barrier()
        if _first_on_node():
            _move(partial, final)
        dist.barrier()
        if dist.get_rank() == 0:
            _write_whole(self.folder / TRACKER, str(step))
            self._remove_old(step)
            if self.hdfs_folder:
                hdfs_io.makedirs(self.hdfs_folder, exist_ok=True)
                hdfs_io.copy(src=str(final), dst=self.hdfs_folder, dirs_exist_ok=True)
            print(f"Saved {final}.", flush=True)

    def _to_resume(self) -> Path | None:
        if self.mode not in ("auto", "disable", "resume_path"):
            raise ValueError(f"expected trainer.resume_mode to be auto, disable or resume_path; found {self.mode!r}")
        if self.mode == "disable":
            return None
        if self.given:
            path = Path(self.given).expanduser()
            if not path.is_dir() or not re.fullmatch(r"global_step_\d+", path.name):
                raise ValueError(f"expected trainer.resume_path to be a folder global_step_N; found {self.given}")
            return path
        if self.mode == "resume_path":
            raise ValueError("trainer.resume_mode=resume_path needs trainer.resume_path=.../global_step_N")
        found = sorted(self.folder.glob("global_step_*"), key=_step_of)
        return found[-1] if found else None

    def _remove_old(self, newest: int) -> None:
        if self.keep:
            found = sorted(self.folder.glob("global_step_*"), key=_step_of)
            for old in [path for path in found if _step_of(path) <= newest][: -self.keep]:
                shutil.rmtree(old, ignore_errors=True)


def _step_of(path: Path) -> int:
    return int(path.name.rsplit("_", 1)[-1])


def _first_on_node() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _move(source: Path, target: Path) -> None:
    """Rename, replacing an older checkpoint of the same step. On a shared disk another machine may have done it."""
    if not source.exists():
        return
    shutil.rmtree(target, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.replace(source, target)


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def verl_contents(contents: list[str]) -> list[str]:
    """What verl itself writes: all but the Hugging Face model, which is exported here in the dtype of training."""
    known = {"model", "optimizer", "extra", "hf_model"}
    unknown = set(contents) - known
    if unknown or "model" not in contents:
        raise ValueError(
            f"expected checkpoint.save_contents to hold model and others of {', '.join(sorted(known))}; "
            f"found {', '.join(contents)}"
        )
    return [part for part in contents if part != "hf_model"]
