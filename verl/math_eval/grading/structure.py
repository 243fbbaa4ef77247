"""The outer structure of a normalized answer: lists, tuples, sets, intervals, unions, matrices, relations. Pure text
splitting.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from verl.math_eval.grading.brackets import scan
from verl.math_eval.grading.normalize import END, TEXT, key

T = TypeVar("T")

_STEP = re.compile(r"\\begin\{[a-zA-Z]+\*?\}|\\end\{[a-zA-Z]+\*?\}|\\[a-zA-Z]+|\\.|.", re.DOTALL)
_OPEN = frozenset(["(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil"])
_CLOSE = frozenset([")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil"])
_PARTNER = {"(": (")", "]"), "[": ("]", ")"), "\\{": ("\\}",), "\\langle": ("\\rangle",)}
AND_OR = re.compile(rf"{TEXT}\s*,?\s*(?:and|or)\s*,?\s*{END}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])", re.IGNORECASE)
_AND = re.compile(AND_OR.pattern.replace("and|or", "and"), re.IGNORECASE)
_WHERE = re.compile(
    rf"\s*,?\s*(?:{TEXT}\s*)?(?<![a-zA-Z])(?:where|for all|for any|for every|with)(?![a-zA-Z])", re.IGNORECASE
)
RELATIONS = ("=", "<", ">", "\\leq", "\\geq", "\\ne", "\\approx", "\\in", "\\equiv", "\\sim")
_MATRIX = re.compile(
    r"(?P<factor>[^&]*?)\s*\*?\s*(?P<open>[(\[]?)\s*\\begin\{(?P<name>[pbB]?matrix|array|smallmatrix)\}"
    r"(?:\s*\{[lcr| ]*\})?(?P<cells>.*)\\end\{(?P=name)\}\s*[)\]]?\s*(?P<transposed>\^.*)?",
    re.DOTALL,
)
_DETERMINANT = re.compile(
    r"\\begin\{(?P<bars>vmatrix)\}(?P<in_bars>.*?)\\end\{vmatrix\}"
    r"|\|\s*\\begin\{(?P<lines>matrix|array)\}(?:\{[lcr]*\})?(?P<in_lines>.*?)\\end\{(?P=lines)\}\s*\|"
    r"|\\det\s*(?P<open>\(?)\s*\\begin\{(?P<name>[pbB]?matrix)\}(?P<named>.*?)\\end\{(?P=name)\}\s*(?(open)\)?)",
    re.DOTALL,
)
MAX_DETERMINANT = 4
_FACTOR = re.compile(r"-|-?[\w\\{}/*^() ]*[\w})]\s*")
_TRANSPOSED = re.compile(rf"\s*\^\s*\{{\s*(?:{TEXT}\s*)?(?:T|\\top|\\intercal)\s*(?:{END}\s*)?\}}")
_PLUS_MINUS = re.compile(r"\\(p|m)[mp](?![a-zA-Z])")
FLIPPED = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq"}
MAX_ITEMS = 400


@dataclass(frozen=True)
class Bracketed:
    """opening, items, closing of something like (1, 2], \\{a; b\\} or \\langle 1, 2 \\rangle."""

    opening: str
    items: tuple[str, ...]
    closing: str


def steps(text: str) -> list[tuple[str, int, int]]:
    """(token, position, depth before it); the depth counts all brackets, whatever their kind, and environments."""
    return list(scan(text, _STEP, _OPEN, _CLOSE))


def split_top(text: str, separators: frozenset[str]) -> list[str]:
    """Cut at separators outside all brackets; parts keep their order and may be empty."""
    if not any(separator in text for separator in separators):
        return [text]  # most texts: not worth a walk
    parts, start = [], 0
    for token, position, depth in steps(text):
        if depth == 0 and token in separators:
            parts.append(text[start:position])
            start = position + len(token)
    parts.append(text[start:])
    return parts


def split_list(text: str) -> tuple[list[str], bool]:
    """(items of "a, b and c", whether ";" made their order count)."""
    text = re.sub(rf"(?<=\w)\s+(and|or)\s*{END}", rf"{END} \1 ", text, flags=re.IGNORECASE)  # 3 cats and 2 dogs
    text = re.sub(rf",\s*{END}", rf"{END}, ", text)
    text = AND_OR.sub(",", text) if AND_OR.search(text) else text
    ordered = len(split_top(text, frozenset(";"))) > 1
    items = [part.strip() for part in split_top(text, frozenset(",;"))]
    return [item for item in items if item], ordered


def split_and(text: str) -> list[str]:
    """The conditions of "a and b" or "a, b"; "a or b" is one."""
    parts = split_top(_AND.sub(",", text), frozenset(",;"))
    return [part.strip() for part in parts if part.strip()]


def drop_where(text: str) -> str:
    """Without a clause like ", where b is an integer"."""
    match = _WHERE.search(text)
    return text[: match.start()] if match and match.start() > 0 else text


def bracketed(text: str) -> Bracketed | None:
    """The parts of an answer that is one pair of brackets; None for everything else, also for (a+b)(c+d)."""
    text = text.strip()
    if not text.startswith(tuple(_PARTNER)):
        return None
    found = steps(text)
    if len(found) < 2 or found[0][0] not in _PARTNER or found[-1][0] not in _PARTNER[found[0][0]]:
        return None
    if any(depth == 0 for _, _, depth in found[1:-1]) or found[-1][2] != 0:
        return None
    opening, closing = found[0][0], found[-1][0]
    inside = text[len(opening) : len(text) - len(closing)]
    items = tuple(part.strip() for part in split_top(inside, frozenset(",;")))
    return Bracketed(opening, items, closing)


def split_relation(text: str) -> tuple[list[str], list[str]]:
    """(members, relation signs between them) of a chain like 1 < x \\leq 5; no signs: one member."""
    if not any(sign in text for sign in RELATIONS):
        return [text.strip()], []
    members, signs, start = [], [], 0
    for token, position, depth in steps(text):
        if depth == 0 and token in RELATIONS:
            members.append(text[start:position].strip())
            signs.append(token)
            start = position + len(token)
    members.append(text[start:].strip())
    return members, signs


@dataclass(frozen=True)
class Matrix:
    """Rows of cells."""

    rows: list[list[str]]

    @property
    def shape(self) -> list[int]:
        """Cells per row."""
        return [len(row) for row in self.rows]


def matrix(text: str) -> Matrix | None:
    """An answer that is one matrix, perhaps transposed or with a factor in front."""
    match = _MATRIX.fullmatch(text.strip())
    if match is None or "\\begin" in match["cells"] or "\\begin" in match["factor"]:
        return None
    if match["transposed"] and not _TRANSPOSED.fullmatch(match["transposed"]):
        return None
    if match["factor"] and not _FACTOR.fullmatch(match["factor"]):
        return None
    rows = _rows(match["cells"])
    if factor := match["factor"].strip():
        rows = [[f"-({cell})" if factor == "-" else f"({factor})*({cell})" for cell in row] for row in rows]
    if match["transposed"]:
        rows = [list(column) for column in zip(*rows, strict=False)]
    return Matrix(rows)


def _rows(cells: str) -> list[list[str]]:
    lines = [line for line in split_top(cells, frozenset(["\\\\"])) if line.strip()]
    return [[cell.strip() for cell in split_top(line, frozenset("&"))] for line in lines]


def expand_determinants(text: str) -> str:
    """Determinants as the sums they are: |a b; c d| -> ((a)*(d)-(b)*(c)). Larger ones than 4 by 4 stay."""
    return _DETERMINANT.sub(_expanded, text) if "matrix" in text or "array" in text else text


def _expanded(match: re.Match[str]) -> str:
    rows = _rows(match["in_bars"] or match["in_lines"] or match["named"] or "")
    if not 2 <= len(rows) <= MAX_DETERMINANT or any(len(row) != len(rows) for row in rows) or "\\begin" in str(rows):
        return match.group()
    return _determinant(rows)


def _determinant(rows: list[list[str]]) -> str:
    """Along the first row."""
    if len(rows) == 1:
        return f"({rows[0][0]})"
    terms = [
        ("-" if k % 2 else "+") + f"({cell})*" + _determinant([row[:k] + row[k + 1 :] for row in rows[1:]])
        for k, cell in enumerate(rows[0])
    ]
    return f"({''.join(terms).removeprefix('+')})"


def in_form_of(other: Matrix | None, text: str) -> Matrix | None:
    """(1, 2) as the row or column that the other is, [[1, 2], [3, 4]] as a matrix; None for everything else."""
    found = bracketed(row_vector(text))
    if other is None or found is None:
        return None
    lines = [bracketed(item) for item in found.items]
    if all(lines):
        return Matrix([list(line.items) for line in lines if line])
    if len(other.rows) == 1:
        return Matrix([list(found.items)])
    return Matrix([[item] for item in found.items]) if set(other.shape) == {1} else None


def row_vector(text: str) -> str:
    """(1, 2) of (1, 2)^T; other answers as they are."""
    match = re.fullmatch(rf"([(\[].*[)\]]){_TRANSPOSED.pattern}", text, re.DOTALL)
    return match[1] if match else text


def expand_plus_minus(text: str) -> list[str]:
    """1 \\pm 2 -> [1 + 2, 1 - 2]; all signs of one item move together, and \\mp moves the other way."""
    if not _PLUS_MINUS.search(text):
        return [text]
    signs = ({"p": "+", "m": "-"}, {"p": "-", "m": "+"})
    return [_PLUS_MINUS.sub(lambda m, sign=sign: sign[m.group(1)], text) for sign in signs]  # type: ignore[misc]


def is_set(found: Bracketed | None) -> bool:
    """Whether the brackets are those of a set, ``\\{ ... \\}``."""
    return found is not None and found.opening == "\\{"


def partners(mine: Sequence[T], others: Sequence[T], same: Callable[[T, T], bool]) -> bool:
    """Whether every one of mine finds one of the others that no other has."""
    free = list(others)
    for item in mine:
        partner = next((i for i, y in enumerate(free) if same(item, y)), None)
        if partner is None:
            return False
        del free[partner]
    return True


def both_signs(items: Iterable[str]) -> list[str]:
    """Without empty entries, and with both signs of every \\pm."""
    return [one for item in items if item for one in expand_plus_minus(item)]


def members_of(items: list[str], found: Bracketed | None) -> list[str]:
    """The different members of a set, or the items of a list."""
    if found is None or not is_set(found):
        return items
    return list({key(item): item for item in both_signs(found.items)}.values())
