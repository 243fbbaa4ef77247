"""Two single expressions, by value. None everywhere means: this reader cannot tell."""

from collections.abc import Sequence
from typing import Any

from verl.math_eval.grading.decimals import rounds_approximately, rounds_to
from verl.math_eval.grading.expression import Node, Unreadable, read
from verl.math_eval.grading.values import (
    NotRational,
    TooLarge,
    Undefined,
    agree,
    approximate,
    close,
    constant_ratio,
    exact,
    symbols,
)


def same_value(answer: str, gold: str) -> tuple[bool | None, str]:
    """(whether two expressions are worth the same, how that was found); (None, "") for what cannot be read."""
    try:
        pairs = [(a, g) for a in _trees(answer) for g in _trees(gold)]
    except Unreadable:
        return None, ""
    verdicts = [_same(answer, a, gold, g) for a, g in pairs]
    return next((v for v in verdicts if v[0]), verdicts[0])


def constant_factors(answer: Sequence[str], gold: Sequence[str]) -> list[Any] | None:
    """For two relations, given by their sides: the numbers c with (left - right) = c (left - right) everywhere, in any
    reading.

    Empty when there is none: the relations are different. None when a side cannot be read.
    """
    try:
        pairs = [(a, g) for a in _trees(f"{answer[0]}-({answer[1]})") for g in _trees(f"{gold[0]}-({gold[1]})")]
    except Unreadable:
        return None
    factors = []
    for a, g in pairs:
        if symbols(a) and symbols(g):
            try:
                factors.append(constant_ratio(a, g))
            except TooLarge:
                continue
    return [f for f in factors if f is not None]


def _trees(text: str) -> list[Node]:
    """The expression, in both readings where "/" leaves a choice."""
    tree, ambiguous = read(text)
    return [tree, read(text, tight=False)[0]] if ambiguous else [tree]


def _same(answer: str, a: Node, gold: str, g: Node) -> tuple[bool | None, str]:
    try:
        if symbols(a) or symbols(g):
            return agree(a, g), "values at points"
        return _same_constant(answer, a, gold, g)
    except TooLarge as error:
        return False, f"beyond the limits: {error}"
    except Undefined:
        return False, "undefined"


def _same_constant(answer: str, a: Node, gold: str, g: Node) -> tuple[bool, str]:
    try:
        va, vg = exact(a), exact(g)
        return va == vg or rounds_to(answer, va, gold, vg), "exact values"
    except NotRational:
        xa, xg = approximate(a), approximate(g)
        return close(xa, xg) or rounds_approximately(answer, xa, gold, xg), "values"
