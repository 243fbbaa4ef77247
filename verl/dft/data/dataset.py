"""Parquet rows to token ids and a loss mask, tokenised once and kept as flat arrays.

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
import pyarrow.parquet as pq
from tqdm import tqdm

from verl.dft.data.control_tokens import MARK, ControlTokens
from verl.dft.data.parquet_rows import Place, naming, rows_of_files
from verl.dft.data.prompts import PromptFormat
from verl.dft.data.rows import TokenizedRows

TRUNCATIONS = ("right", "left", "drop", "error")
ROWS_AT_A_TIME, CHARACTERS_AT_A_TIME = 1024, 4 << 20  # a fast tokenizer takes some 150 bytes per token while it works

Segment = tuple[str, bool]  # a piece of text with its special tokens' names hidden, and whether it is a target


@dataclass(frozen=True)
class RowFormat:
    """Where a row keeps its text, and how that text becomes tokens.

    Single turn: ``row[prompt_key][k1][k2]...`` is the question (text or chat messages), likewise the response; the
    tokens are ``prompt format + response + response_end``, and all tokens of response and end are targets. Special
    tokens named in question, response or messages are text like any other, see :mod:`verl.dft.data.control_tokens`.
    Multi turn: ``row[messages_key]`` is a conversation; what the chat template writes for each assistant turn, up to
    the last non-blank character, is a target.
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

    def __post_init__(self) -> None:
        if self.truncation not in TRUNCATIONS:
            raise ValueError(f"expected data.truncation as one of {', '.join(TRUNCATIONS)}; found {self.truncation!r}")
        if self.max_length < 2:
            raise ValueError(f"expected data.max_length of at least 2 tokens; found {self.max_length}")


@dataclass
class Report:
    """How many rows came in, what was cut, what was dropped and why, what is odd about others."""

    rows_in: int = 0
    cut: int = 0
    dropped: Counter = field(default_factory=Counter)
    odd: Counter = field(default_factory=Counter)

    def text(self, name: str, rows: TokenizedRows) -> str:
        """The counts in one line that begins with ``name``."""
        lost = "".join(f"; dropped {count} ({why})" for why, count in sorted(self.dropped.items()))
        cut = f"; {self.cut} cut to the maximal length" if self.cut else ""
        odd = "".join(f"; {count} {what}" for what, count in sorted(self.odd.items()))
        return (
            f"{name}: {self.rows_in} rows in, {len(rows)} kept{cut}{lost}{odd}; "
            f"{len(rows.input_ids)} tokens, {int(rows.loss_mask.sum(dtype=np.int64))} of them targets"
        )


def check_files(files: Sequence[str], columns: Mapping[str, str], flag: str) -> None:
    """Raise ValueError unless each file is a parquet with rows and with ``columns`` (name -> the flag that sets it)."""
    for file in files:
        if not Path(file).is_file():
            raise ValueError(f"{flag}: expected a parquet file, found nothing at {file}. Prepare the data first.")
        try:
            metadata = pq.ParquetFile(file)
        except Exception as error:
            raise ValueError(f"{flag}: {file} is not a readable parquet file ({str(error).splitlines()[0]})") from error
        if metadata.metadata.num_rows == 0:
            raise ValueError(f"{flag}: expected rows in {file}, found none.")
        found = metadata.schema_arrow.names
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
    total = sum(pq.ParquetFile(file).metadata.num_rows for file in files)
    total = total if max_rows < 0 else min(total, max_rows)
    report = Report()
    ids, masks, starts, numbers = _Growing(np.int32), _Growing(np.uint8), [0], []
    with tqdm(total=total, desc=f"tokenising {name}", unit="row", disable=not progress, mininterval=1.0) as bar:
        for batch in _batches(_segments_of_files(files, row_format, tokenizer, total)):
            for place, row_ids, row_mask in _encode(batch, row_format, tokenizer):
                report.rows_in += 1
                with naming(place):
                    kept = _fit(row_ids, row_mask, row_format, report)
                if kept is not None:
                    ids.extend(kept[0])
                    masks.extend(kept[1])
                    starts.append(starts[-1] + len(kept[0]))
                    numbers.append(report.rows_in - 1)
            for _, segments in batch:
                _note_oddities(segments, row_format, report)
            bar.update(len(batch))
    if len(starts) == 1:
        raise ValueError(f"{name}: no row is left to train on. {dict(report.dropped)}")
    borders, places = (np.asarray(values, dtype=np.int64) for values in (starts, numbers))
    return TokenizedRows(ids.array(), masks.array(), borders, places), report


class _Growing:
    """A flat array that grows in chunks: Python lists of ints take several times the memory."""

    def __init__(self, dtype: Any) -> None:
        self.dtype, self.chunks, self.pending = dtype, [np.zeros(0, dtype)], []  # type: ignore[var-annotated]

    def extend(self, values: Sequence[int]) -> None:
        self.pending.extend(values)
        if len(self.pending) > 1_000_000:
            self._flush()

    def _flush(self) -> None:
        self.chunks.append(np.asarray(self.pending, dtype=self.dtype))
        self.pending = []

    def array(self) -> np.ndarray:
        self._flush()
        return np.concatenate(self.chunks)


def _batches(rows: Iterable[tuple[Place, list[Segment]]]) -> Iterator[list[tuple[Place, list[Segment]]]]:
    """Many rows for one call of the tokenizer, few where they are long."""
    batch: list[tuple[Place, list[Segment]]] = []
    size = 0
    for place, segments in rows:
        batch.append((place, segments))
        size += sum(len(text) for text, _ in segments)
        if len(batch) == ROWS_AT_A_TIME or size >= CHARACTERS_AT_A_TIME:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _segments_of_files(
    files: Sequence[str], row_format: RowFormat, tokenizer: Any, limit: int
) -> Iterator[tuple[Place, list[Segment]]]:
    to_segments = _conversation if row_format.multiturn else _single_turn
    if row_format.multiturn:
        columns = {row_format.messages_key, row_format.tools_key, row_format.enable_thinking_key}
    else:
        columns = {row_format.prompt_keys[0], row_format.response_keys[0]}
    for place, row in itertools.islice(rows_of_files(files, columns), limit):
        with naming(place):
            segments = to_segments(row, row_format, tokenizer)
        yield place, segments


def _single_turn(row: Mapping[str, Any], row_format: RowFormat, tokenizer: Any) -> list[Segment]:
    question = _lookup(row, row_format.prompt_keys)
    response = _lookup(row, row_format.response_keys)
    if not isinstance(question, str):
        _check_messages(question, ".".join(row_format.prompt_keys))
    if not isinstance(response, str):
        raise ValueError(f"expected text in {'.'.join(row_format.response_keys)}, found {_describe(response)}")
    hide = ControlTokens.of(tokenizer).hide
    prompt = row_format.prompt_format.render(hide(question), tokenizer)
    # The end apart from the response: at inference it is one token, and must not melt into the text before it.
    return [(prompt, False), (hide(response), True), (row_format.response_end, True)]


def _conversation(row: Mapping[str, Any], row_format: RowFormat, tokenizer: Any) -> list[Segment]:
    """Pieces of the template's own rendering of the whole conversation, cut at the borders of assistant turns.

    Rendering turn by turn would differ from the native text for templates that look at the turn's place.
    """
    messages, tools = _lookup(row, (row_format.messages_key,)), row.get(row_format.tools_key)
    thinking = row.get(row_format.enable_thinking_key)
    _check_messages(messages, row_format.messages_key)
    if tools and (isinstance(tools, str) or not isinstance(tools, Sequence)):
        raise ValueError(f"expected a list of tools in {row_format.tools_key}, found {_describe(tools)}")
    if thinking is not None and not isinstance(thinking, bool):
        raise ValueError(f"expected true or false in {row_format.enable_thinking_key}, found {_describe(thinking)}")
    hide = ControlTokens.of(tokenizer).hide
    messages = hide(messages)
    extra = {"tools": hide(tools)} if tools else {}
    if thinking is not None:
        extra["enable_thinking"] = thinking

    def render(count: int, **more: Any) -> str:
        return row_format.prompt_format.fill(messages[:count], tokenizer, **extra, **more)

    whole, segments, done = render(len(messages)), [], 0
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = render(turn, add_generation_prompt=True), render(turn + 1)
        if not (whole.startswith(before) and whole.startswith(after) and after.startswith(before)):
            raise ValueError(
                f"the chat template rewrites earlier turns when a conversation goes on (assistant message {turn}), "
                "so no mask can mark what was said. Use a template that only appends."
            )
        end = len(after.rstrip())  # a newline after the end-of-turn token is the template's, never generated
        segments += [(whole[done : len(before)], False), (whole[len(before) : end], True)]
        done = end
    if not segments:
        raise ValueError(f"expected an assistant message in {row_format.messages_key}, found none")
    return [*segments, (whole[done:], False)]


def _check_messages(messages: Any, where: str) -> None:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ValueError(f"expected text or chat messages in {where}, found {_describe(messages)}")
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f"expected messages with role and content in {where}, found {_describe(message)}")
        if not isinstance(message.get("content"), str) and not message.get("tool_calls"):
            raise ValueError(f"expected text as the content of a message in {where}, found {_describe(message)}")


def _lookup(row: Mapping[str, Any], keys: Sequence[str]) -> Any:
    value: Any = row
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            found = ", ".join(value) if isinstance(value, Mapping) else _describe(value)
            raise ValueError(f"expected {'.'.join(keys)}; {key!r} is not in {found}")
        value = value[key]
    return value


def _describe(value: Any) -> str:
    text = repr(value)
    return "null" if value is None else f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _encode(
    batch: list[tuple[Place, list[Segment]]], row_format: RowFormat, tokenizer: Any
) -> Iterator[tuple[Place, list[int], list[int]]]:
    """Ids and mask per row. Segments are tokenised apart, as a prompt and its continuation are at inference."""
    control = ControlTokens.of(tokenizer)
    try:
        encoded = iter(control.encode([text for _, segments in batch for text, _ in segments]))
    except ValueError:
        for place, segments in batch:
            with naming(place):
                control.encode([text for text, _ in segments])
        raise
    bos = [] if row_format.multiturn else row_format.prompt_format.leading_ids(tokenizer)
    for place, segments in batch:
        ids, mask = list(bos), [0] * len(bos)
        for _, is_target in segments:
            piece = next(encoded)
            ids += piece
            mask += [int(is_target)] * len(piece)
        yield place, ids, mask


def _note_oddities(segments: list[Segment], row_format: RowFormat, report: Report) -> None:
    if any(MARK in text for text, _ in segments):
        report.odd["with names of special tokens, read as text"] += 1
    if not row_format.multiturn and not segments[1][0].strip():
        report.odd["with an empty response, of which only the end is trained"] += 1


def _fit(ids: list[int], mask: list[int], row_format: RowFormat, report: Report) -> tuple[list[int], list[int]] | None:
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
        ids, mask = ids[span], mask[span]
    if mask:
        mask = [0, *mask[1:]]
    if not any(mask):
        report.dropped["no target token left"] += 1
        return None
    return ids, mask
