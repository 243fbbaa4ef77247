"""log p of the target tokens under a reference model, kept in a column of the data beside the text.

``python -m verl.dft.score`` writes the column, the trainer reads it (``objective.reference_key``), and no reference has
to be run while training. A row's entry is ``{"log_probs": [...], "tokens": ...}``: one number per target token, in
order, and a checksum of the tokens that were scored, so that numbers of other tokens are never taken for these.
"""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from verl.dft.data.files import Place, naming, rows_of_files
from verl.dft.data.rows import TokenizedRows

ENTRY = pa.struct([("log_probs", pa.list_(pa.float32())), ("tokens", pa.int64())])


def checksum(rows: TokenizedRows, index: int) -> int:
    """Of the ids and the mask of a row."""
    span = slice(rows.starts[index], rows.starts[index + 1])
    ids, mask = rows.input_ids[span].astype("<i4"), rows.loss_mask[span].astype(np.uint8)
    return zlib.crc32(mask.tobytes(), zlib.crc32(ids.tobytes()))


def check_one_each(rows: TokenizedRows) -> None:
    """Raises ValueError where a row of the files makes several training rows: its entry could not say of which."""
    if (np.diff(rows.numbers) == 0).any():
        raise ValueError(
            "the chat template makes several training rows of a conversation, and a column of log p knows one. Use a "
            "template that only appends, data.multiturn.train=last, or no objective.reference_key."
        )


def entry(rows: TokenizedRows, index: int, log_probs: np.ndarray) -> dict[str, Any]:
    """What the column holds for row ``index`` of ``rows``. log_probs: ``(targets of the row,)``."""
    return {"log_probs": log_probs.astype(np.float32), "tokens": checksum(rows, index)}


def read_reference_log_probs(files: Sequence[str], key: str, rows: TokenizedRows) -> np.ndarray:
    """``(T,)`` float32 for the tokens of ``rows``, which were made of ``files``: 0 where a token is no target.

    Raises ValueError that names file and row for an entry that is missing, or that is not of these tokens.
    """
    check_one_each(rows)
    found = np.zeros(len(rows.input_ids), dtype=np.float32)
    for place, index, value in _entries(files, key, rows):
        targets = rows.starts[index] + np.flatnonzero(rows.loss_mask[rows.starts[index] : rows.starts[index + 1]])
        with naming(place):
            found[targets] = _checked(value, checksum(rows, index), len(targets), key)
    return found


def _entries(files: Sequence[str], key: str, rows: TokenizedRows) -> Iterator[tuple[Place, int, Any]]:
    """(place, index in ``rows``, entry) of each row that was kept."""
    kept = iter(enumerate(rows.numbers.tolist()))
    index, number = next(kept, (0, -1))
    for count, (place, row) in enumerate(rows_of_files(files, {key})):
        if count != number:
            continue
        yield place, index, row[key]
        index, number = next(kept, (0, -1))
        if number < 0:
            return


def _checked(value: Any, tokens: int, targets: int, key: str) -> np.ndarray:
    if not isinstance(value, dict) or not {"log_probs", "tokens"} <= value.keys() or value["log_probs"] is None:
        raise ValueError(
            f"expected {key} to hold log_probs and tokens as python -m verl.dft.score writes them, found "
            f"{'null' if value is None else type(value).__name__}. Score the file"
        )
    if value["tokens"] != tokens or len(value["log_probs"]) != targets:
        raise ValueError(
            f"expected {key} to hold log p of the {targets} tokens that are trained here, found those of "
            f"{len(value['log_probs'])} others. Score the file again with this tokenizer, template, max_length and keys"
        )
    log_probs = np.asarray(value["log_probs"], dtype=np.float32)
    if not np.isfinite(log_probs).all() or (log_probs > 1e-3).any():
        raise ValueError(f"expected finite log p of at most 0 in {key}, found {log_probs[~(log_probs <= 1e-3)][:1]}")
    return log_probs
