"""What the data scripts share: rows of a source in, a training parquet and its report out, every row accounted for.

The columns of a training parquet are those of :mod:`rows`. Beside ``train.parquet`` stands ``train.report.json``: where
the rows came from, how many were dropped for which reason, and what the filters found.
"""

import argparse
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filters import Filter, add_filter_options, apply_filters, build_filters
from rows import DropRow, row_texts, training_schema
from sources import Row, Source, chunks, open_source, splits_of
from tqdm import tqdm

RowFunction = Callable[[Mapping[str, Any], str, int], Row]  # (source row, split, row number) -> training row

EXAMPLES = 5  # row numbers per reason in the report


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


# --- what became of them ------------------------------------------------------------------------------------------


@dataclass
class Counts:
    """What became of the selected rows: ``rows_in == rows_out + dropped.total()``. examples: row numbers by reason."""

    rows_in: int = 0
    rows_out: int = 0
    without_ground_truth: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[int]] = field(default_factory=dict)

    def drop(self, reason: str, index: int) -> None:
        self.dropped[reason] += 1
        first = self.examples.setdefault(reason, [])
        if len(first) < EXAMPLES:
            first.append(index)

    def lines(self) -> list[str]:
        lines = [f"rows in {self.rows_in}, rows out {self.rows_out}, dropped {sum(self.dropped.values())}"]
        lines += [f"  dropped {count}: {reason}" for reason, count in self.dropped.most_common()]
        if self.without_ground_truth:
            lines.append(f"  kept {self.without_ground_truth} without a boxed answer (ground_truth null)")
        return lines

    def report(self, filters: Sequence[Filter]) -> dict[str, Any]:
        return {
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "rows_out_without_ground_truth": self.without_ground_truth,
            "dropped": [
                {"reason": reason, "rows": count, "first_rows": self.examples[reason]}
                for reason, count in self.dropped.most_common()
            ],
            "filters": [
                {"name": each.name, "explanation": each.explanation, "findings": each.findings} for each in filters
            ],
        }


def explanations(filters: Sequence[Filter]) -> list[str]:
    return [f"  filter {each.name}: {each.explanation}" for each in filters]


# --- all rows of a split ------------------------------------------------------------------------------------------


def write_split(
    source: Source,
    row: RowFunction,
    split: str,
    path: Path,
    selection: Selection | None = None,
    extra_info: Sequence[str] = (),
    filters: Sequence[Filter] = (),
    overwrite: bool = False,
) -> Counts:
    """Write ``row(...)`` of each selected row of ``source`` that ``filters`` keep to the parquet file ``path``, and a
    report beside it; print and return the counts.

    extra_info: names of the text keys that ``row`` adds to that column. ValueError, and no file, if no row remains.
    """
    selection = selection or Selection()
    check_free(path, overwrite)
    counts = Counts()
    schema, replaced = training_schema(source.other_columns, extra_info)
    numbers = selection.row_numbers(source.num_rows)
    print(f"{split}: {source.name}, {source.num_rows} rows; {selection}")
    notes = source.notes + tuple(f"column {name!r} of the source is replaced" for name in replaced)
    for note in notes:
        print(f"  {note}")
    rows = filtered(_training_rows(source, row, split, numbers, counts, schema), filters, counts)
    origin = {"source": source.name, "source_rows": source.num_rows, "selection": str(selection), "notes": notes}
    write_with_report(rows, path, schema, counts, filters, origin)
    print(f"{split}: " + "\n".join([*counts.lines(), *explanations(filters)]))
    print(f"{split}: wrote {path} and {report_path(path).name}")
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
                counts.drop(str(reason), index)
            else:
                yield {name: example.get(name) for name in schema.names} | prepared
            if counts.rows_in == len(numbers):
                return


def filtered(rows: Iterable[Row], filters: Sequence[Filter], counts: Counts) -> Iterator[Row]:
    """The rows that all filters keep; both those and the others are counted."""
    for chunk in chunks(rows, weight=_characters):
        for row, reason in zip(chunk, apply_filters(filters, chunk), strict=True):
            if reason:
                counts.drop(reason, row["extra_info"]["index"])
                continue
            counts.rows_out += 1
            counts.without_ground_truth += row["reward_model"]["ground_truth"] is None
            yield row


def write_with_report(
    rows: Iterable[Row],
    path: Path,
    schema: pa.Schema,
    counts: Counts,
    filters: Sequence[Filter],
    origin: Mapping[str, Any],
) -> None:
    """Stream ``rows``, which fill ``counts``, to ``path`` and then its report; neither exists unless both are whole."""
    with atomic_path(path) as temporary, atomic_path(report_path(path)) as report:
        write_parquet(rows, temporary, schema)
        if not counts.rows_out:
            raise ValueError(f"nothing to write to {path}; {'; '.join(line.strip() for line in counts.lines())}")
        text = json.dumps({**origin, **counts.report(filters)}, indent=2, ensure_ascii=False)
        report.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


# --- files --------------------------------------------------------------------------------------------------------


def write_parquet(rows: Iterable[Row], path: Path, schema: pa.Schema) -> None:
    """Stream ``rows`` to ``path``; the types come from ``schema``, never from the values."""
    with pq.ParquetWriter(path, schema) as writer:
        for chunk in chunks(rows, weight=_characters):
            try:
                writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
            except (pa.ArrowException, UnicodeEncodeError) as error:
                first, last = chunk[0]["extra_info"]["index"], chunk[-1]["extra_info"]["index"]
                raise ValueError(f"a value in rows {first} to {last} does not fit its column: {error}") from error


def _characters(row: Row) -> int:
    return sum(map(len, row_texts(row)))


def report_path(path: Path) -> Path:
    """``train.report.json`` for ``train.parquet``."""
    return path.with_suffix(".report.json")


def check_free(path: Path, overwrite: bool) -> None:
    """ValueError if ``path`` exists and may not be written over."""
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists; give --overwrite to replace it, or another place to write to")


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


def source_parser(description: str | None, source: str | None, local_dir: str) -> argparse.ArgumentParser:
    """The options that every script with a source has; ``description`` is the script's docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source",
        default=source,
        help="hub id, or a local folder or file of json, jsonl or parquet (default: %(default)s)",
    )
    parser.add_argument("--local_dir", default=local_dir, help="folder to write to (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    parser.add_argument("--train_start", type=int, default=0, help="first place to take (default: 0)")
    parser.add_argument("--train_end", type=int, default=0, help="place to stop before; 0 = the end (default: 0)")
    parser.add_argument(
        "--first", action="store_true", help="take the range in the split's own order, not from a seeded shuffle"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random sample (default: 0)")
    add_filter_options(parser)
    add_check_option(parser)
    return parser


def add_check_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--check",
        metavar="FILE",
        help="write nothing: validate this parquet for training and print its lengths (needs --tokenizer; shares are "
        "printed for --max_length, default 2048)",
    )


def checked(args: argparse.Namespace) -> bool:
    """Whether ``args`` asked for --check; then it is done."""
    if args.check is None:
        return False
    from check import check_file  # imports verl

    check_file(args.check, args.tokenizer, args.max_length or 2048)
    return True


def prepare(
    args: argparse.Namespace,
    row: RowFunction,
    columns: Sequence[str],
    splits: tuple[str, ...],
    config: str | None = None,
    extra_info: Sequence[str] = (),
    extra_columns: pa.Schema | None = None,
) -> list[Path]:
    """Write ``<local_dir>/<split>.parquet`` for each of ``splits`` as ``args`` (of :func:`source_parser`) says.

    Every split is opened before the first is written, so that a missing one leaves no new file. The filters see the
    training split only: a test set is scored as it is. extra_columns: those that ``row`` adds at the top.
    """
    selection = Selection(args.train_start, args.train_end, args.seed, args.first)
    found = splits_of(args.source, splits)
    trained = splits[0] if len(splits) == 1 else "train" if "train" in found else None
    splits = found
    if trained is None and not selection.whole:
        raise ValueError(f"--train_start and --train_end choose training rows, found none in --source {args.source}")
    paths = {split: Path(args.local_dir).expanduser() / f"{split}.parquet" for split in splits}
    for path in paths.values():
        check_free(path, args.overwrite)
    opened = {split: open_source(args.source, split, columns, config) for split in splits}
    filters = build_filters(args)
    if trained is None and filters:
        raise ValueError(f"filters apply to training rows, found none in --source {args.source}; leave the options out")
    for split, source in opened.items():
        if extra_columns:
            source = source.with_columns(extra_columns)
        chosen, used = (selection, filters) if split == trained else (None, [])
        write_split(source, row, split, paths[split], chosen, extra_info, used, args.overwrite)
    return list(paths.values())


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
