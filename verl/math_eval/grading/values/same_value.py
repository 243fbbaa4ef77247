"""Two single expressions, by value. None everywhere means: this reader cannot tell."""

from collections.abc import Sequence
from typing import Any

from verl.math_eval.grading.values.decimals import number, rounds_approximately, rounds_to
from verl.math_eval.grading.values.evaluate import (
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
from verl.math_eval.grading.values.expression import Node, Unreadable, read, unknown_functions


def same_value(answer: str, gold: str) -> tuple[bool | None, str]:
    """(whether two expressions are worth the same, how that was found); (None, "") for what cannot be read."""
    functions = unknown_functions(answer, gold)
    try:
        pairs = [(a, g) for a in _trees(answer, functions) for g in _trees(gold, functions)]
    except Unreadable:
        return None, ""
    verdicts = [_same(answer, a, gold, g) for a, g in pairs]
    return next((v for v in verdicts if v[0]), verdicts[0])


def says_two_numbers(members: Sequence[str], signs: Sequence[str]) -> bool:
    """Whether 42 \\approx 43 is among them: between whole numbers that is no rounding."""
    approximations = [pair for sign, *pair in zip(signs, members[:-1], members[1:], strict=True) if sign == "\\approx"]
    values = [(number(x), number(y)) for x, y in approximations]
    return any(x != y and x and y and x.denominator == y.denominator == 1 for x, y in values)


def constant_factors(answer: Sequence[str], gold: Sequence[str]) -> list[Any] | None:
    """For two relations, given by their sides: the numbers c with (left - right) = c (left - right) everywhere, in any
    reading.

    Empty when there is none: the relations are different. None when a side cannot be read.
    """
    left, right = (f"{sides[0]}-({sides[1]})" for sides in (answer, gold))
    functions = unknown_functions(left, right)
    try:
        pairs = [(a, g) for a in _trees(left, functions) for g in _trees(right, functions)]
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


def _trees(text: str, functions: frozenset[str]) -> list[Node]:
    """The expression, in both readings where "/" leaves a choice."""
    tree, ambiguous = read(text, functions=functions)
    return [tree, read(text, tight=False, functions=functions)[0]] if ambiguous else [tree]


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


def rank(text: str) -> float:
    """A number that orders answers by size, the same for equal constants: partners in two sorted lists meet first."""
    value = number(text)
    if value is not None:
        return float(value) if abs(value) < 10**300 else float("inf")
    try:
        tree, _ = read(text)
        return float("inf") if symbols(tree) else float(approximate(tree).real)
    except (Unreadable, TooLarge, Undefined, OverflowError):
        return float("inf")
