"""Plots of evaluations: scores with error bars, pass@k and maj@k over k, lengths, learning curves."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from verl.math_eval.evaluation import Evaluation
from verl.math_eval.tables import KINDS, LABELS, benchmarks, by_temperature, headline_scores, labels, score_lines

COLOURS = {"right": "#3a923a", "wrong": "#e1812c", "truncated": "#8d8d8d"}
TEMPERATURE = "temperature.png"
STEP = re.compile(r"global_step_(\d+)")


def draw_all(folder: Path, evaluations: Sequence[Evaluation]) -> list[str]:
    """Write the plots that these evaluations give something to; returns their file names."""
    charts: dict[str, Callable[[Sequence[Evaluation]], Any]] = {
        "scores.png": draw_scores,
        "learning_curve.png": draw_learning_curve,
        TEMPERATURE: draw_temperature,
        "pass_at_k.png": draw_pass_at_k,
        "lengths.png": draw_lengths,
    }
    written = []
    for name, draw in charts.items():
        figure = draw(evaluations)
        if figure is not None:
            figure.savefig(folder / name, dpi=130)
            _pyplot().close(figure)
            written.append(name)
    return written


def draw_scores(evaluations: Sequence[Evaluation]):
    """A panel per kind of score, in it a group of bars per benchmark and a bar per model. One model, or one benchmark:
    one panel.
    """
    lines, models = score_lines(evaluations), labels(evaluations)
    names = benchmarks(evaluations)
    if not names:
        return None
    columns = names + (["average"] if len(names) > 1 else [])
    # panel -> bar of a group -> group -> score
    panels: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for label, name, scores in lines:
        if len(models) == 1:
            panels.setdefault(label, {})[name] = scores
        elif len(names) == 1:
            panels.setdefault(names[0], {}).setdefault(label, {})[name] = scores[names[0]]
        else:
            panels.setdefault(name, {})[label] = scores
    if len(names) == 1 and len(models) > 1:
        columns = list(dict.fromkeys(name for _, name, _ in lines))
    bars = max(len(shown) for shown in panels.values())
    width = max(5.0, 1.5 + len(columns) * (0.5 + 0.28 * bars))
    figure, axes = _figure(len(panels), 1, (width, 2.8 * len(panels) + 0.6))
    for axis, (title, shown) in zip(axes, panels.items(), strict=True):
        for i, (label, scores) in enumerate(shown.items()):
            at = [(j, scores[c]) for j, c in enumerate(columns) if c in scores and scores[c]["value"] is not None]
            axis.bar(
                [j + (i - (len(shown) - 1) / 2) * 0.8 / len(shown) for j, _ in at],
                [100 * score["value"] for _, score in at],
                0.8 / len(shown),
                yerr=[100 * (score["stderr"] or 0.0) for _, score in at],
                capsize=2,
                error_kw={"elinewidth": 1},
                label=label,
                color=f"C{i}" if len(models) == 1 else _colour(label, evaluations),
            )
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xticks(range(len(columns)), columns)
        axis.set_ylabel("% right, ± stderr", fontsize=9)
        axis.set_ylim(0, min(100, axis.get_ylim()[1] * 1.05))
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    _legend(figure, axes)
    return figure


def draw_temperature(evaluations: Sequence[Evaluation]):
    """Scores over temperature: a row of panels per benchmark (and the average), a panel per score, a line per model."""
    curves = by_temperature(evaluations)
    if not curves:
        return None
    names = benchmarks(evaluations)
    names += ["average"] if len(names) > 1 else []
    scores = list(dict.fromkeys(score for curve in curves.values() for score in curve))
    figure, axes = _figure(len(names), len(scores), (1.0 + 3.4 * len(scores), 0.6 + 2.9 * len(names)))
    for i, (name, score) in enumerate((name, score) for name in names for score in scores):
        axis = axes[i]
        for label, curve in curves.items():
            at = [(t, s[name]) for t, s in curve.get(score, {}).items() if s.get(name, {}).get("value") is not None]
            axis.errorbar(
                [t for t, _ in at],
                [100 * s["value"] for _, s in at],
                yerr=[100 * (s["stderr"] or 0.0) for _, s in at],
                marker="o", markersize=4, capsize=2, color=_colour(label, evaluations), label=label,
            )  # fmt: skip
        axis.set_title(score if len(names) == 1 else f"{name}: {score}", fontsize=10)
        axis.set_xlabel("temperature (0: greedy)")
        axis.set_ylabel("% right, ± stderr", fontsize=9)
        axis.grid(alpha=0.3)
    _legend(figure, axes)
    return figure


def draw_pass_at_k(evaluations: Sequence[Evaluation]):
    """pass@k as lines with error bars, maj@k dashed, over k; a panel per benchmark."""
    sampled = [e for e in evaluations if any(m["samples_per_problem"] > 1 for m in e.metrics.values())]
    if not sampled:
        return None
    figure, axes, names = _panel_per_benchmark(sampled)
    for axis, name in zip(axes, names, strict=True):
        ks: set[int] = set()
        for evaluation in sampled:
            if name not in evaluation.metrics:
                continue
            scores, own = evaluation.metrics[name]["scores"], _series(evaluation, sampled)
            for kind, style in (("pass", "-"), ("maj", "--")):
                points = [(1, next(iter(scores.values())))] + [
                    (int(key.split("@")[1]), score) for key, score in scores.items() if key.startswith(f"{kind}@")
                ]
                points = [(k, s) for k, s in points if s["value"] is not None]
                ks.update(k for k, _ in points)
                axis.errorbar(
                    [k for k, _ in points],
                    [100 * s["value"] for _, s in points],
                    yerr=[100 * (s["stderr"] or 0.0) for _, s in points] if kind == "pass" else None,
                    fmt=style,
                    marker="o",
                    markersize=3,
                    capsize=2,
                    color=_colour(evaluation.label, evaluations),
                    alpha=_strength(evaluation, sampled),
                    label=own if kind == "pass" else None,
                )
        axis.set_xscale("log", base=2)
        axis.set_xticks(sorted(ks), [str(k) for k in sorted(ks)])
        axis.minorticks_off()
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("k")
        axis.set_ylabel("%   (line: pass@k, dashed: maj@k)", fontsize=8)
        axis.grid(alpha=0.3)
    _legend(figure, axes)
    return figure


def draw_lengths(evaluations: Sequence[Evaluation]):
    """Tokens per sample: for one model stacked by grade, for several one outline each; a panel per benchmark."""
    figure, axes, names = _panel_per_benchmark(evaluations)
    if not names:
        return None
    several = len(evaluations) > 1
    for axis, name in zip(axes, names, strict=True):
        for evaluation in (e for e in evaluations if name in e.metrics):
            histogram, samples = evaluation.metrics[name]["histogram"], evaluation.metrics[name]["samples"]
            edges = [*histogram["edges"], round(1.4142 * histogram["edges"][-1]) or 8]
            middle = edges[:-1]
            parts = {kind: [100 * n / samples for n in histogram[kind]] for kind in COLOURS}
            if several:
                kind = next(iter(headline_scores(evaluation.metrics[name])), "")
                total = [sum(column) for column in zip(*parts.values(), strict=True)]
                style = ":" if kind == "greedy" else "-"
                text = evaluation.label + ", greedy" if kind == "greedy" else _series(evaluation, evaluations)
                alpha = _strength(evaluation, evaluations)
                colour = _colour(evaluation.label, evaluations)
                axis.stairs(total, edges, label=text, color=colour, linestyle=style, alpha=alpha)
            else:
                weights = list(parts.values())
                colours = [COLOURS[kind] for kind in parts]
                axis.hist([middle] * 3, edges, weights=weights, stacked=True, color=colours, label=list(parts))
        axis.set_xscale("symlog", base=2, linthresh=8)
        ticks = [0, *(2**i for i in range(4, 17, 2))]
        axis.set_xticks(ticks, [str(t) for t in ticks])
        longest = max(e.metrics[name]["histogram"]["edges"][-1] for e in evaluations if name in e.metrics)
        axis.set_xlim(0, max(16, 2 * longest))
        axis.minorticks_off()
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("tokens")
        axis.set_ylabel("% of samples")
    _legend(figure, axes)
    return figure


def draw_learning_curve(evaluations: Sequence[Evaluation]):
    """Scores over optimizer steps, for evaluations called ``global_step_N``; a panel per benchmark and the average."""
    steps = {label: int(m[1]) for label in labels(evaluations) if (m := STEP.fullmatch(label))}
    if len(steps) < 2:
        return None
    names = benchmarks(evaluations)
    columns = names + (["average"] if len(names) > 1 else [])
    figure, axes = _grid(len(columns))
    lines = score_lines(evaluations)
    shown = sorted({name for _, name, _ in lines}, key=lambda name: KINDS.index(name.split("@")[0]))
    for axis, column in zip(axes, columns, strict=True):
        for number, shown_name in enumerate(shown):
            kind = shown_name.split("@")[0]
            points = sorted(
                (steps[label], scores[column]["value"], scores[column]["stderr"], name)
                for label, name, scores in lines
                if label in steps and name == shown_name and scores.get(column, {}).get("value") is not None
            )
            if points:
                axis.errorbar(
                    [p[0] for p in points],
                    [100 * p[1] for p in points],
                    yerr=[100 * (p[2] or 0.0) for p in points],
                    marker="o",
                    markersize=4,
                    capsize=2,
                    color=f"C{number % 10}",
                    label=points[0][3] if kind == "greedy" else f"{points[0][3]} ({LABELS[kind]})",
                )
        axis.set_title(column, fontsize=10)
        axis.set_xlabel("optimizer step")
        axis.set_ylabel("% right, ± stderr", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    _legend(figure, axes)
    return figure


def _series(evaluation: Evaluation, others: Sequence[Evaluation]) -> str:
    """Its label, with the temperature where the model was sampled at several."""
    several = len({e.temperature for e in others if e.label == evaluation.label and e.temperature}) > 1
    return f"{evaluation.label}, T={evaluation.temperature:g}" if several else evaluation.label


def _strength(evaluation: Evaluation, others: Sequence[Evaluation]) -> float:
    """How strongly a line is drawn: the colder of one model's lines are paler."""
    same = sorted({e.temperature for e in others if e.label == evaluation.label and e.temperature})
    return (
        1.0
        if evaluation.temperature not in same
        else 0.35 + 0.65 * (same.index(evaluation.temperature) + 1) / len(same)
    )


def _colour(label: str, evaluations: Sequence[Evaluation]):
    """The same colour for a model in every plot; many models, such as checkpoints, from dark to light."""
    every = labels(evaluations)
    at = every.index(label)
    return f"C{at}" if len(every) <= 10 else _pyplot().get_cmap("viridis")(at / (len(every) - 1))


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _figure(rows: int, columns: int, size: tuple[float, float]):
    figure, axes = _pyplot().subplots(rows, columns, figsize=size, constrained_layout=True, squeeze=False)
    return figure, list(axes.flat)


def _grid(count: int):
    """``count`` panels, up to three in a row."""
    columns = min(3, max(1, count))
    rows = max(1, -(-count // columns))
    figure, axes = _figure(rows, columns, (1.0 + 3.6 * columns, 0.5 + 2.9 * rows))
    for axis in axes[count:]:
        axis.axis("off")
    return figure, axes[:count]


def _panel_per_benchmark(evaluations: Sequence[Evaluation]):
    names = benchmarks(evaluations)
    figure, axes = _grid(len(names))
    return figure, axes, names


def _legend(figure, axes) -> None:
    """One legend above all panels."""
    seen: dict = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            seen.setdefault(label, handle)
    if seen:
        wide = max(len(label) for label in seen) * 0.085 + 0.5
        columns = max(1, int(figure.get_size_inches()[0] / wide))
        figure.legend(
            seen.values(), seen.keys(), fontsize="small", loc="outside upper center", ncols=min(columns, len(seen))
        )
