"""Is this answer the gold answer? Structure first, then values; each decision leaves its reason."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from verl.math_eval.decimals import number, rounds_to
from verl.math_eval.forms import (
    choice_letters,
    choice_with_value,
    function_of,
    is_name,
    is_set,
    names_of,
    rename_argument,
    words,
)
from verl.math_eval.leaves import constant_factors, same_value
from verl.math_eval.limits import MAX_BRACKETS, nesting, refusal
from verl.math_eval.normalize import END, MAX_LENGTH, TEXT, key, normalize
from verl.math_eval.ratios import same_ratio
from verl.math_eval.structure import (
    FLIPPED,
    MAX_ITEMS,
    Bracketed,
    as_region,
    bracketed,
    drop_where,
    expand_plus_minus,
    matrix,
    split_list,
    split_relation,
    without_member,
)
from verl.math_eval.units import split_unit, units_agree

MAX_DEPTH = 8
MAX_LEAVES = 400  # comparisons of single expressions in one grade

# (answer, gold) -> equal, as decided by a symbolic library outside this process.
Symbolic = Callable[[str, str], bool]

_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_BASED = re.compile(r"(\d+)_\{(\d+)\}")
_LEAD = re.compile(
    rf"{TEXT}\s*(?:the answer is|answer|approximately|approx\.?|about|roughly|exactly)\s*:?\s*{END}\s*(?=\S)",
    re.IGNORECASE,
)
_INCREASING = frozenset({"<", "\\leq"})
_VALUE_SIGNS = frozenset({"=", "\\approx", "\\equiv", "\\sim"})


class NeedsSymbolic(Exception):
    """Only a symbolic library can decide, and none was given."""


@dataclass(frozen=True)
class Verdict:
    equal: bool
    reason: str


def compare(answer: str, gold: str, symbolic: Symbolic | None = None) -> Verdict:
    """Whether an extracted answer equals the gold one. Both are LaTeX or plain text, without a box.

    symbolic: asked about expressions the reader does not know. Raises NeedsSymbolic when it is None and would be asked.
    """
    if any(len(t) > MAX_LENGTH or nesting(t) > MAX_BRACKETS for t in (answer, gold)):
        same = "".join(answer.split()) == "".join(gold.split())
        return Verdict(same, "same text" if same else "beyond the limits: too long, or nested too deeply")
    comparison = _Comparison(symbolic)
    pairs = [(a, g) for a in _readings(_bare(answer)) for g in _readings(_bare(gold))]
    equal = any(comparison.equal(a, g) for a, g in pairs)
    return Verdict(equal, comparison.reason)


def answer_key(answer: str) -> str:
    """Equal keys for the same answer in the most common spellings: same text, or same number."""
    text = normalize(answer)
    value = number(text)
    return key(text) if value is None else str(value)


def _bare(answer: str) -> str:
    """Normalized, without "the answer is" and "x \\in" in front."""
    return without_member(_LEAD.sub("", normalize(answer), count=1).strip())


def _readings(text: str) -> list[str]:
    """1,234 is one number, or else two."""
    grouped = _GROUPED.sub(lambda m: m.group().replace(",", ""), text)
    return [text] if grouped == text else [grouped, text]


class _Comparison:
    """One comparison. ``reason`` is the last decision taken: for nested answers the one that mattered."""

    def __init__(self, symbolic: Symbolic | None):
        self.symbolic = symbolic
        self.reason = ""
        self.leaves = 0

    def say(self, equal: bool, reason: str) -> bool:
        self.reason = reason
        return equal

    def equal(self, a: str, g: str, depth: int = 0) -> bool:
        """The rules in order; the first that knows the case decides, the others pass with None."""
        a, g = a.strip(), g.strip()
        if depth > MAX_DEPTH:
            return self.say(False, "nested too deeply")
        if not key(a) or not key(g):
            return self.say(False, "nothing to compare")
        if key(a) == key(g):
            return self.say(True, "same text")
        for rule in _RULES:
            verdict = rule(self, a, g, depth)
            if verdict is not None:
                return verdict
        return self._leaf(a, g)

    def _choice(self, a: str, g: str, depth: int) -> bool | None:
        """Letters of multiple choice: the gold decides whether it is one."""
        if depth == 0 and (option := choice_with_value(g)):
            return any(self.equal(a, part, 1) for part in option)
        if depth == 0 and choice_letters(g) is None and (option := choice_with_value(a)):
            return self.equal(option[1], g, 1)
        gold_letters, letters = choice_letters(g), choice_letters(a)
        if letters is None and gold_letters is not None and (option := choice_with_value(a)):
            letters = option[0]
        if gold_letters is None or letters is None:
            return None
        return self.say(letters == gold_letters, "choice")

    def _text(self, a: str, g: str, depth: int) -> bool | None:
        gold_words, answer_words = words(g), words(a)
        if gold_words is None and answer_words is None:
            return None
        if gold_words is None or answer_words is None:
            marked = TEXT in (a if gold_words is None else g)
            return self.say(False, "words against a formula") if marked else None
        if TEXT not in a + g and max(len(gold_words), len(answer_words)) <= 3:
            return None  # perhaps products of variables
        return self.say(answer_words == gold_words, "words")

    def _quantity(self, a: str, g: str, depth: int) -> bool | None:
        """Units and percent signs; then numbers, where they are all there is."""
        qa, qg = split_unit(a), split_unit(g)
        if (qa.value, qg.value) != (a, g):
            if not units_agree(qa, qg):
                return self.say(False, "another unit")
            if qa.percent != qg.percent and self._percent(qa.value, qg.value, qa.percent):
                return True
            return self.equal(qa.value, qg.value, depth + 1)
        na, ng = number(a), number(g)
        if na is None or ng is None:
            return None
        return self.say(na == ng or rounds_to(a, na, g, ng), "numbers")

    def _percent(self, a: str, g: str, answer_has_sign: bool) -> bool:
        """25% is 0.25."""
        na, ng = number(a), number(g)
        if na is None or ng is None:
            return False
        return self.say(na == ng * 100 if answer_has_sign else na * 100 == ng, "percent")

    def _base(self, a: str, g: str, depth: int) -> bool | None:
        """1011_2: digits equal, and the base where both name one."""
        plain = [re.sub(rf"[\s{TEXT}{END}()]", "", t) for t in (a, g)]
        found = [_BASED.fullmatch(t) for t in plain]
        if not any(found):
            return None
        digits = {m.group(1) if m else t for m, t in zip(found, plain, strict=True)}
        bases = {m.group(2) for m in found if m}
        return self.say(len(digits) == len(bases) == 1, "number in a base")

    def _ratio(self, a: str, g: str, depth: int) -> bool | None:
        """3:4 as a ratio, 4:30 as a time of day."""
        verdict = same_ratio(a, g)
        return None if verdict is None else self.say(*verdict)

    def _list(self, a: str, g: str, depth: int) -> bool | None:
        """a, b and c: equal counts, in any order unless ";", names or brackets fix it."""
        if depth == 0 and (drop_where(a), drop_where(g)) != (a, g):
            return self.equal(drop_where(a), drop_where(g), depth + 1)
        (la, fixed_a), (lg, fixed_g) = split_list(a), split_list(g)
        la, lg = _both_signs(la), _both_signs(lg)
        ba, bg = bracketed(a), bracketed(g)
        if is_set(ba) or is_set(bg):
            return self._sets(la, lg, ba, bg, depth) if "\\cup" not in a + g else None
        if len(la) == len(lg) == 1:
            return None
        if len(la) != len(lg):
            tuples = [
                b
                for b, items in ((ba, la), (bg, lg))
                if b and len(items) == 1 and b.closing != "]" and b.opening != "["
            ]
            if tuples:  # (1, 2) for 1, 2: the brackets were dropped, the order counts
                return self._in_order(
                    list(ba.items) if ba in tuples else la, list(bg.items) if bg in tuples else lg, depth
                )
            if as_region(a) is not None and as_region(g) is not None:
                return None
            return self.say(False, f"{len(la)} answers instead of {len(lg)}")
        named = [bool(len(set(names_of(items))) > 1) for items in (la, lg)]
        if fixed_a or fixed_g or (named[0] != named[1]):
            return self._in_order(la, lg, depth)
        return self._any_order(la, lg, depth)

    def _sets(
        self, la: list[str], lg: list[str], ba: Bracketed | None, bg: Bracketed | None, depth: int
    ) -> bool | None:
        """{1, 2} against a set or a list in any order; never against a tuple or an interval."""
        if any(b is not None and not is_set(b) and len(b.items) > 1 and len(x) == 1 for b, x in ((ba, la), (bg, lg))):
            both = as_region(la[0]) and as_region(lg[0])
            return None if both else self.say(False, "a set against a tuple or an interval")
        items_a = _both_signs(ba.items) if ba is not None and is_set(ba) else la
        items_g = _both_signs(bg.items) if bg is not None and is_set(bg) else lg
        if len(items_a) != len(items_g):
            return self.say(False, f"{len(items_a)} answers instead of {len(items_g)}")
        return self._any_order(items_a, items_g, depth)

    def _in_order(self, la: list[str], lg: list[str], depth: int) -> bool:
        if len(la) != len(lg) or len(la) > MAX_ITEMS:
            return self.say(False, f"{len(la)} entries instead of {len(lg)}")
        return all(self.equal(x, y, depth + 1) for x, y in zip(la, lg, strict=True))

    def _any_order(self, la: list[str], lg: list[str], depth: int) -> bool:
        """Every item finds a partner of its own; those with the same text find each other first."""
        if len(lg) > MAX_ITEMS:
            return self.say(False, "too many items")
        free = list(lg)
        rest = []
        for item in la:
            twin = next((y for y in free if key(y) == key(item)), None)
            free.remove(twin) if twin is not None else rest.append(item)
        for item in rest:
            partner = next((y for y in free if self.equal(item, y, depth + 1)), None)
            if partner is None:
                return self.say(False, "an answer that is not in the list")
            free.remove(partner)
        return self.say(True, "same answers")

    def _region(self, a: str, g: str, depth: int) -> bool | None:
        """Intervals, unions and inequalities in one variable are the same kind of thing."""
        if not any("\\cup" in t or "\\mathbb{R}" in t or split_relation(t)[1] for t in (a, g)):
            return None
        ra, rg = as_region(a), as_region(g)
        if ra is None or rg is None:
            return None
        if len(ra) != len(rg):
            return self.say(False, "another number of intervals")
        free = list(rg)
        for part in ra:
            partner = next((p for p in free if self._same_interval(part, p, depth)), None)
            if partner is None:
                return self.say(False, "another interval")
            free.remove(partner)
        return self.say(True, "same intervals")

    def _same_interval(self, a: Bracketed, g: Bracketed, depth: int) -> bool:
        return (a.opening, a.closing) == (g.opening, g.closing) and self._in_order(list(a.items), list(g.items), depth)

    def _brackets(self, a: str, g: str, depth: int) -> bool | None:
        """Tuples, vectors and intervals: same length, same order, same kind of brackets."""
        ba, bg = bracketed(a), bracketed(g)
        bare = [b.items[0] if b and len(b.items) == 1 and b.opening in ("(", "[") else t for b, t in ((ba, a), (bg, g))]
        if bare != [a, g]:
            return self.equal(bare[0], bare[1], depth + 1)
        if ba is None and bg is None:
            return None
        if ba is None or bg is None:
            return self._bracket_against_other(a, g, ba, bg, depth)
        if len(ba.items) != len(bg.items):
            return self.say(False, f"{len(ba.items)} entries instead of {len(bg.items)}")
        kinds = {(_round(b.opening), _round(b.closing)) for b in (ba, bg)}
        if len(kinds) > 1 and not (len(bg.items) > 2 and kinds == {("(", ")"), ("[", "]")}):
            return self.say(False, "other brackets")
        return self._in_order(list(ba.items), list(bg.items), depth)

    def _bracket_against_other(
        self, a: str, g: str, ba: Bracketed | None, bg: Bracketed | None, depth: int
    ) -> bool | None:
        """A tuple may stand for a vector in matrix form; relations get their own rule; nothing else is a tuple."""
        kind, rows = matrix(a) or matrix(g) or ("", [])
        if kind == "matrix" and rows and 1 in (len(rows), max(map(len, rows))):
            cells = [cell for row in rows for cell in row]
            return self._in_order(list(ba.items) if ba else cells, list(bg.items) if bg else cells, depth)
        if split_relation(a)[1] or split_relation(g)[1]:
            return None
        return self.say(False, "a tuple against a single value")

    def _matrix(self, a: str, g: str, depth: int) -> bool | None:
        ma, mg = matrix(a), matrix(g)
        if ma is None and mg is None:
            return None
        if ma is None or mg is None:
            return None if split_relation(a)[1] or split_relation(g)[1] else self.say(False, "only one is a matrix")
        if ma[0] != mg[0] or [len(r) for r in ma[1]] != [len(r) for r in mg[1]]:
            return self.say(False, "another shape of matrix")
        return all(self._in_order(ra, rg, depth) for ra, rg in zip(ma[1], mg[1], strict=True))

    def _relation(self, a: str, g: str, depth: int) -> bool | None:
        """Names in front of "=" may be left out; whole equations may be written in another way."""
        (ma, sa), (mg, sg) = split_relation(a), split_relation(g)
        if not sa and not sg:
            return None
        if "\\in" in sa or "\\in" in sg:
            bare = [m[1] if s == ["\\in"] and is_name(m[0]) else t for m, s, t in ((ma, sa, a), (mg, sg, g))]
            return self.equal(bare[0], bare[1], depth + 1) if bare != [a, g] else self.say(False, "another relation")
        if sa == sg == ["="]:
            return self._equations(ma, mg, depth)
        if _VALUE_SIGNS.issuperset(sa) and _VALUE_SIGNS.issuperset(sg):
            values_a, values_g = _values(ma, sa), _values(mg, sg)
            return all(self.equal(x, y, depth + 1) for x in values_a for y in values_g)
        if len(sa) == len(sg) == 1 and sa[0] in FLIPPED and sg[0] in FLIPPED:
            return self._inequalities(ma, sa[0], mg, sg[0])
        for members, signs in ((ma, sa), (ma[::-1], [FLIPPED.get(s, s) for s in sa[::-1]])):
            if signs == sg:
                return self._in_order(members, mg, depth)
        return self.say(False, "another relation")

    def _equations(self, ma: list[str], mg: list[str], depth: int) -> bool:
        if key(ma[0]) == key(mg[0]):
            return self.equal(ma[1], mg[1], depth + 1)
        if function_of(ma[0]) or function_of(mg[0]):
            if "y" in (ma[0], mg[0]):  # y = x^2 for f(x) = x^2
                return self.equal(ma[1], mg[1], depth + 1)
            renamed = rename_argument(ma, mg)
            return self.equal(renamed, mg[1], depth + 1) if renamed else self.say(False, "another function")
        factors = constant_factors(ma, mg)
        if factors is None:
            return self._ask(f"{ma[0]}={ma[1]}", f"{mg[0]}={mg[1]}")
        return self.say(bool(factors), "equations")

    def _inequalities(self, ma: list[str], sa: str, mg: list[str], sg: str) -> bool:
        if ("eq" in sa) != ("eq" in sg):
            return self.say(False, "strict against not strict")
        factors = constant_factors(ma, mg)
        if factors is None:
            return self._ask(f"{ma[0]}{sa} {ma[1]}", f"{mg[0]}{sg} {mg[1]}")
        same_direction = (sa in _INCREASING) == (sg in _INCREASING)
        good = any(f.imag == 0 and (f.real > 0) == same_direction for f in factors)
        return self.say(good, "inequalities")

    def _leaf(self, a: str, g: str) -> bool:
        """Two single expressions, by value."""
        self.leaves += 1
        if self.leaves > MAX_LEAVES:
            return self.say(False, "too many parts")
        equal, reason = same_value(a, g)
        return self._ask(a, g) if equal is None else self.say(equal, reason)

    def _ask(self, a: str, g: str) -> bool:
        """Last resort: a symbolic library in another process."""
        if refused := refusal(a) or refusal(g):
            return self.say(False, refused)
        if self.symbolic is None:
            raise NeedsSymbolic
        return self.say(self.symbolic(a, g), "symbolic")


_RULES = (
    _Comparison._choice,
    _Comparison._text,
    _Comparison._quantity,
    _Comparison._base,
    _Comparison._ratio,
    _Comparison._list,
    _Comparison._region,
    _Comparison._brackets,
    _Comparison._matrix,
    _Comparison._relation,
)


def _both_signs(items: Iterable[str]) -> list[str]:
    """Without empty entries, and with both signs of every \\pm."""
    return [one for item in items if item for one in expand_plus_minus(item)]


def _values(members: list[str], signs: list[str]) -> list[str]:
    """What "x = 2 = 6/3 \\approx 2.00" says x is: all of it without the name and, where there is an exact value, the
    roundings.
    """
    if not signs:
        return members
    start = 1 if is_name(members[0]) else 0
    exact_ones = [m for i, m in enumerate(members) if i >= start and (i == 0 or signs[i - 1] != "\\approx")]
    return exact_ones or members[start:]


def _round(bracket: str) -> str:
    return {"\\langle": "(", "\\rangle": ")"}.get(bracket, bracket)
