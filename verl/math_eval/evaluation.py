"""The result of an evaluation, in memory and on disk.

``<folder>/<benchmark>/{settings.json, samples.jsonl, metrics.json}``; a folder may hold further evaluations below it:
``greedy``, ``temperature_T``, or one folder per checkpoint.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl.math_eval.metrics import benchmark_metrics, versions
from verl.math_eval.samples import SETTINGS, Record, SampleStore, write_atomically

METRICS = "metrics.json"
GREEDY, AT = "greedy", "temperature_"  # folders of one model's evaluations at other temperatures


@dataclass(frozen=True)
class Evaluation:
    """label: the model's name in reports. metrics: benchmark name -> its metrics.json. warnings: what a reader must be
    told.
    """

    label: str
    folder: Path
    prompt_format: str
    warnings: tuple[str, ...]
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def temperature(self) -> float:
        """Of its samples; 0 is greedy decoding."""
        return float(next(iter(self.metrics.values()))["settings"]["generation"]["sampling"]["temperature"])

    @property
    def model(self) -> str:
        """The fingerprint of the weights."""
        return str(next(iter(self.metrics.values()))["settings"]["generation"]["model"])

    def samples(self, benchmark: str) -> list[list[Record]]:
        """rows[problem][sample] of one benchmark: the samples that its metrics count, all in memory."""
        return list(self.rows(benchmark))

    def rows(self, benchmark: str) -> Iterator[list[Record]]:
        """The same problem by problem, for more samples than memory holds."""
        return _rows(SampleStore.stored(self.folder / benchmark), self.metrics[benchmark]["settings"]["asked"])


def write_metrics(store: SampleStore) -> dict[str, Any]:
    """Compute and write ``metrics.json`` of one benchmark. Raises ValueError when samples are missing."""
    sampling = store.settings["generation"]["sampling"]
    rows = _rows(store, store.settings["asked"])
    metrics = {
        "benchmark": store.settings["described"]["benchmark"],
        **benchmark_metrics(rows, sampling["temperature"] == 0, sampling["max_new_tokens"]),
        "settings": store.settings,
        "versions": versions(),
    }
    text = json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(store.folder / METRICS, text + "\n")
    return metrics


def missing_samples(store: SampleStore) -> int:
    """How many of the samples that were asked for are not there."""
    asked = store.settings["asked"]
    return sum((problem, n) not in store.records for problem in asked["problems"] for n in range(asked["samples"]))


def _rows(store: SampleStore, asked: dict[str, Any]) -> Iterator[list[Record]]:
    """asked: {"problems": ids in order, "samples": how many of each}. Raises ValueError before the first row."""
    problems, samples = asked["problems"], asked["samples"]
    missing = sum((problem, n) not in store.records for problem in problems for n in range(samples))
    if missing:
        raise ValueError(
            f"{store.folder} is not complete: {missing} of {len(problems) * samples} samples are missing. "
            "Give the command that made it once more, and it goes on."
        )
    return ([store.records[problem, n] for n in range(samples)] for problem in problems)


def load_evaluation(folder: str | Path) -> Evaluation:
    """Read an evaluation back. Raises ValueError for a folder without one, or one that was not finished."""
    folder = Path(folder)
    found = sorted(path.parent for path in folder.glob(f"*/{SETTINGS}"))
    if not found:
        raise ValueError(f"expected the output folder of an evaluation, found no */{SETTINGS} in {folder}")
    for path in found:
        if not (path / METRICS).is_file():
            raise ValueError(f"{path} has no {METRICS}: its run was not finished. Give its command once more.")
    metrics = [json.loads((path / METRICS).read_text(encoding="utf-8")) for path in found]
    metrics.sort(key=lambda m: m["settings"]["described"]["place"])
    described = metrics[0]["settings"]["described"]
    warnings = dict.fromkeys(w for m in metrics for w in m["settings"]["described"]["warnings"])
    return Evaluation(
        described["label"], folder, described["prompt_format"], tuple(warnings), {m["benchmark"]: m for m in metrics}
    )


def evaluation_folders(folder: str | Path) -> list[Path]:
    """All folders of evaluations in and below ``folder``, checkpoints by their step."""
    found = {path.parent.parent for path in Path(folder).rglob(SETTINGS)}
    return sorted(found, key=lambda path: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", str(path))])


def folders_of_a_model(folder: str | Path) -> dict[float, Path]:
    """Temperature -> the folder that holds samples at it, of the one model whose output folder this is."""
    folder = Path(folder)
    found: dict[float, Path] = {}
    for path in (folder, folder / GREEDY, *sorted(folder.glob(f"{AT}*"))):
        for settings in sorted(path.glob(f"*/{SETTINGS}")):
            stored = json.loads(settings.read_text(encoding="utf-8"))
            found.setdefault(float(stored["generation"]["sampling"]["temperature"]), path)
    return found


def folder_at(folder: Path, temperature: float, alone: bool) -> Path:
    """Where the samples of one temperature are, or go. alone: no other temperature is asked for."""
    there = folders_of_a_model(folder)
    if temperature in there:
        return there[temperature]
    if alone and not any(path.name.startswith(AT) for path in there.values()):
        return folder
    return folder / f"{AT}{temperature:g}"


def unfinished(folder: Path) -> bool:
    """Whether an evaluation's samples are not all there, or have no metrics."""
    return any(not (path.parent / METRICS).is_file() for path in folder.glob(f"*/{SETTINGS}"))
