"""Units and percent signs behind a number. Two known units must agree; one side may leave its unit out."""

import re
from dataclasses import dataclass

from verl.math_eval.grading.normalize import END, TEXT

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
    "Hz": "hertz hz",
    "N": "newton newtons",
    "J": "joule joules",
    "W": "watt watts",
    "V": "volt volts",
    "A": "ampere amperes amp amps",
    "Pa": "pascal pascals",
    "K": "kelvin kelvins",
    "celsius": "",
    "fahrenheit": "",
    "mph": "mi/h",
    "am": "",
    "pm": "",
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
_UNIT = {word: name for name, words in _SYNONYMS.items() for word in (name, *words.split())}  # in lower case
# Symbols with a prefix, where upper and lower case differ: mW is not MW.
_SYMBOL = {
    prefix + symbol: prefix + symbol
    for prefix in ("", "n", "m", "k", "M", "G")
    for symbol in (
        "m",
        "g",
        "s",
        "V",
        "A",
        "W",
        "J",
        "N",
        "K",
        "C",
        "F",
        "T",
        "Pa",
        "Hz",
        "eV",
        "mol",
        "cal",
        "Wh",
        "bar",
    )
}
# Without \text only words that can be no product of variables.
_PLAIN = sorted(
    (w for w in _UNIT if len(w) > 1 and "/" not in w and w not in ("in", "min", "Pa", "ev", "am", "pm")),
    key=len,
    reverse=True,
)
_PLAIN_UNIT = re.compile(
    rf"(?P<value>.*(?:[\d)}}\]]|\\pi))\s*(?P<unit>(?:(?:square|sq\.?|cubic|cu\.?)\s+)?(?:{'|'.join(_PLAIN)})(?:\s*/\s*[a-z]+|\s+per\s+[a-z]+)?)"
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
_NUMBER_AND_LETTER = re.compile(r"(?P<value>-?\d+(?:\.\d+)?) ?(?P<unit>[a-zA-Z])")
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
    if match is None or _NOT_UNITS.search(match["unit"]) or not _is_value(match["value"].strip()):
        return Quantity(text)
    return Quantity(match["value"].strip(), _canonical(match["unit"], match["power"] or ""))


def _is_value(text: str) -> bool:
    """Whether a unit can stand behind this: not behind words, an index that goes on, or "x ="."""
    if not re.search(r"\d|\\pi|[a-z]", text) or re.fullmatch(rf"{TEXT}[^{END}]*{END}", text):
        return False
    return not text.endswith(("_", "^", "_{", "^{", "="))


def units_agree(a: Quantity, b: Quantity) -> bool:
    """False only when both units are known and different; conversion is out of scope."""
    return not a.unit or not b.unit or a.unit == b.unit


def letter_as_unit(text: str, other: Quantity) -> Quantity | None:
    """5 g as a quantity, where the other side has grams; on its own it is 5 times g."""
    match = _NUMBER_AND_LETTER.fullmatch(text)
    if match is None or not other.unit or _canonical(match["unit"], "") != other.unit:
        return None
    return Quantity(match["value"], other.unit)


def _canonical(unit: str, power: str) -> str:
    """One spelling of a known unit with its power, "" for others."""
    exponent = power.strip("^{}")
    if "-" in exponent:
        return ""  # m s^{-1} is m/s, but that is not worked out here
    text = re.sub(rf"[{TEXT}{END}\\]", " ", unit)
    text = re.sub(r"\b([apAP])\.?\s?([mM])\b\.?", r"\1\2", text)
    words = [w for w in re.split(r"[\s.]+|(?=/)|(?<=/)", text) if w]
    for names, dimension in ((("square", "sq"), "2"), (("cubic", "cu"), "3")):
        if words and words[0].lower() in names:
            words, exponent = words[1:], dimension
    known = ["/" if w in ("/", "per") else _SYMBOL.get(w) or _UNIT.get(w.lower(), "") for w in words]
    joined = "".join(known)
    return _UNIT.get(joined, joined) + exponent if known and all(known) else ""
