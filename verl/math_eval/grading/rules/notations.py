"""Answers in a notation of their own: ratios, times of day, numbers in a base, residues.

A ``same_...`` takes two normalized answers and returns (equal, reason), or None when they do not have its form.
"""

import re
from dataclasses import dataclass

from verl.math_eval.grading.judge import Comparison, Decision
from verl.math_eval.grading.names import is_name
from verl.math_eval.grading.normalize import END, TEXT, key, unmarked
from verl.math_eval.grading.rules.words import number_word
from verl.math_eval.grading.structure import split_relation, split_top
from verl.math_eval.grading.values.decimals import number
from verl.math_eval.grading.values.same_value import same_value

_CLOCK = re.compile(r"\s*\d{1,2}\s*:\s*\d{2}\s*(?::\s*\d{2}\s*)?")
_NAMED_TIMES = {"noon": "12:00 pm", "12 noon": "12:00 pm", "12:00 noon": "12:00 pm", "midnight": "12:00 am"}
_O_CLOCK = re.compile(r"\s*o'clock\b")
_DAYTIME = re.compile(r"(\d{1,2})(?:\s*:\s*(\d{2}))?\s*(?:([ap])\.?\s*m\.?)?", re.IGNORECASE)
_TO = re.compile(rf"(?<=\d)\s*(?:{TEXT}\s*to\s*{END}|to(?![a-z]))\s*(?=\d)")
_PREFIXES = {"0x": 16, "0b": 2, "0o": 8}
_PREFIXED = re.compile(r"^(0[xbo])([0-9a-fA-F]+)$")
_BASED = re.compile(r"(\d[\d,]*[0-9a-zA-Z]*|[0-9A-Z]+)(?:_\{?(?:base)?(\w+)\}?|base(\w+))")
_WITH_MODULUS = re.compile(
    r"(.*?)\s*(?:\(\s*\\b?mod|\\pmod|\\mod|(\\bmod))\s*(?:\{([^{}]*)\}|(\d+|[a-zA-Z]))\s*\)?", re.DOTALL
)


def same_daytime(answer: str, gold: str) -> Decision:
    """4:30 p.m. is 4:30 PM and 16:30, and 4:30 where one side leaves the half of the day out; 7 a.m. is 7:00 a.m."""
    plain = [unmarked(t).strip() for t in (answer, gold)]
    a, g = (_DAYTIME.fullmatch(_NAMED_TIMES.get(t.casefold(), _O_CLOCK.sub(":00", t))) for t in plain)
    if a is None or g is None or not (a[3] or g[3] or _O_CLOCK.search("".join(plain))):
        return None
    if not (a[2] or a[3]) or not (g[2] or g[3]):
        return None
    (at_a, of_day_a), (at_g, of_day_g) = _times(a), _times(g)
    same = of_day_a == of_day_g if a[3] and g[3] else at_a == at_g or of_day_a == of_day_g
    return same, "times of day"


def _times(match: re.Match[str]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(hour, minute) as written and of the 24-hour day."""
    hour, minute, half = int(match[1]), int(match[2] or 0), (match[3] or "").lower()
    return (hour, minute), (hour % 12 + 12 * (half == "p") if half else hour, minute)


def same_ratio(answer: str, gold: str) -> Decision:
    """2:4 is 1:2, 1 to 2 and \\frac{1}{2}; 12:00 and 1:00 are times, and times are not reduced."""
    a, g = _ratio(answer), _ratio(gold)
    if len(a) == len(g) == 1:
        return None
    if all(_CLOCK.fullmatch(t) for t in (answer, gold)):
        return [int(t) for t in a] == [int(t) for t in g], "times of day"
    if 1 in (len(a), len(g)):
        ratio, other = (a, gold) if len(g) == 1 else (g, answer)
        if len(ratio) > 2:
            return False, "a ratio against something else"
        return bool(same_value(f"({ratio[0]})/({ratio[1]})", other)[0]), "a ratio against a fraction"
    same = len(a) == len(g) and all(
        same_value(f"({x})*({g[0]})", f"({y})*({a[0]})")[0] for x, y in zip(a, g, strict=True)
    )
    return same and a != ["0"] * len(a), "ratios"


def _ratio(text: str) -> list[str]:
    """The parts of 1 : 2 or x : y = 1 : 2; other texts are one part."""
    members, signs = split_relation(_TO.sub(":", text))
    parts = [split_top(member, frozenset(":")) for member in members]
    if signs and (signs != ["="] or len(parts[0]) != len(parts[1])):
        return [text]
    return [part.strip() for part in parts[-1]] if all(part.strip() for part in parts[-1]) else [text]


def same_in_base(answer: str, gold: str) -> Decision:
    """1011_2 is 1011_{\\text{two}}, 1011 base 2 and 0b1011: the digits agree, and the base where both name one."""
    parts = [split_relation(t)[0] for t in (answer, gold)]
    plain = [m[1] if len(m) == 2 and is_name(m[0]) else t for m, t in zip(parts, (answer, gold), strict=True)]
    plain = [re.sub(r"[\s()]", "", unmarked(t)) for t in plain]
    plain = [_PREFIXED.sub(lambda m: f"{m[2]}_{_PREFIXES[m[1]]}", t) for t in plain]
    found = [_BASED.fullmatch(t) for t in plain]
    if not any(found):
        return None
    bases = [_base(m[1].upper(), m[2] or m[3]) if m else None for m in found]
    if any(m is not None and base is None for m, base in zip(found, bases, strict=True)):
        return None
    digits = {(m[1] if m else t).upper().replace(",", "") for m, t in zip(found, plain, strict=True)}
    return len(digits) == len({base for base in bases if base}) == 1, "number in a base"


def _base(digits: str, name: str) -> int | None:
    """The base called "2" or "two"; None for an index that is none, as in V_1 or A_2."""
    base = int(name) if name.isdecimal() and len(name) < 3 else int(number_word(name) or 0)
    if not 2 <= base <= 36 or any(c.isalpha() and int(c, 36) >= base for c in digits):
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
    match = _WITH_MODULUS.fullmatch(text)
    if match is None:
        return Residue(text)
    operator = bool(match[2]) and not split_relation(match[1])[1]
    return Residue(match[1], key(match[3] or match[4] or ""), operator)


def same_class(a: Residue, g: Residue) -> bool:
    """-3 is 7 modulo 10."""
    if a.operator or g.operator:
        return False
    values = [number(split_relation(r.value)[0][-1]) for r in (a, g)]
    modulus = number(g.modulus)
    return None not in values and bool(modulus) and (values[0] - values[1]) % modulus == 0  # type: ignore[operator]


def is_remainder(residue: Residue, other: str) -> bool | None:
    """Whether ``other`` is what the residue says, for whole numbers; None when they are none."""
    values = [number(t) for t in (residue.value, residue.modulus, other)]
    if any(v is None or v.denominator != 1 for v in values) or values[1] == 0:
        return None
    value, modulus, wanted = values
    return value % modulus == wanted or (value == wanted and not residue.operator)  # type: ignore[operator]


def residue(comparison: Comparison, a: str, g: str, depth: int) -> bool | None:
    """2 \\pmod 3: the modulus may be left out, and two must agree."""
    ra, rg = split_residue(a), split_residue(g)
    if not ra.modulus and not rg.modulus:
        return None
    if ra.modulus and rg.modulus:
        if ra.modulus != rg.modulus:
            return comparison.say(False, "another modulus")
        same = same_class(ra, rg)
        return comparison.say(True, "same remainder") if same else comparison.equal(ra.value, rg.value, depth + 1)
    remainder = is_remainder(ra, g) if ra.modulus else is_remainder(rg, a)
    if remainder is not None:
        return comparison.say(remainder, "remainder")
    return None if ra.operator or rg.operator else comparison.equal(ra.value, rg.value, depth + 1)
