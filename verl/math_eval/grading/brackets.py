"""Where brackets open and close. One scanner; what looks for a partner or counts a depth asks it."""

import re
from collections.abc import Collection, Iterator

_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)  # a backslash takes the next character with it
_PARENTHESES = re.compile(r"[()]")
_BRACKETS = re.compile(r"[()\[\]{}]")


def scan(
    text: str, tokens: re.Pattern[str], opening: Collection[str], closing: Collection[str], start: int = 0
) -> Iterator[tuple[str, int, int]]:
    """(token, position, depth outside it) of every match of ``tokens`` from ``start`` on.

    A bracket and its partner have the same depth. The kinds are not told apart: "(" may end with "]". A closing
    bracket too many makes the depth negative; ``\\begin{...}`` and ``\\end{...}`` count as brackets.
    """
    depth = 0
    for match in tokens.finditer(text, start):
        token = match.group()
        if token in closing or token.startswith("\\end{"):
            depth -= 1
        yield token, match.start(), depth
        if token in opening or token.startswith("\\begin{"):
            depth += 1


def nesting(text: str) -> int:
    """The most brackets open at one place."""
    return max([0, *(depth + 1 for token, _, depth in scan(text, _BRACKETS, "([{", ")]}") if token in "([{")])


def braced(text: str, start: int) -> tuple[str, int]:
    """(content of the group that opens at ``start``, position after it); an unclosed group goes to the end."""
    close = _partner(text, start, _BRACES, "{", "}")
    return (text[start + 1 :], len(text)) if close is None else (text[start + 1 : close], close + 1)


def closing_parenthesis(text: str, start: int) -> int | None:
    """Position of the ")" of the "(" at ``start``."""
    return _partner(text, start, _PARENTHESES, "(", ")")


def matching_braces(text: str) -> dict[int, int]:
    """Position of each "{" -> position of its "}"; those without a partner are left out."""
    closes: dict[int, int] = {}
    opened: dict[int, int] = {}  # depth -> position
    for token, position, depth in scan(text, _BRACES, "{", "}"):
        if token == "{":
            opened[depth] = position
        elif token == "}" and depth in opened:
            closes[opened.pop(depth)] = position
    return closes


def _partner(text: str, start: int, tokens: re.Pattern[str], opening: str, closing: str) -> int | None:
    found = scan(text, tokens, opening, closing, start)
    return next((position for token, position, depth in found if token == closing and depth == 0), None)
