"""What kind of thing a normalized answer is: a choice, words, a name in front of "="."""

import re

from verl.math_eval.normalize import END, TEXT
from verl.math_eval.structure import Bracketed, bracketed

_LETTER = re.compile(
    rf"(?:[{TEXT}\s]*(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s)?[{END}{TEXT}(\[\s]*([A-J])[{END})\]\s]*(?:[.:][{END}\s]*)?"
)
_LETTER_AND_VALUE = re.compile(rf"{TEXT}?\s*(?:\(\s*([A-J])\s*\)|([A-J])\s*[.:)])\s*{END}?\s*(\S.*)", re.DOTALL)
_LETTERS = re.compile(r"[A-J]{2,10}")
_NOT_WORDS = re.compile(r"[\\=<>^_{}+*/|\[\]]")
_WORDS = re.compile(r"[^\W\d_][\w\s.'’:,!?&()-]*")
_SYMBOL = rf"(?:\\?[a-zA-Z]+|\\(?:hat|bar|vec|overline|dot|widehat)\{{[^{{}}]*\}}|{TEXT}[^{END}]*{END})"
_NAME = re.compile(
    rf"(?:m\s*)?(?:\\(?:angle|triangle|Delta)\s*)?{_SYMBOL}(?:\s*(?:_\{{[^{{}}]*\}}|_\\[a-zA-Z]+|'|\^\{{'+\}}|[A-Z]|{TEXT}[^{END}]*{END}))*"
    r"\s*(?:\(\s*[a-zA-Z0-9,\s\\]*\))?"
)
_NAMES = re.compile(
    r"(?:[(\[]|\\\{|\\langle)?\s*(?:\\?[a-zA-Z]+(?:_\{\w+\})?)(?:\s*,\s*\\?[a-zA-Z]+(?:_\{\w+\})?)+\s*(?:[)\]]|\\\}|\\rangle)?"
)
_FUNCTION = re.compile(r"\s*(\\?[a-zA-Z]+(?:_\{\w+\})?)\s*\(\s*([a-zA-Z])\s*\)\s*")


def choice_letters(text: str) -> str | None:
    """ "B" for B, (B), \\text{B.}; "ACD" for ACD or A, C and D; None for what is no choice."""
    if match := _LETTER.fullmatch(text):
        return match.group(1)
    found = bracketed(text)
    if found is not None and len(found.items) > 1:
        return None
    letters = re.sub(rf"[{TEXT}{END}\s,()]|\\text|\band\b", "", text)
    if _LETTERS.fullmatch(letters) and len(set(letters)) == len(letters):
        return "".join(sorted(letters))
    return None


def choice_with_value(text: str) -> tuple[str, str] | None:
    """(letter, value) of "(C) 12"."""
    match = _LETTER_AND_VALUE.fullmatch(text)
    if match is None:
        return None
    value = match.group(3).strip(TEXT + END + " ")
    return (match.group(1) or match.group(2), value) if value else None


def words(text: str) -> str | None:
    """A text answer in one spelling: lower case, no articles, no plural s, no punctuation; None for formulas."""
    plain = text.replace(TEXT, "").replace(END, "").strip()
    if _NOT_WORDS.search(plain) or not re.search(r"[^\W\d_]{2}", plain) or not _WORDS.fullmatch(plain):
        return None
    if TEXT not in text and ("," in plain or "(" in plain or any(c.isdigit() for c in plain)):
        return None
    found = re.findall(r"\w+", plain.casefold())
    found = [w for w in found if w not in ("the", "a", "an")] or found
    return " ".join(w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in found)


def is_name(text: str) -> bool:
    """x, x_1, f(x), m_{\\max}, \\angle ABC, (x, y): what may stand in front of "=" and be left out."""
    return bool(_NAME.fullmatch(text) or _NAMES.fullmatch(text))


def names_of(items: list[str]) -> list[str]:
    """The names of "a = 2", "b = 3": one per item that has one."""
    heads = [item.split("=", 1)[0].strip() for item in items if "=" in item]
    return [head for head in heads if is_name(head)]


def is_set(found: Bracketed | None) -> bool:
    return found is not None and found.opening == "\\{"


def function_of(text: str) -> tuple[str, str] | None:
    """("f", "x") for f(x)."""
    match = _FUNCTION.fullmatch(text)
    return (match.group(1), match.group(2)) if match else None


def rename_argument(members: list[str], like: list[str]) -> str | None:
    """The right side of f(n) = ... with the variable of the other definition of f; None when it is not the same
    function.
    """
    mine, other = function_of(members[0]), function_of(like[0])
    if mine is None or other is None or mine[0] != other[0]:
        return None
    return re.sub(rf"(?<![a-zA-Z\\]){mine[1]}(?![a-zA-Z])", other[1], members[1])
