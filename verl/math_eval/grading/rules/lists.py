"""Lists, sets, tuples and matrices: counted, and compared member by member."""

import re

from verl.math_eval.grading.judge import Comparison
from verl.math_eval.grading.names import names_of, sorted_by_name, split_names
from verl.math_eval.grading.normalize import key
from verl.math_eval.grading.rules.regions import as_region, may_be_region
from verl.math_eval.grading.rules.vectors import combined, unit_vector
from verl.math_eval.grading.structure import (
    Bracketed,
    both_signs,
    bracketed,
    in_form_of,
    is_set,
    matrix,
    members_of,
    row_vector,
    split_list,
    split_relation,
)

MAX_REPEATED = 4  # spellings of one answer in a list
_ROOT = re.compile(r"(x|z|t|r|m|k|\\lambda)\s*_\s*\{?\s*\d\s*\}?\s*=\s*([^=]+)", re.DOTALL)
_POINT = re.compile(r"[A-Z]\s*(\(.*\))", re.DOTALL)


def items(comparison: Comparison, a: str, g: str, depth: int) -> bool | None:
    """a, b and c: equal counts, in any order unless ";", names or brackets fix it."""
    if may_be_region(a) and may_be_region(g) and as_region(a) is not None and as_region(g) is not None:
        return None
    (la, fixed_a), (lg, fixed_g) = split_list(a), split_list(g)
    la, lg = both_signs(la), both_signs(lg)
    ba, bg = bracketed(a), bracketed(g)
    if is_set(ba) or is_set(bg):
        if may_be_region(a) or may_be_region(g):
            return None
        if is_set(ba) != is_set(bg) and (depth > 0 or "\\emptyset" in (*la, *lg)):
            return comparison.say(False, "a set against a member")
        return _sets(comparison, la, lg, ba, bg, depth)
    if len(la) == len(lg) == 1:
        return None
    if len(la) != len(lg):
        la, lg = _distinct_tuples(la), _distinct_tuples(lg)
    if len(la) != len(lg):
        return _other_count(comparison, a, g, la, lg, depth)
    if (roots_a := _numbered_roots(la)) and (roots_g := _numbered_roots(lg)):
        return comparison.any_order(roots_a, roots_g, depth)
    named = [len(names_of(items)) > 1 for items in (la, lg)]
    if named[1] and not named[0] and comparison.in_order(la, lg, depth):
        return True
    if fixed_a or fixed_g or named[0] != named[1]:
        return comparison.in_order(sorted_by_name(la), sorted_by_name(lg), depth)
    return comparison.any_order(la, lg, depth)


def _distinct_tuples(items: list[str]) -> list[str]:
    """Points are a set however they are written: (1, 2), (1, 2) is one. Numbers are counted."""
    if not all(item.startswith("(") and "," in item for item in items):
        return items
    return list({key(item): item for item in items}.values())


def _numbered_roots(items: list[str]) -> list[str]:
    """[1, 2] of x_1 = 1, x_2 = 2: the numbers of roots are free; [] for everything else."""
    found = [_ROOT.fullmatch(item) for item in items]
    if not all(found) or len({match[1] for match in found if match}) != 1:
        return []
    return [match[2] for match in found if match]


def _other_count(comparison: Comparison, a: str, g: str, la: list[str], lg: list[str], depth: int) -> bool | None:
    """Lists of different counts differ, unless one of them is a tuple or a region that says all of the other."""
    if as_region(a) is not None and as_region(g) is not None:
        return None
    one, many = (a, lg) if len(la) == 1 else (g, la)
    if assignments := split_names(one):
        return comparison.any_order(*((assignments, lg) if one is a else (la, assignments)), depth)
    found = bracketed(row_vector(one))
    if min(len(la), len(lg)) == 1 and found and found.opening != "[" and found.closing != "]":
        items, others = list(found.items), sorted_by_name(many)  # (1, 2) for 1, 2: the order counts
        return comparison.in_order(*((items, others) if one is a else (others, items)), depth)
    if len(lg) == 1 and len(la) <= MAX_REPEATED and all(comparison.equal(item, g, depth + 1) for item in la):
        return True  # 3/4 or 0.75
    return comparison.say(False, f"{len(la)} answers instead of {len(lg)}")


def _sets(
    comparison: Comparison, la: list[str], lg: list[str], ba: Bracketed | None, bg: Bracketed | None, depth: int
) -> bool:
    """{1, 2} against a set or a list in any order; never against a tuple or an interval."""
    items_a, items_g = members_of(la, ba), members_of(lg, bg)
    if len(items_a) != len(items_g):
        return comparison.say(False, f"{len(items_a)} answers instead of {len(items_g)}")
    return comparison.any_order(items_a, items_g, depth)


def brackets(comparison: Comparison, a: str, g: str, depth: int) -> bool | None:
    """Tuples, vectors and intervals: same length, same order, same kind of brackets."""
    a, g = row_vector(a), row_vector(g)
    ba, bg = bracketed(a), bracketed(g)
    bare = [b.items[0] if b and len(b.items) == 1 and b.opening in ("(", "[") else t for b, t in ((ba, a), (bg, g))]
    if bare != [a, g]:
        return comparison.equal(bare[0], bare[1], depth + 1)
    if ba is None and bg is None:
        return None
    if ba is None or bg is None:
        one = ba or bg
        assert one is not None
        if found := unit_vector(a if ba is None else g, len(one.items)):
            entries = list(one.items)
            return comparison.in_order(*((found, entries) if ba is None else (entries, found)), depth)
        if point := _POINT.fullmatch(a if ba is None else g):  # P(1, 2) is (1, 2)
            return comparison.equal(point[1], g, depth + 1) if ba is None else comparison.equal(a, point[1], depth + 1)
        related = split_relation(a)[1] or split_relation(g)[1]
        return None if related else comparison.say(False, "a tuple against a single value")
    if len(ba.items) != len(bg.items):
        return comparison.say(False, f"{len(ba.items)} entries instead of {len(bg.items)}")
    kinds = {(_round(b.opening), _round(b.closing)) for b in (ba, bg)}
    if len(kinds) > 1 and not (len(bg.items) > 2 and kinds == {("(", ")"), ("[", "]")}):
        return comparison.say(False, "other brackets")
    return comparison.in_order(list(ba.items), list(bg.items), depth)


def matrices(comparison: Comparison, a: str, g: str, depth: int) -> bool | None:
    """By cell; a tuple may stand for a vector and [[1, 2], [3, 4]] for a matrix."""
    ma, mg = matrix(a) or combined(a), matrix(g) or combined(g)
    if ma is None and mg is None:
        return None
    if ma is None or mg is None:
        column = ma or mg
        assert column is not None
        if set(column.shape) == {1} and (found := unit_vector(a if ma is None else g, len(column.rows))):
            cells = [row[0] for row in column.rows]
            return comparison.in_order(*((found, cells) if ma is None else (cells, found)), depth)
    if (ma is None or mg is None) and (split_relation(a)[1] or split_relation(g)[1]):
        return None
    ma, mg = ma or in_form_of(mg, a), mg or in_form_of(ma, g)
    if ma is None or mg is None:
        return comparison.say(False, "only one is a matrix")
    if ma.shape != mg.shape:
        return comparison.say(False, "another shape of matrix")
    return all(comparison.in_order(ra, rg, depth) for ra, rg in zip(ma.rows, mg.rows, strict=True))


def _round(bracket: str) -> str:
    return {"\\langle": "(", "\\rangle": ")"}.get(bracket, bracket)
