"""Where a benchmark's rows come from, and how they become problems. Those that are known are in ``benchmark_list``.

A benchmark's rows come from ``--benchmark_dir`` when it holds a copy, otherwise from the hub. Any jsonl or parquet file
of the user's own is a benchmark too: give its path instead of a name.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl.math_eval.benchmark_list import ANSWER_KINDS, BENCHMARKS, BY_NAME, Benchmark
from verl.math_eval.rows import nested, read_rows

FILE_TYPES = (".jsonl", ".parquet")


@dataclass(frozen=True)
class Problem:
    """question: text, or chat messages. details: what a report may group by (level, subject ...)."""

    id: str
    question: str | Sequence[Mapping[str, Any]]
    gold: str
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """One benchmark of a run, found but not yet read. ``path`` None: the hub, at commit ``revision`` if it told."""

    name: str
    entry: Benchmark
    path: Path | None
    revision: str | None = None

    @property
    def place(self) -> str:
        """Where the rows come from, for messages and reports."""
        return str(self.path) if self.path else f"hub data set {self.entry.hub}"


def locate(
    name: str, benchmark_dir: str | Path | None, question_key: str, answer_key: str, answer_kind: str = "expression"
) -> Source:
    """Find a benchmark by name or by the path of a jsonl/parquet file. Raises ValueError, naming what is known.

    question_key, answer_key, answer_kind: of the user's own files.
    """
    if name.endswith(FILE_TYPES):
        return _own(Path(name).expanduser(), question_key, answer_key, answer_kind)
    entry = BY_NAME.get(name)
    if entry is None:
        known = ", ".join("/".join((b.name, *b.aliases)) for b in BENCHMARKS)
        raise ValueError(f"expected a benchmark out of {known}, or a path to a .jsonl or .parquet file; found {name!r}")
    if benchmark_dir is not None:
        return Source(entry.name, entry, _local_copy(name, entry, Path(benchmark_dir).expanduser()))
    if entry.hub is None:
        raise ValueError(
            f"{entry.name} has no place on the hub that this harness knows. Get {entry.origin}, "
            f"save it as DIR/{entry.name}.jsonl, and give --benchmark_dir DIR."
        )
    return Source(entry.name, entry, None, _hub_commit(entry))


def _own(path: Path, question_key: str, answer_key: str, answer_kind: str) -> Source:
    if not path.is_file():
        raise ValueError(f"expected a jsonl or parquet file, found no {path}")
    if answer_kind not in ANSWER_KINDS:
        raise ValueError(f"expected answer_kind out of {', '.join(ANSWER_KINDS)}, found {answer_kind!r}")
    entry = Benchmark(path.stem, (question_key,), (answer_key,), (), "the user's own data", answer_kind)
    return Source(path.stem, entry, path)


def _local_copy(name: str, entry: Benchmark, folder: Path) -> Path:
    if not folder.is_dir():
        raise ValueError(f"expected a folder in --benchmark_dir, found none at {folder}")
    tried = []
    for stem in (entry.name, *entry.aliases):
        for suffix in FILE_TYPES:
            tried += [folder / f"{stem}{suffix}", folder / stem / f"test{suffix}"]
    for path in tried:
        if path.is_file():
            return path
    raise ValueError(
        f"expected {name} in {folder}, found none of {', '.join(str(p.relative_to(folder)) for p in tried)}"
    )


def load_problems(source: Source) -> list[Problem]:
    """Read and check the problems. Raises ValueError for a wrong column, row, kind of answer or count."""
    entry, where = source.entry, source.place
    rows = read_rows(source.path) if source.path else _hub_rows(entry, source.revision)
    kept = [(index, row) for index, row in enumerate(rows) if entry.keep is None or entry.keep(row)]
    if entry.rows and len(kept) not in entry.rows:
        expected = " or ".join(map(str, entry.rows))
        without = f" without {entry.left_out}" if entry.left_out else ""
        raise ValueError(
            f"expected {expected} rows{without} in {where}, found {len(kept)}: not the benchmark {entry.name}"
        )
    if not kept:
        raise ValueError(f"expected problems in {where}, found no rows")
    question_key = _present(kept[0][1], entry.question, where)
    gold_key = _present(kept[0][1], entry.gold, where)
    problems = []
    for index, row in kept:
        at = f"{where}, row {index}"
        question = _question(entry.ask(row, question_key), f"{at}, column {question_key}")
        gold = _gold(entry.rule(row, gold_key), entry, f"{at}, column {gold_key}")
        details = {key: row[key] for key in entry.details if row.get(key) is not None}
        problems.append(Problem(f"{source.name}/{index}", question, gold, details))
    return problems


def data_hash(problems: Iterable[Problem]) -> str:
    """sha256 over questions and golds: two runs with the same hash were asked the same problems."""
    text = json.dumps([[p.question, p.gold] for p in problems], ensure_ascii=False, sort_keys=True, default=list)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _hub_commit(entry: Benchmark) -> str | None:
    """What the newest commit is now, so that it can be recorded; None when the hub does not answer."""
    from huggingface_hub import HfApi

    assert entry.hub is not None
    try:
        return HfApi().dataset_info(entry.hub, revision=entry.revision, timeout=10).sha
    except Exception:  # no network, or a mirror that does not know the question: the data may still be in the cache
        return entry.revision


def _hub_rows(entry: Benchmark, revision: str | None) -> list[dict[str, Any]]:
    from datasets import load_dataset

    assert entry.hub is not None
    try:
        data = load_dataset(entry.hub, entry.config, split=entry.split, revision=revision)
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


def _gold(value: Any, entry: Benchmark, at: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{at}: expected a gold answer (rule {entry.rule.__name__!r}), found {value!r:.80}")
    text = re.sub(r"\.0$", "", repr(value)) if isinstance(value, float) else str(value).strip()
    if not text:
        raise ValueError(f"{at}: expected a gold answer, found an empty one")
    pattern = _KINDS.get(entry.answers)
    if pattern and not re.fullmatch(pattern, re.sub(r"\\?\$|\^\\circ|\^\{\\circ\}", "", text).strip()):
        raise ValueError(f"{at}: expected a gold answer of kind {entry.answers}, found {text!r:.80}")
    return text


_KINDS = {
    "integer": r"[-+]?\d[\d,]*",
    "number": r"[-+]?(\d[\d,]*\.?\d*|\.\d+)(e[-+]?\d+)?(/\d+(\.\d+)?)?%?",
    "choice": r"\(?[A-J](,? ?(and )?[A-J])*\)?",
}
