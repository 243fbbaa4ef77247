"""``compare A B [C ...]``: is B better than A? Paired problem by problem, with intervals and what flipped."""

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from verl.math_eval.charts import TEMPERATURE, draw_temperature
from verl.math_eval.evaluation import Evaluation, evaluation_folders, folders_of_a_model, load_evaluation, unfinished
from verl.math_eval.metrics import Tally
from verl.math_eval.page import write_page
from verl.math_eval.paired import RESAMPLES, Difference, paired_difference
from verl.math_eval.samples import Record
from verl.math_eval.scores import avg_values, maj_values, pass_values
from verl.math_eval.tables import markdown, temperature_tables
from verl.math_eval.temperature import AtBest, Numbers, at_best, verdict

PAGE = "comparison.html"
REPORT, DATA, PLOT, BEST = "comparison.md", "comparison.json", "comparison.png", "temperatures.json"

Values = dict[str, dict[str, float]]  # score name -> problem id -> number


@dataclass(frozen=True)
class Comparison:
    """b against a. differences: score name -> benchmark (or "average") -> difference in [-1, 1].

    temperature: of both; None where they differ, which a note then says.
    flips: benchmark -> {"gained": ids, "lost": ids}: problems that b, or a, has right in at least half of its samples,
    and the other one has not.
    """

    a: str
    b: str
    differences: dict[str, dict[str, Difference]]
    flips: dict[str, dict[str, list[str]]]
    notes: tuple[str, ...]
    temperature: float | None = None


@dataclass(frozen=True)
class Run:
    """One model: its evaluations by temperature, and the numbers per problem of each by benchmark."""

    name: str
    evaluations: dict[float, Evaluation]
    values: dict[float, dict[str, Values]]


def run(args: argparse.Namespace) -> None:
    """Compare every run with the first; write the report, its data and its plots, and print it."""
    if len(args.runs) < 2:
        raise ValueError("expected at least two output folders of evaluations, found one")
    if not 0 < args.confidence < 1:
        raise ValueError(f"expected 0 < confidence < 1, found {args.confidence}")
    first, *others = _runs(args.runs)
    comparisons, best = [], []
    for other in others:
        for here, there in _temperatures(first, other):
            found = compare(
                first.evaluations[here],
                other.evaluations[there],
                first.values[here],
                other.values[there],
                (first.name, other.name),
                args.confidence,
                args.seed,
            )
            comparisons.append(replace(found, temperature=here if here == there else None))
        best.append(_at_best(first, other, args.confidence, args.seed))
    _write(Path(args.output_dir), [first, *others], comparisons, best, args.confidence)


def _write(
    folder: Path, runs: Sequence[Run], comparisons: list[Comparison], best: list[list[AtBest]], confidence: float
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    every = [replace(e, label=run.name) for run in runs for e in run.evaluations.values()]
    figure = draw_temperature(every)
    text = _report(runs, comparisons, best, confidence, temperature_tables(every))
    plots = [PLOT] if figure is None else [TEMPERATURE, PLOT]
    if figure is not None:
        figure.savefig(folder / TEMPERATURE, dpi=130)
    shown = "\n\n".join(f"![{plot.removesuffix('.png')}]({plot})" for plot in plots)
    (folder / REPORT).write_text(f"{text}\n\n{shown}\n", encoding="utf-8")
    data = json.dumps([asdict(c) for c in comparisons], indent=2, ensure_ascii=False)
    (folder / DATA).write_text(data + "\n", encoding="utf-8")
    written = [REPORT, DATA, *plots]
    if any(best):
        named = [
            {"a": runs[0].name, "b": other.name, "scores": [asdict(one) for one in found]}
            for other, found in zip(runs[1:], best, strict=True)
        ]
        (folder / BEST).write_text(json.dumps(named, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        written.append(BEST)
    _plot(folder / PLOT, comparisons)
    side_by_side = _at_one_temperature(runs)
    write_page(folder / PAGE, [e for _, e in side_by_side], [name for name, _ in side_by_side])
    written.append(PAGE)
    print(f"{text}\n\nwritten to {folder}: {', '.join(written)}")


def _at_one_temperature(runs: Sequence[Run]) -> list[tuple[str, Evaluation]]:
    """The evaluation of each run that a reader sees side by side: at the highest common temperature, else its own."""
    common = set.intersection(*(set(run.evaluations) for run in runs))
    at = {run.name: max(common or run.evaluations) for run in runs}
    return [(f"{run.name}, T={at[run.name]:g}", run.evaluations[at[run.name]]) for run in runs]


def _temperatures(a: Run, b: Run) -> list[tuple[float, float]]:
    """The pairs that are compared: the same temperatures, or the highest ones where there is no common one."""
    common = sorted(a.values.keys() & b.values.keys())
    return [(t, t) for t in common] or [(max(a.values), max(b.values))]


def _at_best(a: Run, b: Run, confidence: float, seed: int) -> list[AtBest]:
    """Each score with each model at its own best temperature; [] where there is nothing to choose from."""
    if not a.values.keys() & b.values.keys() or len(a.values) == len(b.values) == 1:
        return []
    every = [*a.values.values(), *b.values.values()]
    names = [name for name in every[0] if all(name in values for values in every)]
    ids = {name: [i for i in every[0][name]["avg"] if all(i in v[name]["avg"] for v in every)] for name in names}
    names = [name for name in names if len(ids[name]) > 1]
    scores = [s for s in _scores(a) if s in _scores(b)]
    return [
        at_best(score, _by_problem(a, score, names, ids), _by_problem(b, score, names, ids), confidence, seed)
        for score in scores
        if names
    ]


def _scores(run: Run) -> list[str]:
    """The scores that a run has at all its temperatures; at 0 every score is the greedy accuracy."""
    sampled = [values for t, values in run.values.items() if t] or list(run.values.values())
    return [s for s in next(iter(sampled[0].values())) if all(s in v for values in sampled for v in values.values())]


def _by_problem(run: Run, score: str, names: Sequence[str], ids: dict[str, list[str]]) -> dict[float, Numbers]:
    return {
        t: {n: {i: values[n].get(score, values[n]["avg"])[i] for i in ids[n]} for n in names}
        for t, values in run.values.items()
    }


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


def _runs(folders: Sequence[str]) -> list[Run]:
    """Raises ValueError for a folder that is not the output folder of one model."""
    loaded = []
    for folder in folders:
        found = {t: path for t, path in folders_of_a_model(folder).items() if not unfinished(path)}
        below = evaluation_folders(folder)
        if not found and below:
            raise ValueError(f"{folder} holds several evaluations: name one of {', '.join(map(str, below))}")
        loaded.append({t: load_evaluation(path) for t, path in found.items()} or {0.0: load_evaluation(folder)})
    labels = [next(iter(evaluations.values())).label for evaluations in loaded]
    names = [label if labels.count(label) == 1 else folder for label, folder in zip(labels, folders, strict=True)]
    return [
        Run(
            name,
            dict(sorted(e.items())),
            {t: {n: _values(one.rows(n)) for n in one.metrics} for t, one in e.items()},
        )
        for name, e in zip(names, loaded, strict=True)
    ]


def _values(rows: Iterable[Sequence[Record]]) -> Values:
    """The numbers per problem of each score; avg under its own name, since it may be compared at any k."""
    tally = Tally(rows)
    n = len(tally.correct[0])
    by_score = {"avg": avg_values(tally.correct)}
    if n > 1:
        by_score[f"maj@{n}"] = maj_values(tally.classes, tally.correct)
        by_score[f"pass@{n}"] = pass_values(tally.correct, n)
    return {score: dict(zip(tally.ids, values, strict=True)) for score, values in by_score.items()}


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


def _report(
    runs: Sequence[Run], comparisons: Sequence[Comparison], best: Sequence[list[AtBest]], confidence: float, tables: str
) -> str:
    parts = [
        "# Comparison",
        f"Difference in percentage points, with its {100 * confidence:g} % interval and p-value from a paired "
        f"bootstrap over problems ({RESAMPLES:,} resamples). An interval that holds 0 is no difference that was shown. "
        "avg is greedy accuracy where the samples are greedy.",
    ]
    for other, found in zip(runs[1:], best, strict=True):
        if found:
            parts += [f"## {other.name} against {runs[0].name}: is it sharpening?", *_headline(runs[0], other, found)]
    if any(best):
        parts += ["## Over temperatures", tables]
    for c in comparisons:
        lines = [
            [score, name, f"{100 * d.mean:+.1f}", f"{100 * d.low:+.1f} to {100 * d.high:+.1f}", f"{d.p:.4f}",
             f"{d.better} / {d.worse} / {d.problems - d.better - d.worse}"]
            for score, found in c.differences.items()
            for name, d in found.items()
        ]  # fmt: skip
        at = f", temperature {c.temperature:g}" if c.temperature is not None and any(best) else ""
        head = ["score", "benchmark", "difference", "interval", "p", "problems better / worse / same"]
        parts += [f"## {c.b} against {c.a}{at}", *(f"> {note}" for note in c.notes), markdown(head, lines), _flipped(c)]
    return "\n\n".join(parts)


def _headline(a: Run, b: Run, found: Sequence[AtBest]) -> list[str]:
    """The sentence, and the difference at the same temperature beside that of each at its own best."""
    lines = []
    for one in found:
        both = [f"{t:g}" if t == u else f"{t:g} / {u:g}" for t, u in (one.chosen_a, one.chosen_b)]
        same, best = one.same, one.difference
        lines.append([one.score, f"the same, {one.temperature:g}", "", "", *_numbers_of(same)])
        lines.append(
            [one.score, f"each its best: {both[0]} and {both[1]}", f"{100 * one.value_a:.1f}",
             f"{100 * one.value_b:.1f}", *_numbers_of(best)]
        )  # fmt: skip
    how = (
        "Each at its own best temperature: chosen on one half of the problems and scored on the other, both ways (two "
        "temperatures where the halves disagree), so that the choice is not counted as skill. The mean over benchmarks."
    )
    head = ["score", "temperature", a.name, b.name, "difference", "interval", "p"]
    return [f"**{verdict(found[0], a.name, b.name)}**", markdown(head, lines), how]


def _numbers_of(d: Difference) -> list[str]:
    return [f"{100 * d.mean:+.1f}", f"{100 * d.low:+.1f} to {100 * d.high:+.1f}", f"{d.p:.4f}"]


def _flipped(c: Comparison) -> str:
    lines = [
        f"- {name}: gained {len(f['gained'])} ({_numbers(f['gained'])}), lost {len(f['lost'])} ({_numbers(f['lost'])})"
        for name, f in c.flips.items()
    ]
    return "Flipped (right in at least half of the samples of one, and not of the other):\n\n" + "\n".join(lines)


def _numbers(ids: Sequence[str]) -> str:
    return ", ".join(i.rsplit("/", 1)[-1] for i in ids) or "none"


def _title(c: Comparison, others: Sequence[Comparison]) -> str:
    several = len({other.temperature for other in others}) > 1
    return f"{c.b} against {c.a}" + (f", T={c.temperature:g}" if several and c.temperature is not None else "")


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
                fmt="o", markersize=4, capsize=3, color=f"C{i % 10}", label=_title(c, comparisons),
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
