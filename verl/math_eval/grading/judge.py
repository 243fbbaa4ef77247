"""One comparison of two normalized answers: the rules in order, then the values. It knows no rule itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from verl.math_eval.grading.normalize import key
from verl.math_eval.grading.structure import MAX_ITEMS, partners
from verl.math_eval.grading.symbolic.limits import refusal
from verl.math_eval.grading.values.same_value import rank, same_value

MAX_DEPTH = 8
MAX_STEPS = 5_000  # comparisons of anything in one grade
MAX_LEAVES = 400  # comparisons of single expressions in one grade

# (answer, gold) -> equal, as decided by a symbolic library outside this process; None: it cannot read one of them.
Symbolic = Callable[[str, str], bool | None]
# (comparison, answer, gold, depth) -> equal, or None: not a case of this rule.
Rule = Callable[["Comparison", str, str, int], bool | None]
Decision = tuple[bool, str] | None  # (equal, reason), or None: not of this form


class NeedsSymbolic(Exception):
    """Only a symbolic library can decide, and none was given."""


@dataclass(frozen=True)
class Verdict:
    """Whether two answers are equal, and the rule that decided. ``decided`` False: no rule could tell, but a judge
    might.
    """

    equal: bool
    reason: str
    decided: bool = True


class Comparison:
    """One comparison. ``reason`` is the last decision taken: for nested answers the one that mattered."""

    def __init__(self, rules: Sequence[Rule], symbolic: Symbolic | None) -> None:
        self.rules, self.symbolic = rules, symbolic
        self.reason = ""
        self.undecided = ""  # why a part could not be told from another
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
        for rule in self.rules:
            verdict = rule(self, a, g, depth)
            if verdict is not None:
                return verdict
        return self._leaf(a, g)

    def in_order(self, la: list[str], lg: list[str], depth: int) -> bool:
        """Whether the lists are equal item by item."""
        if len(la) != len(lg) or len(la) > MAX_ITEMS:
            return self.say(False, f"{len(la)} entries instead of {len(lg)}")
        return all(self.equal(x, y, depth + 1) for x, y in zip(la, lg, strict=True))

    def any_order(self, la: list[str], lg: list[str], depth: int) -> bool:
        """Every item finds a partner of its own; those with the same text find each other first."""
        if len(la) != len(lg) or len(lg) > MAX_ITEMS:
            return self.say(False, f"{len(la)} answers instead of {len(lg)}")
        free = list(lg)
        rest: list[str] = []
        for item in la:
            twin = next((y for y in free if key(y) == key(item)), None)
            free.remove(twin) if twin is not None else rest.append(item)
        rest, free = sorted(rest, key=rank), sorted(free, key=rank)
        found = partners(rest, free, lambda x, y: self.equal(x, y, depth + 1))
        return self.say(found, "same answers" if found else "an answer that is not in the list")

    def _leaf(self, a: str, g: str) -> bool:
        """Two single expressions, by value."""
        self.leaves += 1
        if self.leaves > MAX_LEAVES:
            return self.say(False, "too many parts")
        equal, reason = same_value(a, g)
        if reason.startswith("beyond the limits"):
            return self._cannot_tell(reason)
        return self.ask(a, g) if equal is None else self.say(equal, reason)

    def ask(self, a: str, g: str) -> bool:
        """Last resort: a symbolic library in another process."""
        if refused := refusal(a) or refusal(g):
            return self._cannot_tell(refused)
        if ("\\ldots" in a) != ("\\ldots" in g):  # math-verify does not see the dots
            return self.say(False, "only one goes on")
        if self.symbolic is None:
            raise NeedsSymbolic
        equal = self.symbolic(a, g)
        return self._cannot_tell("unreadable") if equal is None else self.say(equal, "symbolic")

    def _cannot_tell(self, reason: str) -> bool:
        self.undecided = reason
        return self.say(False, reason)


def by(notation: Callable[[str, str], Decision]) -> Rule:
    """The rule for a notation of its own."""

    def rule(comparison: Comparison, a: str, g: str, depth: int) -> bool | None:
        decision = notation(a, g)
        return None if decision is None else comparison.say(*decision)

    return rule
