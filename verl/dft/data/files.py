"""Data files of every kind as rows: parquet, arrow, json, jsonl, csv and tsv, plain or as gz and zst.

A source is a file, a glob, a folder of parts, or a folder that ``datasets.save_to_disk`` wrote. Rows are read as a
stream; only a ``.json`` file that holds one list is parsed whole.
"""

import contextlib
import csv
import glob
import io
import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl.dft.data.messages import without_nulls

Place = tuple[str, int]  # a file, and the number of a row in it, from 0

KINDS = (".parquet", ".arrow", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
PACKED = (".gz", ".zst")
ROWS_PER_READ = 128  # rows may be megabytes each
ROWS_LOOKED_AT = 100  # to find the columns of a file that does not say them


@contextlib.contextmanager
def naming(place: Place) -> Iterator[None]:
    """A ValueError raised inside becomes one line that begins with file and row."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place[0]}, row {place[1]}: {' '.join(str(error).split())}") from error


def expand(source: str) -> list[str]:
    """The files of a path or glob, sorted; the path itself where there is nothing, or what is no local one.

    Raises ValueError for a folder without files of one of KINDS, or with several kinds of them.
    """
    if "://" in source:
        return [source]
    path = Path(source).expanduser()
    if path.is_dir():
        return _files_of(path)
    if path.exists() or not any(letter in source for letter in "*?["):
        return [str(path)]
    found = [name for match in sorted(glob.glob(str(path), recursive=True)) for name in expand(match)]
    if not found:
        raise ValueError(f"{source}: no file matches. Prepare the data first, or correct the pattern.")
    return found


def _files_of(folder: Path) -> list[str]:
    if (folder / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(str(inner) for inner in folder.iterdir() if inner.is_dir()))
        raise ValueError(f"{folder} holds several splits of a saved data set. Give one of them: {splits}.")
    if (folder / "state.json").is_file():  # of datasets.save_to_disk, which alone knows which files count
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return [str(folder / entry["filename"]) for entry in state["_data_files"]]
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and kind_of(str(file)) and not any(p.startswith((".", "_")) for p in file.parts[-1:])
    )
    files = [file for file in files if not file.name.endswith(".report.json")]
    kinds = sorted({kind_of(str(file)) for file in files})
    if len(kinds) != 1:
        found = " and ".join(kinds) if kinds else "none"
        raise ValueError(
            f"expected files of one kind ({', '.join(KINDS)}) in the folder {folder}, found {found}. Name the files."
        )
    return [str(file) for file in files]


def kind_of(name: str) -> str:
    """The one of KINDS that the name of a file ends in, ``.gz`` and ``.zst`` aside; "" for others."""
    path = Path(name)
    suffix = Path(path.stem).suffix if path.suffix in PACKED else path.suffix
    return suffix.lower() if suffix.lower() in KINDS else ""


def count_rows(file: str) -> int | None:
    """Rows of a file that says so; None where only reading tells."""
    return pq.ParquetFile(file).metadata.num_rows if kind_of(file) == ".parquet" else None


def columns_of(file: str) -> list[str]:
    """The names of the columns, of the first rows where the file does not say them. Raises ValueError for no file of
    KINDS, a broken one, or one without rows."""
    if not kind_of(file):
        raise ValueError(f"{file}: expected a file that ends in {', '.join(KINDS)} (also .gz, .zst). Convert it.")
    if kind_of(file) == ".parquet":
        try:
            parquet = pq.ParquetFile(file)
        except Exception as error:
            raise ValueError(f"{file} is not a readable parquet file ({str(error).splitlines()[0]})") from error
        if parquet.metadata.num_rows == 0:
            raise ValueError(f"expected rows in {file}, found none.")
        return parquet.schema_arrow.names
    first = [row for _, row in itertools.islice(rows_of_files([file]), ROWS_LOOKED_AT)]
    if not first:
        raise ValueError(f"expected rows in {file}, found none.")
    return list(dict.fromkeys(name for row in first for name in row))


def rows_of_files(
    files: Sequence[str], columns: Collection[str] | None = None
) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Every row of the files, in order, with those of ``columns`` (None: all) that the file has.

    Raises ValueError that names file and row for what cannot be read.
    """
    for file in files:
        kind = kind_of(file)
        if kind in (".parquet", ".arrow"):
            yield from _arrow_rows(file, _parquet_batches if kind == ".parquet" else _ipc_batches, columns)
            continue
        rows = _table_rows(file, "\t" if kind == ".tsv" else ",") if kind in (".csv", ".tsv") else json_rows(file)
        for index, row in enumerate(rows):
            yield (file, index), {name: row[name] for name in row if columns is None or name in columns}


# ---------------------------------------------------------------- parquet and arrow


def _arrow_rows(file: str, batches_of: Any, columns: Collection[str] | None) -> Iterator[tuple[Place, dict[str, Any]]]:
    batches, index = batches_of(file, columns), 0
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file} cannot be read after row {index} ({str(error).splitlines()[0]})") from error
        if batch is None:
            return
        nested = [field.name for field in batch.schema if pa.types.is_nested(field.type)]
        for row in _python_values(batch, (file, index)):
            for name in nested:
                # A null inside a list of objects is what the file made of a key that another row has.
                if isinstance(row[name], list):
                    row[name] = [item if item is None else without_nulls(item) for item in row[name]]
            yield (file, index), row
            index += 1


def _parquet_batches(file: str, columns: Collection[str] | None) -> Iterator[pa.RecordBatch]:
    parquet = pq.ParquetFile(file)
    names = [name for name in parquet.schema_arrow.names if columns is None or name in columns]
    return parquet.iter_batches(batch_size=ROWS_PER_READ, columns=names)


def _ipc_batches(file: str, columns: Collection[str] | None) -> Iterator[pa.RecordBatch]:
    source = pa.memory_map(file)
    try:
        batches: Any = pa.ipc.open_stream(source)
    except pa.ArrowInvalid:
        opened = pa.ipc.open_file(pa.memory_map(file))
        batches = (opened.get_batch(i) for i in range(opened.num_record_batches))
    for batch in batches:
        kept = batch.select([name for name in batch.schema.names if columns is None or name in columns])
        for start in range(0, kept.num_rows, ROWS_PER_READ):
            yield kept.slice(start, ROWS_PER_READ)


def _python_values(batch: pa.RecordBatch, first: Place) -> list[dict[str, Any]]:
    """Arrow checks nothing when it reads: that a text is no UTF-8, or a date none of Python's, is found here."""
    try:
        return batch.to_pylist()
    except Exception:
        for i in range(batch.num_rows):
            try:
                batch.slice(i, 1).to_pylist()
            except Exception as error:
                with naming((first[0], first[1] + i)):
                    raise ValueError(f"the row cannot be read ({type(error).__name__}: {error})") from error
        raise


# ---------------------------------------------------------------- text


@contextlib.contextmanager
def _opened(file: str) -> Iterator[io.BufferedReader]:
    """The bytes of a file, unpacked. Raises ValueError for what cannot be unpacked."""
    packing = {".gz": "gzip", ".zst": "zstd"}.get(Path(file).suffix)
    try:
        with pa.input_stream(file, compression=packing) as stream, io.BufferedReader(stream) as reader:
            yield reader
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read ({str(error).splitlines()[0]}); fetch or write it again") from error


def _table_rows(file: str, delimiter: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(1 << 30)
    with _opened(file) as stream:
        try:
            lines = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""), delimiter=delimiter)
            header = next(lines, [])
            if len(set(header)) != len(header):
                raise ValueError(f"{file}: expected a first line with names of columns, each once; found {header}")
            for fields in lines:
                if not fields:
                    continue
                if len(fields) != len(header):
                    raise ValueError(
                        f"{file}:{lines.line_num}: expected {len(header)} fields as in the first line, found "
                        f"{len(fields)}; mend the line"
                    )
                yield dict(zip(header, fields, strict=True))
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: not valid UTF-8 text; convert the file") from error
        except csv.Error as error:
            raise ValueError(f"{file}: not readable as a table ({error})") from error


def json_rows(file: str) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines, or of one list; which of them a ``.json`` file is, its first line says."""
    if kind_of(file) == ".json" and not _is_json_lines(file):
        with _opened(file) as stream:
            document = _parse(stream.read(), file, 1)
        yield from _rows_of_document(document, file)
        return
    with _opened(file) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield _as_row(_parse(line.rstrip(), file, number), f"{file}:{number}")


def _is_json_lines(file: str) -> bool:
    """Whether the first line is an object by itself: many files of JSON lines are called ``.json``."""
    with _opened(file) as stream:
        first = next((line for line in stream if line.strip()), b"")
    try:
        return isinstance(json.loads(first), dict)
    except ValueError:
        return False


def _rows_of_document(document: Any, file: str) -> Iterator[dict[str, Any]]:
    rows = [document] if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise ValueError(f"{file}: expected a list of objects, found {type(document).__name__}")
    for number, row in enumerate(rows, start=1):
        yield _as_row(row, f"{file}, item {number}")


def _parse(raw: bytes, file: str, line: int) -> Any:
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


def _as_row(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object with one row, found {type(value).__name__}")
    return value
