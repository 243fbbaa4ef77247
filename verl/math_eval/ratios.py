"""Answers with a colon: ratios and times of day."""

import re
from fractions import Fraction

from verl.math_eval.decimals import number
from verl.math_eval.normalize import END, TEXT

_NUMBER = r"(\d+(?:\.\d+)?)"
_RATIO = re.compile(rf"\s*{_NUMBER}\s*:\s*{_NUMBER}\s*(?::\s*{_NUMBER}\s*)?")
_CLOCK = re.compile(r"\s*\d{1,2}\s*:\s*\d{2}\s*(?::\s*\d{2}\s*)?")
_DAYTIME = re.compile(r"(\d{1,2}):(\d{2})\s*(?:([ap])\.?\s*m\.?)?", re.IGNORECASE)


def same_ratio(answer: str, gold: str) -> tuple[bool, str] | None:
    """(equal, reason) for two normalized answers of which one has this form; None for others.

    2:4 is 1:2, and 1:2 is \\frac{1}{2}; 12:00 and 1:00 are times, and times are not reduced.
    """
    return _same_daytime(answer, gold) or _same_ratio(answer, gold)


def _same_daytime(answer: str, gold: str) -> tuple[bool, str] | None:
    """4:30 p.m. is 4:30 PM, and 4:30 where one side leaves the half of the day out."""
    a, g = (_DAYTIME.fullmatch(t.replace(TEXT, "").replace(END, "").strip()) for t in (answer, gold))
    if a is None or g is None or not (a[3] or g[3]):
        return None
    halves = {m[3].lower() for m in (a, g) if m[3]}
    return len(halves) == 1 and (int(a[1]), int(a[2])) == (int(g[1]), int(g[2])), "times of day"


def _same_ratio(answer: str, gold: str) -> tuple[bool, str] | None:
    a, g = _RATIO.fullmatch(answer), _RATIO.fullmatch(gold)
    if a is not None and g is not None:
        if _CLOCK.fullmatch(answer) and _CLOCK.fullmatch(gold):
            return [int(t) for t in answer.split(":")] == [int(t) for t in gold.split(":")], "times of day"
        parts_a, parts_g = ([Fraction(x) for x in m.groups() if x] for m in (a, g))
        same = len(parts_a) == len(parts_g) and any(parts_a)
        same = same and all(x * parts_g[0] == y * parts_a[0] for x, y in zip(parts_a, parts_g, strict=True))
        return same, "ratios"
    match, other = (a, gold) if a is not None else (g, answer)
    if match is None:
        return None
    value = number(other)
    if value is None or match[3] or Fraction(match[2]) == 0:
        return False, "a ratio against something else"
    return Fraction(match[1]) / Fraction(match[2]) == value, "a ratio against a fraction"
