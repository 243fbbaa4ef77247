"""Units and percent signs after a number. Two known units must agree; one side may leave its unit out."""

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from verl.math_eval.grading.judge import Comparison, Decision
from verl.math_eval.grading.normalize import END, TEXT, unmarked, word_list
from verl.math_eval.grading.values.decimals import number, precision, rounds_to

_SYNONYMS = {
    "mm": "millimeter millimetre millimeters millimetres",
    "cm": "centimeter centimetre centimeters centimetres",
    "m": "meter metre meters metres",
    "km": "kilometer kilometre kilometers kilometres kms",
    "in": "inch inches",
    "ft": "foot feet",
    "yd": "yard yards yds",
    "mi": "mile miles",
    "mg": "milligram milligrams",
    "g": "gram grams gm",
    "kg": "kilogram kilograms kgs",
    "lb": "pound pounds lbs",
    "oz": "ounce ounces",
    "mL": "ml milliliter milliliters millilitre millilitres",
    "L": "l liter liters litre litres",
    "gal": "gallon gallons",
    "s": "second seconds sec secs",
    "min": "minute minutes mins",
    "h": "hour hours hr hrs",
    "day": "days",
    "week": "weeks",
    "month": "months",
    "year": "years yr yrs",
    "dollar": "dollars usd",
    "cent": "cents",
    "euro": "euros eur",
    "yen": "jpy",
    "rupee": "rupees inr rs",
    "degree": "degrees deg",
    "radian": "radians rad",
    "Hz": "hertz hz",
    "N": "newton newtons",
    "J": "joule joules",
    "W": "watt watts",
    "V": "volt volts",
    "A": "ampere amperes amp amps",
    "Pa": "pascal pascals",
    "K": "kelvin kelvins",
    "ohm": "ohms",
    "celsius": "",
    "fahrenheit": "",
    "am": "",
    "pm": "",
    "percent": "",
    "eV": "ev",
    "mol": "moles mole",
}
_UNIT = {word: name for name, words in _SYNONYMS.items() for word in (name, *words.split())}
_SHORT_FOR = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h"}
# Symbols with a prefix, where upper and lower case differ: mW is not MW.
_SYMBOL = {
    prefix + symbol: prefix + symbol
    for prefix in ("", "n", "u", "m", "k", "M", "G")
    for symbol in word_list("m g s V A W J N K C F T L Pa Hz eV mol cal Wh")
}
_DIMENSION = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}
# Units of one kind that are used together, in units of the smallest: 5 hours and 30 minutes.
_TOGETHER = (
    {"s": 1, "min": 60, "h": 3600, "day": 86_400, "week": 604_800},
    {"month": 1, "year": 12},
    {"in": 1, "ft": 12, "yd": 36, "mi": 63_360},
    {"mm": 1, "cm": 10, "m": 1000, "km": 1_000_000},
    {"oz": 1, "lb": 16},
    {"mg": 1, "g": 1000, "kg": 1_000_000},
    {"mL": 1, "L": 1000},
    {"cent": 1, "dollar": 100},
    {"cent": 1, "euro": 100},
)
# Without \text only words that can be no product of variables.
_PLAIN = sorted(
    (w for w in (*_UNIT, *_SHORT_FOR) if len(w) > 1 and w not in word_list("in min Pa eV ev am pm rs mL")),
    key=len,
    reverse=True,
)
_PLAIN_UNIT = re.compile(
    rf"(?P<value>.*(?:[\d)}}\]]|\\pi))\s*(?P<unit>(?:(?:square|sq\.?|cubic|cu\.?)\s+)?(?:{'|'.join(_PLAIN)})"
    r"(?:\s*/\s*[a-z]+|\s+per\s+[a-z]+)?\.?\s*(?:\^\{[23]\})?)",
    re.DOTALL,
)
_WORDS_BEHIND = re.compile(r"(?P<value>-?\d[\d.,/]*)\s+(?P<unit>(?:sq\.|cu\.|[a-z]{3,20})(?:\s+[a-z]{2,20}){0,4})")
_IN_PARENTHESES = re.compile(r"(?P<value>-?\d[\d.,/:]*)\s+\((?P<unit>[a-z]{3,20}(?:\s+[a-z]{2,20}){0,4})\)")
_MARKED = rf"{TEXT}[^{TEXT}{END}]*{END}"
_MARKED_UNIT = re.compile(
    rf"(?P<value>.*?[^\s{TEXT}{END}*])[\s*]*"
    rf"(?P<unit>(?:\\mu\s*)?{_MARKED}(?:{_MARKED}|\\mu|\\Omega|\^\{{-?\d\}}|[\s*/])*|"
    rf"\\frac\{{\s*{_MARKED}[^{{}}]*\}}\{{\s*{_MARKED}(?:[^{{}}]|\^\{{\d\}})*\}}|(?<=\d)\s*(?:\\mu\s*m|\\Omega)\s*)",
    re.DOTALL,
)
_PERCENT = re.compile(
    rf"(?P<value>.*?)\s*(?:%(?:\s*{TEXT}\s*(?:per|a|of|each|for|in)\b[^{TEXT}{END}\d]*{END})?|{TEXT}\s*(?:%|per\s?cent|percentage|pct)\.?\s*{END}|\b(?:percent|percentage|pct)\.?)",
    re.DOTALL,
)
_NUMBER_AND_LETTERS = re.compile(
    r"(?P<value>-?\d+(?:\.\d+)?(?:\*10\^\{-?\d+\})?) ?(?P<unit>[a-zA-Z]|[a-zA-Z]{1,3}\s?/\s?[a-z]{1,3}(?:\^\{\d\})?)"
)
_NOT_UNITS = re.compile(r"\b(?:and|or|if|when|where|for|is|are)\b|[=<>]")
_UNIT_TOKEN = re.compile(r"[a-zA-Z]+|/|\^\{?(-?\d)\}?")
_PER_SECOND = re.compile(r"\b(c?m|km|rad)s(?=\s*\^\s*\{?\s*-)")
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\.?\s*,?\s*(?:and\b)?")
_FEET_AND_INCHES = re.compile(r"\s*(\d+)\s*'\s*(\d+(?:\.\d+)?)\s*(?:\"|'')\s*")


@dataclass(frozen=True)
class Quantity:
    """value: what stands before the unit. unit: its one spelling, or "" when there is none or none that is known.
    words: the unit as it is written.
    """

    value: str
    unit: str = ""
    percent: bool = False
    words: str = ""


def split_unit(text: str) -> Quantity:
    """Separate the unit from a normalized answer; without a unit the value is the whole text."""
    if match := _PERCENT.fullmatch(text):
        if any(c.isalnum() for c in match["value"]) and "=" not in match["value"]:
            return Quantity(match["value"].strip(), percent=True)
        return Quantity(text)
    match = _MARKED_UNIT.fullmatch(text) or _PLAIN_UNIT.fullmatch(text) or _WORDS_BEHIND.fullmatch(text)
    match = match or _IN_PARENTHESES.fullmatch(text)
    if match is None or _NOT_UNITS.search(match["unit"]) or not _is_value(match["value"].strip()):
        return Quantity(text)
    plain = re.sub(r"\s", "", unmarked(match["unit"])).casefold()
    return Quantity(match["value"].strip(), _canonical(match["unit"]), words=plain)


def _is_value(text: str) -> bool:
    """Whether a unit can follow this: not words, an index that goes on, or "x ="."""
    if not re.search(r"\d|\\pi|[a-z]", text) or re.fullmatch(rf"{TEXT}[^{END}]*{END}", text):
        return False
    if re.search(rf"{END}\s*\d", text):  # 3 red, 2 blue
        return False
    return not text.endswith(("_", "^", "_{", "^{", "="))


def units_agree(a: Quantity, b: Quantity, listed: bool) -> bool:
    """False only when both units are known and different; conversion is out of scope. ``listed``: unknown words must
    agree too, as in 3 red and 2 blue.
    """
    mine, other = ("percent" if q.percent else q.unit for q in (a, b))
    if not mine and not other and listed and a.words and b.words:
        return a.words.rstrip("s") == b.words.rstrip("s")
    return not mine or not other or mine == other


def letters_as_unit(text: str, other: Quantity) -> Quantity | None:
    """5 g as a quantity, where the other side has grams, and 5 m/s also where that has no unit; on its own 5 g is 5
    times g.
    """
    match = _NUMBER_AND_LETTERS.fullmatch(text)
    unit = _canonical(match["unit"]) if match else ""
    if match is None or not unit or (other.unit != unit and ("/" not in unit or other.unit)):
        return None
    return Quantity(match["value"], unit)


def _canonical(unit: str) -> str:
    """One spelling of a known unit, like "kg*m/s^2"; "" for others."""
    text = unmarked(unit, " ")
    text = re.sub(r"\\frac\{(.*)\}\{(.*)\}", r"\1/\2", text)
    text = re.sub(r"\b([apAP])\.?\s?([mM])\b\.?", r"\1\2", text).replace("\\Omega", "ohm")
    text = _PER_SECOND.sub(r"\1 s", re.sub(r"\\mu\s*", "u", text))
    powers: Counter[str] = Counter()
    sign, dimension, last = 1, 1, ""
    for match in _UNIT_TOKEN.finditer(text):
        word = match.group()
        if word in ("/", "per"):
            sign = -1
        elif match[1]:
            powers[last] += sign * (int(match[1]) - 1)
        elif word.lower() in ("squared", "cubed"):
            powers[last] += sign * (_DIMENSION[word.lower()] - 1)
        elif word.lower() in _DIMENSION:
            dimension = _DIMENSION[word.lower()]
        elif full := _SHORT_FOR.get(word.lower()):
            return _canonical(full)
        else:
            last = _SYMBOL.get(word) or _UNIT.get(word) or _UNIT.get(word.lower(), "")
            if not last:
                return ""
            powers[last] += sign * dimension
            dimension = 1
    if len(powers) > 1:
        powers.pop("degree", None)  # of degrees Celsius
    over, under = ("*".join(sorted(_power(u, s * p) for u, p in powers.items() if s * p > 0)) for s in (1, -1))
    return f"{over}/{under}" if under else over


def known_unit(text: str) -> bool:
    """Whether a text is a unit, like "square centimeters" or km/h."""
    return len(text) <= 60 and bool(_canonical(text.strip(" .")))


def _power(unit: str, power: int) -> str:
    return unit if power == 1 else f"{unit}^{power}"


@dataclass(frozen=True)
class Compound:
    """5 hours and 30 minutes: sizes of the units of that kind, the amount in the smallest, and the units used."""

    sizes: dict[str, int]
    amount: Fraction
    units: tuple[str, ...]

    def value_in(self, unit: str) -> Fraction | None:
        """The amount in one of its own units, "" being the largest; None for others: conversion is out of scope."""
        unit = unit or self.units[0]
        return self.amount / self.sizes[unit] if unit in self.units else None


def compound(text: str) -> Compound | None:
    """Read "5 hours and 30 minutes" or 6'2"; None for everything else."""
    plain = _FEET_AND_INCHES.sub(r"\1 ft \2 in", unmarked(text, " "))
    if len(plain) > 100 or not re.fullmatch(rf"(?:{_PART.pattern}){{2,4}}", plain):
        return None
    parts = [(Fraction(m[1]), _canonical(m[2])) for m in _PART.finditer(plain)]
    units = tuple(unit for _, unit in parts)
    sizes = next((s for s in _TOGETHER if set(units) <= set(s)), None)
    if sizes is None or list(units) != sorted(set(units), key=lambda unit: -sizes[unit]):
        return None
    return Compound(sizes, sum((amount * sizes[unit] for amount, unit in parts), Fraction(0)), units)


def same_compound(answer: str, gold: str) -> Decision:
    """5 hours and 30 minutes is 5.5 hours, 330 minutes and 5.5."""
    a, g = compound(answer), compound(gold)
    if a is None and g is None:
        return None
    if a is not None and g is not None:
        return a.sizes == g.sizes and a.amount == g.amount, "units together"
    several, other = (a, split_unit(gold)) if a is not None else (g, split_unit(answer))
    assert several is not None
    found, wanted = number(other.value), several.value_in(other.unit)
    if found is None:
        return None
    if wanted is None:
        return False, "another unit"
    if not other.unit and found == several.value_in(several.units[-1]):
        return True, "units together"
    close = rounds_to("", wanted, other.value, found) if a is not None else rounds_to(other.value, found, "", wanted)
    return found == wanted or close, "units together"


def same_share(answer: Quantity, gold: Quantity) -> bool:
    """25% is 0.25, and 33.33% is 1/3; one of the two has the percent sign."""
    a, g = number(answer.value), number(gold.value)
    if a is None or g is None:
        return False
    if gold.percent:
        return a * 100 == g
    return a == g * 100 or (precision(gold.value) is None and rounds_to(answer.value, a, "", g * 100))


def quantity(comparison: Comparison, a: str, g: str, depth: int) -> bool | None:
    """Units and percent signs; then numbers, where they are all there is."""
    qa, qg = split_unit(a), split_unit(g)
    qa, qg = letters_as_unit(a, qg) or qa, letters_as_unit(g, qa) or qg
    if (qa.value, qg.value) != (a, g):
        if not units_agree(qa, qg, listed=depth > 0):
            return comparison.say(False, "another unit")
        if qa.percent != qg.percent and same_share(qa, qg):
            return comparison.say(True, "percent")
        return comparison.equal(qa.value, qg.value, depth + 1)
    na, ng = number(a), number(g)
    if na is None or ng is None:
        return None
    return comparison.say(na == ng or rounds_to(a, na, g, ng), "numbers")
