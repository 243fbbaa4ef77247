"""Vectors and matrices that are written as sums: 3i - j, and the sum or product of matrices."""

import re

from verl.math_eval.grading.structure import MAX_ITEMS, Matrix, matrix, steps

MAX_FACTORS = 6
MAX_SIDE = 6  # rows and columns of a matrix in a product
UNITS = "ijk"
_UNIT_TERM = re.compile(
    r"(?P<sign>[-+]?)\s*(?P<before>[^ijk]*?)\s*\*?\s*(?<![a-zA-Z\\])(?P<unit>[ijk])(?![a-zA-Z_^])\s*(?P<after>/\s*\d+)?"
)
_MATRIX_START = re.compile(r"[(\[]?\s*\\begin\{[pbB]?(?:small)?(?:matrix|array)\}")
_MATRIX_PART = re.compile(
    r"\\begin\{(?P<name>[pbB]?matrix|array|smallmatrix)\}.*?\\end\{(?P=name)\}(?:\s*\^\s*\{\s*(?:T|\\top|\d)\s*\})?",
    re.DOTALL,
)


def unit_vector(text: str, dimensions: int) -> list[str] | None:
    """The coordinates of "3i - j + 2k"; None for what is no sum of unit vectors, or has one too many for the
    dimensions.
    """
    if dimensions not in (2, 3) or len(text) > 200:
        return None
    found: dict[str, str] = {}
    for term in terms(text):
        match = _UNIT_TERM.fullmatch(term.strip())
        if match is None or match["unit"] in found:
            return None
        amount = match["before"].strip() or "1"
        found[match["unit"]] = f"{match['sign']}({amount}){match['after'] or ''}"
    if not found or "k" in found and dimensions == 2 or set(found) == {"i"}:
        return None
    return [found.get(unit, "0") for unit in UNITS[:dimensions]]


def terms(text: str) -> list[str]:
    """The terms of a sum, each with its sign."""
    found, start, last = [], 0, ""
    for token, position, depth in steps(text):
        if depth == 0 and token in "+-" and last not in ("", "+", "-", "*", "/"):
            found.append(text[start:position])
            start = position
        last = token.strip() or last
    found.append(text[start:])
    return [term for term in found if term.strip()]


def combined(text: str) -> Matrix | None:
    """The matrix that a sum or a product of matrices is, with its cells written out; None for everything else."""
    if len(_MATRIX_START.findall(text)) < 2 or "=" in text:
        return None
    total: Matrix | None = None
    for term in terms(text):
        value = _product(term)
        if value is None:
            return None
        total = value if total is None else _sum(total, value)
        if total is None:
            return None
    return total


def _product(term: str) -> Matrix | None:
    sign = "-" if term.lstrip().startswith("-") else ""
    factors = _factors(term.strip().lstrip("+-"))
    if not 0 < len(factors) <= MAX_FACTORS:
        return None
    scalars = [f"({factor})" for factor in factors if isinstance(factor, str)]
    matrices = [factor for factor in factors if isinstance(factor, Matrix)]
    if not matrices:
        return None
    product = matrices[0]
    for other in matrices[1:]:
        rows, columns = product.rows, list(zip(*other.rows, strict=False))
        if len({*product.shape, len(other.rows)}) != 1 or max(len(rows), len(columns), len(other.rows)) > MAX_SIDE:
            return None
        product = Matrix(
            [["+".join(f"({x})*({y})" for x, y in zip(row, column, strict=True)) for column in columns] for row in rows]
        )
    scale = "*".join([f"({sign}1)", *scalars])
    return Matrix([[f"{scale}*({cell})" for cell in row] for row in product.rows])


def _factors(term: str) -> list[str | Matrix]:
    found: list[str | Matrix] = []
    position = 0
    for match in _MATRIX_PART.finditer(term):
        before = term[position : match.start()].strip(" *")
        if before:
            found.append(before)
        value = matrix(match.group())
        if value is None:
            return []
        found.append(value)
        position = match.end()
    if rest := term[position:].strip(" *"):
        found.append(rest)
    return found


def _sum(a: Matrix, b: Matrix) -> Matrix | None:
    if a.shape != b.shape or len(a.rows) * len(a.rows[0]) > MAX_ITEMS:
        return None
    return Matrix(
        [[f"{x}+{y}" for x, y in zip(mine, other, strict=True)] for mine, other in zip(a.rows, b.rows, strict=True)]
    )
