"""study.json, cell by cell: a value per seed, their mean with its standard error, differences seed by seed."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Cell = tuple[str, str, int]  # condition, arm, steps of the base
PERCENT = {"greedy", "avg", "pass", "maj", "truncated", "greedy_truncated", "accuracy", "changed"}


@dataclass(frozen=True)
class Mean:
    """Over seeds: mean, standard error sd / sqrt(n) with n - 1 in the variance (NaN for one seed), and n."""

    value: float
    error: float
    seeds: int

    def text(self, digits: int, scale: float = 1.0, sign: bool = False) -> str:
        number = f"{scale * self.value:{'+' if sign else ''}.{digits}f}"
        return number if math.isnan(self.error) else f"{number} ± {scale * self.error:.{digits}f}"


def mean(values: list[float]) -> Mean:
    """Raises ValueError for no value."""
    if not values:
        raise ValueError("expected at least one finished run in this cell, found none")
    n = len(values)
    middle = math.fsum(values) / n
    if n == 1:
        return Mean(middle, math.nan, n)
    return Mean(middle, math.sqrt(math.fsum((v - middle) ** 2 for v in values) / (n - 1) / n), n)


class Results:
    """runs[part][cell][seed] -> the numbers of one model, training's and evaluation's in one mapping."""

    def __init__(self, study: Mapping[str, Any]):
        self.study = study
        self.scale = study["scale"]
        self.full_base: int = self.scale["base_steps"][-1]
        self.seeds: int = self.scale["seeds"]
        self.runs: dict[str, dict[Cell, dict[int, dict[str, float]]]] = {}
        for run in study["runs"]:
            cells = self.runs.setdefault(run["part"], {})
            cell = cells.setdefault((run["condition"], run["arm"], run["base_steps"]), {})
            cell[run["seed"]] = {**(run["training"] or {}), **run["evaluation"]}

    @classmethod
    def read(cls, path: Path) -> "Results":
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def cell(self, part: str, condition: str, arm: str, base_steps: int | None = None) -> dict[int, dict[str, float]]:
        """Numbers by seed; empty where nothing is finished."""
        steps = self.full_base if base_steps is None else base_steps
        return self.runs.get(part, {}).get((condition, arm, steps), {})

    def base(self, base_steps: int | None = None) -> dict[int, dict[str, float]]:
        return self.cell("base", "base", "base", base_steps)

    def forecast(self, condition: str, base_steps: int | None = None) -> dict[int, dict[str, Any]]:
        """What diagnose found, by seed."""
        steps = self.full_base if base_steps is None else base_steps
        found = [each for each in self.study["forecasts"] if each["base_steps"] == steps]
        return {each["seed"]: each["conditions"][condition] for each in found if condition in each["conditions"]}

    @property
    def planned_cells(self) -> str:
        return f"{self.study['finished_runs']} of {self.study['planned_runs']}"


def over_seeds(cell: Mapping[int, Mapping[str, float]], metric: str) -> Mean:
    return mean([numbers[metric] for numbers in cell.values()])


def difference(one: Mapping[int, Mapping[str, float]], other: Mapping[int, Mapping[str, float]], metric: str) -> Mean:
    """one - other, seed by seed: what the seed brings (base, questions, rows) falls out."""
    return mean([one[seed][metric] - other[seed][metric] for seed in sorted(set(one) & set(other))])
