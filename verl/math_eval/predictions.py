"""Grade and score texts that were sampled elsewhere (``--predictions FILE``), with the same files and report.

The file, jsonl or parquet, has a row per text: the problem's id and the text. A problem's id is its row's number in the
benchmark, from 0, or what ``--id_key`` names; with several benchmarks ``name/id``. Rows of one problem are its samples,
in order.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from verl.math_eval.benchmarks import Problem, Source, about_data, as_text, data_hash, repetitions
from verl.math_eval.evaluation import Evaluation, write_metrics
from verl.math_eval.grades import graded_in_pieces
from verl.math_eval.options import EvalOptions, check_inputs
from verl.math_eval.report import write_report
from verl.math_eval.rows import each_row, nested
from verl.math_eval.samples import Record, SampleStore


@dataclass(frozen=True)
class Predictions:
    """path: the file. problem_key, text_key: its columns; dots reach into structures."""

    path: Path
    problem_key: str = "problem"
    text_key: str = "text"


def score_predictions(
    given: Predictions, output_dir: str | Path, options: EvalOptions, samples: int | None = None, label: str = ""
) -> Evaluation:
    """Grade every text of the file and write samples, metrics and the report.

    options: benchmarks, grading, and the temperature at which the texts were sampled. samples: texts per problem that
    count, the first ones; None: as many as every problem has.

    Raises ValueError for rows without an id or text, ids of no problem, problems without texts, and for several texts
    per problem at temperature 0, which would be copies.
    """
    if not given.path.is_file():
        raise ValueError(f"expected a jsonl or parquet file in --predictions, found no {given.path}")
    sources, all_problems = check_inputs(options)
    problems = [options.chosen(found) for found in all_problems]
    names = _names(sources, all_problems)
    asked = {p.id for found in problems for p in found}
    counts = Counter(key for key, _ in _texts(given, names) if key in asked)
    count = _samples_per_problem(given, counts, asked, samples)
    if options.temperature == 0 and count > 1:
        raise ValueError(
            f"expected --temperature T, at which the texts were sampled, found {count} texts per problem and none"
        )
    warnings = [repetitions(source, found) for source, found in zip(sources, all_problems, strict=True)]
    if max(counts.values()) > count:
        warnings.append(f"{given.path.name}: the first {count} texts of each problem count; some problems have more")
    told = any("tokens" in row for row in _first(each_row(given.path)))
    warnings += [] if told else [f"{given.path.name} has no column tokens: lengths are words"]
    result = Evaluation(label or given.path.stem, Path(output_dir), "predictions", tuple(filter(None, warnings)))
    digest = _digest(given.path)
    for place, (source, found, chosen) in enumerate(zip(sources, all_problems, problems, strict=True)):
        settings = _settings(given, digest, result, options, source, found, chosen, count, place)
        result.metrics[source.name] = _score(given, names, result.folder / source.name, settings, chosen, count)
    write_report(output_dir, [result])
    return result


def _names(sources: Sequence[Source], problems: Sequence[Sequence[Problem]]) -> dict[str, str]:
    """Every way to name a problem -> its id: ``name/7``, and ``7`` where there is one benchmark."""
    names = {p.id: p.id for found in problems for p in found}
    if len(sources) == 1:
        names |= {p.id.split("/", 1)[1]: p.id for p in problems[0]}
    return names


def _texts(given: Predictions, names: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(problem id, row), in order."""
    for number, row in enumerate(each_row(given.path), 1):
        at = f"{given.path}, row {number}"
        key, text = nested(row, given.problem_key), nested(row, given.text_key)
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise ValueError(f"{at}, column {given.problem_key}: expected a problem's id, found {key!r:.80}")
        if not isinstance(text, str):
            raise ValueError(f"{at}, column {given.text_key}: expected a text, found {text!r:.80}")
        if str(key) not in names:
            some = ", ".join(list(names)[:3])
            raise ValueError(f"{at}: expected the id of a problem, such as {some}; found {key!r:.80}")
        yield names[str(key)], row


def _samples_per_problem(given: Predictions, counts: Counter[str], asked: set[str], samples: int | None) -> int:
    least = min((counts[key] for key in asked), default=0)
    need = 1 if samples is None else samples
    if least < need:
        few = sorted(key for key in asked if counts[key] < need)
        raise ValueError(
            f"{given.path}: expected {need} or more texts for each of the {len(asked)} problems, found fewer for "
            f"{len(few)}, such as {few[0]}: take a part with --start and --end, or a smaller --n_sampling"
        )
    return least if samples is None else samples


def _score(
    given: Predictions, names: dict[str, str], folder: Path, settings: dict[str, Any], asked: list[Problem], count: int
) -> dict[str, Any]:
    store = SampleStore(folder, settings).open()
    try:
        if store.needs_regrading:
            store.replace(graded_in_pieces(store.records.values(), settings["grading"]))
        by_id = {p.id: p for p in asked}
        new = (r for r in _records(given, names, by_id, count) if (r["problem"], r["sample"]) not in store.records)
        store.append(graded_in_pieces(new, settings["grading"]))
        return write_metrics(store)
    finally:
        store.close()


def _records(given: Predictions, names: dict[str, str], asked: dict[str, Problem], count: int) -> Iterator[Record]:
    seen: Counter[str] = Counter()
    for key, row in _texts(given, names):
        if key not in asked or seen[key] == count:
            continue
        text, question = nested(row, given.text_key), asked[key].question
        yield {
            "problem": key,
            "sample": seen[key],
            "seed": seen[key],
            "prompt": as_text(question),
            "question": as_text(question),
            "text": text,
            "finish_reason": row.get("finish_reason") or "unknown",
            "tokens": int(row["tokens"]) if row.get("tokens") is not None else len(text.split()),
            "gold": asked[key].gold,
            "details": dict(asked[key].details),
        }
        seen[key] += 1


def _settings(
    given: Predictions,
    digest: str,
    result: Evaluation,
    options: EvalOptions,
    source: Source,
    problems: list[Problem],
    asked: list[Problem],
    count: int,
    place: int,
) -> dict[str, Any]:
    return {
        "generation": {
            "backend": "predictions",
            "model": digest,
            "prompt_format": {},
            "sampling": asdict(options.sampling),
            "seed": 0,
            "data": data_hash(problems),
        },
        "grading": options.grading,
        "described": {
            "label": result.label,
            "model": str(given.path),
            "backend": {},
            "prompt_format": "predictions",
            "training": {},
            "example_prompt": as_text(asked[0].question),
            "benchmark": source.name,
            "place": place,
            "data": about_data(source, problems),
            "warnings": list(result.warnings),
        },
        "asked": {"problems": [p.id for p in asked], "samples": count},
    }


def _first(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for _, row in zip(range(1), rows, strict=False)]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _slowly(file)


def _slowly(file) -> str:
    """``hashlib.file_digest`` for Python 3.10."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
