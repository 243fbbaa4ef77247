"""``compare A B [C ...]``: is B better than A? Paired problem by problem, with intervals and what flipped."""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from verl.math_eval.evaluation import Evaluation, evaluation_folders, load_evaluation
from verl.math_eval.paired import RESAMPLES, Difference, paired_difference
from verl.math_eval.samples import Record
from verl.math_eval.scores import avg_values, maj_values, pass_values
from verl.math_eval.tables import markdown
from verl.math_eval.voting import answer_classes

REPORT, DATA, PLOT = "comparison.md", "comparison.json", "comparison.png"

Values = dict[str, dict[str, float]]  # score name -> problem id -> number


@dataclass(frozen=True)
class Comparison:
    """b against a. differences: score name -> benchmark (or "average") -> difference in [-1, 1].

    flips: benchmark -> {"gained": ids, "lost": ids}: problems that b, or a, has right in at least half of its samples,
    and the other one has not.
    """

    a: str
    b: str
    differences: dict[str, dict[str, Difference]]
    flips: dict[str, dict[str, list[str]]]
    notes: tuple[str, ...]


def run(args: argparse.Namespace) -> None:
    """Compare every run with the first; write the report, its data and its plot, and print it."""
    if len(args.runs) < 2:
        raise ValueError("expected at least two output folders of evaluations, found one")
    if not 0 < args.confidence < 1:
        raise ValueError(f"expected 0 < confidence < 1, found {args.confidence}")
    evaluations = [_load(folder) for folder in args.runs]
    names = _names(evaluations)
    values = [{name: _values(e.samples(name)) for name in e.metrics} for e in evaluations]
    comparisons = [
        compare(evaluations[0], evaluations[i], values[0], values[i], (names[0], names[i]), args.confidence, args.seed)
        for i in range(1, len(evaluations))
    ]
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    text = _report(comparisons, args.confidence)
    (folder / REPORT).write_text(text + f"\n\n![differences]({PLOT})\n", encoding="utf-8")
    data = json.dumps([asdict(c) for c in comparisons], indent=2, ensure_ascii=False)
    (folder / DATA).write_text(data + "\n", encoding="utf-8")
    _plot(folder / PLOT, comparisons)
    print(f"{text}\n\nwritten to {folder}: {REPORT}, {DATA}, {PLOT}")


def compare(
    a: Evaluation,
    b: Evaluation,
    a_values: dict[str, Values],
    b_values: dict[str, Values],
    names: tuple[str, str],
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Every score that both runs have, on the problems that both were asked.

    Raises ValueError when a benchmark's data differ, or when the runs have no benchmark in common.
    """
    common = [name for name in a.metrics if name in b.metrics]
    if not common:
        raise ValueError(
            f"expected a benchmark in common, found {', '.join(a.metrics)} in {a.folder} and {', '.join(b.metrics)} "
            f"in {b.folder}"
        )
    notes = _differing_settings(a, b, common)
    pairs: dict[str, dict[str, tuple[list[float], list[float]]]] = {}  # score -> benchmark -> paired numbers
    flips = {}
    for name in common:
        left, right = a_values[name], b_values[name]
        ids = [i for i in left["avg"] if i in right["avg"]]
        if not ids:
            raise ValueError(f"expected problems of {name} in common, found none in {a.folder} and {b.folder}")
        for score in (s for s in left if s in right):
            pairs.setdefault(score, {})[name] = [left[score][i] for i in ids], [right[score][i] for i in ids]
        flips[name] = {
            "gained": [i for i in ids if left["avg"][i] < 0.5 <= right["avg"][i]],
            "lost": [i for i in ids if right["avg"][i] < 0.5 <= left["avg"][i]],
        }
    differences = {}
    for score, by_name in pairs.items():
        found = {name: paired_difference([pair], confidence, seed) for name, pair in by_name.items()}
        if len(by_name) == len(common) > 1:
            found["average"] = paired_difference(list(by_name.values()), confidence, seed)
        differences[score] = found
    return Comparison(*names, differences, flips, tuple(notes))


def parser() -> argparse.ArgumentParser:
    """The command line of ``python -m verl.math_eval compare``."""
    p = argparse.ArgumentParser(
        prog="python -m verl.math_eval compare",
        description="Compare evaluations problem by problem: every other run against the first.",
        allow_abbrev=False,
    )
    p.add_argument("runs", nargs="+", metavar="DIR", help="output folders of evaluations; first: the baseline")
    p.add_argument("--output_dir", default="comparison", help=f"where {REPORT}, {DATA} and {PLOT} go")
    p.add_argument("--confidence", type=float, default=0.95, help="of the intervals")
    p.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    return p


def _load(folder: str) -> Evaluation:
    below = evaluation_folders(folder)
    if below and Path(folder) not in below:
        raise ValueError(f"{folder} holds several evaluations: name one of {', '.join(map(str, below))}")
    return load_evaluation(folder)


def _names(evaluations: Sequence[Evaluation]) -> list[str]:
    """Labels, or folders where two runs have the same label."""
    labels = [e.label for e in evaluations]
    return [label if labels.count(label) == 1 else str(e.folder) for label, e in zip(labels, evaluations, strict=True)]


def _values(rows: Sequence[Sequence[Record]]) -> Values:
    """The numbers per problem of each score; avg under its own name, since it may be compared at any k."""
    correct, n = [[r["correct"] for r in row] for row in rows], len(rows[0])
    by_score = {"avg": avg_values(correct)}
    if n > 1:
        by_score[f"maj@{n}"] = maj_values(answer_classes(rows), correct)
        by_score[f"pass@{n}"] = pass_values(correct, n)
    ids = [row[0]["problem"] for row in rows]
    return {score: dict(zip(ids, values, strict=True)) for score, values in by_score.items()}


def _differing_settings(a: Evaluation, b: Evaluation, common: Sequence[str]) -> list[str]:
    notes = []
    for name in common:
        left, right = a.metrics[name]["settings"], b.metrics[name]["settings"]
        if left["generation"]["data"] != right["generation"]["data"]:
            raise ValueError(f"expected the same problems of {name}, found other data in {a.folder} than in {b.folder}")
        for what, x, y in (
            ("sampling", left["generation"]["sampling"], right["generation"]["sampling"]),
            ("prompt formats", left["generation"]["prompt_format"], right["generation"]["prompt_format"]),
            ("backends", left["generation"]["backend"], right["generation"]["backend"]),
            ("grading", left["grading"], right["grading"]),
            ("samples per problem", left["asked"]["samples"], right["asked"]["samples"]),
        ):
            if x != y:
                notes.append(f"{name}: the two runs differ in {what}: not only the models are compared")
        here, there = set(left["asked"]["problems"]), set(right["asked"]["problems"])
        if here != there:
            notes.append(f"{name}: only the {len(here & there)} problems that both runs were asked are compared")
    missing = [name for name in {**a.metrics, **b.metrics} if name not in common]
    if missing:
        notes.append(f"not in both runs, and left out: {', '.join(missing)}")
    return notes


def _report(comparisons: Sequence[Comparison], confidence: float) -> str:
    parts = [
        "# Comparison",
        f"Difference in percentage points, with its {100 * confidence:g} % interval and p-value from a paired "
        f"bootstrap over problems ({RESAMPLES:,} resamples). An interval that holds 0 is no difference that was shown. "
        "avg is greedy accuracy where the samples are greedy.",
    ]
    for c in comparisons:
        lines = [
            [score, name, f"{100 * d.mean:+.1f}", f"{100 * d.low:+.1f} to {100 * d.high:+.1f}", f"{d.p:.4f}",
             f"{d.better} / {d.worse} / {d.problems - d.better - d.worse}"]
            for score, found in c.differences.items()
            for name, d in found.items()
        ]  # fmt: skip
        head = ["score", "benchmark", "difference", "interval", "p", "problems better / worse / same"]
        parts += [f"## {c.b} against {c.a}", *(f"> {note}" for note in c.notes), markdown(head, lines), _flipped(c)]
    return "\n\n".join(parts)


def _flipped(c: Comparison) -> str:
    lines = [
        f"- {name}: gained {len(f['gained'])} ({_numbers(f['gained'])}), lost {len(f['lost'])} ({_numbers(f['lost'])})"
        for name, f in c.flips.items()
    ]
    return "Flipped (right in at least half of the samples of one, and not of the other):\n\n" + "\n".join(lines)


def _numbers(ids: Sequence[str]) -> str:
    return ", ".join(i.rsplit("/", 1)[-1] for i in ids) or "none"


def _plot(path: Path, comparisons: Sequence[Comparison]) -> None:
    """A panel per score; a line per benchmark and run: the difference and its interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scores = list(dict.fromkeys(s for c in comparisons for s in c.differences))
    names = list(dict.fromkeys(n for c in comparisons for found in c.differences.values() for n in found))
    height = 1.3 + len(names) * (0.3 + 0.22 * len(comparisons)) + 0.2 * len(comparisons)
    figure, axes = pyplot.subplots(
        1,
        len(scores),
        figsize=(2.2 + 3.0 * len(scores), height),
        sharex=True,
        sharey=True,
        constrained_layout=True,
        squeeze=False,
    )
    for axis, score in zip(axes.flat, scores, strict=True):
        for i, c in enumerate(comparisons):
            shift = (i - (len(comparisons) - 1) / 2) * 0.22
            found = [(names.index(n), d) for n, d in c.differences.get(score, {}).items() if not math.isnan(d.mean)]
            axis.errorbar(
                [100 * d.mean for _, d in found],
                [at + shift for at, _ in found],
                xerr=[[100 * (d.mean - d.low) for _, d in found], [100 * (d.high - d.mean) for _, d in found]],
                fmt="o", markersize=4, capsize=3, color=f"C{i % 10}", label=f"{c.b} against {c.a}",
            )  # fmt: skip
        axis.axvline(0, color="0.4", linewidth=0.8)
        axis.set_title(score, fontsize=10)
        axis.set_xlabel("difference, points")
        axis.set_yticks(range(len(names)), names)
        axis.grid(axis="x", alpha=0.3)
    axes.flat[0].set_ylim(len(names) - 0.5, -0.5)
    handles, shown = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, shown, fontsize="small", loc="outside upper center", ncols=1)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
