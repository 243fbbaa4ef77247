"""What is not handed to a symbolic library: answers that are code, or that are built to keep it busy."""

import re

from verl.math_eval.grading.brackets import nesting

MAX_SYMBOLIC_LENGTH = 600
MAX_NESTING = 25
MAX_BRACKETS = 50  # deeper answers are compared as text only

_CODE = re.compile(
    r"__|[\"'`;@#$]|(?<![\\a-zA-Z])(?:import|lambda|exec|eval|open|print|input|getattr|globals|compile|while|class|def|None|self|sys|os)"
    r"(?![a-zA-Z])|\\(?:input|include|write|read|def|csname|catcode|loop)(?![a-zA-Z])"
)
_ENDLESS = re.compile(r"\\(?:sum|prod|int|iint|oint|lim|limsup|bigcup|bigcap)(?![a-zA-Z])")
_LONG_NUMBER = re.compile(r"\d{60}")
_LARGE_EXPONENT = re.compile(r"\^\s*\{?\s*-?\s*\(?\s*\d{4,}|\}\s*!|\)\s*!|\d{4,}\s*!|\\end\{[a-z]*matrix\}\s*\^")
_TOWER = re.compile(r"\^\s*\{[^{}]*\^")
_LARGE_CHOICE = re.compile(r"\\binom\s*\{[^{}]*\d{4,}")


def refusal(text: str) -> str:
    """Why this text is not evaluated symbolically; "" when it may be."""
    if len(text) > MAX_SYMBOLIC_LENGTH:
        return "refused: too long"
    if _CODE.search(text):
        return "refused: looks like code"
    if _ENDLESS.search(text):
        return "refused: sum, product, integral or limit"
    if _LONG_NUMBER.search(text) or _LARGE_EXPONENT.search(text) or _LARGE_CHOICE.search(text) or _TOWER.search(text):
        return "refused: a large number"
    return "refused: nested too deeply" if nesting(text) > MAX_NESTING else ""
