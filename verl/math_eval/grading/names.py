"""Names in front of "=" and their values: x = 2, f(x) = x^2, (x, y) = (1, 2), k \\in \\mathbb{Z}."""

import re
from dataclasses import dataclass

from verl.math_eval.grading.normalize import END, TEXT
from verl.math_eval.grading.structure import bracketed, split_relation
from verl.math_eval.grading.values.evaluate import symbols
from verl.math_eval.grading.values.expression import Unreadable, read

_BIG_OPERATOR = re.compile(r"\\(?:lim|sum|prod|int|iint|oint)(?![a-zA-Z])")
_SYMBOL = rf"(?:\\?[a-zA-Z]+|\\(?:hat|bar|vec|overline|dot|widehat)\{{[^{{}}]*\}}|{TEXT}[^{END}]*{END})"
_NAME = re.compile(
    rf"(?:m\s*)?(?:\\(?:angle|triangle|Delta)\s*)?{_SYMBOL}(?:\s*(?:_\{{[^{{}}]*\}}|_\\[a-zA-Z]+|'|\^\{{'+\}}|[A-Z]|{TEXT}[^{END}]*{END}))*"
    r"\s*(?:\(\s*[a-zA-Z0-9,\s\\]*\))?|(?:[PE]|\\Pr)\s*[(\[][^()\[\]]*[)\]]|\|\s*[A-Z]{2}\s*\||\[[A-Z]{3,6}\]"
    r"|[A-Z]\s*\^\{(?:-1|T|\\top)\}|[a-zA-Z]\s*\^\{-1\}\s*\([a-z]\)"
)
_SEGMENTS = re.compile(r"\\frac\{\s*[A-Z]{2}\s*\}\{\s*[A-Z]{2}\s*\}|[A-Z]{2}\s*/\s*[A-Z]{2}|[A-Z]{2}\s*\^\{2\}")
_NAMES = re.compile(
    r"(?:[(\[]|\\\{|\\langle)?\s*(?:\\?[a-zA-Z]+(?:_\{\w+\})?)(?:\s*,\s*\\?[a-zA-Z]+(?:_\{\w+\})?)+\s*(?:[)\]]|\\\}|\\rangle)?"
)
_DOMAIN = re.compile(r"(.+?)\s*[,;(]\s*([a-zA-Z])\s*\\in\s*\\mathbb\{([A-Z])\}\s*\)?", re.DOTALL)
_FUNCTION = re.compile(r"\s*(\\?[a-zA-Z]+(?:_\{\w+\})?)\s*\(\s*([a-zA-Z])\s*\)\s*")


def is_name(text: str) -> bool:
    """x, x_1, f(x), m_{\\max}, \\angle ABC, (x, y): what may stand in front of "=" and be left out."""
    return text.strip() != "\\pi" and bool(_NAME.fullmatch(text) or _NAMES.fullmatch(text) or _is_symbol(text))


def _is_symbol(text: str) -> bool:
    try:
        return read(text)[0][0] == "sym"
    except Unreadable:
        return False


def is_asked_for(text: str) -> bool:
    """a + b, \\sin\\theta, \\sum_k k: what a problem can ask the value of, where that is no name.

    Not 2x or x^2: their values are steps on the way to x.
    """
    if _BIG_OPERATOR.match(text):
        return True
    try:
        tree, _ = read(text)
    except Unreadable:
        return False
    return len(symbols(tree)) > 1 or (tree[0] == "call" and tree[1] not in ("log", "ln", "exp") and bool(symbols(tree)))


def names_of(items: list[str]) -> set[str]:
    """The different names of "a = 2", "b = 3"; x_1 and x_2 count as one name, because their order is free."""
    heads = [item.split("=", 1)[0].strip() for item in items if "=" in item]
    return {re.sub(r"_\{?\d+\}?$", "", head) for head in heads if is_name(head)}


def sorted_by_name(items: list[str]) -> list[str]:
    """b = 3, a = 2 in the order of a tuple (a, b), where every item has a name of its own; other lists as they are."""
    return (
        sorted(items, key=lambda item: item.split("=", 1)[0].strip()) if len(names_of(items)) == len(items) else items
    )


def split_names(text: str) -> list[str] | None:
    """["x = 1", "y = 2"] for (x, y) = (1, 2)."""
    members, signs = split_relation(text)
    names, values = (bracketed(m) for m in (members[0], members[-1]))
    if signs != ["="] or names is None or values is None or len(names.items) != len(values.items):
        return None
    return [f"{name}={value}" for name, value in zip(names.items, values.items, strict=True) if is_name(name)]


@dataclass(frozen=True)
class Domain:
    """The clause "k \\in \\mathbb{Z}" about a parameter."""

    parameter: str
    numbers: str

    def rename(self, text: str, other: "Domain") -> str:
        """``text`` with the other's parameter in place of this one."""
        return re.sub(rf"(?<![a-zA-Z\\]){self.parameter}(?![a-zA-Z])", other.parameter, text)


def split_domain(text: str) -> tuple[str, Domain | None]:
    """("x = 2k\\pi", its domain) for "x = 2k\\pi, k \\in \\mathbb{Z}"."""
    match = _DOMAIN.fullmatch(text)
    return (match[1].strip(), Domain(match[2], match[3])) if match else (text, None)


def function_of(text: str) -> tuple[str, str] | None:
    """("f", "x") for f(x)."""
    match = _FUNCTION.fullmatch(text)
    return (match.group(1), match.group(2)) if match else None


def rename_argument(members: list[str], like: list[str]) -> str | None:
    """The right side of f(n) = ... with the variable of the other definition of f; None when it is not the same
    function.
    """
    mine, other = function_of(members[0]), function_of(like[0])
    if mine is None or other is None or mine[0] != other[0]:
        return None
    return re.sub(rf"(?<![a-zA-Z\\]){mine[1]}(?![a-zA-Z])", other[1], members[1])


def values_of(members: list[str], signs: list[str], asked_for: bool = False) -> list[str]:
    """What "x = 2 = 6/3 \\approx 2.00" says x is: all of it without the name and, where there is an exact value, the
    roundings. ``asked_for``: also without "a + b" in "a + b = 5"; AB/CD is no value in any case.
    """
    if not signs:
        return members
    without_value = [is_name(m) or _SEGMENTS.fullmatch(m) or (asked_for and is_asked_for(m)) for m in members]
    if len(without_value) == 2 and not without_value[0] and without_value[1]:
        return members[:1]  # 10 = x
    start = next((i for i, is_none in enumerate(without_value) if not is_none), min(1, len(members) - 1))
    exact_ones = [m for i, m in enumerate(members) if i >= start and (i == 0 or signs[i - 1] != "\\approx")]
    return exact_ones or members[start:]
