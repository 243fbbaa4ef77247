"""Rows of parquet files as Python values, with the place of each, which every complaint about a row names."""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_READ = 128  # rows may be megabytes each

Place = tuple[str, int]  # a file, and the number of a row in it, from 0


@contextlib.contextmanager
def naming(place: Place) -> Iterator[None]:
    """A ValueError raised inside becomes one line that begins with file and row."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place[0]}, row {place[1]}: {' '.join(str(error).split())}") from error


def rows_of_files(files: Sequence[str], columns: Collection[str]) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Every row of the files, in order, with those of ``columns`` that the file has.

    Raises ValueError that names file and row for what cannot be read.
    """
    for file in files:
        parquet = pq.ParquetFile(file)
        names = [name for name in parquet.schema_arrow.names if name in columns]
        batches, index = parquet.iter_batches(batch_size=ROWS_PER_READ, columns=names), 0
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{file} cannot be read after row {index} ({str(error).splitlines()[0]})") from error
            if batch is None:
                break
            for row in _python_values(batch, (file, index)):
                yield (file, index), row
                index += 1


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
