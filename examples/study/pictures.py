"""The study's plots. Points are means over seeds, bars one standard error."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from plan import PRECISION_ARMS, STOP_ARMS  # noqa: E402
from results import Results, difference, over_seeds  # noqa: E402
from tables import ARM_NAMES, CONDITION_NAMES, SCORES, forecast_points  # noqa: E402

NOISE = {"clean": 0, "wrong10": 10, "wrong30": 30, "wrong50": 50}
COLORS = {"sft": "C0", "dft": "C1", "mix": "C2", "threshold": "C3", "eaft": "C4", "asft": "C5"}
TITLES = {
    "greedy": "greedy",
    "avg": "one sample at T = 1 (avg)",
    "pass": "any of all samples (pass)",
    "maj": "vote (maj)",
}
DPI = 90


def noise(results: Results, path: Path) -> None:
    """The four scores against the share of wrong demonstrations."""
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), constrained_layout=True)
    for axis, metric in zip(axes, SCORES, strict=True):
        for arm, color in COLORS.items():
            cells = {x: results.cell("objectives", condition, arm) for condition, x in NOISE.items()}
            points = [(x, over_seeds(cell, metric)) for x, cell in cells.items() if cell]
            if points:
                x, y, error = zip(*((x, 100 * m.value, 100 * m.error) for x, m in points), strict=True)
                line = "-" if arm in ("sft", "dft") else "none"
                axis.errorbar(
                    x, y, error, color=color, linestyle=line, marker="o", ms=4, capsize=2, label=ARM_NAMES[arm]
                )
        if base := results.base():
            axis.axhline(100 * over_seeds(base, metric).value, color="k", linestyle=":", label="base")
        axis.set_title(TITLES[metric], fontsize=10)
        axis.set_xlabel("% of demonstrations wrong")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("% of questions right")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    _save(figure, path)


def gains(results: Results, path: Path) -> None:
    """DFT less SFT by score and condition."""
    figure, axis = plt.subplots(figsize=(9, 3.4), constrained_layout=True)
    names = []
    for place, (condition, title) in enumerate(CONDITION_NAMES.items()):
        sft, dft = (results.cell("objectives", condition, arm) for arm in ("sft", "dft"))
        names.append(title)
        if set(sft) & set(dft):
            for shift, metric in enumerate(SCORES):
                gain = difference(dft, sft, metric)
                label = TITLES[metric] if place == 0 else None
                axis.bar(place + 0.2 * (shift - 1.5), 100 * gain.value, 0.2, yerr=100 * gain.error, color=f"C{shift}",
                         capsize=2, label=label)  # fmt: skip
    axis.axhline(0, color="k", linewidth=0.8)
    axis.set_xticks(range(len(names)), names, fontsize=9)
    axis.set_ylabel("DFT - SFT, points")
    axis.legend(fontsize=8)
    _save(figure, path)


def forecast(results: Results, path: Path) -> None:
    """DFT less SFT against the base's mean p on the training data."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), constrained_layout=True)
    titles = {"avg": "one sample at T = 1", "greedy": "greedy", "accuracy": "held-out tokens ranked first"}
    for axis, (metric, title) in zip(axes, titles.items(), strict=True):
        for point in forecast_points(results):
            full = point["base_steps"] == results.full_base
            p, gain = over_seeds(point["seen"], "mean_p"), difference(point["dft"], point["sft"], metric)
            name = CONDITION_NAMES[point["condition"]] if full else f"base of {point['base_steps']} steps"
            color = "C1" if full else "C0"
            axis.errorbar(p.value, 100 * gain.value, 100 * gain.error, p.error, "o", color=color, ms=5, capsize=2)
            axis.annotate(name, (p.value, 100 * gain.value), fontsize=7, xytext=(4, 4), textcoords="offset points")
        axis.axhline(0, color="k", linewidth=0.8)
        for border in (0.25, 0.65):
            axis.axvline(border, color="0.6", linestyle=":")
        axis.set_xlim(-0.05, 1.1)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("mean p of the base on the training data")
    axes[0].set_ylabel("DFT - SFT, points")
    _save(figure, path)


def stop(results: Results, path: Path) -> None:
    """The share of responses that never stop."""
    figure, axis = plt.subplots(figsize=(6.5, 2.6), constrained_layout=True)
    arms = [arm for arm in STOP_ARMS if results.cell("stop", "clean", arm)]
    for shift, (metric, label) in enumerate((("greedy_truncated", "greedy"), ("truncated", "sampled at T = 1"))):
        values = [over_seeds(results.cell("stop", "clean", arm), metric) for arm in arms]
        places = [place + 0.4 * shift - 0.2 for place in range(len(arms))]
        axis.barh(
            places, [100 * v.value for v in values], 0.4, xerr=[100 * v.error for v in values], label=label, capsize=2
        )
    axis.set_yticks(range(len(arms)), [ARM_NAMES[arm] for arm in arms], fontsize=9)
    axis.set_xlim(0, 105)
    axis.invert_yaxis()
    axis.set_xlabel("% of responses that never stop")
    axis.legend(fontsize=8)
    _save(figure, path)


def precision(results: Results, path: Path) -> None:
    """The share of weights that changed, and what it brought."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), constrained_layout=True)
    arms = [arm for arm in PRECISION_ARMS if results.cell("precision", "clean", arm)]
    colors = ["C0" if arm.startswith("fp32") else "C1" for arm in arms]
    for axis, metric, title in ((axes[0], "changed", "% of weights changed"), (axes[1], "mean_p", "mean p, held out")):
        scale = 100 if metric == "changed" else 1
        values = [over_seeds(results.cell("precision", "clean", arm), metric) for arm in arms]
        axis.bar(
            arms, [scale * v.value for v in values], yerr=[scale * v.error for v in values], color=colors, capsize=3
        )
        axis.set_title(title, fontsize=10)
        axis.tick_params(axis="x", labelsize=8)
    if seen := results.forecast("clean"):
        start = over_seeds(seen, "test_mean_p").value
        axes[1].axhline(start, color="k", linestyle=":", label="base")
        axes[1].set_ylim(start - 0.005, axes[1].dataLim.y1 + 0.005)
        axes[1].legend(fontsize=8)
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


PICTURES = {"noise": noise, "gains": gains, "forecast": forecast, "stop": stop, "precision": precision}
