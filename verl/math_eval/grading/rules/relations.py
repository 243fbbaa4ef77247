"""Equations, inequalities and named values, as the rule of :mod:`compare` for whatever has a relation sign."""

from verl.math_eval.grading.judge import Comparison
from verl.math_eval.grading.names import function_of, is_name, rename_argument, split_domain, values_of
from verl.math_eval.grading.normalize import key
from verl.math_eval.grading.structure import FLIPPED, drop_where, split_relation
from verl.math_eval.grading.values.same_value import constant_factors, says_two_numbers

_INCREASING = frozenset({"<", "\\leq"})
_VALUE_SIGNS = frozenset({"=", "\\approx", "\\equiv", "\\sim"})


def relation(comparison: Comparison, a: str, g: str, depth: int) -> bool | None:
    """Names in front of "=" may be left out; whole equations may be written in another way."""
    (ma, sa), (mg, sg) = split_relation(a), split_relation(g)
    if not sa and not sg:
        return None
    if "\\in" in sa or "\\in" in sg:
        bare = [m[1] if s == ["\\in"] and is_name(m[0]) else t for m, s, t in ((ma, sa, a), (mg, sg, g))]
        if bare == [a, g]:
            return comparison.say(False, "another relation")
        return comparison.equal(bare[0], bare[1], depth + 1)
    if sa == sg == ["="]:
        return _equations(comparison, ma, mg, depth)
    if _VALUE_SIGNS.issuperset(sa) and _VALUE_SIGNS.issuperset(sg):
        values_a, values_g = values_of(ma, sa, asked_for=not sg), values_of(mg, sg)
        if says_two_numbers(ma, sa) or says_two_numbers(mg, sg):
            return comparison.say(False, "contradiction")
        return all(comparison.equal(x, y, depth + 1) for x in values_a for y in values_g)
    if len(sa) == len(sg) == 1 and sa[0] in FLIPPED and sg[0] in FLIPPED:
        return _inequalities(comparison, ma, sa[0], mg, sg[0])
    for members, signs in ((ma, sa), (ma[::-1], [FLIPPED.get(s, s) for s in sa[::-1]])):
        if signs == sg:
            return comparison.in_order(members, mg, depth)
    return comparison.say(False, "another relation")


def _equations(comparison: Comparison, ma: list[str], mg: list[str], depth: int) -> bool:
    if key(ma[0]) == key(mg[0]):
        return comparison.equal(ma[1], mg[1], depth + 1)
    if function_of(ma[0]) or function_of(mg[0]):
        if "y" in (ma[0], mg[0]):  # y = x^2 for f(x) = x^2
            return comparison.equal(ma[1], mg[1], depth + 1)
        renamed = rename_argument(ma, mg)
        return comparison.equal(renamed, mg[1], depth + 1) if renamed else comparison.say(False, "another function")
    factors = constant_factors(ma, mg)
    if factors is None:
        return comparison.ask(f"{ma[0]}={ma[1]}", f"{mg[0]}={mg[1]}")
    return comparison.say(bool(factors), "equations")


def _inequalities(comparison: Comparison, ma: list[str], sa: str, mg: list[str], sg: str) -> bool:
    if ("eq" in sa) != ("eq" in sg):
        return comparison.say(False, "strict against not strict")
    factors = constant_factors(ma, mg)
    if factors is None:
        return comparison.ask(f"{ma[0]}{sa} {ma[1]}", f"{mg[0]}{sg} {mg[1]}")
    same_direction = (sa in _INCREASING) == (sg in _INCREASING)
    good = any(f.imag == 0 and (f.real > 0) == same_direction for f in factors)
    return comparison.say(good, "inequalities")


def clause(comparison: Comparison, a: str, g: str, depth: int) -> bool | None:
    """ ", where b is prime" does not count; ", k \\in \\mathbb{Z}" may be left out, and two must agree."""
    if depth > 0:
        return None
    (rest_a, domain_a), (rest_g, domain_g) = split_domain(drop_where(a)), split_domain(drop_where(g))
    if (rest_a, rest_g) == (a, g):
        return None
    if domain_a and domain_g:
        if domain_a.numbers != domain_g.numbers:
            return comparison.say(False, "another domain")
        rest_a = domain_a.rename(rest_a, domain_g)
    return comparison.equal(rest_a, rest_g, depth + 1)
