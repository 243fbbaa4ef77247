"""A second score by the rules of the original harness (Qwen2.5-Math as DFT used it), to compare with published tables.

Not a grader to trust. ``grade_legacy_many`` follows the original's extraction, its stripping and its comparison, but
evaluates nothing: where the original hands text to a parser that runs it as Python, this one uses our own bounded
reader, and what that cannot read is different. The figures are therefore close to the original's, not the same.

Known false positives, all of them rules of the original and kept on purpose:
    5 = 500 = 0.05              a factor of 100 counts as a percent sign
    10000 = 10001               numbers agree within a relative 1e-4, whole ones too
    x+a = x+c, a/2 = m/2        the letters a c d g h l m o s t count as units and are deleted
    5 cm = 5 km, 5 V = 5 A      units are deleted
    [0,1] = (0,1) = {0,1}       brackets are not compared
    x>5 = x<5 = x\\ge 5          relations are compared by the size of left - right
    \\frac{1}{23} = \\frac{12}{3}   braces are deleted
    3 and 4 = 34                "and" and blanks are deleted
    1,-2 = 1                    reading stops at the first comma
    \\boxed{42                   an unclosed box takes the rest of the text
Known false negatives: 1,2 against 2,1 (lists are ordered), \\fbox, 1\\,234.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from verl.math_eval.grading.brackets import braced
from verl.math_eval.grading.normalize import normalize, word_list
from verl.math_eval.grading.rules.words import number_word
from verl.math_eval.grading.values.evaluate import (
    NotRational,
    TooLarge,
    Undefined,
    agree,
    approximate,
    constant_ratio,
    exact,
    symbols,
)
from verl.math_eval.grading.values.expression import Unreadable, read, unknown_functions

TOLERANCE = 1e-4
MAX_LENGTH = 2_000  # longer answers are compared as text
MAX_DEPTH = 4
_NUMBER = re.compile(r"-?\d*\.?\d+")
# The letters are among the original's units as well.
_UNITS = word_list(
    "degrees? mph kmph ft miles? minutes? hours? seconds? days? weeks? months? years? inch(?:es)? feet foot yards? "
    "meters? centimeters? km cm mm kg gm grams? liters? ml gallons? pounds? lbs ounces? dollars? cents? rupees? rs "
    "percent units? square sq cubic points? people ways times mi am pm men women boys girls students apples pieces "
    "a c d g h l m o s t"
)
_UNIT = re.compile(rf"(^|\W)(?:{'|'.join(_UNITS)})(?=$|\W)")
_FINAL = re.compile(r"final answer is \$(.{0,2000}?)\$\. I hope", re.DOTALL)
_PHRASES = ("he answer is", "final answer is", "答案是")
_RENAMED = (("tfrac", "frac"), ("dfrac", "frac"), ("bmatrix", "pmatrix"), ("\\{", "{"), ("\\}", "}"))
_DELETED = word_list(r"\! \left \right ^{\circ} ^\circ \$ $ \( \) x= y= z= x\in \% % and \mathbf ' \"")
_REWRITTEN = (("\\emptyset", "{}"), ("(-\\infty,\\infty)", "\\mathbb{R}"), (" .", " 0."), ("{.", "{0."))
_ARRAY = re.compile(r"\\(begin|end)\{array\}(?:\{[lcr|]*\})?")
_PMATRIX = re.compile(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}", re.DOTALL)
_BRACKETED = re.compile(r"[(\[].+[)\]]", re.DOTALL)
_RELATION = re.compile(r"<=|>=|\\(?:leq?|geq?|neq?)(?![a-zA-Z])|[<>=]")


def grade_legacy_many(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """One verdict per (model text, gold answer), in order, by the original's rules."""
    return [_equal(_strip(_strip(extract_legacy(text))), _strip(gold), 0) for text, gold in pairs]


def extract_legacy(text: str) -> str:
    """The answer as the original finds it: a phrase of Minerva, the last box, "he answer is", or the last number."""
    tail = text[-20_000:]
    if found := _FINAL.findall(tail):
        answer = found[-1]
    elif "boxed" in tail:
        answer = _last_box(tail.rpartition("boxed")[2])
    elif phrase := next((p for p in _PHRASES if p in tail), None):
        answer = tail.rpartition(phrase)[2].split("\n")[0]
    else:
        numbers = _NUMBER.findall(tail.replace(",", ""))
        answer = numbers[-1] if numbers else ""
    return re.sub(r"\n\s*", "", answer).lstrip(": ").rstrip("./ ")


def _last_box(rest: str) -> str:
    """A box that never closes takes all that follows."""
    return braced(rest, 0)[0] if rest.startswith("{") else rest.split("$")[0].strip()


@lru_cache(maxsize=20_000)
def _strip(text: str) -> str:
    """What the original compares: without units, words, signs and blanks."""
    text = _ARRAY.sub(r"\\\1{pmatrix}", text.strip()[: MAX_LENGTH + 1].rstrip("."))
    text = re.sub(r"\\text\{[^{}]*\}$", "", text).strip() or text
    for _ in range(2):
        text = _UNIT.sub(r"\1", text).strip() or text
    for old, new in (*_RENAMED, *((sign, "") for sign in _DELETED), *_REWRITTEN):
        text = text.replace(old, new)
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
    if (value := number_word(text)) is not None:
        return str(value)
    if "j" in text and "i" not in text:
        text = text.replace("j", "i")
    text = re.sub(r"(\d+)\.0*(?!\d)", r"\1", text)
    left, sign, right = text.partition("=")
    text = right if sign and "=" not in right and len(left.strip()) <= 2 else text
    text = "".join(text.split())
    return "0" + text if text.startswith(".") else text


def _equal(answer: str, gold: str, depth: int) -> bool:
    if answer.lower() == gold.lower():
        return bool(answer)
    if not answer or depth > MAX_DEPTH or max(len(answer), len(gold)) > MAX_LENGTH:
        return False
    if len(gold) == 1 and gold in "ABCDE":
        return re.findall(r"\b[A-E]\b", answer.upper())[-1:] == [gold]
    numbers = _digits(answer), _digits(gold)
    if numbers[0] is not None and numbers[1] is not None:
        return any(_close(numbers[0], numbers[1] * factor) for factor in (0.01, 1, 100))
    bare = [re.sub(r"[{}()\[\]]", "", t).lower() for t in (answer, gold)]
    if bare[0] == bare[1]:
        return True
    if _BRACKETED.fullmatch(answer) and _BRACKETED.fullmatch(gold):
        entries = answer[1:-1].split(","), gold[1:-1].split(",")
        if len(entries[0]) == len(entries[1]) and all(_equal(a, g, depth + 1) for a, g in zip(*entries, strict=True)):
            return True
    if (cells := _cells(answer)) and (others := _cells(gold)):
        return len(cells) == len(others) and all(_equal(a, g, depth + 1) for a, g in zip(cells, others, strict=True))
    return _symbolic(answer, gold, depth)


def _digits(text: str) -> float | None:
    try:
        return float(text.replace(",", "")) if len(text) < 300 else None
    except ValueError:
        return None


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= TOLERANCE * max(abs(a), abs(b))


def _cells(text: str) -> list[str]:
    match = _PMATRIX.search(text)
    return re.split(r"\\\\|&", match[1].removesuffix("\\\\")) if match else []


def _symbolic(answer: str, gold: str, depth: int) -> bool:
    """By the value of the two expressions, or by left - right of two relations."""
    sides = _RELATION.split(answer), _RELATION.split(gold)
    if len(sides[0]) == len(sides[1]) == 2:
        left, right = (f"{x}-({y})" for x, y in sides)
        return _same_value(left, right, up_to_sign=True)
    if len(sides[0]) == 2 and len(sides[1]) == 1 and len(sides[0][0]) <= 2 and "=" in answer:
        return _equal(sides[0][1], gold, depth + 1)
    if len(sides[1]) == 2 and len(sides[0]) == 1 and len(sides[1][0]) <= 2 and "=" in gold:
        return _equal(answer, sides[1][1], depth + 1)
    return _same_value(answer, gold)


def _same_value(answer: str, gold: str, up_to_sign: bool = False) -> bool:
    texts = [normalize(t).split(",")[0] for t in (answer, gold)]
    functions = unknown_functions(*texts)
    try:
        a, g = (read(t, functions=functions)[0] for t in texts)
        if up_to_sign:
            ratio = constant_ratio(a, g)
            return ratio is not None and _close(float(abs(ratio)), 1.0)
        if symbols(a) or symbols(g):
            return bool(agree(a, g))
        try:
            if exact(a) == exact(g):
                return True
        except NotRational:
            pass
        x, y = approximate(a), approximate(g)
        return bool(abs(x - y) <= TOLERANCE * max(abs(x), abs(y)))
    except (Unreadable, TooLarge, Undefined):
        return False
