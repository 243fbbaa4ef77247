"""Letters that a solution is free to choose: the integer of a general solution, arbitrary constants, the parameter of a
line.
"""

import re
from collections.abc import Iterator
from itertools import permutations

_DECLARED = re.compile(r"(?<![a-zA-Z\\])([a-zA-Z])\s*\\in\s*\\mathbb\{(?:Z|N)\}")
_BESIDE_PI = re.compile(r"(?<![a-zA-Z\\])([knmlN])\s*\*?\s*\\pi|\\pi\s*\*?\s*([knmlN])(?![a-zA-Z])")
_CONSTANT = re.compile(r"(?<![a-zA-Z\\])(?:[A-D]|[cC]_\{\d\}|[cK])(?=e\s*\^|[^a-zA-Z(_']|$)")
_NUMBERED = re.compile(r"[cC]_\{\d\}")
_LETTER = re.compile(r"(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z])|\\(?:lambda|mu|theta|alpha)(?![a-zA-Z])")
_PARAMETERS = frozenset(["r", "s", "t", "u", "k", "\\lambda", "\\mu"])
_TUPLE = re.compile(r"\s*(?:\(|\\langle).*,.*(?:\)|\\rangle)\s*", re.DOTALL)
MAX_CONSTANTS = 3


def renamed(answer: str, gold: str) -> Iterator[tuple[str, str]]:
    """The pairs in which the answer has the gold's letters; none where no letter is free."""
    yield from _integer(answer, gold)
    yield from _constants(answer, gold)
    yield from _parameter(answer, gold)


def _integer(answer: str, gold: str) -> Iterator[tuple[str, str]]:
    """k of x = k\\pi for n of x = n\\pi, where one says that it is an integer, or both are solutions for a variable."""
    declared = _DECLARED.findall(answer), _DECLARED.findall(gold)
    mine, other = ({*found, *_beside_pi(text)} for found, text in zip(declared, (answer, gold), strict=True))
    if len(mine) == len(other) == 1 and mine != other and (any(declared) or ("=" in answer and "=" in gold)):
        (old,), (new,) = mine, other
        if new not in _LETTER.findall(answer):
            yield _replace(answer, {old: new}), gold


def _beside_pi(text: str) -> set[str]:
    return {letter for pair in _BESIDE_PI.findall(text) for letter in pair if letter}


def _constants(answer: str, gold: str) -> Iterator[tuple[str, str]]:
    """A e^x + B e^{-x} for C_1 e^x + C_2 e^{-x}, in every assignment of the constants."""
    if not any(c in answer + gold for c in "cC"):
        return
    mine, other = (list(dict.fromkeys(_CONSTANT.findall(text))) for text in (answer, gold))
    free = any(_NUMBERED.fullmatch(name) for name in (*mine, *other)) or (len(mine) == 1 and "C" in (*mine, *other))
    if mine == other or not free or len(mine) != len(other) or not 0 < len(mine) <= MAX_CONSTANTS:
        return
    if not re.search(r"[a-z]", gold.replace("e", "")):
        return  # no function of anything
    for order in permutations(other):
        yield _replace(answer, dict(zip(mine, order, strict=True))), gold


def _parameter(answer: str, gold: str) -> Iterator[tuple[str, str]]:
    """(s, 2s) for (t, 2t)."""
    if _TUPLE.fullmatch(answer) and _TUPLE.fullmatch(gold):
        mine, other = set(_LETTER.findall(answer)), set(_LETTER.findall(gold))
        if len(mine) == len(other) == 1 and mine != other and mine | other <= _PARAMETERS:
            yield _replace(answer, {mine.pop(): other.pop()}), gold


def _replace(text: str, names: dict[str, str]) -> str:
    """All at once, so that two names may change places."""
    pattern = re.compile("|".join(rf"(?<![a-zA-Z\\]){re.escape(name)}(?=e\s*\^|[^a-zA-Z_]|$)" for name in names))
    return pattern.sub(lambda match: names[match.group()] + (" " if names[match.group()][0] == "\\" else ""), text)
