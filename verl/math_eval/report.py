"""report.md over one or several evaluations, with its tables, plots and the page of samples beside it."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from verl.math_eval.charts import draw_all
from verl.math_eval.evaluation import Evaluation
from verl.math_eval.page import PAGE, write_page
from verl.math_eval.tables import csv_table, latex_table, markdown, percent, score_table, temperature_tables

REPORT, LATEX, CSV = "report.md", "scores.tex", "scores.csv"

READING = (
    "Percent right, ± one standard error over problems. avg@k: the mean of k samples. maj@k: the most frequent answer "
    "of k is right. pass@k: one of k is right. The average needs every benchmark. A gain in avg@k at temperature 1 "
    "that is not there in greedy and maj@k is sharpening: the model says more often what it would have answered anyway."
)


def write_report(folder: str | Path, evaluations: Sequence[Evaluation]) -> Path:
    """Write ``report.md``, ``scores.tex``, ``scores.csv`` and the plots into ``folder``; return the report's path.

    The page of samples is written for an evaluation in its own folder; a report over several links to their pages.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if [e.folder for e in evaluations] == [folder]:
        write_page(folder / PAGE, evaluations)
    (folder / LATEX).write_text(latex_table(evaluations), encoding="utf-8")
    (folder / CSV).write_text(csv_table(evaluations), encoding="utf-8")
    plots = draw_all(folder, evaluations)
    sections = [
        "# Evaluation",
        _warnings(evaluations),
        f"## Scores\n\n{READING}",
        score_table(evaluations),
        f"The same table: [{LATEX}]({LATEX}); every number: [{CSV}]({CSV}). {_pages(folder, evaluations)}",
        *(f"![{name.removesuffix('.png')}]({name})" for name in plots),
        _temperatures(evaluations),
        "## Every score\n\nIn brackets: the part of the error that other samples of the same problems would cause.",
        _all_scores(evaluations),
        _groups(evaluations),
        _legacy(evaluations),
        "## Health\n\nShares of samples. Truncated: cut at the token limit (in brackets: by the model's context). "
        "Ungraded answers count as wrong; the number is by reason. Undecided ones count as wrong too: only a judge "
        "could tell, so this is how much a judge could add.",
        _health(evaluations),
        "## Data",
        _data(evaluations),
        "## Settings",
        _settings(evaluations),
    ]
    path = folder / REPORT
    path.write_text("\n\n".join(s for s in sections if s) + "\n", encoding="utf-8")
    return path


def report_over(folder: str | Path, evaluations: Sequence[Evaluation]) -> None:
    """The report of an output folder, unless it is that of its only evaluation, which has been written."""
    if [e.folder for e in evaluations] != [Path(folder)]:
        write_report(folder, evaluations)


def _each(evaluations: Sequence[Evaluation]):
    return [(e, name, metrics) for e in evaluations for name, metrics in e.metrics.items()]


def _warnings(evaluations: Sequence[Evaluation]) -> str:
    lines = [f"> **Warning** ({e.label}): {warning}" for e in evaluations for warning in e.warnings]
    return "\n>\n".join(dict.fromkeys(lines))


def _pages(folder: Path, evaluations: Sequence[Evaluation]) -> str:
    links = [
        f"[{e.label}{', greedy' if _is_greedy(e) else ''}]({os.path.relpath(e.folder / PAGE, folder)})"
        for e in evaluations
        if (e.folder / PAGE).is_file()
    ]
    return f"Samples to read: {', '.join(links)}." if links else ""


def _is_greedy(evaluation: Evaluation) -> bool:
    return any("greedy" in m["scores"] for m in evaluation.metrics.values())


def _temperatures(evaluations: Sequence[Evaluation]) -> str:
    tables = temperature_tables(evaluations)
    return tables and (
        "## Temperature\n\nAt temperature 0 the samples of a problem are one, so every score is the greedy accuracy. "
        "Which of two models is better at its own best temperature: `python -m verl.math_eval compare`.\n\n" + tables
    )


def _all_scores(evaluations: Sequence[Evaluation]) -> str:
    lines, several = [], len({e.temperature for e in evaluations if e.temperature}) > 1
    for evaluation, name, m in _each(evaluations):
        for kind, score in m["scores"].items():
            kind = f"{kind} at T={evaluation.temperature:g}" if several and evaluation.temperature else kind
            sampling = score["sampling_stderr"]
            error = "" if sampling is None else f" ({100 * sampling:.1f})"
            shape = f"{m['problems']} x {m['samples_per_problem']}"
            lines.append([evaluation.label, name, shape, kind, percent(score) + error])
    return markdown(["model", "benchmark", "problems x samples", "score", "% right"], lines)


def _groups(evaluations: Sequence[Evaluation]) -> str:
    """A table per benchmark and column that sorts its problems, a line per model."""
    parts = []
    columns = dict.fromkeys((name, column) for _, name, m in _each(evaluations) for column in m["groups"])
    for name, column in columns:
        shown = [(e, m["groups"][column], m) for e, n, m in _each(evaluations) if n == name and column in m["groups"]]
        values = list(dict.fromkeys(value for _, groups, _ in shown for value in groups))
        head = ["model", "score", *(f"{value} ({shown[0][1].get(value, {}).get('problems', 0)})" for value in values)]
        lines = [
            [e.label, next(iter(m["scores"])), *(percent(groups[v]) if v in groups else "" for v in values)]
            for e, groups, m in shown
        ]
        parts.append(f"**{name} by {column}** (in brackets: problems)\n\n{markdown(head, lines)}")
    return "## By group\n\n" + "\n\n".join(parts) if parts else ""


def _legacy(evaluations: Sequence[Evaluation]) -> str:
    lines = []
    for evaluation, name, m in _each(evaluations):
        for kind, score in m["legacy_scores"].items():
            ours = m["scores"][kind]
            lines.append([evaluation.label, name, kind, percent(score), percent(ours)])
    if not lines:
        return ""
    return (
        "## By the original's rules\n\nOnly for comparison with the paper's table: these rules pass answers that are "
        "wrong (5 for 500, `x+a` for `x+c`, off by one from 10,000 up, `(1,2)` for `[1,2]`).\n\n"
        + markdown(["model", "benchmark", "score", "original's rules", "ours"], lines)
    )


def _health(evaluations: Sequence[Evaluation]) -> str:
    head = ["model", "benchmark", "truncated", "no box", "no answer", "loops", "ungraded", "undecided",
            "prompt too long", "tokens mean", "p5 / p50 / p95 / max", "answers taken from"]  # fmt: skip
    lines = []
    for evaluation, name, m in _each(evaluations):
        context = f" ({_share(m['truncated_by_context'])})" if m["truncated_by_context"] else ""
        tokens = m["tokens"]
        lines.append(
            [
                evaluation.label,
                f"{name}, {next(iter(m['scores']))}",
                _share(m["truncated"]) + context,
                _share(m["no_box"]),
                _share(m["no_answer"]),
                _share(m["repetitive"]),
                ", ".join(f"{n} {reason}" for reason, n in m["ungraded"].items()) or "0",
                _share(m.get("undecided", 0.0)),
                _share(m["prompt_too_long"]),
                f"{tokens['mean']:.0f}",
                " / ".join(str(tokens[q]) for q in ("p5", "p50", "p95", "max")),
                ", ".join(f"{method} {_share(share)}" for method, share in m["extraction"].items()),
            ]
        )
    return markdown(head, lines)


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _data(evaluations: Sequence[Evaluation]) -> str:
    lines = {}
    for _, name, m in _each(evaluations):
        data = m["settings"]["described"]["data"]
        known = {True: "the copy this was checked with", False: "another copy", None: "nothing to compare with"}
        without = f", without {data['left_out']}" if data["left_out"] else ""
        lines[name, data["sha256"]] = [
            name,
            data["from"] + (f" @ {data['revision']}" if data["revision"] else ""),
            f"{data['problems']}{without}",
            f"`{data['sha256'][:16]}`",
            known[data["known"]],
            data["licence"],
        ]
    return markdown(
        ["benchmark", "from", "problems", "sha256 after conversion", "compared", "licence"], [*lines.values()]
    )


def _settings(evaluations: Sequence[Evaluation]) -> str:
    """A line per evaluation, and once each what several of them share: versions, an example prompt."""
    lines: list[list[str]] = []
    versions: dict[str, None] = {}
    prompts: dict[str, str] = {}
    told = ("model", "prompt_format", "sampling", "seed", "data")
    for e in evaluations:
        first = next(iter(e.metrics.values()))
        settings, described = first["settings"], first["settings"]["described"]
        generation = settings["generation"]
        backend = {key: value for key, value in generation.items() if key not in told} | described["backend"]
        lines.append(
            [
                f"{e.label}, {next(iter(first['scores']))}",
                f"`{described['model']}`",
                generation["model"][:12],
                e.prompt_format,
                _listed(generation["sampling"]),
                str(generation["seed"]),
                _listed(backend),
                _listed(settings["grading"]),
            ]
        )
        versions[_listed(first["versions"])] = None
        prompts.setdefault(described["example_prompt"], e.prompt_format)
    head = ["run", "model", "weights", "prompt format", "sampling", "seed", "backend", "grading"]
    parts = [markdown(head, lines), *(f"Versions: {found}." for found in versions)]
    for prompt, name in prompts.items():
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", prompt)), default=0))
        parts.append(f"An example prompt ({name}):\n\n{fence}\n{prompt}\n{fence}")
    return "\n\n".join(parts)


def _listed(values: dict) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
