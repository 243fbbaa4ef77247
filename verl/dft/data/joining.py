"""Pieces of one text become the ids of the whole text, and each id belongs to one piece.

A tokenizer that is given a prompt and its response apart may write other tokens than for both together: SentencePiece
kinds put a blank in front of whatever they are given. So a row is tokenised whole, as a template's own rendering is.

The rule for a border that falls inside a token of the whole text: what stands before it keeps the ids that it has
alone, because a model is asked with these, and what follows gets the ids with which it continues a text that it cannot
merge with.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from verl.dft.data.control_tokens import ControlTokens

Piece = tuple[str, float]  # a piece of a row's text with special tokens' names hidden, and the weight of its tokens
Encode = Callable[[str], list[int]]

NEIGHBOURS = ("\n", "a", "1", ".")  # one of them does not merge with a given text
REMEMBERED, LONGEST_REMEMBERED = 4096, 200  # headers of turns come again in every row


class Joiner:
    """``rows(pieces)``: the ids of rows and the weight of each id, by one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.control = ControlTokens.of(tokenizer)
        self.remembered: dict[str, list[int]] = {}
        # A tokenizer cuts a text at these before all else, so that what stands before one changes no id from there on.
        added = getattr(tokenizer, "added_tokens_decoder", {}).items()
        anchors = {
            token.content: index
            for index, token in added
            if token.special and token.content and not (token.lstrip or token.single_word or token.normalized)
        }
        self.anchor_ids = frozenset(anchors.values())
        longest_first = sorted(anchors, key=lambda name: (-len(name), name))
        self.anchor = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def rows(self, rows: Sequence[Sequence[Piece]]) -> list[tuple[list[int], list[float], bool]]:
        """(ids, weights, whether a border fell inside a token) of each row. Raises ValueError as ControlTokens does."""
        texts = ["".join(text for text, _ in row) for row in rows]
        encoded = self.control.encode(texts)
        return [self._settle(row, text, ids, self._encode) for row, text, ids in zip(rows, texts, encoded, strict=True)]

    def _settle(
        self, row: Sequence[Piece], text: str, ids: list[int], encode: Encode
    ) -> tuple[list[int], list[float], bool]:
        anchors = [(found.start(), found.end()) for found in self.anchor.finditer(text)]
        places = [i for i, token in enumerate(ids) if token in self.anchor_ids]
        known = list(zip(anchors, places, strict=True)) if len(anchors) == len(places) else []
        weights: list[float] = []
        border = 0
        for number, (piece, weight) in enumerate(row):
            border += len(piece)
            cut = len(ids) if border == len(text) else self._cut(text, border, ids, known, encode)
            if cut is None:
                head, tail = row[: number + 1], row[number + 1 :]
                left = self._settle(head, text[:border], encode(text[:border]), encode)
                right = self._settle(tail, text[border:], self._continued(text[border:]), self._continued)
                return left[0] + right[0], left[1] + right[1], True
            weights += [weight] * (cut - len(weights))
        return ids, weights, False

    def _cut(self, text: str, border: int, ids: list[int], known: Sequence[Any], encode: Encode) -> int | None:
        """How many of ``ids`` are those of ``text[:border]`` alone; None where the whole text has others."""
        before = []
        for (start, end), place in known:
            if start == border:
                return place
            if end > border:
                break
            before.append((start, place))
        if before:
            start, place = before[-1]
            alone = self._encode(text[start:border])
        else:
            place, alone = 0, encode(text[:border])
        cut = place + len(alone)
        return cut if ids[place:cut] == alone else None

    def _continued(self, text: str) -> list[int]:
        """The ids with which ``text`` goes on behind something that it does not merge with."""
        for neighbour in NEIGHBOURS:
            alone, both = self._encode(neighbour), self._encode(neighbour + text)
            if both[: len(alone)] == alone:
                return both[len(alone) :]
        return self._encode(text)

    def _encode(self, text: str) -> list[int]:
        ids = self.remembered.get(text)
        if ids is None:
            (ids,) = self.control.encode([text])
            if len(text) <= LONGEST_REMEMBERED and len(self.remembered) < REMEMBERED:
                self.remembered[text] = ids
        return ids
