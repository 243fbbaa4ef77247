"""The benchmarks: one entry says where the problems are, which column is the gold answer, and how many rows there must
be.

A benchmark's rows come from ``--benchmark_dir`` when it holds a copy, otherwise from the hub. Any jsonl or parquet file
of the user's own is a benchmark too: give its path instead of a name.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl.math_eval.grading import last_box

FILE_TYPES = (".jsonl", ".parquet")


@dataclass(frozen=True)
class Problem:
    """question: text, or chat messages. details: what a report may group by (level, subject ...)."""

    id: str
    question: str | Sequence[Mapping[str, Any]]
    gold: str
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    hub, config, split, revision: where ``datasets.load_dataset`` finds it. revision None means the newest commit: the
        row count and the data hash in metrics.json are then what tells two versions apart.
    question: columns to look for, the first one present counts.
    gold: columns of the gold answer, the first one present counts, read by ``rule``: "value" (as it stands), "box" (the
        last \\boxed of a solution), "hashes" (after the last ####) or "first" (the first entry of a list).
    answers: what a gold looks like: "integer", "number" or "expression".
    rows: how many problems there are, per published version.
    """

    name: str
    hub: str
    split: str
    question: tuple[str, ...]
    gold: tuple[str, ...]
    rule: str
    answers: str
    rows: tuple[int, ...]
    licence: str
    aliases: tuple[str, ...] = ()
    config: str | None = None
    revision: str | None = None
    details: tuple[str, ...] = ()


# Nothing of these data sets is in this repository. No revision is pinned where none could be checked when this was
# written.
BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        name="math500",
        aliases=("math_oai", "math-500"),
        hub="HuggingFaceH4/MATH-500",
        split="test",
        question=("problem",),
        gold=("answer",),
        rule="value",
        answers="expression",
        rows=(500,),
        licence="none stated on the hub; MATH itself: MIT, under a takedown notice by AoPS since 2025-01",
        details=("level", "subject"),
    ),
    Benchmark(
        name="minerva_math",
        aliases=("minerva",),
        hub="math-ai/minervamath",
        split="test",
        question=("problem", "question"),
        gold=("solution", "answer"),
        rule="box",
        answers="expression",
        rows=(272,),
        licence="none stated on the hub; text of MIT OpenCourseWare: CC BY-NC-SA 4.0",
        details=("type",),
    ),
    Benchmark(
        name="olympiadbench",
        hub="Hothan/OlympiadBench",
        config="OE_TO_maths_en_COMP",
        split="train",
        question=("question",),
        gold=("final_answer",),
        rule="first",
        answers="expression",
        rows=(674, 675),
        licence="Apache-2.0",
        details=("subfield", "answer_type", "is_multiple_answer"),
    ),
    Benchmark(
        name="aime24",
        hub="HuggingFaceH4/aime_2024",
        split="train",
        question=("problem", "question"),
        gold=("answer",),
        rule="value",
        answers="integer",
        rows=(30,),
        licence="problems: copyright MAA",
    ),
    Benchmark(
        name="aime25",
        hub="math-ai/aime25",
        split="test",
        question=("problem", "question"),
        gold=("answer",),
        rule="value",
        answers="integer",
        rows=(30,),
        licence="problems: copyright MAA",
    ),
    Benchmark(
        name="amc23",
        hub="math-ai/amc23",
        split="test",
        question=("question", "problem"),
        gold=("answer",),
        rule="value",
        answers="number",
        rows=(40,),
        licence="problems: copyright MAA",
    ),
    Benchmark(
        name="gsm8k",
        hub="openai/gsm8k",
        config="main",
        split="test",
        question=("question",),
        gold=("answer",),
        rule="hashes",
        answers="integer",
        rows=(1319,),
        licence="MIT",
    ),
)
_BY_NAME = {name: entry for entry in BENCHMARKS for name in (entry.name, *entry.aliases)}


@dataclass(frozen=True)
class Source:
    """One benchmark of a run, found but not yet read. ``path`` None: the hub."""

    name: str
    entry: Benchmark
    path: Path | None


def locate(name: str, benchmark_dir: str | Path | None, question_key: str, answer_key: str) -> Source:
    """Find a benchmark by name or by the path of a jsonl/parquet file. Raises ValueError, naming what is known."""
    if name.endswith(FILE_TYPES):
        path = Path(name).expanduser()
        if not path.is_file():
            raise ValueError(f"expected a jsonl or parquet file, found no {path}")
        own = Benchmark(
            path.stem, "", "", (question_key,), (answer_key,), "value", "expression", (), "the user's own data"
        )
        return Source(path.stem, own, path)
    entry = _BY_NAME.get(name)
    if entry is None:
        known = ", ".join("/".join((b.name, *b.aliases)) for b in BENCHMARKS)
        raise ValueError(f"expected a benchmark out of {known}, or a path to a .jsonl or .parquet file; found {name!r}")
    if benchmark_dir is None:
        return Source(entry.name, entry, None)
    folder = Path(benchmark_dir).expanduser()
    if not folder.is_dir():
        raise ValueError(f"expected a folder in --benchmark_dir, found none at {folder}")
    tried = []
    for stem in (entry.name, *entry.aliases):
        for suffix in FILE_TYPES:
            tried += [folder / f"{stem}{suffix}", folder / stem / f"test{suffix}"]
    for path in tried:
        if path.is_file():
            return Source(entry.name, entry, path)
    raise ValueError(
        f"expected {name} in {folder}, found none of {', '.join(str(p.relative_to(folder)) for p in tried)}"
    )


def load_problems(source: Source) -> list[Problem]:
    """Read and check the problems. Raises ValueError for a wrong column, row or count."""
    entry = source.entry
    rows = read_rows(source.path) if source.path else _hub_rows(entry)
    where = str(source.path or f"hub data set {entry.hub}")
    if entry.rows and len(rows) not in entry.rows:
        expected = " or ".join(map(str, entry.rows))
        raise ValueError(f"expected {expected} rows in {where}, found {len(rows)}: not the benchmark {entry.name}")
    if not rows:
        raise ValueError(f"expected problems in {where}, found no rows")
    question_key = _present(rows[0], entry.question, where)
    gold_key = _present(rows[0], entry.gold, where)
    # A solution column is read by its box; a bare answer column is the answer.
    rule = "value" if entry.rule == "box" and gold_key == "answer" else entry.rule
    problems = []
    for index, row in enumerate(rows):
        at = f"{where}, row {index}"
        question = _question(nested(row, question_key), f"{at}, column {question_key}")
        gold = _gold(nested(row, gold_key), rule, f"{at}, column {gold_key}")
        details = {key: row[key] for key in entry.details if row.get(key) is not None}
        problems.append(Problem(f"{source.name}/{index}", question, gold, details))
    return problems


def data_hash(problems: Iterable[Problem]) -> str:
    """sha256 over questions and golds: two runs with the same hash were asked the same problems."""
    text = json.dumps([[p.question, p.gold] for p in problems], ensure_ascii=False, sort_keys=True, default=list)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def nested(row: Mapping[str, Any], key: str) -> Any:
    """``row[key]``, or for ``a.b`` ``row["a"]["b"]``; None when there is no such entry."""
    if key in row:
        return row[key]
    value: Any = row
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a jsonl or parquet file. Raises ValueError naming the line that is no JSON object."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as parquet

        return parquet.read_table(path).to_pylist()
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: expected a JSON object, found {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
            rows.append(row)
    return rows


def _hub_rows(entry: Benchmark) -> list[dict[str, Any]]:
    from datasets import load_dataset

    try:
        data = load_dataset(entry.hub, entry.config, split=entry.split, revision=entry.revision)
    except Exception as error:  # the hub client has no common base class for "offline", "gone" and "gated"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{entry.name}: cannot download {entry.hub} from the hub ({reason}). "
            "Give a local copy with --benchmark_dir DIR."
        ) from error
    return [dict(row) for row in data]


def _present(row: Mapping[str, Any], keys: Sequence[str], where: str) -> str:
    for key in keys:
        if nested(row, key) is not None:
            return key
    raise ValueError(f"expected a column {' or '.join(keys)} in {where}, found {', '.join(row)}")


def _question(value: Any, at: str) -> str | list[dict[str, Any]]:
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, list) and value and all(isinstance(m, Mapping) and "content" in m for m in value):
        return [dict(m) for m in value]
    raise ValueError(f"{at}: expected a question (text or chat messages), found {value!r:.80}")


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _after_hashes(value: Any) -> Any:
    return value.rsplit("####", 1)[1] if isinstance(value, str) and "####" in value else None


def _boxed(value: Any) -> Any:
    return last_box(value) if isinstance(value, str) else None


_RULES: dict[str, Callable[[Any], Any]] = {
    "value": lambda value: value,
    "first": _first,
    "hashes": _after_hashes,
    "box": _boxed,
}


def _gold(value: Any, rule: str, at: str) -> str:
    gold = _RULES[rule](value)
    if isinstance(gold, bool) or not isinstance(gold, str | int | float):
        raise ValueError(f"{at}: expected a gold answer (rule {rule!r}), found {value!r:.80}")
    text = re.sub(r"\.0$", "", repr(gold)) if isinstance(gold, float) else str(gold).strip()
    if not text:
        raise ValueError(f"{at}: expected a gold answer, found an empty one")
    return text
