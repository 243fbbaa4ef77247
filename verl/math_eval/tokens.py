"""The tokens of a normalized LaTeX expression, and the values of its numbers."""

import re
from fractions import Fraction

from verl.math_eval.normalize import END, TEXT

MAX_TOKENS = 1_500
MAX_DIGITS = 1_000

_TOKEN = re.compile(
    rf"\s*(?:(?P<repeat>\d*\.\d*\\(?:overline|dot|bar)\s*\{{\d{{1,60}}\}})|(?P<num>\d+(?:\.\d*)?|\.\d+)|(?P<text>{TEXT}[^{END}]*{END})"
    r"|(?P<cmd>\\[a-zA-Z]+)|(?P<letter>[a-zA-Z])|(?P<op>[-+*/^_!|()\[\]{}',]))"
)


class Unreadable(Exception):
    """The text is not an expression that this reader knows."""


def tokens(text: str) -> list[tuple[str, str, int]]:
    """(kind, value, end position) of each token."""
    found, position = [], 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Unreadable(f"unknown sign {text[position : position + 10]!r}")
        kind = str(match.lastgroup)
        found.append((kind, match.group(kind), match.end()))
        position = match.end()
        if len(found) > MAX_TOKENS:
            raise Unreadable("too long")
    return found


def number_value(text: str) -> Fraction:
    """12, 0.5, .5, 5. or 0.1\\overline{6}."""
    if len(text) > MAX_DIGITS:
        raise Unreadable("a number of too many digits")
    if "\\" in text:
        return _repeating(text)
    return Fraction("0" + text if text.startswith(".") else text.rstrip("."))


def _repeating(text: str) -> Fraction:
    """0.1\\overline{6} -> 1/6."""
    whole, rest = text.split(".", 1)
    match = re.fullmatch(r"(\d*)\\[a-z]+\s*\{(\d+)\}", rest)
    assert match is not None, text  # the token's pattern says so
    fixed, period = match.groups()
    head = Fraction(int((whole + fixed) or "0"), 10 ** len(fixed))
    return head + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
