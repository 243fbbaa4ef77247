"""Rows of data files to token ids and a loss mask, tokenised once and kept as flat arrays.

A row of n tokens becomes ``input_ids`` (n,), ``position_ids`` 0 .. n-1 and ``loss_mask`` (n,): 1 where the token is
a target. The first token of a row is never a target, since nothing comes before it.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from verl.dft.data.control_tokens import MARK, ControlTokens
from verl.dft.data.files import Place, columns_of, count_rows, naming, rows_of_files
from verl.dft.data.joining import Joiner, Piece
from verl.dft.data.messages import Conversation, describe, from_json, read_messages
from verl.dft.data.prompts import PromptFormat
from verl.dft.data.rows import TokenizedRows
from verl.dft.data.turns import MODES, Turns, without_opened_thought

TRUNCATIONS = ("right", "left", "drop", "error")
ROWS_AT_A_TIME, CHARACTERS_AT_A_TIME = 1024, 4 << 20  # a fast tokenizer takes some 150 bytes per token while it works

AS_TEMPLATE = "template"  # data.response_end: what the chat template writes around a reply


@dataclass(frozen=True)
class RowFormat:
    """Where a row keeps its text, and how that text becomes tokens.

    Single turn: ``row[prompt_key][k1][k2]...`` is the question (text or chat messages), likewise the response; the
    tokens are ``prompt format + response + response_end``, and all tokens of response and end are targets. Special
    tokens named in question, response or messages are text like any other, see :mod:`verl.dft.data.control_tokens`.
    Multi turn: ``row[messages_key]`` is a conversation, trained as :mod:`verl.dft.data.turns` says, ``train`` being its
    mode. With the response_end ``"template"`` question and response are a conversation of two turns.
    weight_key: a column of a number, which multiplies the loss of all tokens of the row, or of a list of numbers: one
    per message, or, for a row of one reply, one per target token. Null is 1. A token of weight 0 is no target.
    """

    prompt_format: PromptFormat
    response_end: str
    max_length: int
    truncation: str = "right"
    prompt_keys: Sequence[str] = ("question",)
    response_keys: Sequence[str] = ("answer",)
    multiturn: bool = False
    messages_key: str = "messages"
    tools_key: str = "tools"
    enable_thinking_key: str = "enable_thinking"
    train: str = "auto"
    weight_key: str | None = None

    def __post_init__(self) -> None:
        if self.truncation not in TRUNCATIONS:
            raise ValueError(f"expected data.truncation as one of {', '.join(TRUNCATIONS)}; found {self.truncation!r}")
        if self.max_length < 2:
            raise ValueError(f"expected data.max_length of at least 2 tokens; found {self.max_length}")
        if self.train not in MODES:
            raise ValueError(f"expected data.multiturn.train as one of {', '.join(MODES)}; found {self.train!r}")


def columns_read(how: RowFormat) -> set[str]:
    """The columns that are read, where a file has them."""
    texts = {how.messages_key, how.tools_key} if how.multiturn else {how.prompt_keys[0], how.response_keys[0]}
    return texts | {how.enable_thinking_key} | ({how.weight_key} if how.weight_key else set())


@dataclass(frozen=True)
class Example:
    """A training row before it is tokenised. pieces: its text. weights: None, or one per target token."""

    pieces: Sequence[Piece]
    weights: Sequence[float] | None = None


@dataclass
class Report:
    """How many rows came in, what was cut, what was dropped and why, what is odd about others."""

    rows_in: int = 0
    cut: int = 0
    dropped: Counter = field(default_factory=Counter)
    odd: Counter = field(default_factory=Counter)
    split: int = 0
    split_into: int = 0

    def text(self, name: str, rows: TokenizedRows) -> str:
        """The counts in one line that begins with ``name``."""
        lost = "".join(f"; dropped {count} ({why})" for why, count in sorted(self.dropped.items()))
        cut = f"; {self.cut} cut to the maximal length" if self.cut else ""
        odd = "".join(f"; {count} {what}" for what, count in sorted(self.odd.items()))
        if self.split:
            odd += (
                f"; {self.split} conversations trained as {self.split_into} rows, because the template rewrites "
                "earlier turns or data.multiturn.train=each"
            )
        return (
            f"{name}: {self.rows_in} rows in, {len(rows)} kept{cut}{lost}{odd}; "
            f"{len(rows.input_ids)} tokens, {int(rows.loss_mask.sum(dtype=np.int64))} of them targets"
        )


def check_files(files: Sequence[str], columns: Mapping[str, str], flag: str) -> None:
    """Raise ValueError unless each file has rows and ``columns`` (name -> the flag that sets it)."""
    for file in files:
        if not Path(file).is_file():
            raise ValueError(f"{flag}: expected a data file, found nothing at {file}. Prepare the data first.")
        try:
            found = columns_of(file)
        except ValueError as error:
            raise ValueError(f"{flag}: {error}") from error
        for column, name in columns.items():
            if column not in found:
                raise ValueError(
                    f"{flag}: expected the column {column} in {file}; found {', '.join(found)}. Set {name}."
                )


def tokenize_files(
    files: Sequence[str], row_format: RowFormat, tokenizer: Any, name: str, max_rows: int = -1, progress: bool = True
) -> tuple[TokenizedRows, Report]:
    """Tokenise every row of the files, in order. ``max_rows``: only the first N, -1 for all.

    Raises ValueError that names file and row for what is no text, no conversation, or cannot be tokenised as such.
    """
    counts = [count_rows(file) for file in files]
    total = None if None in counts else sum(filter(None, counts))
    limit = None if max_rows < 0 else max_rows
    total = total if limit is None or total is None else min(total, limit)
    report, reader = Report(), _Reader(row_format, tokenizer)
    joiner, found = Joiner(tokenizer), _Arrays()
    leading = [] if row_format.multiturn else row_format.prompt_format.leading_ids(tokenizer)
    with tqdm(total=total, desc=f"tokenising {name}", unit="row", disable=not progress, mininterval=1.0) as bar:
        rows = itertools.islice(rows_of_files(files, columns_read(row_format)), limit)
        for batch in _batches(reader.examples(rows, report, bar)):
            for (place, number, example), (ids, weights) in zip(
                batch, _encode(batch, joiner, leading, report), strict=True
            ):
                with naming(place):
                    weights = _token_weights(example, weights)
                    kept = _fit(ids, weights, row_format, report)
                if kept is not None:
                    found.add(*kept, number)
    if not found.numbers:
        raise ValueError(f"{name}: no row is left to train on. {dict(report.dropped)}")
    return found.rows(), report


class _Growing:
    """A flat array that grows in chunks: Python lists of ints take several times the memory."""

    def __init__(self, dtype: Any) -> None:
        self.dtype, self.chunks, self.pending = dtype, [np.zeros(0, dtype)], []  # type: ignore[var-annotated]

    def extend(self, values: Sequence[float]) -> None:
        self.pending.extend(values)
        if len(self.pending) > 1_000_000:
            self._flush()

    def _flush(self) -> None:
        self.chunks.append(np.asarray(self.pending, dtype=self.dtype))
        self.pending = []

    def array(self) -> np.ndarray:
        self._flush()
        return np.concatenate(self.chunks)


class _Arrays:
    """Rows as they come, for :class:`TokenizedRows`."""

    def __init__(self) -> None:
        self.ids, self.weights = _Growing(np.int32), _Growing(np.float32)
        self.starts, self.numbers = [0], []  # type: ignore[var-annotated]

    def add(self, ids: Sequence[int], weights: Sequence[float], number: int) -> None:
        self.ids.extend(ids)
        self.weights.extend(weights)
        self.starts.append(self.starts[-1] + len(ids))
        self.numbers.append(number)

    def rows(self) -> TokenizedRows:
        weights = self.weights.array()
        mask = (weights != 0).astype(np.uint8)
        plain = np.array_equal(weights, mask)
        starts, numbers = (np.asarray(values, dtype=np.int64) for values in (self.starts, self.numbers))
        return TokenizedRows(self.ids.array(), mask, starts, numbers, weights=None if plain else weights)


Numbered = tuple[Place, int, Example]  # where it stands, the number of its row over all files, and its text


def _batches(examples: Iterable[Numbered]) -> Iterator[list[Numbered]]:
    """Many rows for one call of the tokenizer, few where they are long."""
    batch: list[Numbered] = []
    size = 0
    for numbered in examples:
        batch.append(numbered)
        size += sum(len(text) for text, _ in numbered[2].pieces)
        if len(batch) == ROWS_AT_A_TIME or size >= CHARACTERS_AT_A_TIME:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Reader:
    """Rows of files to pieces of text."""

    def __init__(self, row_format: RowFormat, tokenizer: Any) -> None:
        self.format, self.tokenizer = row_format, tokenizer
        self.control = ControlTokens.of(tokenizer)
        self.turns = Turns(row_format.prompt_format, tokenizer)

    def examples(self, rows: Iterable[tuple[Place, Mapping[str, Any]]], report: Report, bar: Any) -> Iterator[Numbered]:
        """The training rows that each row of the files makes; it is counted in ``report``."""
        for number, (place, row) in enumerate(rows):
            report.rows_in += 1
            bar.update()
            with naming(place):
                made = self._of_row(row, report)
            for example in made:
                if any(MARK in text for text, _ in example.pieces):
                    report.odd["with names of special tokens, read as text"] += 1
                yield place, number, example

    def _of_row(self, row: Mapping[str, Any], report: Report) -> list[Example]:
        how = self.format
        weight = row.get(how.weight_key) if how.weight_key else None
        if not how.multiturn and how.response_end != AS_TEMPLATE:
            return self._single_turn(row, weight, report)
        conversation = self._conversation(row, report)
        if isinstance(weight, Sequence) and not isinstance(weight, str) and len(weight) == len(conversation.weights):
            pairs = zip(conversation.weights, map(_a_weight, weight), strict=True)
            conversation.weights, weight = [own * given for own, given in pairs], None
        made = self.turns.rows(conversation, how.train)
        if not made:
            report.dropped["no message to train: all weights are 0"] += 1
        if len(made) > 1:
            report.split += 1
            report.split_into += len(made)
        for note in (note for example in made for note in example.notes):
            report.odd[note] += 1
        return [_weighted(example.pieces, weight) for example in made]

    def _single_turn(self, row: Mapping[str, Any], weight: Any, report: Report) -> list[Example]:
        how = self.format
        question, response = self._question_and_response(row)
        hide = self.control.hide
        variables = {} if (thinking := _thinking_of(row, how)) is None else {"enable_thinking": thinking}
        prompt = how.prompt_format.render(hide(question), self.tokenizer, **variables)
        if not response.strip():
            report.odd["with an empty response, of which only the end is trained"] += 1
        # The end apart from the response: at inference it is one token, and must not melt into the text before it.
        said = without_opened_thought(prompt, hide(response))
        return [_weighted([(prompt, 0.0), (said, 1.0), (how.response_end, 1.0)], weight)]

    def _question_and_response(self, row: Mapping[str, Any]) -> tuple[Any, str]:
        how = self.format
        question, response = _lookup(row, how.prompt_keys), _lookup(row, how.response_keys)
        if not isinstance(question, str):
            question = read_messages(question, ".".join(how.prompt_keys)).messages
        if not isinstance(response, str):
            raise ValueError(f"expected text in {'.'.join(how.response_keys)}, found {describe(response)}")
        return question, response

    def _conversation(self, row: Mapping[str, Any], report: Report) -> Conversation:
        how = self.format
        if not how.multiturn:
            question, response = self._question_and_response(row)
            asked = [{"role": "user", "content": question}] if isinstance(question, str) else question
            messages = [*asked, {"role": "assistant", "content": response}]
            weights = [0.0] * len(asked) + [1.0]
            return Conversation(messages, weights, enable_thinking=_thinking_of(row, how))
        found = read_messages(_lookup(row, (how.messages_key,)), how.messages_key)
        tools = from_json(row.get(how.tools_key), how.tools_key)
        if tools and (isinstance(tools, str) or not isinstance(tools, Sequence)):
            raise ValueError(f"expected a list of tools in {how.tools_key}, found {describe(tools)}")
        found.tools = [from_json(tool, how.tools_key) for tool in tools] if tools else None
        found.enable_thinking = _thinking_of(row, how)
        return found


def _encode(
    batch: list[Numbered], joiner: Joiner, leading: list[int], report: Report
) -> list[tuple[list[int], list[float]]]:
    """Ids and weights per row. leading: ids that stand before the text of each."""
    try:
        encoded = joiner.rows([example.pieces for _, _, example in batch])
    except ValueError:
        for place, _, example in batch:
            with naming(place):
                joiner.rows([example.pieces])
        raise
    if moved := sum(each[2] for each in encoded):
        report.odd["whose prompt ends inside a token of the whole text, and keeps the ids it has alone"] += moved
    return [(leading + ids, [0.0] * len(leading) + weights) for ids, weights, _ in encoded]


def _thinking_of(row: Mapping[str, Any], how: RowFormat) -> bool | None:
    thinking = row.get(how.enable_thinking_key)
    if thinking is not None and not isinstance(thinking, bool):
        raise ValueError(f"expected true or false in {how.enable_thinking_key}, found {describe(thinking)}")
    return thinking


def _a_weight(value: Any) -> float:
    if value is None or value == "":
        return 1.0
    if isinstance(value, str):  # as all that a table of text holds
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"expected a number in data.weight_key, found {value!r}") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"expected weights of at least 0 in data.weight_key, found {describe(value)}")
    return float(value)


def _weighted(pieces: Sequence[Piece], weight: Any) -> Example:
    """``weight``: null, a number for the row, or a list with one number per target token."""
    if isinstance(weight, Sequence) and not isinstance(weight, str):
        return Example(pieces, [_a_weight(each) for each in weight])
    factor = _a_weight(weight)
    return Example([(text, own * factor) for text, own in pieces])


def _token_weights(example: Example, weights: list[float]) -> list[float]:
    if example.weights is None:
        return weights
    targets = [i for i, weight in enumerate(weights) if weight]
    if len(targets) != len(example.weights):
        raise ValueError(
            f"expected one weight per message or per target token in data.weight_key, {len(targets)} of them here; "
            f"found {len(example.weights)}"
        )
    weights = list(weights)
    for i, weight in zip(targets, example.weights, strict=True):
        weights[i] *= weight
    return weights


def _lookup(row: Mapping[str, Any], keys: Sequence[str]) -> Any:
    value: Any = row
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            found = ", ".join(value) if isinstance(value, Mapping) else describe(value)
            raise ValueError(f"expected {'.'.join(keys)}; {key!r} is not in {found}")
        value = value[key]
    return value


def _fit(
    ids: list[int], weights: list[float], row_format: RowFormat, report: Report
) -> tuple[list[int], list[float]] | None:
    """The row within max_length, or None when it is dropped; either is counted."""
    limit = row_format.max_length
    if len(ids) > limit:
        if row_format.truncation == "error":
            raise ValueError(
                f"the row has {len(ids)} tokens, more than data.max_length={limit}. "
                "Raise it, or set data.truncation to right, left or drop."
            )
        if row_format.truncation == "drop":
            report.dropped[f"longer than {limit} tokens"] += 1
            return None
        report.cut += 1
        span = slice(None, limit) if row_format.truncation == "right" else slice(-limit, None)
        ids, weights = ids[span], weights[span]
    if weights:
        weights = [0.0, *weights[1:]]
    if not any(weights):
        report.dropped["no target token left"] += 1
        return None
    return ids, weights
