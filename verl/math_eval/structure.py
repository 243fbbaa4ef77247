"""The outer structure of a normalized answer: lists, tuples, sets, intervals, unions, matrices, relations. Pure text
splitting.
"""

import re
from dataclasses import dataclass

from verl.math_eval.normalize import END, TEXT

_STEP = re.compile(r"\\begin\{[a-zA-Z]+\*?\}|\\end\{[a-zA-Z]+\*?\}|\\[a-zA-Z]+|\\.|.", re.DOTALL)
_OPEN = frozenset(["(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil"])
_CLOSE = frozenset([")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil"])
_PARTNER = {"(": (")", "]"), "[": ("]", ")"), "\\{": ("\\}",), "\\langle": ("\\rangle",)}
_AND = re.compile(rf"{TEXT}\s*,?\s*(?:and|or)\s*,?\s*{END}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])", re.IGNORECASE)
_WHERE = re.compile(
    rf"\s*,?\s*(?:{TEXT}\s*)?(?<![a-zA-Z])(?:where|for all|for any|for every|with)(?![a-zA-Z])", re.IGNORECASE
)
RELATIONS = ("=", "<", ">", "\\leq", "\\geq", "\\ne", "\\approx", "\\in", "\\equiv", "\\sim")
_MATRIX = re.compile(r"\\begin\{([pbvBV]?matrix|array|smallmatrix)\}(?:\s*\{[lcr| ]*\})?(.*)\\end\{\1\}", re.DOTALL)
_PLUS_MINUS = re.compile(r"\\(p|m)[mp](?![a-zA-Z])")
MAX_ITEMS = 100


@dataclass(frozen=True)
class Bracketed:
    """opening, items, closing of something like (1, 2], \\{a; b\\} or \\langle 1, 2 \\rangle."""

    opening: str
    items: tuple[str, ...]
    closing: str


def steps(text: str) -> list[tuple[str, int, int]]:
    """(token, position, depth before it); the depth counts all brackets, whatever their kind, and environments."""
    found, depth = [], 0
    for match in _STEP.finditer(text):
        token = match.group()
        if token in _CLOSE or token.startswith("\\end{"):
            depth -= 1
        found.append((token, match.start(), depth))
        if token in _OPEN or token.startswith("\\begin{"):
            depth += 1
    return found


def split_top(text: str, separators: frozenset[str]) -> list[str]:
    """Cut at separators outside all brackets; parts keep their order and may be empty."""
    parts, start = [], 0
    for token, position, depth in steps(text):
        if depth == 0 and token in separators:
            parts.append(text[start:position])
            start = position + len(token)
    parts.append(text[start:])
    return parts


def split_list(text: str) -> tuple[list[str], bool]:
    """(items of "a, b and c", whether ";" made their order count)."""
    text = _AND.sub(",", text) if _AND.search(text) else text
    ordered = len(split_top(text, frozenset(";"))) > 1
    items = [part.strip() for part in split_top(text, frozenset(",;"))]
    return [item for item in items if item], ordered


def drop_where(text: str) -> str:
    """Without a clause like ", where b is an integer"."""
    match = _WHERE.search(text)
    return text[: match.start()] if match and match.start() > 0 else text


def bracketed(text: str) -> Bracketed | None:
    """The parts of an answer that is one pair of brackets; None for everything else, also for (a+b)(c+d)."""
    text = text.strip()
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
    members, signs, start = [], [], 0
    for token, position, depth in steps(text):
        if depth == 0 and token in RELATIONS:
            members.append(text[start:position].strip())
            signs.append(token)
            start = position + len(token)
    members.append(text[start:].strip())
    return members, signs


def matrix(text: str) -> tuple[str, list[list[str]]] | None:
    """(kind, rows of cells) of an answer that is one matrix."""
    match = _MATRIX.fullmatch(text.strip())
    if match is None or "\\begin" in match.group(2):
        return None
    rows = [row for row in split_top(match.group(2), frozenset(["\\\\"])) if row.strip()]
    kind = "determinant" if match.group(1) in ("vmatrix", "Vmatrix") else "matrix"
    return kind, [[cell.strip() for cell in split_top(row, frozenset("&"))] for row in rows]


def expand_plus_minus(text: str) -> list[str]:
    """1 \\pm 2 -> [1 + 2, 1 - 2]; all signs of one item move together, and \\mp moves the other way."""
    if not _PLUS_MINUS.search(text):
        return [text]
    signs = ({"p": "+", "m": "-"}, {"p": "-", "m": "+"})
    return [_PLUS_MINUS.sub(lambda m, sign=sign: sign[m.group(1)], text) for sign in signs]  # type: ignore[misc]


FLIPPED = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq"}
_SET_BUILDER = re.compile(r"\\\{\s*(?:[a-zA-Z]|\\[a-zA-Z]+)\s*(?:\\in\s*\\mathbb\{R\})?\s*[|:]\s*(.*)\\\}", re.DOTALL)
_MEMBER = re.compile(r"(?:[a-zA-Z]|\\[a-zA-Z]+)\s*\\in\s*(?=[(\[\\])")
_VARIABLE = re.compile(r"(?:[a-zA-Z]|\\[a-zA-Z]+)\s*(?:_\{\w+\})?\s*")


def without_member(text: str) -> str:
    """S of "x \\in S", and the condition of "{x | condition}"; other answers as they are."""
    if builder := _SET_BUILDER.fullmatch(text):
        return builder.group(1).strip()
    member = _MEMBER.match(text)
    return text[member.end() :] if member else text


def as_interval(text: str) -> Bracketed | None:
    """x > 5, 1 < x \\leq 2 or [1, 2) as brackets with two ends; None for everything else."""
    if re.fullmatch(r"\s*\\mathbb\{R\}\s*", text):
        return Bracketed("(", ("-\\infty", "\\infty"), ")")
    members, signs = split_relation(text)
    if not signs:
        found = bracketed(text)
        return found if found and len(found.items) == 2 and found.opening in "([" and found.closing in ")]" else None
    if not all(sign in FLIPPED for sign in signs) or len(signs) > 2:
        return None
    if len(signs) == 1:
        left, right, sign = members[0], members[1], signs[0]
        if not _VARIABLE.fullmatch(left):
            left, right, sign = right, left, FLIPPED[sign]
        if not _VARIABLE.fullmatch(left) or _VARIABLE.fullmatch(right):
            return None
        closed = sign in ("\\leq", "\\geq")
        if sign in (">", "\\geq"):
            return Bracketed("[" if closed else "(", (right, "\\infty"), ")")
        return Bracketed("(", ("-\\infty", right), "]" if closed else ")")
    if not _VARIABLE.fullmatch(members[1]):
        return None
    if all(sign in (">", "\\geq") for sign in signs):
        members, signs = members[::-1], [FLIPPED[s] for s in signs[::-1]]
    if not all(sign in ("<", "\\leq") for sign in signs):
        return None
    return Bracketed("[" if signs[0] == "\\leq" else "(", (members[0], members[2]), "]" if signs[1] == "\\leq" else ")")


def as_region(text: str) -> list[Bracketed] | None:
    """A union of intervals, single points and inequalities, as parts; None when a part is something else."""
    text = without_member(text.strip())
    listed, _ = split_list(text)
    if len(listed) > 1 and all(split_relation(item)[1] for item in listed):
        text = " \\cup ".join(listed)
    parts = split_top(_AND.sub("\\\\cup ", text), frozenset(["\\cup"]))
    region: list[Bracketed] = []
    for part in (p.strip() for p in parts):
        found = as_interval(part)
        if found is None:
            points = bracketed(part)
            if points is None or points.opening != "\\{":
                return None
            region += [Bracketed("[", (point, point), "]") for point in points.items]
        else:
            region.append(found)
    return region
