"""Answers in a notation of their own: ratios, times of day, numbers in a base, residues.

A ``same_...`` takes two normalized answers and returns (equal, reason), or None when they do not have its form.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from verl.math_eval.grading.decimals import number
from verl.math_eval.grading.forms import number_word
from verl.math_eval.grading.normalize import END, TEXT, key
from verl.math_eval.grading.structure import split_relation

Decision = tuple[bool, str] | None

_NUMBER = r"(\d+(?:\.\d+)?)"
_RATIO = re.compile(rf"\s*{_NUMBER}\s*:\s*{_NUMBER}\s*(?::\s*{_NUMBER}\s*)?")
_CLOCK = re.compile(r"\s*\d{1,2}\s*:\s*\d{2}\s*(?::\s*\d{2}\s*)?")
_DAYTIME = re.compile(r"(\d{1,2})(?:\s*:\s*(\d{2}))?\s*(?:([ap])\.?\s*m\.?)?", re.IGNORECASE)
_TO = re.compile(rf"(?<=\d)\s*(?:{TEXT}\s*to\s*{END}|to(?![a-z]))\s*(?=\d)")
_BASED = re.compile(r"([0-9A-Z]+)(?:_\{?(?:base)?(\w+)\}?|base(\w+))")
_MODULUS = re.compile(
    r"(.*?)\s*(?:\(\s*\\b?mod|\\pmod|\\mod|(\\bmod))\s*(?:\{([^{}]*)\}|(\d+|[a-zA-Z]))\s*\)?", re.DOTALL
)


def same_daytime(answer: str, gold: str) -> Decision:
    """4:30 p.m. is 4:30 PM, and 4:30 where one side leaves the half of the day out; 7 a.m. is 7:00 a.m."""
    a, g = (_DAYTIME.fullmatch(t.replace(TEXT, "").replace(END, "").strip()) for t in (answer, gold))
    if a is None or g is None or not (a[3] or g[3]) or not (a[2] or a[3]) or not (g[2] or g[3]):
        return None
    halves = {m[3].lower() for m in (a, g) if m[3]}
    times = {(int(m[1]), int(m[2] or 0)) for m in (a, g)}
    return len(halves) == len(times) == 1, "times of day"


def same_ratio(answer: str, gold: str) -> Decision:
    """2:4 is 1:2, 1 to 2 and \\frac{1}{2}; 12:00 and 1:00 are times, and times are not reduced."""
    answer, gold = _TO.sub(":", answer), _TO.sub(":", gold)
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


def same_in_base(answer: str, gold: str) -> Decision:
    """1011_2 is 1011_{\\text{two}} and 1011 base 2: the digits agree, and the base where both name one."""
    plain = [re.sub(rf"[\s{TEXT}{END}()]", "", t) for t in (answer, gold)]
    found = [_BASED.fullmatch(t) for t in plain]
    if not any(found):
        return None
    bases = [_base(m[1], m[2] or m[3]) if m else None for m in found]
    if any(m is not None and base is None for m, base in zip(found, bases, strict=True)):
        return None
    digits = {m[1] if m else t for m, t in zip(found, plain, strict=True)}
    return len(digits) == len({base for base in bases if base}) == 1, "number in a base"


def _base(digits: str, name: str) -> int | None:
    """The base called "2" or "two"; None for an index that is none, as in V_1 or A_2."""
    base = int(name) if name.isdecimal() and len(name) < 3 else number_word(name)
    if base is None or not 2 <= base <= 36 or any(c.isalpha() and int(c, 36) >= base for c in digits):
        return None
    return base


@dataclass(frozen=True)
class Residue:
    """value (mod modulus); ``operator``: written with \\bmod, which means the remainder itself."""

    value: str
    modulus: str = ""
    operator: bool = False


def split_residue(text: str) -> Residue:
    """The parts of "x \\equiv 2 \\pmod 3" or "5 \\bmod 3"; without a modulus the value is the whole text."""
    match = _MODULUS.fullmatch(text)
    if match is None:
        return Residue(text)
    operator = bool(match[2]) and not split_relation(match[1])[1]
    return Residue(match[1], key(match[3] or match[4]), operator)


def is_remainder(residue: Residue, other: str) -> bool | None:
    """Whether ``other`` is what the residue says, for whole numbers; None when they are none."""
    values = [number(t) for t in (residue.value, residue.modulus, other)]
    if any(v is None or v.denominator != 1 for v in values) or values[1] == 0:
        return None
    value, modulus, wanted = values
    return value % modulus == wanted or (value == wanted and not residue.operator)  # type: ignore[operator]
