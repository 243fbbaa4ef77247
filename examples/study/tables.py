"""The study's tables in Markdown. Accuracies in %; ± is one standard error over seeds; differences are seed by seed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from plan import ARMS, CONDITIONS, PRECISION_ARMS, STOP_ARMS
from results import PERCENT, Mean, Results, difference, over_seeds

ARM_NAMES = {
    "sft": "SFT",
    "dft": "DFT",
    "mix": "DFT, mix 0.5",
    "threshold": "threshold 0.2",
    "eaft": "EAFT",
    "asft": "ASFT 0.05",
    "dft_eos": "DFT, full_weight_tokens=eos",
    "dft_floor": "DFT, floor 0.1",
}
CONDITION_NAMES = {
    "clean": "clean",
    "wrong10": "10 % wrong",
    "wrong30": "30 % wrong",
    "wrong50": "50 % wrong",
    "styles": "three styles",
    "unfamiliar": "50 % unfamiliar styles",
}
SCORES = ("greedy", "avg", "pass", "maj")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: Mean, metric: str, sign: bool = False) -> str:
    """As it stands in a table: accuracies and shares in %, the rest with three digits."""
    return value.text(1, 100, sign) if metric in PERCENT else value.text(3, 1, sign)


def _score_names(results: Results) -> list[str]:
    k = results.scale["samples"]
    return ["greedy", f"avg@{k}", f"pass@{k}", f"maj@{k}"]


def objectives(results: Results) -> str:
    """Every arm under every condition, and the base they start from."""
    rows = []
    for condition, title in CONDITION_NAMES.items():
        base, seen = results.base(), results.forecast(condition)
        if base and seen and results.cell("objectives", condition, "sft"):
            scores = [number(over_seeds(base, metric), metric) for metric in SCORES]
            sees = [number(over_seeds(seen, f"test_{metric}"), metric) for metric in ("nll", "mean_p")]
            rows.append([title, "base", *scores, *sees])
        for arm in ARMS:
            if cell := results.cell("objectives", condition, arm):
                numbers = [number(over_seeds(cell, metric), metric) for metric in (*SCORES, "nll", "mean_p")]
                rows.append([title, ARM_NAMES[arm], *numbers])
    return table(["training data", "model", *_score_names(results), "NLL", "mean p"], rows)


def gains(results: Results) -> str:
    """Each arm less SFT."""
    rows = []
    for condition, title in CONDITION_NAMES.items():
        sft = results.cell("objectives", condition, "sft")
        for arm in ARMS:
            cell = results.cell("objectives", condition, arm)
            if arm != "sft" and set(cell) & set(sft):
                differences = [number(difference(cell, sft, metric), metric, sign=True) for metric in SCORES]
                rows.append([title, ARM_NAMES[arm], *differences])
    return table(["training data", "less SFT", *_score_names(results)], rows)


def forecast_points(results: Results) -> list[dict[str, Any]]:
    """One entry per (base, training data): the forecast, and what then happened."""
    full = results.full_base
    places = [("forecast", "clean", steps) for steps in results.scale["base_steps"] if steps != full]
    places += [("objectives", condition, full) for condition in CONDITIONS]
    points = []
    for part, condition, steps in places:
        seen = results.forecast(condition, steps)
        sft, dft = (results.cell(part, condition, arm, steps) for arm in ("sft", "dft"))
        if seen and set(sft) & set(dft):
            points.append({"condition": condition, "base_steps": steps, "seen": seen, "sft": sft, "dft": dft})
    return points


def forecasts(results: Results) -> str:
    """The base's mean p on the training data, and DFT less SFT."""
    rows = []
    for point in forecast_points(results):
        sft, dft = point["sft"], point["dft"]
        verdicts = [seen["verdict"].split(";")[0] for seen in point["seen"].values()]
        rows.append(
            [
                f"{point['base_steps']} steps",
                CONDITION_NAMES[point["condition"]],
                over_seeds(point["seen"], "mean_p").text(3),
                ", ".join(dict.fromkeys(verdicts)),
                number(over_seeds(sft, "avg"), "avg"),
                *(number(difference(dft, sft, metric), metric, sign=True) for metric in ("avg", "greedy", "accuracy")),
            ]
        )
    header = ["base trained", "training data", "mean p", "diagnose says", "SFT avg"]
    return table([*header, "DFT - SFT: avg", "greedy", "tokens ranked first"], rows)


def stops(results: Results) -> str:
    """How often a response is cut off at the limit."""
    rows = []
    for arm in STOP_ARMS:
        if cell := results.cell("stop", "clean", arm):
            metrics = ("stop_p", "greedy_truncated", "truncated", "greedy", "avg")
            rows.append([ARM_NAMES[arm], *(number(over_seeds(cell, metric), metric) for metric in metrics)])
    header = ["objective", "p of the end, held out", "greedy: never stops", "sampled: never stops", "greedy", "avg"]
    return table(header, rows)


def precision(results: Results) -> str:
    """fp32 master weights against pure bf16."""
    rows = []
    base, seen = results.base(), results.forecast("clean")
    if base and seen:
        sees = [number(over_seeds(seen, f"test_{metric}"), metric) for metric in ("nll", "mean_p")]
        rows.append(["base", "", "", "", *sees, *(number(over_seeds(base, m), m) for m in ("greedy", "avg"))])
    for arm in PRECISION_ARMS:
        if cell := results.cell("precision", "clean", arm):
            dtype, lr = arm.split()
            distance = over_seeds(cell, "distance").text(3, 100)
            metrics = ("nll", "mean_p", "greedy", "avg")
            numbers = [number(over_seeds(cell, metric), metric) for metric in metrics]
            rows.append([dtype, lr, number(over_seeds(cell, "changed"), "changed"), distance, *numbers])
    header = ["weights", "lr", "weights changed, %", "distance moved, %", "NLL", "mean p", "greedy", "avg"]
    return table(header, rows)


def cost(results: Results) -> str:
    study, rows = results.study, []
    for part in ("base", "objectives", "forecast", "stop", "precision"):
        runs = [run for run in study["runs"] if run["part"] == part]
        train = sum(run["training"]["cpu_s"] for run in runs if run["training"])
        score = sum(run["evaluation"]["cpu_s"] for run in runs)
        rows.append([part, str(len(runs)), f"{train / 60:.1f}", f"{score / 60:.1f}"])
    total = [f"{results.planned_cells} models", "", f"{study['cpu_s'] / 60:.1f} in all"]
    return table(["part", "models", "training, CPU min", "evaluation, CPU min"], [*rows, ["all", *total]])


TABLES: Mapping[str, Any] = {
    "objectives": objectives,
    "gains": gains,
    "forecasts": forecasts,
    "stops": stops,
    "precision": precision,
    "cost": cost,
}
