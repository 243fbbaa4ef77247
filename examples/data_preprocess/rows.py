"""One row of a training parquet: its columns, its texts, and why a source row may not become one.

The columns are stable; columns of the source that no one reads are kept beside them:

    data_source   string                          name of the data set
    prompt        list<{role, content}>           chat messages: the question with the instruction
    ability       string                          "math"
    reward_model  {style, ground_truth}           "rule", and the final answer as text or null
    extra_info    {split, index, question, answer}  raw question and response text; index = row number in the source

DFT as in the paper trains on ``extra_info.question`` and ``extra_info.answer``. Conversations of several turns have
them null, and a column ``messages`` instead.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from sources import Row

INSTRUCTION = "Let's think step by step and output the final answer within \\boxed{}."
LONGEST_TEXT = 1_000_000  # characters; some 250,000 tokens, beyond any context that is trained here

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BRACE_OR_ESCAPE = re.compile(r"\\.|[{}]", re.DOTALL)
_BARE_ARGUMENT = re.compile(r"(-?\d+(?:[.,]\d+)*|[A-Z])(?=\s|[$.,;]|\\[)\]]|$)")

MESSAGES_TYPE = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


class DropRow(Exception):
    """Raised by a row function: this row cannot be used. Drops are counted by the message, which is the reason."""


def require_text(example: Mapping[str, Any], column: str) -> str:
    """``example[column]``, which must be text with something in it, of at most LONGEST_TEXT characters; else DropRow.

    ``column`` may reach into structures with dots: ``extra_info.question``.
    """
    value = nested(example, column)
    if value is None:
        raise DropRow(f"{column} is null")
    if not isinstance(value, str):
        raise DropRow(f"{column} is {type(value).__name__}, not text")
    if not value.strip():
        raise DropRow(f"{column} is empty")
    if len(value) > LONGEST_TEXT:
        raise DropRow(f"{column} is longer than {LONGEST_TEXT:,} characters")
    return value


def nested(example: Mapping[str, Any], column: str) -> Any:
    """``example[column]``, or for ``a.b`` ``example["a"]["b"]``; None where there is no such entry."""
    if column in example:
        return example[column]
    value: Any = example
    for part in column.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
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


def row_texts(row: Row) -> tuple[str, str]:
    """What is asked and what is trained in a training row: for a conversation, all user and all assistant turns."""
    info = row["extra_info"]
    if info["question"] is not None:
        return info["question"], info["answer"]
    return tuple(
        "\n".join(message["content"] for message in row["messages"] if message["role"] == role)
        for role in ("user", "assistant")
    )  # type: ignore[return-value]


def training_schema(other_columns: pa.Schema, extra_info: Sequence[str] = ()) -> tuple[pa.Schema, list[str]]:
    """The types of a training parquet that keeps ``other_columns``, and the names of those it replaces with a column of
    its own."""
    text = pa.string()
    own = [
        ("data_source", text),
        ("prompt", MESSAGES_TYPE),
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
