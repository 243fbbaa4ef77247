"""Is this answer the gold answer? Structure first, then values; each decision leaves its reason."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from verl.math_eval.grading.forms import (
    choice_letters,
    choice_with_value,
    names_of,
    sorted_by_name,
    split_domain,
    split_names,
    words,
)
from verl.math_eval.grading.normalize import END, MAX_LENGTH, TEXT, key, normalize
from verl.math_eval.grading.readings import readings
from verl.math_eval.grading.rules.notations import (
    is_remainder,
    same_class,
    same_daytime,
    same_in_base,
    same_ratio,
    split_residue,
)
from verl.math_eval.grading.rules.quantities import (
    Decision,
    letters_as_unit,
    same_compound,
    same_share,
    split_unit,
    units_agree,
)
from verl.math_eval.grading.rules.regions import Interval, as_region, may_be_region, variable_of
from verl.math_eval.grading.rules.relations import relation
from verl.math_eval.grading.structure import (
    MAX_ITEMS,
    Bracketed,
    both_signs,
    bracketed,
    drop_where,
    in_form_of,
    is_set,
    matrix,
    members_of,
    partners,
    row_vector,
    split_list,
    split_relation,
)
from verl.math_eval.grading.symbolic.limits import MAX_BRACKETS, nesting, refusal
from verl.math_eval.grading.values.decimals import number, rounds_to
from verl.math_eval.grading.values.same_value import same_value

MAX_DEPTH = 8
MAX_REPEATED = 4  # spellings of one answer in a list
MAX_STEPS = 5_000  # comparisons of anything in one grade
MAX_LEAVES = 400  # comparisons of single expressions in one grade

# (answer, gold) -> equal, as decided by a symbolic library outside this process.
Symbolic = Callable[[str, str], bool]
# (comparison, answer, gold, depth) -> equal, or None: not a case of this rule.
Rule = Callable[["Comparison", str, str, int], bool | None]

_IF = re.compile(rf"{TEXT}\s*if\s*{END}")
_POINT = re.compile(r"[A-Z]\s*(\(.*\))", re.DOTALL)


class NeedsSymbolic(Exception):
    """Only a symbolic library can decide, and none was given."""


@dataclass(frozen=True)
class Verdict:
    """Whether two answers are equal, and the rule that decided."""

    equal: bool
    reason: str


def compare(answer: str, gold: str, symbolic: Symbolic | None = None) -> Verdict:
    """Whether an extracted answer equals the gold one. Both are LaTeX or plain text, without a box.

    symbolic: asked about expressions the reader does not know. Raises NeedsSymbolic when it is None and would be asked.
    """
    if _is_beyond_limits(answer) or _is_beyond_limits(gold):
        same = "".join(answer.split()) == "".join(gold.split())
        return Verdict(same, "same text" if same else "beyond the limits: too long, or nested too deeply")
    comparison = Comparison(symbolic)
    equal = any(comparison.equal(a, g) for a, g in readings(answer, gold))
    return Verdict(equal, comparison.reason)


def answer_key(answer: str) -> str:
    """Equal keys for the same answer in the most common spellings: same text, or same number."""
    if _is_beyond_limits(answer):
        return "".join(answer.split())
    text = normalize(answer)
    value = number(text)
    return key(text) if value is None else str(value)


def _is_beyond_limits(text: str) -> bool:
    return len(text) > MAX_LENGTH or nesting(text) > MAX_BRACKETS


class Comparison:
    """One comparison. ``reason`` is the last decision taken: for nested answers the one that mattered."""

    def __init__(self, symbolic: Symbolic | None) -> None:
        self.symbolic = symbolic
        self.reason = ""
        self.steps = self.leaves = 0

    def say(self, equal: bool, reason: str) -> bool:
        """``equal``, with the reason written down."""
        self.reason = reason
        return equal

    def equal(self, a: str, g: str, depth: int = 0) -> bool:
        """The rules in order; the first that knows the case decides, the others pass with None."""
        a, g = a.strip(), g.strip()
        self.steps += 1
        if depth > MAX_DEPTH or self.steps > MAX_STEPS:
            return self.say(False, "too many parts, or nested too deeply")
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
        if TEXT not in a + g and max(len(gold_words), len(answer_words)) <= 3 and not {"yes", "no"} & {gold_words}:
            return None  # perhaps products of variables
        return self.say(answer_words == gold_words, "words")

    def _quantity(self, a: str, g: str, depth: int) -> bool | None:
        """Units and percent signs; then numbers, where they are all there is."""
        qa, qg = split_unit(a), split_unit(g)
        qa, qg = letters_as_unit(a, qg) or qa, letters_as_unit(g, qa) or qg
        if (qa.value, qg.value) != (a, g):
            if not units_agree(qa, qg, listed=depth > 0):
                return self.say(False, "another unit")
            if qa.percent != qg.percent and same_share(qa, qg):
                return self.say(True, "percent")
            return self.equal(qa.value, qg.value, depth + 1)
        na, ng = number(a), number(g)
        if na is None or ng is None:
            return None
        return self.say(na == ng or rounds_to(a, na, g, ng), "numbers")

    def _residue(self, a: str, g: str, depth: int) -> bool | None:
        """2 \\pmod 3: the modulus may be left out, and two must agree."""
        ra, rg = split_residue(a), split_residue(g)
        if not ra.modulus and not rg.modulus:
            return None
        if ra.modulus and rg.modulus:
            if ra.modulus != rg.modulus:
                return self.say(False, "another modulus")
            same = same_class(ra, rg)
            return self.say(True, "same remainder") if same else self.equal(ra.value, rg.value, depth + 1)
        remainder = is_remainder(ra, g) if ra.modulus else is_remainder(rg, a)
        if remainder is not None:
            return self.say(remainder, "remainder")
        return None if ra.operator or rg.operator else self.equal(ra.value, rg.value, depth + 1)

    def _clause(self, a: str, g: str, depth: int) -> bool | None:
        """ ", where b is prime" does not count; ", k \\in \\mathbb{Z}" may be left out, and two must agree."""
        if depth > 0:
            return None
        (rest_a, domain_a), (rest_g, domain_g) = split_domain(drop_where(a)), split_domain(drop_where(g))
        if (rest_a, rest_g) == (a, g):
            return None
        if domain_a and domain_g:
            if domain_a.numbers != domain_g.numbers:
                return self.say(False, "another domain")
            rest_a = domain_a.rename(rest_a, domain_g)
        return self.equal(rest_a, rest_g, depth + 1)

    def _conditional(self, a: str, g: str, depth: int) -> bool | None:
        """x if x > 0: the value and the condition."""
        parts_a, parts_g = _IF.split(a), _IF.split(g)
        if len(parts_a) != 2 or len(parts_g) != 2 or "," in a + g:
            return None
        return self.in_order(parts_a, parts_g, depth)

    def _list(self, a: str, g: str, depth: int) -> bool | None:
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
                return self.say(False, "a set against a member")
            return self._sets(la, lg, ba, bg, depth)
        if len(la) == len(lg) == 1:
            return None
        if len(la) != len(lg):
            return self._other_count(a, g, la, lg, depth)
        named = [len(names_of(items)) > 1 for items in (la, lg)]
        if named[1] and not named[0] and self.in_order(la, lg, depth):
            return True
        if fixed_a or fixed_g or named[0] != named[1]:
            return self.in_order(sorted_by_name(la), sorted_by_name(lg), depth)
        return self._any_order(la, lg, depth)

    def _other_count(self, a: str, g: str, la: list[str], lg: list[str], depth: int) -> bool | None:
        """Lists of different counts differ, unless one of them is a tuple or a region that says all of the other."""
        if as_region(a) is not None and as_region(g) is not None:
            return None
        one, many = (a, lg) if len(la) == 1 else (g, la)
        if assignments := split_names(one):
            return self._any_order(*((assignments, lg) if one is a else (la, assignments)), depth)
        found = bracketed(row_vector(one))
        if min(len(la), len(lg)) == 1 and found and found.opening != "[" and found.closing != "]":
            items, others = list(found.items), sorted_by_name(many)  # (1, 2) for 1, 2: the order counts
            return self.in_order(*((items, others) if one is a else (others, items)), depth)
        if len(lg) == 1 and len(la) <= MAX_REPEATED and all(self.equal(item, g, depth + 1) for item in la):
            return True  # 3/4 or 0.75
        return self.say(False, f"{len(la)} answers instead of {len(lg)}")

    def _sets(self, la: list[str], lg: list[str], ba: Bracketed | None, bg: Bracketed | None, depth: int) -> bool:
        """{1, 2} against a set or a list in any order; never against a tuple or an interval."""
        items_a, items_g = members_of(la, ba), members_of(lg, bg)
        if len(items_a) != len(items_g):
            return self.say(False, f"{len(items_a)} answers instead of {len(items_g)}")
        return self._any_order(items_a, items_g, depth)

    def in_order(self, la: list[str], lg: list[str], depth: int) -> bool:
        """Whether the lists are equal item by item."""
        if len(la) != len(lg) or len(la) > MAX_ITEMS:
            return self.say(False, f"{len(la)} entries instead of {len(lg)}")
        return all(self.equal(x, y, depth + 1) for x, y in zip(la, lg, strict=True))

    def _any_order(self, la: list[str], lg: list[str], depth: int) -> bool:
        """Every item finds a partner of its own; those with the same text find each other first."""
        if len(la) != len(lg) or len(lg) > MAX_ITEMS:
            return self.say(False, f"{len(la)} answers instead of {len(lg)}")
        free = list(lg)
        rest = []
        for item in la:
            twin = next((y for y in free if key(y) == key(item)), None)
            free.remove(twin) if twin is not None else rest.append(item)
        found = partners(rest, free, lambda x, y: self.equal(x, y, depth + 1))
        return self.say(found, "same answers" if found else "an answer that is not in the list")

    def _region(self, a: str, g: str, depth: int) -> bool | None:
        """Intervals, unions and inequalities in one variable are the same kind of thing."""
        if not may_be_region(a) and not may_be_region(g):
            return None
        ra, rg = as_region(a), as_region(g)
        if ra is None or rg is None:
            return None
        if depth > 0 and len({variable_of(a), variable_of(g)} - {""}) > 1:
            return self.say(False, "another variable")
        same = len(ra) == len(rg) and partners(ra, rg, lambda x, y: self._same_interval(x, y, depth))
        return self.say(same, "same intervals" if same else "other intervals")

    def _same_interval(self, a: Interval, g: Interval, depth: int) -> bool:
        if (a.start.after, a.end.after) != (g.start.after, g.end.after):
            return False
        return self.in_order([a.start.text, a.end.text], [g.start.text, g.end.text], depth)

    def _brackets(self, a: str, g: str, depth: int) -> bool | None:
        """Tuples, vectors and intervals: same length, same order, same kind of brackets."""
        a, g = row_vector(a), row_vector(g)
        ba, bg = bracketed(a), bracketed(g)
        bare = [b.items[0] if b and len(b.items) == 1 and b.opening in ("(", "[") else t for b, t in ((ba, a), (bg, g))]
        if bare != [a, g]:
            return self.equal(bare[0], bare[1], depth + 1)
        if ba is None and bg is None:
            return None
        if ba is None or bg is None:
            if point := _POINT.fullmatch(a if ba is None else g):  # P(1, 2) is (1, 2)
                return self.equal(point[1], g, depth + 1) if ba is None else self.equal(a, point[1], depth + 1)
            related = split_relation(a)[1] or split_relation(g)[1]
            return None if related else self.say(False, "a tuple against a single value")
        if len(ba.items) != len(bg.items):
            return self.say(False, f"{len(ba.items)} entries instead of {len(bg.items)}")
        kinds = {(_round(b.opening), _round(b.closing)) for b in (ba, bg)}
        if len(kinds) > 1 and not (len(bg.items) > 2 and kinds == {("(", ")"), ("[", "]")}):
            return self.say(False, "other brackets")
        return self.in_order(list(ba.items), list(bg.items), depth)

    def _matrix(self, a: str, g: str, depth: int) -> bool | None:
        """By cell; a tuple may stand for a vector and [[1, 2], [3, 4]] for a matrix."""
        ma, mg = matrix(a), matrix(g)
        if ma is None and mg is None:
            return None
        if (ma is None or mg is None) and (split_relation(a)[1] or split_relation(g)[1]):
            return None
        ma, mg = ma or in_form_of(mg, a), mg or in_form_of(ma, g)
        if ma is None or mg is None:
            return self.say(False, "only one is a matrix")
        if ma.shape != mg.shape:
            return self.say(False, "another shape of matrix")
        return all(self.in_order(ra, rg, depth) for ra, rg in zip(ma.rows, mg.rows, strict=True))

    def _leaf(self, a: str, g: str) -> bool:
        """Two single expressions, by value."""
        self.leaves += 1
        if self.leaves > MAX_LEAVES:
            return self.say(False, "too many parts")
        equal, reason = same_value(a, g)
        return self.ask(a, g) if equal is None else self.say(equal, reason)

    def ask(self, a: str, g: str) -> bool:
        """Last resort: a symbolic library in another process."""
        if refused := refusal(a) or refusal(g):
            return self.say(False, refused)
        if ("\\ldots" in a) != ("\\ldots" in g):  # math-verify does not see the dots
            return self.say(False, "only one goes on")
        if self.symbolic is None:
            raise NeedsSymbolic
        return self.say(self.symbolic(a, g), "symbolic")


def _by(notation: Callable[[str, str], Decision]) -> Rule:
    """The rule for a notation of its own."""

    def rule(comparison: Comparison, a: str, g: str, depth: int) -> bool | None:
        decision = notation(a, g)
        return None if decision is None else comparison.say(*decision)

    return rule


_RULES: tuple[Rule, ...] = (
    Comparison._choice,
    _by(same_daytime),
    Comparison._text,
    Comparison._clause,
    Comparison._conditional,
    Comparison._residue,
    _by(same_in_base),
    _by(same_compound),
    Comparison._quantity,
    _by(same_ratio),
    Comparison._list,
    Comparison._region,
    Comparison._matrix,
    Comparison._brackets,
    relation,
)


def _round(bracket: str) -> str:
    return {"\\langle": "(", "\\rangle": ")"}.get(bracket, bracket)
