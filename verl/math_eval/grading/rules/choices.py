"""Multiple choice: B, (B), \\text{B.}, "(C) 12", "A, C and D"."""

import re

from verl.math_eval.grading.judge import Comparison
from verl.math_eval.grading.normalize import END, TEXT, unmarked
from verl.math_eval.grading.structure import bracketed

_LETTER = re.compile(
    rf"(?:[{TEXT}\s]*(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s)?[{END}{TEXT}(\[\s]*([A-J])[{END})\]\s]*(?:[.:][{END}\s]*)?"
)
_LETTER_AND_VALUE = re.compile(
    rf"{TEXT}?\s*(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+)?(?:\(\s*([A-J])\s*\)|([A-J])\s*{END}?\s*[.:)])\s*{END}?\s*(\S.*)",
    re.DOTALL,
)
# Beside a letter as gold: B = 12, B \\quad 12, B \\text{ (12)}, E: \\text{...}
_LETTER_THEN = re.compile(
    rf"{TEXT}?\s*(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+)?\(?([A-J])\)?\s*{END}?\s*"
    rf"(?:[.:=,–—]|{TEXT}?\s*(?:-|–|:|\()|(?=\s\d|\s?{TEXT}|\s\\))\s*{END}?\s*(?=\S)(?P<rest>.*)",
    re.DOTALL,
)
_LETTERS = re.compile(r"[A-J]{2,10}")


def choice(comparison: Comparison, a: str, g: str, depth: int) -> bool | None:
    """Letters of multiple choice: the gold decides whether it is one."""
    if depth == 0 and (option := choice_with_value(g)):
        return any(comparison.equal(a, part, 1) for part in option)
    if depth == 0 and choice_letters(g) is None and (option := choice_with_value(a)):
        return comparison.equal(option[1], g, 1)
    gold_letters, letters = choice_letters(g), choice_letters(a)
    if letters is None and gold_letters is not None and (option := choice_with_value(a)):
        letters = option[0]
    if letters is None and gold_letters is not None and len(gold_letters) == 1:
        letters = _letter_then_text(a)
    if gold_letters is None or letters is None:
        return None
    return comparison.say(letters == gold_letters, "choice")


def choice_letters(text: str) -> str | None:
    """ "B" for B, (B), \\text{B.}; "ACD" for ACD or A, C and D; None for what is no choice."""
    if match := _LETTER.fullmatch(text):
        return match.group(1)
    found = bracketed(text)
    if found is not None and len(found.items) > 1:
        return None
    letters = re.sub(r"[\s,()]|\\text|\band\b", "", unmarked(text, " "))
    if _LETTERS.fullmatch(letters) and len(set(letters)) == len(letters):
        return "".join(sorted(letters))
    return None


def _letter_then_text(text: str) -> str | None:
    """B of "B = 12"; None where more letters follow."""
    match = _LETTER_THEN.fullmatch(text)
    if match is None or re.search(r"(?<![a-zA-Z\\])[A-J](?! [a-z]|[a-zA-Z'])", match["rest"]):
        return None
    return match[1]


def choice_with_value(text: str) -> tuple[str, str] | None:
    """(letter, value) of "(C) 12"."""
    match = _LETTER_AND_VALUE.fullmatch(text)
    if match is None:
        return None
    value = match.group(3).strip(TEXT + END + " ")
    if re.match(r"(?:and|or)\b|[,/&]?\s*\(?[A-J]\b", value):
        return None  # (A) or (B)
    return (match.group(1) or match.group(2), value) if value else None
