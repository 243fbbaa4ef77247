"""What two answers are meant to say, where their letters leave a choice: the pairs of normalized answers to compare."""

import re

from verl.math_eval.grading.forms import in_symbols
from verl.math_eval.grading.normalize import END, TEXT, normalize
from verl.math_eval.grading.regions import without_member

_LEAD_WORDS = r"(?:the answer is|answer|approximately|approx\.?|about|roughly|exactly)\s*:?"
_LEAD = re.compile(rf"(?:^|{TEXT}\s*){_LEAD_WORDS}\s*{END}?\s*(?=\S)", re.IGNORECASE)
_SPELT_OUT = re.compile(rf"{TEXT}\s*(?:{_LEAD_WORDS})?\s*([-(]?[\d.][^{TEXT}{END}]*){END}", re.IGNORECASE)
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_POWERS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_WORD = rf"({'|'.join(_POWERS)})\b"
_SCALE = re.compile(rf"(.*\d)\s*(?:{TEXT}\s*{_WORD}([^{END}]*){END}|{_WORD})(.*)", re.DOTALL)


def readings(answer: str, gold: str) -> list[tuple[str, str]]:
    """1,234 is one number or a list; 5 million is 5,000,000, and also 5 where the other answer has no such word."""
    (answer, bare_answer), (gold, bare_gold) = _scaled(_bare(answer)), _scaled(_bare(gold))
    pairs = [(answer, gold)]
    if bare_answer != answer and bare_gold == gold:
        pairs.append((bare_answer, gold))
    if bare_gold != gold and bare_answer == answer:
        pairs.append((answer, bare_gold))
    return [(x, y) for a, g in pairs for x in _grouped(a) for y in _grouped(g)]


def _bare(answer: str) -> str:
    """Normalized, without "the answer is" and "x \\in" in front; words that stand for a formula as that formula."""
    text = normalize(answer)
    spelt_out = _SPELT_OUT.fullmatch(text)
    text = spelt_out[1] if spelt_out else _LEAD.sub("", text, count=1)
    return in_symbols(without_member(text.strip()))


def _scaled(text: str) -> tuple[str, str]:
    """("5*10^{6}", "5") for "5 million", with whatever follows the word; other answers twice."""
    match = _SCALE.fullmatch(text)
    if match is None:
        return text, text
    number, marked, unit, typed, rest = match.groups()
    rest = (f"{TEXT}{unit}{END}" if (unit or "").strip() else "") + rest
    return f"{number}*10^{{{_POWERS[marked or typed]}}}{rest}", number + rest


def _grouped(text: str) -> list[str]:
    whole = _GROUPED.sub(lambda m: m.group().replace(",", ""), text)
    return [text] if whole == text else [whole, text]
