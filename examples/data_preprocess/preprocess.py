"""What the data scripts share: rows of a source in, training parquet out, and a count of every row between.

The columns of a training parquet are stable; columns of the source that no one reads are kept beside them:

    data_source   string                          name of the data set
    prompt        list<{role, content}>           chat messages: the question with the instruction
    ability       string                          "math"
    reward_model  {style, ground_truth}           "rule", and the final answer as text or null
    extra_info    {split, index, question, answer}  raw question and response text; index = row number in the source

DFT as in the paper trains on ``extra_info.question`` and ``extra_info.answer``.
"""

import argparse
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sources import Row, Source, chunks, open_source, splits_of
from tqdm import tqdm

INSTRUCTION = "Let's think step by step and output the final answer within \\boxed{}."

RowFunction = Callable[[Mapping[str, Any], str, int], Row]  # (source row, split, row number) -> training row

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BRACE_OR_ESCAPE = re.compile(r"\\.|[{}]", re.DOTALL)
_BARE_ARGUMENT = re.compile(r"(-?\d+(?:[.,]\d+)*|[A-Z])(?=\s|[$.,;]|\\[)\]]|$)")


class DropRow(Exception):
    """Raised by a row function: this row cannot be used. Drops are counted by the message, which is the reason."""


# --- one row ------------------------------------------------------------------------------------------------------


def require_text(example: Mapping[str, Any], column: str) -> str:
    """``example[column]``, which must be text with something in it; else DropRow."""
    value = example.get(column)
    if value is None:
        raise DropRow(f"{column} is null")
    if not isinstance(value, str):
        raise DropRow(f"{column} is {type(value).__name__}, not text")
    if not value.strip():
        raise DropRow(f"{column} is empty")
    return value


def training_row(
    data_source: str, question: str, answer: str, ground_truth: str | None, split: str, index: int, **extra_info: str
) -> Row:
    """One row of the training parquet (see the top of this file); ``extra_info`` adds text keys to that column."""
    return {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": f"{question} {INSTRUCTION}"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": ground_truth},
        "extra_info": {"split": split, "index": index, "question": question, "answer": answer, **extra_info},
    }


def last_boxed(text: str) -> str | None:
    """Content of the last ``\\boxed{...}`` or ``\\fbox{...}``; None without one, or if it is empty or never closed.

    Braces nest and ``\\{`` does not count as one. Without braces (``\\boxed 4$``) only a number or a capital letter is
    taken: anything longer has no definite end.
    """
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    start = boxes[-1].end()
    if text[start : start + 1] != "{":
        bare = _BARE_ARGUMENT.match(text, start)
        return bare[1] if bare else None
    depth = 0
    for token in _BRACE_OR_ESCAPE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0 and token[0] == "}":
            return text[start + 1 : token.start()].strip() or None
    return None


# --- which rows ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Selection:
    """Places ``start <= place < end`` of a split that was shuffled with ``seed``, or of its own order if ``first``.

    ``end`` 0 = up to the last row. Ranges that do not overlap give samples that do not overlap. The rows chosen keep
    the order they have in the source.
    """

    start: int = 0
    end: int = 0
    seed: int = 0
    first: bool = False

    def __post_init__(self) -> None:
        if self.start < 0 or self.end < 0 or (self.end and self.end <= self.start):
            raise ValueError(
                f"expected 0 <= --train_start < --train_end (or --train_end 0 for the rest of the split), "
                f"found --train_start {self.start} --train_end {self.end}"
            )

    @property
    def whole(self) -> bool:
        return self.start == 0 and self.end == 0

    def row_numbers(self, num_rows: int) -> Collection[int]:
        """The chosen row numbers of a split of ``num_rows`` rows; the same for the same seed, always."""
        if max(self.end, self.start + 1) > num_rows and not self.whole:
            raise ValueError(
                f"--train_start {self.start} --train_end {self.end} asks for more than the split's {num_rows} rows; "
                "lower them (--train_end 0 takes the rest)"
            )
        end = self.end or num_rows
        if self.first or self.whole:
            return range(self.start, end)
        order = list(range(num_rows))
        random.Random(self.seed).shuffle(order)
        return set(order[self.start : end])

    def __str__(self) -> str:
        if self.whole:
            return "the whole split"
        places = f"places {self.start} to {self.end or 'the end'}"
        if self.first:
            return f"{places} in the split's own order (--first)"
        return f"random sample, {places} of a shuffle with seed {self.seed}"


# --- all rows of a split ------------------------------------------------------------------------------------------


@dataclass
class Counts:
    """What became of the selected rows: ``rows_in == rows_out + dropped.total()``."""

    rows_in: int = 0
    rows_out: int = 0
    without_ground_truth: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        lines = [f"rows in {self.rows_in}, rows out {self.rows_out}, dropped {sum(self.dropped.values())}"]
        lines += [f"  dropped {count}: {reason}" for reason, count in self.dropped.most_common()]
        if self.without_ground_truth:
            lines.append(f"  kept {self.without_ground_truth} without a boxed answer (ground_truth null)")
        return lines


def write_split(
    source: Source,
    row: RowFunction,
    split: str,
    path: Path,
    selection: Selection | None = None,
    extra_info: Sequence[str] = (),
) -> Counts:
    """Write ``row(...)`` of each selected row of ``source`` to the parquet file ``path``; print and return the counts.

    extra_info: names of the text keys that ``row`` adds to that column. ValueError, and no file, if no row remains.
    """
    selection = selection or Selection()
    counts = Counts()
    schema, replaced = training_schema(source.other_columns, extra_info)
    numbers = selection.row_numbers(source.num_rows)
    print(f"{split}: {source.name}, {source.num_rows} rows; {selection}")
    for note in source.notes + tuple(f"column {name!r} of the source is replaced" for name in replaced):
        print(f"  {note}")
    with atomic_path(path) as temporary:
        write_parquet(_training_rows(source, row, split, numbers, counts, schema), temporary, schema)
        if not counts.rows_out:
            raise ValueError(f"nothing to write to {path}; {'; '.join(line.strip() for line in counts.lines())}")
    print(f"{split}: " + "\n".join(counts.lines()))
    print(f"{split}: wrote {path}")
    return counts


def _training_rows(
    source: Source, row: RowFunction, split: str, numbers: Collection[int], counts: Counts, schema: pa.Schema
) -> Iterator[Row]:
    with tqdm(total=len(numbers), desc=split, unit=" rows", disable=None) as progress:
        for index, example in enumerate(source.rows()):
            if index not in numbers:
                continue
            counts.rows_in += 1
            progress.update()
            try:
                prepared = row(example, split, index)
            except DropRow as reason:
                counts.dropped[str(reason)] += 1
            else:
                counts.rows_out += 1
                counts.without_ground_truth += prepared["reward_model"]["ground_truth"] is None
                yield {name: example.get(name) for name in schema.names} | prepared
            if counts.rows_in == len(numbers):
                return


def training_schema(other_columns: pa.Schema, extra_info: Sequence[str] = ()) -> tuple[pa.Schema, list[str]]:
    """The types of a training parquet that keeps ``other_columns``, and the names of those it replaces with a column of
    its own."""
    text = pa.string()
    own = [
        ("data_source", text),
        ("prompt", pa.list_(pa.struct([("role", text), ("content", text)]))),
        ("ability", text),
        ("reward_model", pa.struct([("style", text), ("ground_truth", text)])),
        (
            "extra_info",
            pa.struct(
                [("split", text), ("index", pa.int64()), ("question", text), ("answer", text)]
                + [(name, text) for name in extra_info]
            ),
        ),
    ]
    names = [name for name, _ in own]
    kept = [(column.name, column.type) for column in other_columns if column.name not in names]
    return pa.schema(own + kept), [name for name in other_columns.names if name in names]


# --- files --------------------------------------------------------------------------------------------------------


def write_parquet(rows: Iterable[Row], path: Path, schema: pa.Schema) -> None:
    """Stream ``rows`` to ``path``; the types come from ``schema``, never from the values."""
    with pq.ParquetWriter(path, schema) as writer:
        for chunk in chunks(rows):
            try:
                writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
            except pa.ArrowException as error:
                first, last = chunk[0]["extra_info"]["index"], chunk[-1]["extra_info"]["index"]
                raise ValueError(f"a value in rows {first} to {last} does not fit its column: {error}") from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; it becomes ``path`` at the end, and is removed if the body fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# --- command line -------------------------------------------------------------------------------------------------


def source_parser(description: str | None, source: str, local_dir: str) -> argparse.ArgumentParser:
    """The options that every script with a source has; ``description`` is the script's docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source",
        default=source,
        help="hub id, or a local folder or file of json, jsonl or parquet (default: %(default)s)",
    )
    parser.add_argument("--local_dir", default=local_dir, help="folder to write to (default: %(default)s)")
    parser.add_argument("--train_start", type=int, default=0, help="first place to take (default: 0)")
    parser.add_argument("--train_end", type=int, default=0, help="place to stop before; 0 = the end (default: 0)")
    parser.add_argument(
        "--first", action="store_true", help="take the range in the split's own order, not from a seeded shuffle"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random sample (default: 0)")
    return parser


def prepare(
    args: argparse.Namespace,
    row: RowFunction,
    columns: Sequence[str],
    splits: tuple[str, ...],
    config: str | None = None,
    extra_info: Sequence[str] = (),
) -> list[Path]:
    """Write ``<local_dir>/<split>.parquet`` for each of ``splits`` as ``args`` (of :func:`source_parser`) says.

    Every split is opened before the first is written, so that a missing one leaves no new file.
    """
    selection = Selection(args.train_start, args.train_end, args.seed, args.first)
    splits = splits_of(args.source, splits)
    if "train" not in splits and not selection.whole:
        raise ValueError(f"--train_start and --train_end choose training rows, found none in --source {args.source}")
    opened = {split: open_source(args.source, split, columns, config) for split in splits}
    written = []
    for split, source in opened.items():
        path = Path(args.local_dir).expanduser() / f"{split}.parquet"
        write_split(source, row, split, path, selection if split == "train" else None, extra_info)
        written.append(path)
    return written


def run(main: Callable[[], object]) -> int:
    """Exit status of a script: 0, or 1 after one line that says what is wrong (``VERL_DFT_TRACEBACK=1``: the trace)."""
    try:
        main()
    except (ValueError, OSError) as error:
        if os.environ.get("VERL_DFT_TRACEBACK") == "1":
            raise
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0
