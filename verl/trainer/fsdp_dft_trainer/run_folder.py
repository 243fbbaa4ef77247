"""The folder of a run: the names of its checkpoints, which of them is complete, which go, and who may write there.

A checkpoint is complete or it does not exist: it is written under another name, flushed to the disk and renamed. Names
that start with a dot are what a killed run may leave behind; :meth:`RunFolder.clear_leftovers` clears them away.

    .partial_global_step_N    being written
    .old_global_step_N        complete; the name is needed for a newer one of the same step, which is complete as well
    .removed_global_step_N    being removed

Nothing here knows of ranks or of the engine.
"""

import fcntl
import os
import re
import shutil
import socket
import time
from pathlib import Path

from verl.utils import hdfs_io

from verl.trainer.fsdp_dft_trainer.progress import Progress

TRACKER = "latest_checkpointed_iteration.txt"  # verl's name for it
LOCK = ".lock"
LOCK_SECONDS = 60  # a killed process with much memory takes a while to be gone


class RunFolder:
    """keep: how many of the newest checkpoints stay, beside the best; None: all. hdfs: where copies go."""

    def __init__(self, path: Path, keep: int | None = None, hdfs: str | None = None) -> None:
        self.path, self.keep, self.hdfs = path, keep, hdfs

    def chosen(self, mode: str, given: str | None) -> Path | None:
        """The checkpoint to go on from, by ``trainer.resume_mode`` and ``trainer.resume_path``; None: start anew.

        Raises ValueError where the one that was named is not there.
        """
        if mode not in ("auto", "disable", "resume_path"):
            raise ValueError(f"expected trainer.resume_mode to be auto, disable or resume_path; found {mode!r}")
        if mode == "disable":
            return None
        if given:
            path = Path(given).expanduser()
            if not path.is_dir() or not re.fullmatch(r"global_step_\d+", path.name):
                raise ValueError(f"expected trainer.resume_path to be a folder global_step_N; found {given}")
            return path
        if mode == "resume_path":
            raise ValueError("trainer.resume_mode=resume_path needs trainer.resume_path=.../global_step_N")
        return self.newest()

    def publish(self, partial: Path, final: Path, progress: Progress) -> None:
        """Give a written checkpoint its name; only then may others lose theirs."""
        flush(partial)
        old = self.path / f".old_{final.name}"
        if final.exists():
            os.replace(final, old)
        os.replace(partial, final)
        _flush_folder(self.path)
        shutil.rmtree(old, ignore_errors=True)
        _write_whole(self.path / TRACKER, str(progress.step))
        self.point_to_best(progress)
        self._remove_old(progress)
        if self.hdfs:
            hdfs_io.makedirs(self.hdfs, exist_ok=True)
            hdfs_io.copy(src=str(final), dst=self.hdfs, dirs_exist_ok=True)

    def newest(self) -> Path | None:
        """The checkpoint with the largest step, or None."""
        return max(self.path.glob("global_step_*"), key=_step_of, default=None)

    def clear_leftovers(self) -> None:
        """Finish or remove what a killed run was renaming, writing or removing."""
        for path in self.path.glob(".*_global_step_*"):
            kind, _, name = path.name.partition("_")
            if kind == ".old" and not (self.path / name).exists():
                os.replace(path, self.path / name)  # killed between two renames
            elif kind in (".old", ".partial", ".removed"):
                shutil.rmtree(path, ignore_errors=True)

    def _remove_old(self, progress: Progress) -> None:
        if not self.keep:
            return
        found = sorted(self.path.glob("global_step_*"), key=_step_of)
        for path in [path for path in found if _step_of(path) <= progress.step][: -self.keep]:
            if _step_of(path) != progress.best_step:
                removed = self.path / f".removed_{path.name}"
                os.replace(path, removed)
                shutil.rmtree(removed, ignore_errors=True)

    def point_to_best(self, progress: Progress) -> None:
        """``best`` -> the checkpoint of the best validation."""
        target = self.path / f"global_step_{progress.best_step}"
        if progress.best_step is not None and target.is_dir():
            link = self.path / ".best"
            link.unlink(missing_ok=True)
            link.symlink_to(target.name)
            os.replace(link, self.path / "best")

    def take_lock(self) -> str:
        """Claim the folder for this run until its process ends; the token that it wrote into the lock's file.

        Raises ValueError while another run holds it, and for a folder that cannot be written to.
        """
        token = f"{os.urandom(8).hex()} process {os.getpid()} on {socket.gethostname()}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / LOCK).open("a+", encoding="utf-8")
        except OSError as error:
            raise ValueError(f"expected trainer.default_local_dir to be a folder to write to; {error}") from error
        waits_until, told = time.monotonic() + LOCK_SECONDS, False
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                holder = self._holder()
                if time.monotonic() > waits_until:
                    raise ValueError(
                        f"another run, {holder}, writes to {self.path}. Wait for its end, or set "
                        "trainer.default_local_dir."
                    ) from error
                if not told:
                    print(f"Another run, {holder}, writes to {self.path}; waiting {LOCK_SECONDS} s for it.", flush=True)
                    told = True
                time.sleep(0.5)
            except OSError as error:  # some file systems have no locks
                print(f"warning: {self.path} cannot be locked ({error}); start no second run there.", flush=True)
                break
        self._lock.truncate(0)
        self._lock.write(token)
        self._lock.flush()
        os.fsync(self._lock.fileno())
        return token

    def _holder(self) -> str:
        """Who has the lock, by what it wrote."""
        self._lock.seek(0)
        return self._lock.read().partition(" ")[2] or "not known"


def _step_of(path: Path) -> int:
    return int(path.name.rsplit("_", 1)[-1])


def make_empty(folder: Path) -> None:
    """A new folder in place of whatever was there."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def flush(folder: Path) -> None:
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
