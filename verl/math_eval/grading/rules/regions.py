"""Sets of real numbers: intervals, unions and inequalities in one variable, brought to one form.

x > 1 and x < 2, (1, 2) and |x - 0| ... are read into disjoint intervals in order. The ends keep their text, because
``compare`` decides whether two ends are equal; their values only decide the order.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from verl.math_eval.grading.judge import Comparison
from verl.math_eval.grading.normalize import key
from verl.math_eval.grading.structure import (
    AND_OR,
    FLIPPED,
    MAX_ITEMS,
    bracketed,
    expand_plus_minus,
    partners,
    split_and,
    split_list,
    split_relation,
    split_top,
)
from verl.math_eval.grading.values.evaluate import NotRational, TooLarge, Undefined, approximate, exact, symbols
from verl.math_eval.grading.values.expression import Unreadable, read

_REALS = re.compile(r"\s*\\mathbb\{R\}\s*")
_POSITIVE = re.compile(r"\s*\\mathbb\{R\}\s*[_^]\{?\s*\+\s*\}?\s*")
_HALF_LINE = re.compile(r"\s*\\mathbb\{R\}\s*[_^]\{?\s*(-|(?:\\geq|\\leq|>|<)\s*0)\s*\}?\s*")
_SET_BUILDER = re.compile(r"\\\{\s*(?:[a-zA-Z]|\\[a-zA-Z]+)\s*(?:\\in\s*\\mathbb\{R\})?\s*[|:]\s*(.*)\\\}", re.DOTALL)
_MEMBER = re.compile(
    r"(?:[a-zA-Z]|\\[a-zA-Z]+|\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])+\s*\))\s*\\in\s*(?=[(\[]|\\\{|\\mathbb|\\emptyset)"
    r"|[A-Z](?:_\{\w+\})?\s*=\s*(?=\\\{)"
)
_VARIABLE = re.compile(r"(?!\s*(?:e|\\pi|\\infty)\s*$)(?:[a-zA-Z]|\\[a-zA-Z]+)\s*(?:_\{\w+\})?\s*(?:\([a-z]\))?\s*")
_ABSOLUTE_VALUE = re.compile(r"\|\s*([a-zA-Z])\s*([-+][^|]*)?\|")
_SIGN = re.compile(r"\\(?:cup|cap|setminus)(?![a-zA-Z])|\\mathbb\{R\}")
_OUTWARD = re.compile(r"\s*([\[\]])(.*)([\[\]])\s*", re.DOTALL)


@dataclass(frozen=True)
class Cut:
    """A place between numbers: just before an end, or just after it. ``value`` None: the end is no constant."""

    text: str
    after: bool
    value: Any

    @property
    def place(self) -> tuple[Any, bool]:
        """Cuts that share it are the same cut; smaller ones are further left."""
        return self.value, self.after


@dataclass(frozen=True)
class Interval:
    """All numbers between two cuts."""

    start: Cut
    end: Cut


Region = list[Interval]


def without_member(text: str) -> str:
    """S of "x \\in S" or "A = S", and the condition of "{x | condition}"; other answers as they are."""
    if builder := _SET_BUILDER.fullmatch(text):
        return builder.group(1).strip()
    member = _MEMBER.match(text)
    return text[member.end() :] if member else text


def as_region(text: str) -> Region | None:
    """The set that an answer describes, as disjoint intervals in order; None for everything else.

    With ends that are no constants the order is that of the text.
    """
    text = re.sub(r"-\s*(?=\\\{)", r"\\setminus ", without_member(text.strip()))  # \mathbb{R} - \{0\}
    conditions = [one for condition in split_list(text)[0] for one in expand_plus_minus(condition)]
    if len(conditions) > 1 and _REALS.fullmatch(conditions[0]) and _is_inequality(conditions[1]):
        conditions = conditions[1:]  # x \\in \\mathbb{R}, x \\ne 2
        text = ", ".join(conditions)
    if split_relation(conditions[0] if conditions else "")[1] == ["\\ne"]:  # x \ne 1, 2
        variable = conditions[0].split("\\ne")[0]
        conditions = [c if split_relation(c)[1] else f"{variable}\\ne {c}" for c in conditions]
        text = ", ".join(conditions)
    if len(conditions) > 1 and any(_is_inequality(c) for c in conditions):
        return _conditions(text, conditions)
    parts = [_difference(part) for part in split_top(AND_OR.sub("\\\\cup ", text), frozenset(["\\cup"]))]
    return _union(parts) if len(parts) <= MAX_ITEMS else None


def may_be_region(text: str) -> bool:
    """Whether the text has a sign that only sets of numbers have, so that (1, 2) is an interval and no pair."""
    return bool(_SIGN.search(text) or text[:1] == "]" or text[-1:] == "[" or _is_inequality(text))


def may_be_union(text: str) -> bool:
    """Whether a union of sets is written in the text."""
    return "\\cup" in text


def _is_inequality(text: str) -> bool:
    return any(sign in FLIPPED or sign == "\\ne" for sign in split_relation(text)[1])


def _conditions(text: str, conditions: list[str]) -> Region | None:
    """x < 1 or x > 2 is a union; "and" or a comma means what all conditions allow, or a union if that is nothing."""
    if len({variable_of(condition) for condition in conditions}) > 1:
        return None
    parts = [_simple(condition, listed=True) for condition in conditions]
    if len(split_and(text)) > 1:
        common = _intersection(parts)
        if common is None or common:
            return common
    return _union(parts)


def variable_of(condition: str) -> str:
    """The variable that a condition is about, or ""."""
    members, _ = split_relation(condition)
    found = next((m for m in members if _VARIABLE.fullmatch(m) or _ABSOLUTE_VALUE.fullmatch(m)), "")
    return key(found.strip("| ")[:1] if "|" in found else found)


def _difference(text: str) -> Region | None:
    """A \\cap B, A \\setminus B."""
    first, *removed = split_top(text, frozenset(["\\setminus"]))
    parts = split_top(first, frozenset(["\\cap"]))
    region = _simple(parts[0]) if len(parts) == 1 else _intersection([_simple(part) for part in parts])
    for part in removed:
        region = _intersection([region, _complement(_simple(part))])
    return region


def _simple(text: str, listed: bool = False) -> Region | None:
    """One interval, one inequality, or a set of points; in a list of conditions also x = 1."""
    text = text.strip()
    if _REALS.fullmatch(text):
        return [_interval("-\\infty", False, "\\infty", False)]
    if sign := _HALF_LINE.fullmatch(text):
        return [_half_line(sign[1])]
    if _POSITIVE.fullmatch(text):
        return [_interval("0", False, "\\infty", False)]
    members, signs = split_relation(text)
    if signs:
        return _relation(members, signs, listed)
    found = bracketed(text)
    if found is not None and found.opening == "\\{":
        return _union([[_interval(point, True, point, True)] for point in found.items])
    if found is not None and len(found.items) == 2 and found.opening in "([" and found.closing in ")]":
        return [_interval(found.items[0], found.opening == "[", found.items[1], found.closing == "]")]
    return _outward(text)


def _half_line(index: str) -> Interval:
    """Of \\mathbb{R} with an index: "-", > 0, \\geq 0, < 0 or \\leq 0."""
    closed = "eq" in index
    if ">" in index or "\\geq" in index:
        return _interval("0", closed, "\\infty", False)
    return _interval("-\\infty", False, "0", closed)


def _outward(text: str) -> Region | None:
    """]0, 1[ is (0, 1)."""
    match = _OUTWARD.fullmatch(text)
    ends = split_top(match[2], frozenset(",;")) if match else []
    if match is None or len(ends) != 2:
        return None
    return [_interval(ends[0].strip(), match[1] == "[", ends[1].strip(), match[3] == "]")]


def _relation(members: list[str], signs: list[str], listed: bool) -> Region | None:
    """x > 5, 1 < x \\leq 2, x \\ne 3, |x| < 2."""
    if len(signs) == 1:
        return _one_sided(members[0], signs[0], members[1], listed)
    if len(signs) != 2 or not all(sign in FLIPPED for sign in signs):
        return None
    if all(sign in (">", "\\geq") for sign in signs):
        members, signs = members[::-1], [FLIPPED[s] for s in signs[::-1]]
    if not all(sign in ("<", "\\leq") for sign in signs):
        return None
    if _ABSOLUTE_VALUE.fullmatch(members[1]):  # 1 < |x| < 2
        beyond = _one_sided(members[0], signs[0], members[1], listed=False)
        return _intersection([beyond, _one_sided(members[1], signs[1], members[2], listed=False)])
    if not _VARIABLE.fullmatch(members[1]):
        return None
    return [_interval(members[0], signs[0] == "\\leq", members[2], signs[1] == "\\leq")]


def _one_sided(left: str, sign: str, right: str, listed: bool) -> Region | None:
    if not _VARIABLE.fullmatch(left) and not _ABSOLUTE_VALUE.fullmatch(left):
        left, right, sign = right, left, FLIPPED.get(sign, sign)
    if _VARIABLE.fullmatch(right):
        return None
    if distance := _ABSOLUTE_VALUE.fullmatch(left):  # |x - 1| < 2
        closed = sign in ("\\leq", ">")
        shift = f"-({distance[2]})" if distance[2] else ""
        inside = [_interval(f"-({right}){shift}", closed, right + shift, closed)]
        return inside if sign in ("<", "\\leq") else _complement(inside) if sign in FLIPPED else None
    if not _VARIABLE.fullmatch(left):
        return None
    point: Region = [_interval(right, True, right, True)]
    if sign == "=":
        return point if listed else None
    if sign == "\\ne":
        return _complement(point)
    closed = sign in ("\\leq", "\\geq")
    if sign in (">", "\\geq"):
        return [_interval(right, closed, "\\infty", False)]
    return [_interval("-\\infty", False, right, closed)] if sign in FLIPPED else None


def _interval(low: str, low_closed: bool, high: str, high_closed: bool) -> Interval:
    return Interval(Cut(low, not low_closed, _value(low)), Cut(high, high_closed, _value(high)))


def _value(text: str) -> Any:
    """A number that orders the ends, equal for equal constants; None for what is no real constant."""
    try:
        tree, _ = read(text)
        if symbols(tree):
            return None
        try:
            return exact(tree)
        except NotRational:
            value = approximate(tree)
    except (Unreadable, TooLarge, Undefined):
        return None
    if hasattr(value, "imag") and value.imag != 0:
        return None
    return (
        float(value) if value in (float("inf"), float("-inf")) else Fraction(str(value.real)).limit_denominator(10**20)
    )


def _ordered(region: Region) -> bool:
    return all(cut.value is not None for interval in region for cut in (interval.start, interval.end))


def _union(parts: list[Region | None]) -> Region | None:
    intervals: Region = []
    for part in parts:
        if part is None:
            return None
        intervals += part
    if not _ordered(intervals):
        return intervals
    merged: Region = []
    for interval in sorted((i for i in intervals if i.start.place < i.end.place), key=lambda i: i.start.place):
        if merged and interval.start.place <= merged[-1].end.place:
            end = max(merged[-1].end, interval.end, key=lambda cut: cut.place)
            merged[-1] = Interval(merged[-1].start, end)
        else:
            merged.append(interval)
    return merged


def _complement(region: Region | None) -> Region | None:
    if region is None or not _ordered(region):
        return None
    everything = _interval("-\\infty", False, "\\infty", False)
    starts = [everything.start, *(i.end for i in region)]
    ends = [*(i.start for i in region), everything.end]
    return [Interval(s, e) for s, e in zip(starts, ends, strict=True) if s.place < e.place]


def _intersection(parts: list[Region | None]) -> Region | None:
    common: Region | None = None
    for part in parts:
        if part is None or not _ordered(part):
            return None
        if common is None:
            common = part
            continue
        pairs = [
            Interval(max(a.start, b.start, key=lambda c: c.place), min(a.end, b.end, key=lambda c: c.place))
            for a in common
            for b in part
        ]
        common = [i for i in pairs if i.start.place < i.end.place]
    return common


def region(comparison: Comparison, a: str, g: str, depth: int) -> bool | None:
    """Intervals, unions and inequalities in one variable are the same kind of thing."""
    if not may_be_region(a) and not may_be_region(g):
        return None
    ra, rg = as_region(a), as_region(g)
    if ra is None or rg is None:
        return None
    if depth > 0 and len({variable_of(a), variable_of(g)} - {""}) > 1:
        return comparison.say(False, "another variable")
    same = len(ra) == len(rg) and partners(ra, rg, lambda x, y: _same_interval(comparison, x, y, depth))
    return comparison.say(same, "same intervals" if same else "other intervals")


def _same_interval(comparison: Comparison, a: Interval, g: Interval, depth: int) -> bool:
    if (a.start.after, a.end.after) != (g.start.after, g.end.after):
        return False
    return comparison.in_order([a.start.text, a.end.text], [g.start.text, g.end.text], depth)
