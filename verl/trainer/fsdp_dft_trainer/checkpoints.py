"""Checkpoints: ``global_step_N`` with everything for resuming, and a folder ``huggingface`` for everything else.

A checkpoint is complete or it does not exist: it is written under another name, flushed to the disk and renamed. Names
that start with a dot are what a killed run may leave behind; :meth:`Checkpoints.resume` clears them away.

    .partial_global_step_N    being written
    .old_global_step_N        complete; the name is needed for a newer one of the same step, which is complete as well
    .removed_global_step_N    being removed
"""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig
from verl.utils import hdfs_io

from verl.dft.data.prompts import PromptFormat
from verl.dft.model.engine import DFTEngine
from verl.dft.model.export import full_state, write_adapter, write_hf_model
from verl.trainer.fsdp_dft_trainer import progress as run_file
from verl.trainer.fsdp_dft_trainer.agreement import NotWritten, everywhere, from_first, on_first
from verl.trainer.fsdp_dft_trainer.identity import differences
from verl.trainer.fsdp_dft_trainer.progress import Progress
from verl.trainer.fsdp_dft_trainer.shards import load_shards, save_shards

TRACKER = "latest_checkpointed_iteration.txt"  # verl's name for it
LOCK = ".lock"
LOCK_SECONDS = 60  # a killed process with much memory takes a while to be gone
SEEN_SECONDS = 20  # what one machine writes to a shared disk may take a while to be seen by another


class Checkpoints:
    """Saves and resumes the runs of one folder, which all ranks must see."""

    def __init__(self, engine: DFTEngine, model_config: Any, config: DictConfig, identity: dict[str, Any]) -> None:
        trainer = config.trainer
        self.engine, self.model_config, self.identity = engine, model_config, identity
        self.folder = Path(trainer.default_local_dir)
        self.hdfs_folder, self.keep = trainer.default_hdfs_dir, trainer.max_ckpt_to_keep
        self.mode, self.given, self.changed = trainer.resume_mode, trainer.resume_from_path, trainer.resume_changed
        self.contents, self.load_contents = config.checkpoint.save_contents, config.checkpoint.load_contents
        self._own_folder()

    # ---------------------------------------------------------------- resuming

    def resume(self) -> Progress:
        """Load the checkpoint to go on from, if there is one; what the run remembers, at step 0 without one.

        Raises ValueError when the one asked for is not there, or belongs to a run with other settings.
        """
        on_first(self._clear_leftovers)
        path, progress = from_first(self._to_resume)
        if path is None:
            return progress
        if not (path / run_file.FILE).is_file():
            raise ValueError(f"rank 0 resumes {path}, which rank {dist.get_rank()} does not see. {SHARE}")
        load_shards(self.engine, path, optimizer="optimizer" in self.load_contents)
        _set_schedule(self.engine.lr_scheduler, progress.step)
        if self.engine.scaler is not None and progress.scaler:
            self.engine.scaler.load_state_dict(progress.scaler)
        if dist.get_rank() == 0:
            print(f"Going on from {path}.", flush=True)
            self._point_to_best(progress)
        return progress

    def _to_resume(self) -> tuple[Path | None, Progress]:
        path = self._chosen()
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

    def _chosen(self) -> Path | None:
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
        return self._newest()

    # ---------------------------------------------------------------- saving

    def save(self, progress: Progress, prompts: PromptFormat, flush_metrics: Callable[[], None] = lambda: None) -> bool:
        """Write ``global_step_<step>``; every rank must call it. False, and a line that says why, if it failed.

        Whatever fails, the checkpoints that were there before stay. flush_metrics: called on rank 0 before, since a
        checkpoint must not be ahead of the metrics.
        """
        name, started = f"global_step_{progress.step}", time.monotonic()
        partial = self.folder / f".partial_{name}"
        try:
            on_first(flush_metrics)
            self._write(partial, progress, prompts)
            on_first(lambda: self._publish(partial, self.folder / name, progress))
        except NotWritten as error:
            if dist.get_rank() == 0:
                self._clear_leftovers()
                last = self._newest()
                print(f"warning: {name} could not be saved: {error}. The last checkpoint is {last}.", flush=True)
            dist.barrier()
            return False
        if dist.get_rank() == 0:
            print(f"Saved {self.folder / name} in {time.monotonic() - started:.2f} s.", flush=True)
        return True

    def _write(self, partial: Path, progress: Progress, prompts: PromptFormat) -> None:
        on_first(lambda: _make_empty(partial))
        engine = self.engine
        if "model" in self.contents:
            everywhere(lambda: save_shards(engine, partial, optimizer="optimizer" in self.contents))
        state: dict[str, torch.Tensor] = {}
        if "hf_model" in self.contents:
            state = full_state(engine.module)
        if engine.scaler is not None:
            progress.scaler = engine.scaler.state_dict()

        def write_rest() -> None:
            if state:
                write_hf_model(state, engine.module, self.model_config, partial / "huggingface", engine.compute_dtype)
                write_adapter(state, engine.module, partial / "adapter")
                prompts.save(partial / "huggingface")
            prompts.save(partial)
            run_file.write(progress, self.identity, dist.get_world_size(), partial)

        on_first(write_rest)

    def _publish(self, partial: Path, final: Path, progress: Progress) -> None:
        """Give a written checkpoint its name; only then may others lose theirs."""
        _flush(partial)
        old = self.folder / f".old_{final.name}"
        if final.exists():
            os.replace(final, old)
        os.replace(partial, final)
        _flush_folder(self.folder)
        shutil.rmtree(old, ignore_errors=True)
        _write_whole(self.folder / TRACKER, str(progress.step))
        self._point_to_best(progress)
        self._remove_old(progress)
        if self.hdfs_folder:
            hdfs_io.makedirs(self.hdfs_folder, exist_ok=True)
            hdfs_io.copy(src=str(final), dst=self.hdfs_folder, dirs_exist_ok=True)

    # ---------------------------------------------------------------- the folder

    def _newest(self) -> Path | None:
        return max(self.folder.glob("global_step_*"), key=_step_of, default=None)

    def _clear_leftovers(self) -> None:
        for path in self.folder.glob(".*_global_step_*"):
            kind, _, name = path.name.partition("_")
            if kind == ".old" and not (self.folder / name).exists():
                os.replace(path, self.folder / name)  # killed between two renames
            elif kind in (".old", ".partial", ".removed"):
                shutil.rmtree(path, ignore_errors=True)

    def _remove_old(self, progress: Progress) -> None:
        if not self.keep:
            return
        found = sorted(self.folder.glob("global_step_*"), key=_step_of)
        for path in [path for path in found if _step_of(path) <= progress.step][: -self.keep]:
            if _step_of(path) != progress.best_step:
                removed = self.folder / f".removed_{path.name}"
                os.replace(path, removed)
                shutil.rmtree(removed, ignore_errors=True)

    def _point_to_best(self, progress: Progress) -> None:
        """``best`` -> the checkpoint of the best validation."""
        target = self.folder / f"global_step_{progress.best_step}"
        if progress.best_step is not None and target.is_dir():
            link = self.folder / ".best"
            link.unlink(missing_ok=True)
            link.symlink_to(target.name)
            os.replace(link, self.folder / "best")

    def _own_folder(self) -> None:
        """Refuse a folder that another run writes to, and one that not all ranks see.

        The lock ends with the process, however that ends.
        """
        token, lock = from_first(self._take_lock), self.folder / LOCK
        waits_until = time.monotonic() + SEEN_SECONDS
        while not (lock.is_file() and lock.read_text(encoding="utf-8") == token) and "model" in self.contents:
            if time.monotonic() > waits_until:
                raise ValueError(f"rank 0 writes to {self.folder}, which rank {dist.get_rank()} does not see. {SHARE}")
            time.sleep(0.5)

    def _take_lock(self) -> str:
        token = os.urandom(8).hex()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / LOCK).open("a+", encoding="utf-8")
        except OSError as error:
            raise ValueError(f"expected trainer.default_local_dir to be a folder to write to; {error}") from error
        waits_until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > waits_until:
                    raise ValueError(
                        f"another run writes to {self.folder}. Wait for its end, or set trainer.default_local_dir."
                    ) from error
                time.sleep(0.5)
            except OSError as error:  # some file systems have no locks
                print(f"warning: {self.folder} cannot be locked ({error}); start no second run there.", flush=True)
                break
        self._lock.truncate(0)
        self._lock.write(token)
        self._lock.flush()
        os.fsync(self._lock.fileno())
        return token


SHARE = (
    "Set trainer.default_local_dir to a folder that all machines share; or save for use only, not for resuming, with "
    "checkpoint.save_contents=[hf_model]."
)


def _step_of(path: Path) -> int:
    return int(path.name.rsplit("_", 1)[-1])


def _make_empty(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _flush(folder: Path) -> None:
    """Everything in ``folder`` reaches the disk, and so do the names."""
    for parent, _, files in os.walk(folder):
        for name in files:
            with open(os.path.join(parent, name), "rb") as file:
                os.fsync(file.fileno())
        _flush_folder(Path(parent))


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _set_schedule(scheduler: Any, step: int) -> None:
    """The learning rate is a function of the number of steps alone, skipped ones included."""
    scheduler.last_epoch = step - 1
    scheduler.step()
