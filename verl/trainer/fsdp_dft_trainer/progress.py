"""What a run remembers beside weights and optimizer: ``run.json`` of a checkpoint."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILE = "run.json"

# The metrics by which a checkpoint may be the best, and whether more of it is better. Never the objective's value:
# that of DFT is 0 for a token at p = 0 as well as at p = 1.
BEST_METRICS = {"nll": False, "one_minus_p": False, "accuracy": True}


@dataclass
class Progress:
    """step: steps done. skipped, skipped_in_a_row: those of them that left the model as it was, see bad_batches.

    best_value, best_step: of the best validation so far, by ``trainer.best_metric``; validations_since: after it.
    ended: whether patience has run out. scaler: the state of fp16's loss scaler.
    """

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best_value: float | None = None
    best_step: int | None = None
    validations_since: int = 0
    ended: bool = False
    scaler: dict[str, Any] = field(default_factory=dict)

    def note_step(self, step: int, was_skipped: bool) -> None:
        """``step`` is over, with an update or without one."""
        self.step = step
        self.skipped += was_skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if was_skipped else 0

    def note_validation(self, metrics: dict[str, float], metric: str | None, patience: int | None) -> bool:
        """Whether this is the best validation so far; sets ``ended`` after ``patience`` in a row that were not."""
        if metric is None:
            return False
        value = metrics[f"val/{metric}"]
        sign = 1 if BEST_METRICS[metric] else -1
        better = not math.isnan(value) and (self.best_value is None or sign * value > sign * self.best_value)
        if better:
            self.best_value, self.best_step, self.validations_since = value, self.step, 0
        else:
            self.validations_since += 1
            self.ended = patience is not None and self.validations_since >= patience
        return better


def write(progress: Progress, identity: dict[str, Any], world_size: int, folder: Path) -> None:
    """Write both into the folder of a checkpoint, for :func:`read`."""
    content = {**asdict(progress), "ranks": world_size, "settings": identity}
    (folder / FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> tuple[Progress, dict[str, Any]]:
    """Progress and settings of a checkpoint. Raises ValueError where there is none of ours."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        identity = content.pop("settings")
        content.pop("ranks")
        return Progress(**content), identity
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"expected {folder / FILE}, written by this trainer; {type(error).__name__}: {error}. Start anew with "
            "trainer.resume_mode=disable, or in another trainer.default_local_dir."
        ) from error
