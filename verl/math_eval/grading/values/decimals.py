"""Numbers as people write them, and when a decimal is close enough to what it stands for.

Whole numbers are exact. A decimal gold answer with two or more decimal places accepts what rounds to it. A gold answer
without an end (1/3, \\sqrt{2}) accepts a decimal with four or more right digits. Nothing else is approximate.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from verl.math_eval.grading.normalize import key
from verl.math_eval.grading.values.evaluate import NotRational, TooLarge, Undefined, exact
from verl.math_eval.grading.values.expression import Unreadable, read

MIN_GOLD_PLACES = 2
MIN_DIGITS = 4
DOUBLE_DIGITS = 15  # all that a computation in double precision gets right
MAX_SHORT_PLACES = 6  # a fraction with so few decimal places is expected in full

_DECIMAL = re.compile(r"[-+]?(\d*)\.(\d+)(?:\*10\^\{?(-?\d{1,4})\}?)?")
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_SPACED = re.compile(r"[-+]?\d{1,3}(?: \d{3})+")


@dataclass(frozen=True)
class Precision:
    """ulp: one unit of the last written digit. places: digits after the point. digits: significant ones."""

    ulp: Fraction
    places: int
    digits: int


@lru_cache(maxsize=20_000)
def number(text: str) -> Fraction | None:
    """The value of a normalized answer that is a number or arithmetic, like 1,234 or 2^{5}*3; otherwise None."""
    if _GROUPED.fullmatch(text) or _SPACED.fullmatch(text):
        text = text.replace(",", "").replace(" ", "")
    try:
        return exact(read(text)[0])
    except (Unreadable, NotRational, TooLarge, Undefined):
        return None


def precision(text: str) -> Precision | None:
    """How precise a decimal literal is; None for anything else."""
    match = _DECIMAL.fullmatch(key(text))
    if match is None:
        return None
    whole, fraction, exponent = match.groups()
    digits = len((whole + fraction).lstrip("0"))
    return Precision(Fraction(10) ** (int(exponent or 0) - len(fraction)), len(fraction), digits)


def rounds_to(answer: str, answer_value: Fraction, gold: str, gold_value: Fraction) -> bool:
    """Whether one exact value is an accepted rounding of the other; the texts tell how precise they claim to be."""
    if _rounds_to_gold(answer_value, gold, gold_value):
        return True
    written = precision(answer)
    if _is_double(written, answer_value, gold_value):
        return True
    if written is None or precision(gold) is not None or written.digits < MIN_DIGITS or _is_short(gold_value):
        return False
    return _right_digits(answer_value, gold_value, written.ulp)


def rounds_approximately(answer: str, answer_value: Any, gold: str, gold_value: Any) -> bool:
    """The same for 50-digit values, of which at least one has no exact form."""
    if any(hasattr(v, "imag") and v.imag != 0 for v in (answer_value, gold_value)):
        return False
    difference = abs(answer_value.real - gold_value.real)
    claimed, written = precision(gold), precision(answer)
    if _is_double(written, answer_value.real, gold_value.real):
        return True
    if claimed is not None:
        return (
            claimed.places >= MIN_GOLD_PLACES
            and claimed.digits >= 2
            and 2 * difference <= _float(claimed.ulp, difference)
        )
    return (
        written is not None
        and written.digits >= MIN_DIGITS
        and _right_digits(answer_value.real, gold_value.real, _float(written.ulp, difference))
    )


def _is_double(written: Precision | None, answer: Any, gold: Any) -> bool:
    """Whether a decimal of 15 digits or more is what double precision gives for the gold value."""
    if written is None or written.digits < DOUBLE_DIGITS:
        return False
    return abs(answer - gold) * 10**DOUBLE_DIGITS <= abs(gold)


def _rounds_to_gold(answer_value: Fraction, gold: str, gold_value: Fraction) -> bool:
    claimed = precision(gold)
    if claimed is None or claimed.places < MIN_GOLD_PLACES or claimed.digits < 2:
        return False
    return 2 * abs(answer_value - gold_value) <= claimed.ulp


def _right_digits(answer: Any, gold: Any, ulp: Any) -> bool:
    """Every written digit is right, rounded or cut off."""
    difference = abs(answer - gold)
    return 2 * difference <= ulp or (difference < ulp and abs(answer) <= abs(gold))


def _float(value: Fraction, like: Any) -> Any:
    return type(like)(value.numerator) / value.denominator


def _is_short(value: Fraction) -> bool:
    """Whole, or with a decimal expansion that ends within a few places."""
    return (value * 10**MAX_SHORT_PLACES).denominator == 1
