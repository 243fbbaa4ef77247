"""Where rows come from: a data set on the Hugging Face hub, or a local folder or file.

``open_source(source, split, columns)`` -> :class:`Source`, for json, jsonl and parquet alike. Rows are read again from
disk at every pass, so memory does not grow with their number (a ``.json`` file that holds one list is the exception:
it is parsed whole).
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

Row = dict[str, Any]
T = TypeVar("T")

SUFFIXES = (".jsonl", ".json", ".parquet")
CHUNK_ROWS, CHUNK_CHARACTERS = 2000, 32_000_000  # the second bounds memory where rows are long

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_SHARD = re.compile(r"-(\d+)-of-(\d+)")


@dataclass(frozen=True)
class Source:
    """One split of one data set.

    name: what was opened, for the report.
    num_rows: how many rows one pass yields.
    other_columns: types of the columns beyond those asked for by name; each can be written to parquet.
    rows: starts a pass. A row may lack a column; that means null.
    notes: what the user should know about how the columns are kept.
    """

    name: str
    num_rows: int
    other_columns: pa.Schema
    rows: Callable[[], Iterator[Row]]
    notes: tuple[str, ...] = ()

    def with_columns(self, columns: pa.Schema) -> "Source":
        """The same rows, to which the caller adds ``columns`` (in place of those of that name)."""
        kept = [column for column in self.other_columns if column.name not in columns.names]
        return replace(self, other_columns=pa.schema([*kept, *columns]))


def open_source(source: str, split: str, columns: Sequence[str], config: str | None = None) -> Source:
    """The rows of ``split``. ``source``: an existing folder or file, else a hub id (then ``config`` may name a subset).

    ``columns`` are the ones the caller will read. ValueError when the source or one of them is not there.
    """
    path = Path(source).expanduser()
    if source and path.exists():
        files = split_files(path, split)
        reader = _open_parquet if files[0].suffix == ".parquet" else _open_json
        more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
        return reader(f"{files[0]}{more}", files, columns)
    if not _HUB_ID.fullmatch(source) or path.suffix in SUFFIXES:
        raise ValueError(
            f"--source {source}: no such file or folder. Expected an existing folder or a {'/'.join(SUFFIXES)} file, "
            "or a hub id like owner/name"
        )
    return _open_hub(source, split, columns, config)


def split_files(path: Path, split: str) -> list[Path]:
    """The files that hold ``split``, sorted: ``path`` itself if it is a file; in a folder, or in ``data/`` below it,
    what there is of ``<split>.*``, else of ``<split>-*``, else below ``<split>/``, that ends in one of SUFFIXES.

    ValueError when there are none, when they are of two formats (the rows would be read twice) and when a shard of
    ``-00000-of-00005`` is missing.
    """
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise ValueError(f"--source {path}: expected a file of {', '.join(SUFFIXES)}; convert it first")
        return [path]
    for base in (path, path / "data"):
        for pattern in (f"{split}.*", f"{split}-*", f"{split}/**/*"):
            files = sorted(file for file in base.glob(pattern) if file.suffix in SUFFIXES and file.is_file())
            # "train.*" also matches train.old.jsonl, which is some other file.
            if pattern == f"{split}.*":
                files = [file for file in files if file.stem == split]
            if files:
                _check_one_complete_set(files, split)
                return files
    found = sorted(str(file.relative_to(path)) for pattern in ("*", "*/*") for file in path.glob(pattern))
    found = [name for name in found if name.endswith(SUFFIXES)]
    listed = ", ".join(found[:5] + [f"{len(found) - 5} more"] * (len(found) > 5)) or "no such file"
    raise ValueError(
        f"--source {path} has no {split!r} split: expected {split}.jsonl, {split}-*.parquet or a folder {split}/ "
        f"(json, jsonl or parquet); found {listed}. Rename the file, or pass the right file or folder as --source"
    )


def splits_of(source: str, splits: tuple[str, ...]) -> tuple[str, ...]:
    """Which of ``splits`` to read from ``source``: all, except that a single file is the one its name begins with."""
    path = Path(source).expanduser()
    if len(splits) == 1 or not path.is_file():
        return splits
    named = tuple(split for split in splits if path.name.startswith(split))
    if not named:
        raise ValueError(
            f"--source {path} is one file, expected its name to begin with {' or '.join(splits)} to tell the split; "
            "rename it, or pass a folder"
        )
    return named


def chunks(
    items: Iterable[T], size: int | None = None, weight: Callable[[T], int] = lambda item: 0
) -> Iterator[list[T]]:
    """Consecutive lists of ``size`` items (CHUNK_ROWS), shorter where their weights reach CHUNK_CHARACTERS."""
    chunk: list[T] = []
    total = 0
    for item in items:
        chunk.append(item)
        total += weight(item)
        if len(chunk) == (size or CHUNK_ROWS) or total >= CHUNK_CHARACTERS:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk


def _check_one_complete_set(files: list[Path], split: str) -> None:
    suffixes = sorted({file.suffix for file in files})
    if len(suffixes) > 1:
        raise ValueError(
            f"{files[0].parent} holds the {split!r} split as {' and '.join(suffixes)}: expected one format, "
            "or the rows would count twice; pass the file to use as --source"
        )
    shards = [match.groups() for file in files if (match := _SHARD.search(file.stem))]
    for total in {total for _, total in shards}:
        present = {number for number, of in shards if of == total}
        if len(present) != int(total):
            raise ValueError(
                f"{files[0].parent} has {len(present)} of the {int(total)} shards of the {split!r} split; "
                "complete the download"
            )


def _require_columns(columns: Sequence[str], found: Iterable[str], where: str) -> None:
    found = list(found)
    if missing := [column for column in columns if column not in found]:
        raise ValueError(
            f"{where}: expected the columns {', '.join(columns)}; {', '.join(missing)} missing, "
            f"found {', '.join(map(str, found)) or 'no columns'}. Rename the columns, or pass the right --source"
        )


def _typed_source(
    name: str, num_rows: int, types: dict[str, pa.DataType | None], rows: Callable[[], Iterator[Row]]
) -> Source:
    """A source with other columns of ``types``; what parquet cannot hold (None: no common type) becomes JSON text."""
    stored = {column: _storable(kind) for column, kind in types.items()}
    as_text = [column for column, kind in stored.items() if kind is None]

    def rows_with_text() -> Iterator[Row]:
        for row in rows():
            texts = {name: json.dumps(row[name], ensure_ascii=False, default=str) for name in as_text if name in row}
            yield row | texts

    schema = pa.schema([(column, pa.string() if kind is None else kind) for column, kind in stored.items()])
    notes = tuple(f"column {column!r} does not fit one type: kept as JSON text" for column in as_text)
    return Source(name, num_rows, schema, rows_with_text if as_text else rows, notes)


def _storable(kind: pa.DataType | None) -> pa.DataType | None:
    """``kind``, with text where only nulls were seen (so that files can be joined); None if parquet cannot hold it."""
    if kind is None:
        return None
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_list(kind):
        inner = _storable(kind.value_type)
        return None if inner is None else pa.list_(inner)
    if pa.types.is_struct(kind):
        fields = [(field.name, _storable(field.type)) for field in kind]
        return pa.struct(fields) if fields and all(inner is not None for _, inner in fields) else None
    return kind


# --- parquet and hub: the types are known beforehand -------------------------------------------------------------


def _open_parquet(name: str, files: list[Path], columns: Sequence[str]) -> Source:
    num_rows, schemas = 0, []
    for file in files:
        with _readable_parquet(file) as parquet:
            num_rows += parquet.metadata.num_rows
            schemas.append(parquet.schema_arrow.remove_metadata())
    try:
        schema = pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueError(f"{name}: expected files of one schema; {error}") from error
    _require_columns(columns, schema.names, name)
    types = {field.name: field.type for field in schema if field.name not in columns}
    return _typed_source(name, num_rows, types, lambda: _parquet_rows(files))


def _readable_parquet(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not a readable parquet file ({error}); fetch or write it again") from error


def _parquet_rows(files: list[Path]) -> Iterator[Row]:
    for file in files:
        with _readable_parquet(file) as parquet:
            try:
                for batch in parquet.iter_batches(batch_size=_batch_rows(parquet)):
                    yield from batch.to_pylist()
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise ValueError(f"{file}: broken parquet data ({error}); fetch or write it again") from error


def _batch_rows(parquet: pq.ParquetFile) -> int:
    """Rows to read at a time: fewer where they are long, so that a batch is of about CHUNK_CHARACTERS."""
    groups = [parquet.metadata.row_group(group) for group in range(parquet.metadata.num_row_groups)]
    longest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    return max(1, min(CHUNK_ROWS, CHUNK_CHARACTERS // max(1, longest)))


def _open_hub(source: str, split: str, columns: Sequence[str], config: str | None) -> Source:
    import datasets  # takes a second to import, and local files do without it

    name = f"{source} (hub, {split} split)"
    try:
        dataset = datasets.load_dataset(source, config, split=split)
    except Exception as error:  # the hub client and its HTTP library raise many unrelated types
        raise ValueError(
            f"cannot load {name}: {type(error).__name__}: {error}. Expected an existing file or folder, or a hub id "
            "that this machine can reach; offline, download the data set elsewhere and pass its folder as --source"
        ) from error
    _require_columns(columns, dataset.column_names, name)
    types = {field.name: field.type for field in dataset.features.arrow_schema if field.name not in columns}
    return _typed_source(name, len(dataset), types, lambda: iter(dataset))


# --- json: the types are found by a first pass --------------------------------------------------------------------


def _open_json(name: str, files: list[Path], columns: Sequence[str]) -> Source:
    num_rows, seen = 0, {}  # seen: column -> type so far, None where its values have no common one
    rows_seen = tqdm(_json_rows(files), desc="finding the columns", unit=" rows", disable=None)
    for rows in chunks(rows_seen):
        num_rows += len(rows)
        for column in dict.fromkeys(column for row in rows for column in row):
            # The columns the caller reads are checked row by row, and bad rows counted: their type may vary.
            if column not in columns:
                seen[column] = _common_type(seen.get(column, pa.null()), [row.get(column) for row in rows])
            else:
                seen.setdefault(column, pa.string())
    _require_columns(columns, seen, name)
    types = {column: kind for column, kind in seen.items() if column not in columns}
    return _typed_source(name, num_rows, types, lambda: _json_rows(files))


def _common_type(kind: pa.DataType | None, values: list[Any]) -> pa.DataType | None:
    if kind is None:
        return None
    try:
        schemas = [pa.schema([("", each)]) for each in (kind, pa.array(values).type)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowException, OverflowError):
        return None


def _json_rows(files: list[Path]) -> Iterator[Row]:
    for file in files:
        if file.suffix == ".json" and not _is_json_lines(file):
            yield from _json_document(file)
            continue
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _as_row(_parse(line.rstrip(), file, number), f"{file}:{number}")


def _is_json_lines(file: Path) -> bool:
    """Whether the first line is an object by itself: many files of JSON lines are called ``.json``."""
    with file.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"")
    try:
        return isinstance(json.loads(first), dict)
    except ValueError:
        return False


def _json_document(file: Path) -> Iterator[Row]:
    document = _parse(file.read_bytes(), file, 1)
    for number, row in enumerate([document] if isinstance(document, dict) else _as_list(document, file), start=1):
        yield _as_row(row, f"{file}, item {number}")


def _parse(raw: bytes, file: Path, line: int) -> Any:
    """The JSON value of ``raw``, which begins at ``line`` of ``file``; ValueError with the line where it is broken."""
    try:
        value = json.loads(raw.decode("utf-8-sig"))
        if b"\\ud" in raw or b"\\uD" in raw:  # an escape of half a character is valid JSON, but no text
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except RecursionError as error:
        raise ValueError(f"{file}:{line}: JSON that is nested too deeply; mend or remove the line") from error
    except json.JSONDecodeError as error:
        line += error.lineno - 1
        raise ValueError(f"{file}:{line}: not valid JSON ({error.msg}); mend or remove the line") from error
    except UnicodeDecodeError as error:
        line += raw.count(b"\n", 0, error.start)
        raise ValueError(f"{file}:{line}: not valid UTF-8 text; convert the file") from error
    except UnicodeEncodeError as error:
        raise ValueError(f"{file}:{line}: a \\u escape of half a character, which is no text; mend the line") from error


def _as_list(document: Any, file: Path) -> list[Any]:
    if not isinstance(document, list):
        raise ValueError(f"{file}: expected a list of objects, found {type(document).__name__}")
    return document


def _as_row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object with one row, found {type(value).__name__}")
    return value
