"""Is this answer the gold answer? Structure first, then values; each decision leaves its reason."""

import re

from verl.math_eval.grading.brackets import nesting
from verl.math_eval.grading.judge import Comparison, Rule, Symbolic, Verdict, by
from verl.math_eval.grading.normalize import MAX_LENGTH, key, normalize
from verl.math_eval.grading.readings import readings
from verl.math_eval.grading.rules.choices import choice
from verl.math_eval.grading.rules.lists import brackets, items, matrices
from verl.math_eval.grading.rules.notations import residue, same_daytime, same_in_base, same_ratio
from verl.math_eval.grading.rules.quantities import quantity, same_compound
from verl.math_eval.grading.rules.regions import region
from verl.math_eval.grading.rules.relations import clause, relation
from verl.math_eval.grading.rules.words import conditional, text
from verl.math_eval.grading.symbolic.limits import MAX_BRACKETS
from verl.math_eval.grading.values.decimals import number

_RULES: tuple[Rule, ...] = (
    choice,
    by(same_daytime),
    text,
    clause,
    conditional,
    residue,
    by(same_in_base),
    by(same_compound),
    quantity,
    by(same_ratio),
    items,
    region,
    matrices,
    brackets,
    relation,
)
# The normalized text has no degrees any more: without a unit they are numbers like others.
_PERCENT = re.compile(r"^[^a-zA-Z]*\d\s*\\?%\s*$")
_DEGREES = re.compile(r"^[^a-zA-Z]*\d\s*(?:\^?\s*\{?\s*\\circ\s*\}?|°)\s*$")


def compare(answer: str, gold: str, symbolic: Symbolic | None = None) -> Verdict:
    """Whether an extracted answer equals the gold one. Both are LaTeX or plain text, without a box.

    symbolic: asked about expressions the reader does not know. Raises NeedsSymbolic when it is None and would be asked.
    """
    if _is_beyond_limits(answer) or _is_beyond_limits(gold):
        same = "".join(answer.split()) == "".join(gold.split())
        return Verdict(same, "same text" if same else "beyond the limits: too long, or nested too deeply", same)
    if _PERCENT.search(answer) and _DEGREES.search(gold) or _DEGREES.search(answer) and _PERCENT.search(gold):
        return Verdict(False, "another unit")
    comparison = Comparison(_RULES, symbolic)
    equal = any(comparison.equal(a, g) for a, g in readings(answer, gold))
    if not equal and comparison.undecided:
        return Verdict(False, comparison.undecided, decided=False)
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
