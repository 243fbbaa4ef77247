"""Rows of data files, and how a question and its gold answer are read out of one.

A reader takes (row, column) and returns a question or a gold answer as it stands in the row; what it cannot read is
None. The questions of tables and choices are worded as in the original harness, so that its scores can be compared.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from verl.math_eval.grading import last_box

Row = Mapping[str, Any]
Reader = Callable[[Row, str], Any]

_OPTION = re.compile(r"\(?([A-J])\s*[).:]\s*(.*)", re.DOTALL)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a jsonl or parquet file, all of them. Errors as :func:`each_row`."""
    return list(each_row(path))


def each_row(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a jsonl or parquet file one by one. Raises ValueError naming the line that is no JSON object."""
    return _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as parquet

    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except ValueError as error:  # pyarrow's errors are ValueErrors that do not name the file
        raise ValueError(f"{path}: expected a parquet file, found {str(error).splitlines()[0]}") from error


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: expected UTF-8, found the byte 0x{line[error.start]:02x}: save it as UTF-8"
                ) from error
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: expected a JSON object, found {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
            yield row


def nested(row: Row, key: str) -> Any:
    """``row[key]``, or for ``a.b`` ``row["a"]["b"]``; None when there is no such entry."""
    if key in row:
        return row[key]
    value: Any = row
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


# Questions


def as_it_stands(row: Row, column: str) -> Any:
    """The column, which may lie below others."""
    return nested(row, column)


def after_body(row: Row, column: str) -> Any:
    """A word problem told in one column and asked in another."""
    body = str(row.get("Body") or row.get("body") or "").strip()
    if body and body[-1] not in ".!?":
        body += "."
    return f"{body} {str(row[column]).strip()}".strip()


def about_table(row: Row, column: str) -> Any:
    """A question about a table that the row holds as text."""
    title = f'regarding "{row["table_title"]}" ' if row.get("table_title") else ""
    question = f"Read the following table {title}and answer a question:\n{row['table']}\n{row[column]}"
    if row.get("choices"):
        question += f" Please select from the following options: {row['choices']}"
    return question


def with_choices(row: Row, column: str) -> Any:
    """A question and its options."""
    return f"{str(row[column]).strip()}\nAnswer Choices: {_listed(row)}"


def with_shuffled_choices(row: Row, column: str) -> Any:
    """GPQA's question with its right and wrong answers in an order of our own, the same in every run: the data set
    gives the right one apart.
    """
    listed = " ".join(f"({letter}) {text}" for letter, text in zip("ABCD", _shuffled(row), strict=True))
    return f"{str(row[column]).strip()}\nAnswer Choices: {listed}"


def shuffled_letter(row: Row, column: str) -> Any:
    """The letter under which :func:`with_shuffled_choices` lists the right answer."""
    return "ABCD"[_shuffled(row).index(str(row[column]).strip())]


def _shuffled(row: Row) -> list[str]:
    keys = ("Correct Answer", *(f"Incorrect Answer {i}" for i in (1, 2, 3)))
    question = str(row["Question"])
    texts = [str(row[key]).strip() for key in keys]
    return sorted(texts, key=lambda text: hashlib.sha256(f"{question}\0{text}".encode()).digest())


def with_chinese_choices(row: Row, column: str) -> Any:
    """A question in Chinese and its options."""
    question = str(row[column]).strip()
    return question if column == "query" else f"{question}\n选项: {_listed(row)}"  # AGIEval's query lists them itself


def _listed(row: Row) -> str:
    """The options of a row as ``(A) first (B) second ...``, from a list, a mapping or one string."""
    options = row.get("options") or row.get("choices")
    if isinstance(options, Mapping):
        return " ".join(f"({letter}) {str(text).strip()}" for letter, text in options.items() if text is not None)
    if isinstance(options, str):  # "A) 15 B) 20 C) 25"
        return re.sub(r"(?:^|\s+)\(?([A-J])\)\s*", r" (\1) ", options.strip()).strip()
    texts = [str(option).strip() for option in options or ()]
    marked = [_OPTION.fullmatch(text) for text in texts]
    if all(m is not None and m.group(1) == letter for m, letter in zip(marked, "ABCDEFGHIJ", strict=False)):
        texts = [m.group(2).strip() for m in marked if m is not None]  # they bring their letters along
    return " ".join(f"({letter}) {text}" for letter, text in zip("ABCDEFGHIJ", texts, strict=False))


# Gold answers


def in_a_box(row: Row, column: str) -> Any:
    r"""The last \boxed of a solution, None where there is none."""
    value = nested(row, column)
    return last_box(value) if isinstance(value, str) else None


def first(row: Row, column: str) -> Any:
    """The first entry of a list."""
    value = row[column]
    return value[0] if isinstance(value, list) and value else value


def after_hashes(row: Row, column: str) -> Any:
    """What follows the last ####."""
    value = nested(row, column)
    return value.rsplit("####", 1)[1] if isinstance(value, str) and "####" in value else None


def boxed(row: Row, column: str) -> Any:
    r"""The last \boxed of a solution; a column named answer holds the answer itself."""
    value = row[column]
    return value if column == "answer" else last_box(value) if isinstance(value, str) else None


def without_dollars(row: Row, column: str) -> Any:
    """A price as a number."""
    return str(row[column]).replace("$", "").strip()


def without_unit(row: Row, column: str) -> Any:
    """``9 (apples)`` is 9."""
    return re.sub(r"\(.*?\)", "", str(row[column])).strip()


def letter(row: Row, column: str) -> Any:
    """A letter, or the index of an option (also as a list of one) as its letter."""
    value = first(row, column)
    return "ABCDEFGHIJ"[value] if isinstance(value, int) and 0 <= value < 10 else value


def letter_or_value(row: Row, column: str) -> Any:
    """The letters of a multiple-choice row, the answer of another one."""
    return row.get("choice_answer") or row[column]
