"""report.md and scores.png over one or several evaluations."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verl.math_eval.harness import Evaluation

REPORT, PLOT = "report.md", "scores.png"


def write_report(folder: str | Path, evaluations: Sequence["Evaluation"]) -> Path:
    """Write ``folder/report.md`` and ``folder/scores.png``; return the path of the report."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sections = [
        "# Evaluation",
        _warnings(evaluations),
        "## Scores\n\nPercent right, ± one standard error over problems. The average needs every benchmark.",
        score_table(evaluations),
        "## More scores\n\npass@k: chance that one of k samples is right. maj@k: the most frequent answer is right.",
        _all_scores(evaluations),
        "## Health\n\nA truncated answer was cut at the token limit. Ungraded answers count as wrong.",
        _health(evaluations),
        "## Settings",
        _settings(evaluations),
    ]
    if plot_scores(folder / PLOT, evaluations):
        sections.insert(4, f"![scores]({PLOT})")
    path = folder / REPORT
    path.write_text("\n\n".join(s for s in sections if s) + "\n", encoding="utf-8")
    return path


def main_score(metrics: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """(name, score) that stands for a benchmark: greedy, or avg@k."""
    return next(iter(metrics["scores"].items()))


def score_table(evaluations: Sequence["Evaluation"]) -> str:
    """Markdown: one line per evaluation, one column per benchmark, and the plain mean of the benchmarks."""
    names = _benchmarks(evaluations)
    head = ["model", "score", *names] + (["average"] if len(names) > 1 else [])
    lines = []
    for evaluation in evaluations:
        scores = {name: main_score(m)[1] for name, m in evaluation.metrics.items()}
        score_name = " / ".join(dict.fromkeys(main_score(m)[0] for m in evaluation.metrics.values()))
        cells = [_percent(scores[name]) if name in scores else "" for name in names]
        if len(names) > 1:
            cells.append(_percent(_average(list(scores.values()))) if len(scores) == len(names) else "")
        lines.append([evaluation.label, score_name, *cells])
    return _table(head, lines)


def plot_scores(path: Path, evaluations: Sequence["Evaluation"]) -> bool:
    """A bar per evaluation and benchmark, with its standard error. False when there is nothing to draw."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = _benchmarks(evaluations)
    if not names:
        return False
    width = 0.8 / len(evaluations)
    width_in = max(5.0, 1.2 + 0.45 * len(names) * (len(evaluations) + 1)) + 2.0  # the legend stands beside the bars
    figure, axes = pyplot.subplots(figsize=(width_in, 3.6), constrained_layout=True)
    for i, evaluation in enumerate(evaluations):
        scores = [
            (j, *main_score(evaluation.metrics[name])) for j, name in enumerate(names) if name in evaluation.metrics
        ]
        kinds = "/".join(dict.fromkeys(kind for _, kind, _ in scores))
        axes.bar(
            [j + (i - (len(evaluations) - 1) / 2) * width for j, _, _ in scores],
            [100 * score["value"] for _, _, score in scores],
            width,
            yerr=[100 * (score["stderr"] or 0.0) for _, _, score in scores],
            capsize=2,
            label=f"{evaluation.label} ({kinds})",
        )
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("right answers, %  (± standard error)")
    axes.set_ylim(bottom=0)
    figure.legend(fontsize="small", loc="outside right upper")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return True


def _benchmarks(evaluations: Sequence["Evaluation"]) -> list[str]:
    return list(dict.fromkeys(name for e in evaluations for name in e.metrics))


def _average(scores: list[dict[str, Any]]) -> dict[str, Any]:
    errors = [s["stderr"] for s in scores]
    stderr = None if None in errors else math.sqrt(math.fsum(e * e for e in errors)) / len(scores)
    return {"value": math.fsum(s["value"] for s in scores) / len(scores), "stderr": stderr}


def _percent(score: dict[str, Any]) -> str:
    error = "" if score["stderr"] is None else f" ± {100 * score['stderr']:.1f}"
    return f"{100 * score['value']:.1f}{error}"


def _warnings(evaluations: Sequence["Evaluation"]) -> str:
    lines = [f"> **Warning** ({e.label}): {warning}" for e in evaluations for warning in e.warnings]
    return "\n>\n".join(lines)


def _all_scores(evaluations: Sequence["Evaluation"]) -> str:
    lines = []
    for evaluation in evaluations:
        for name, metrics in evaluation.metrics.items():
            scores = ", ".join(f"{kind} {_percent(score)}" for kind, score in metrics["scores"].items())
            lines.append([evaluation.label, name, f"{metrics['problems']} x {metrics['samples_per_problem']}", scores])
    return _table(["model", "benchmark", "problems x samples", "scores"], lines)


def _health(evaluations: Sequence["Evaluation"]) -> str:
    head = ["model", "benchmark", "truncated", "no answer", "ungraded", "prompt too long", "capped by context",
            "tokens mean / p95", "answers taken from"]  # fmt: skip
    lines = []
    for evaluation in evaluations:
        for name, m in evaluation.metrics.items():
            methods = ", ".join(f"{method} {100 * share:.0f} %" for method, share in m["extraction"].items())
            ungraded = ", ".join(f"{n} {reason}" for reason, n in m["ungraded"].items()) or "0"
            lines.append(
                [
                    evaluation.label,
                    name,
                    f"{100 * m['truncated']:.1f} %",
                    f"{100 * m['no_answer']:.1f} %",
                    ungraded,
                    f"{100 * m['prompt_too_long']:.1f} %",
                    str(m["problems_capped_by_context"]),
                    f"{m['tokens']['mean']:.0f} / {m['tokens']['p95']:.0f}",
                    methods,
                ]
            )
    return _table(head, lines)


def _settings(evaluations: Sequence["Evaluation"]) -> str:
    parts = []
    for e in evaluations:
        first = next(iter(e.metrics.values()), None)
        if first is None:
            continue
        settings, generation = first["settings"], first["settings"]["generation"]
        found = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
        sampling = ", ".join(f"{key} {value}" for key, value in generation["sampling"].items())
        parts.append(
            f"**{e.label}**: model `{settings['described']['model']}` (weights {generation['model'][:12]}), "
            f"prompt format `{e.prompt_format}`, {sampling}, seed {generation['seed']}, {generation['backend']} in "
            f"{generation['dtype']}. {found}."
        )
    return "\n\n".join(parts)


def _table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
