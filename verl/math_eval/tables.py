"""The table of scores, as markdown, LaTeX and CSV: one line per model and kind of score, one column per benchmark."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from verl.math_eval.evaluation import Evaluation

KINDS = ("greedy", "avg", "maj", "pass")  # the order of lines; of maj and pass the largest k
LABELS = {"avg": "mean of samples", "maj": "majority vote", "pass": "any sample right"}


def benchmarks(evaluations: Sequence[Evaluation]) -> list[str]:
    """The names of all benchmarks, in the order of their first evaluation."""
    return list(dict.fromkeys(name for e in evaluations for name in e.metrics))


def labels(evaluations: Sequence[Evaluation]) -> list[str]:
    """The names of all models, in order."""
    return list(dict.fromkeys(e.label for e in evaluations))


def headline_scores(metrics: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Kind -> (name, score) of one benchmark: greedy, or avg@n, maj@n and pass@n with n the number of samples."""
    n = metrics["samples_per_problem"]
    names = {"greedy": "greedy", "avg": f"avg@{n}", "maj": f"maj@{n}", "pass": f"pass@{n}"}
    return {kind: (name, metrics["scores"][name]) for kind, name in names.items() if name in metrics["scores"]}


def score_lines(evaluations: Sequence[Evaluation]) -> list[tuple[str, str, dict[str, dict[str, Any]]]]:
    """(label, score name, benchmark -> score) by label, kind and temperature, which is named where there are several.

    "average": the mean, where no benchmark is missing.
    """
    every, lines = benchmarks(evaluations), []
    several = len({e.temperature for e in evaluations if e.temperature}) > 1
    for label in labels(evaluations):
        for kind in KINDS:
            named: dict[str, dict[str, dict[str, Any]]] = {}
            same = sorted((e for e in evaluations if e.label == label), key=lambda e: e.temperature)
            for evaluation in same:
                at = f" at T={evaluation.temperature:g}" if several and evaluation.temperature else ""
                for benchmark, metrics in evaluation.metrics.items():
                    if kind in (found := headline_scores(metrics)):
                        name, score = found[kind]
                        named.setdefault(name + at, {})[benchmark] = score
            for name, scores in named.items():
                if len(scores) == len(every) > 1:
                    scores = {**scores, "average": average(list(scores.values()))}
                lines.append((label, name, scores))
    return lines


def by_temperature(evaluations: Sequence[Evaluation]) -> dict[str, dict[str, dict[float, dict[str, dict[str, Any]]]]]:
    """Label -> score name without its temperature -> temperature -> benchmark (or "average") -> score.

    Only models that were sampled at several temperatures. At temperature 0 all samples of a problem would be the same,
    so each of its scores is the greedy accuracy.
    """
    every, curves = benchmarks(evaluations), {}
    for label in labels(evaluations):
        same = sorted((e for e in evaluations if e.label == label), key=lambda e: e.temperature)
        if len({e.temperature for e in same if e.temperature}) < 2:
            continue
        curve: dict[str, dict[float, dict[str, dict[str, Any]]]] = {}
        sampled = [e for e in same if e.temperature]
        for kind in KINDS[1:]:
            for e in sampled:
                for benchmark, metrics in e.metrics.items():
                    if kind in (found := headline_scores(metrics)):
                        name, score = found[kind]
                        curve.setdefault(name, {}).setdefault(e.temperature, {})[benchmark] = score
        for points in curve.values():
            for e in (e for e in same if not e.temperature):
                points[0.0] = {n: m["scores"]["greedy"] for n, m in e.metrics.items() if "greedy" in m["scores"]}
            for scores in points.values():
                if len(scores) == len(every) > 1:
                    scores["average"] = average(list(scores.values()))
        curves[label] = {name: dict(sorted(points.items())) for name, points in curve.items()}
    return curves


def temperature_tables(evaluations: Sequence[Evaluation]) -> str:
    """Markdown: a table per benchmark and one of the average, a line per model and score, a column per temperature."""
    curves = by_temperature(evaluations)
    temperatures = sorted({t for curve in curves.values() for points in curve.values() for t in points})
    names = benchmarks(evaluations)
    parts = []
    for name in names + (["average"] if len(names) > 1 else []):
        lines = [
            [label, score, *(percent(points[t][name]) if name in points.get(t, {}) else "" for t in temperatures)]
            for label, curve in curves.items()
            for score, points in curve.items()
            if any(name in scores for scores in points.values())
        ]
        head = ["model", "score", *(f"T={t:g}" + (" (greedy)" if t == 0 else "") for t in temperatures)]
        parts += [f"**{name}**", markdown(head, lines)] if lines else []
    return "\n\n".join(parts)


def average(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of independent scores; its errors are sqrt(sum of squares) / n. Undefined parts make it undefined."""

    def error(name: str) -> float | None:
        parts = [s[name] for s in scores]
        return None if None in parts else math.sqrt(math.fsum(p * p for p in parts)) / len(parts)

    value = None if any(s["value"] is None for s in scores) else math.fsum(s["value"] for s in scores) / len(scores)
    return {"value": value, "stderr": error("stderr"), "sampling_stderr": error("sampling_stderr")}


def percent(score: dict[str, Any]) -> str:
    """``50.0 ± 3.5``, or ``undefined``."""
    if score["value"] is None:
        return "undefined"
    error = "" if score["stderr"] is None else f" ± {100 * score['stderr']:.1f}"
    return f"{100 * score['value']:.1f}{error}"


def score_table(evaluations: Sequence[Evaluation]) -> str:
    """Markdown: percent right ± one standard error over problems."""
    head, lines = _columns(evaluations), score_lines(evaluations)
    cells = [[label, name, *(percent(s[c]) if c in s else "" for c in head[2:])] for label, name, s in lines]
    return markdown(head, cells)


def latex_table(evaluations: Sequence[Evaluation]) -> str:
    """A tabular for booktabs, numbers as in :func:`score_table`, the error as a subscript."""
    head = _columns(evaluations)
    lines = [
        r"% needs \usepackage{booktabs}; percent right, \pm one standard error over problems",
        r"\begin{tabular}{ll" + "r" * (len(head) - 2) + "}",
        r"\toprule",
        " & ".join(_tex(cell) for cell in head) + r" \\",
    ]
    previous = None
    for label, name, scores in score_lines(evaluations):
        if label != previous:
            lines.append(r"\midrule")
        cells = [_tex(label) if label != previous else "", _tex(name)]
        cells += [_tex_number(scores[c]) if c in scores else "" for c in head[2:]]
        lines.append(" & ".join(cells) + r" \\")
        previous = label
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def csv_table(evaluations: Sequence[Evaluation]) -> str:
    """Every score of every evaluation, one per line, as fractions; undefined is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["model", "benchmark", "score", "value", "stderr", "sampling_stderr", "problems", "samples_per_problem"]
    )
    for evaluation in evaluations:
        for benchmark, m in evaluation.metrics.items():
            legacy = {f"legacy {name}": score for name, score in m["legacy_scores"].items()}
            for name, score in {**m["scores"], **legacy}.items():
                numbers = [score["value"], score["stderr"], score["sampling_stderr"]]
                writer.writerow([evaluation.label, benchmark, name, *numbers, m["problems"], m["samples_per_problem"]])
    return out.getvalue()


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table; cells lose line breaks, and their bars are escaped."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _columns(evaluations: Sequence[Evaluation]) -> list[str]:
    names = benchmarks(evaluations)
    return ["model", "score", *names, *(["average"] if len(names) > 1 else [])]


def _tex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def _tex_number(score: dict[str, Any]) -> str:
    if score["value"] is None:
        return "--"
    error = "" if score["stderr"] is None else rf"_{{\pm {100 * score['stderr']:.1f}}}"
    return f"${100 * score['value']:.1f}{error}$"
