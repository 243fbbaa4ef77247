"""Units and percent signs behind a number. Two known units must agree; one side may leave its unit out."""

import re
from dataclasses import dataclass

from verl.math_eval.normalize import END, TEXT

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
    "ml": "milliliter milliliters millilitre millilitres",
    "l": "liter liters litre litres",
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
    "euro": "euros",
    "degree": "degrees deg",
    "radian": "radians rad",
    "hz": "hertz",
    "n": "newton newtons",
    "j": "joule joules",
    "w": "watt watts",
    "v": "volt volts",
    "pa": "pascal pascals",
    "mph": "mi/h",
    "percent": "",
    "unit": "units",
    "km/h": "kmh kph",
    "m/s": "",
    "cm/s": "",
    "ft/s": "",
    "kg/m": "",
    "ev": "",
    "mol": "moles mole",
}
_UNIT = {word: name for name, words in _SYNONYMS.items() for word in (name, *words.split())}
# Without \text only words that can be no product of variables.
_PLAIN = sorted(
    (w for w in _UNIT if len(w) > 1 and "/" not in w and w not in ("in", "min", "pa", "ev")), key=len, reverse=True
)
_PLAIN_UNIT = re.compile(
    rf"(?P<value>.*[\d)}}\]])\s*(?P<unit>(?:(?:square|sq\.?|cubic|cu\.?)\s+)?(?:{'|'.join(_PLAIN)})(?:\s*/\s*[a-z]+|\s+per\s+[a-z]+)?)"
    r"\.?\s*(?P<power>\^\{[23]\})?",
    re.DOTALL,
)
_WORDS_BEHIND = re.compile(r"(?P<value>-?\d[\d.,/]*)\s+(?P<unit>[a-z]{3,20}(?:\s+[a-z]{2,20}){0,4})(?P<power>)")
_MARKED_UNIT = re.compile(
    rf"(?P<value>.*?[^\s{TEXT}{END}])[\s*]*(?P<unit>(?:{TEXT}[^{TEXT}{END}]*{END}[\s*/]*)+)(?P<power>\^\{{-?[123]\}})?",
    re.DOTALL,
)
_PERCENT = re.compile(
    rf"(?P<value>.*?)\s*(?:%|{TEXT}\s*(?:%|percent|percentage|pct)\.?\s*{END}|\b(?:percent|percentage|pct)\.?)",
    re.DOTALL,
)
_NOT_UNITS = re.compile(r"\b(?:and|or|if|when|where|for|is|are)\b|[=<>]")


@dataclass(frozen=True)
class Quantity:
    """value: what stands before the unit. unit: its one spelling, or "" when there is none or none that is known."""

    value: str
    unit: str = ""
    percent: bool = False


def split_unit(text: str) -> Quantity:
    """Separate the unit from a normalized answer; without a unit the value is the whole text."""
    if match := _PERCENT.fullmatch(text):
        if any(c.isalnum() for c in match["value"]):
            return Quantity(match["value"].strip(), percent=True)
        return Quantity(text)
    match = _MARKED_UNIT.fullmatch(text) or _PLAIN_UNIT.fullmatch(text) or _WORDS_BEHIND.fullmatch(text)
    if match is None or not re.search(r"\d|\\pi|[a-z]", match["value"]) or _NOT_UNITS.search(match["unit"]):
        return Quantity(text)
    if re.fullmatch(rf"\s*{TEXT}[^{END}]*{END}\s*", match["value"]) or match["value"].rstrip().endswith(
        ("_", "^", "_{", "^{", "=")
    ):
        return Quantity(text)
    return Quantity(match["value"].strip(), _canonical(match["unit"], match["power"] or ""))


def units_agree(a: Quantity, b: Quantity) -> bool:
    """False only when both units are known and different; conversion is out of scope."""
    return not a.unit or not b.unit or a.unit == b.unit


def _canonical(unit: str, power: str) -> str:
    text = re.sub(rf"[{TEXT}{END}]", " ", unit).lower().replace(".", " ")
    exponent = power.strip("^{}")
    words = [w for w in re.split(r"\s+|(?=/)|(?<=/)", text.replace("\\", " ")) if w]
    if words and words[0] in ("square", "sq"):
        words, exponent = words[1:], "2"
    elif words and words[0] in ("cubic", "cu"):
        words, exponent = words[1:], "3"
    words = ["/" if w == "per" else w for w in words]
    whole = "".join(words)
    if whole in _UNIT:
        return _UNIT[whole] + exponent
    parts = [_UNIT.get(w, w) for w in words]
    known = all(w == "/" or w in _UNIT for w in words)
    joined = "".join(parts)
    return _UNIT.get(joined, joined) + exponent if known and parts else ""
