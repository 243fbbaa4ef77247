"""Where the metrics of a run go: ``metrics.jsonl``, and what ``trainer.logger`` names. On rank 0 only."""

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from verl.utils.tracking import Tracking

from verl.dft.metrics import MetricsFile


class RunLog:
    """Goes on after ``last_step``: lines of later steps, written by a run that then died, are removed."""

    def __init__(self, config: DictConfig, last_step: int) -> None:
        trainer, folder = config.trainer, Path(config.trainer.default_local_dir)
        os.environ.setdefault("TENSORBOARD_DIR", str(folder / "tensorboard"))
        self.history = MetricsFile(folder / "metrics.jsonl", last_step)
        self.pending: list[tuple[dict[str, float], int]] = []  # what a full disk has not taken yet
        self.tracking = Tracking(
            project_name=trainer.project_name,
            experiment_name=trainer.experiment_name,
            default_backend=list(trainer.logger),
            config=OmegaConf.to_container(config),
        )
        if last_step and "tensorboard" in trainer.logger:
            _purge_behind(self.tracking.logger["tensorboard"].writer, last_step)

    def write(self, metrics: dict[str, float], step: int) -> None:
        """Log a step. A full disk is told, and the line kept for the next attempt."""
        self.pending.append((metrics, step))
        try:
            self._write_pending()
            self.tracking.log({name: float(f"{value:.6g}") for name, value in metrics.items()}, step=step)
        except OSError as error:
            print(f"warning: the metrics of step {step} could not be written: {error}", flush=True)

    def flush(self) -> None:
        """All lines reach the disk: a checkpoint must not be ahead of them. Raises OSError where they cannot."""
        self._write_pending()
        self.history.flush()

    def _write_pending(self) -> None:
        while self.pending:
            self.history.append(*self.pending[0])
            self.pending.pop(0)

    def close(self) -> None:
        """Let the loggers finish."""
        self.tracking.finish()


def _purge_behind(writer: Any, last_step: int) -> None:
    """What ``SummaryWriter(purge_step=...)``, which verl does not pass on, tells the readers of its events."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    start = SessionLog(status=SessionLog.START)
    writer.file_writer.add_event(Event(step=last_step + 1, session_log=start))
