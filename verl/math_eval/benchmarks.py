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
from verl.math_eval.grading import grade_many
from verl.math_eval.rows import after_hashes, as_it_stands, in_a_box, nested, read_rows

FILE_TYPES = (".jsonl", ".parquet")
GOLD_RULES = {"text": as_it_stands, "box": in_a_box, "hashes": after_hashes}  # of the user's own files
OWN = "the user's own data"


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


@dataclass(frozen=True)
class OwnData:
    """How the user's own files are read: columns (dots reach into structures), what a gold looks like, out of
    ``ANSWER_KINDS``, how it is read out of its column, out of ``GOLD_RULES``, and the column of the problem's id (None:
    the row's number).
    """

    question_key: str = "question"
    answer_key: str = "answer"
    answer_kind: str = "expression"
    gold_rule: str = "text"
    id_key: str | None = None


def locate(name: str, benchmark_dir: str | Path | None, own: OwnData | None = None) -> Source:
    """Find a benchmark by name or by the path of a jsonl/parquet file. Raises ValueError, naming what is known."""
    if name.endswith(FILE_TYPES):
        return _own(Path(name).expanduser(), own or OwnData())
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


def _own(path: Path, own: OwnData) -> Source:
    if not path.is_file():
        raise ValueError(f"expected a jsonl or parquet file, found no {path}")
    for name, value, known in (
        ("answer_kind", own.answer_kind, ANSWER_KINDS),
        ("gold_rule", own.gold_rule, tuple(GOLD_RULES)),
    ):
        if value not in known:
            raise ValueError(f"expected {name} out of {', '.join(known)}, found {value!r}")
    rule = GOLD_RULES[own.gold_rule]
    entry = Benchmark(
        path.stem, (own.question_key,), (own.answer_key,), (), OWN, own.answer_kind, rule=rule,
        id_key=own.id_key,
    )  # fmt: skip
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
        at = f"{where}, row {index + 1}"
        question = _question(entry.ask(row, question_key), f"{at}, column {question_key}")
        gold = _gold(entry.rule(row, gold_key), entry, f"{at}, column {gold_key}")
        details = {key: row[key] for key in entry.details if row.get(key) is not None}
        problems.append(Problem(f"{source.name}/{_number(entry, row, index, at)}", question, gold, details))
    if source.path and entry.licence == OWN:
        _check_own(problems, [index + 1 for index, _ in kept], where, gold_key)
    return problems


def _number(entry: Benchmark, row: Mapping[str, Any], index: int, at: str) -> str:
    """What names a row within its benchmark: its number from 0, or what its id column says."""
    if entry.id_key is None:
        return str(index)
    value = nested(row, entry.id_key)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise ValueError(f"{at}, column {entry.id_key}: expected an id (text or a whole number), found {value!r:.80}")
    return str(value).strip()


def _check_own(problems: Sequence[Problem], rows: Sequence[int], where: str, column: str) -> None:
    """Raises ValueError for ids that are there twice, and for golds that no answer could equal.

    Golds are tried: a solution in place of an answer has a box or a marker of its own, and what the grader does not
    take for equal to itself would make every sample wrong.
    """
    first: dict[str, int] = {}
    for problem, row in zip(problems, rows, strict=True):
        if first.setdefault(problem.id, row) != row:
            raise ValueError(
                f"{where}: expected different ids, found {problem.id.split('/', 1)[1]!r} in rows "
                f"{first[problem.id]} and {row}"
            )
    as_texts = grade_many([(p.gold, p.gold) for p in problems], "strict")
    as_answers = grade_many([(f"\\boxed{{{p.gold}}}", p.gold) for p in problems])
    for problem, row, text, answer in zip(problems, rows, as_texts, as_answers, strict=True):
        at = f"{where}, row {row}, column {column}"
        if text.method in ("box", "boxes", "marker"):
            rule = "box" if text.method.startswith("box") else "hashes" if "####" in problem.gold else "none fits"
            hint = f"give --gold_rule {rule}" if rule != "none fits" else "keep the answer alone in the column"
            raise ValueError(f"{at}: expected an answer, found a solution ({problem.gold[-60:]!r}): {hint}")
        if not answer.correct:
            raise ValueError(
                f"{at}: expected an answer that can be graded, found {problem.gold!r:.80}, which does not even equal "
                f"itself ({answer.reason})"
            )


def as_text(question: str | Sequence[Mapping[str, Any]]) -> str:
    """A question for a reader: the text, or the messages with their roles."""
    if isinstance(question, str):
        return question
    if len(question) == 1:
        return str(question[0]["content"])
    return "\n\n".join(f"{message.get('role', '')}: {message['content']}" for message in question)


def about_data(source: Source, problems: Sequence[Problem]) -> dict[str, Any]:
    """What a report says of the data: where they come from, how many there are, and whether they are the known ones."""
    entry, data = source.entry, data_hash(problems)
    return {
        "from": source.place,
        "revision": source.revision,
        "entry_version": entry.version,
        "problems": len(problems),
        "left_out": entry.left_out,
        "sha256": data,
        "known": data in entry.sha256 if entry.sha256 else None,
        "licence": entry.licence,
    }


def repetitions(source: Source, problems: Sequence[Problem]) -> str:
    """A note about questions that occur more than once, or "": their score counts twice."""
    seen: dict[str, str] = {}
    again = []
    for problem in problems:
        text = json.dumps(problem.question, sort_keys=True, default=str)
        if seen.setdefault(text, problem.id) != problem.id:
            again.append((seen[text], problem.id))
    if not again:
        return ""
    first, second = (name.rsplit("/", 1)[-1] for name in again[0])
    return f"{source.name}: {len(again)} questions repeat an earlier one (the first: {second} repeats {first})"


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
