"""Laws of grading, on answers that are put together at random."""

from hypothesis import given, settings
from hypothesis import strategies as st

from verl.math_eval.grading import grade_many
from verl.math_eval.grading.compare import compare
from verl.math_eval.grading.normalize import normalize

WHOLE = st.integers(-999, 999).map(str)
FRACTIONS = st.builds(lambda a, b: f"\\frac{{{a}}}{{{b}}}", st.integers(1, 99), st.integers(2, 99))
DECIMALS = st.builds(lambda a, b: f"{a}.{b:02d}", st.integers(0, 99), st.integers(1, 99))
LETTERS = st.sampled_from(["x", "y", "\\pi", "a_1", "e"])
ATOMS = st.one_of(WHOLE, FRACTIONS, DECIMALS, LETTERS, st.integers(2, 50).map(lambda n: f"\\sqrt{{{n}}}"))
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.builds("{}+{}".format, inner, inner),
        st.builds("({})({})".format, inner, inner),
        st.builds("\\frac{{{}}}{{{}}}".format, inner, inner),
        st.builds("{}^{{2}}".format, inner),
    ),
    max_leaves=4,
)
UNITS = st.builds(
    "{}{}".format, WHOLE, st.sampled_from(["\\text{ cm}", "\\%", "^\\circ", " min", "\\text{ hours}", " sec"])
)
LISTS = st.lists(st.one_of(WHOLE, FRACTIONS, EXPRESSIONS), min_size=2, max_size=5, unique=True)
SHAPES = st.one_of(
    EXPRESSIONS,
    UNITS,
    LISTS.map(", ".join),
    LISTS.map(lambda items: f"({', '.join(items)})"),
    LISTS.map(lambda items: f"\\{{{', '.join(items)}\\}}"),
    st.builds("x = {}".format, EXPRESSIONS),
    st.builds("[{},{})".format, WHOLE, WHOLE),
    st.sampled_from(
        ["\\text{no solution}", "B", "\\text{Tuesday}", "x>2", "3:4", "12:30", "1011_2", "2\\mathbf{i}+\\mathbf{j}"]
    ),
)


def verdict(answer: str, gold: str) -> tuple[bool, str]:
    found = compare(answer, gold, symbolic=lambda a, g: False)
    return found.equal, found.reason


@settings(max_examples=150, deadline=None)
@given(SHAPES)
def test_normalize_is_idempotent(answer):
    once = normalize(answer)
    assert normalize(once) == once


@settings(max_examples=150, deadline=None)
@given(SHAPES)
def test_every_answer_equals_itself(answer):
    assert verdict(answer, answer)[0]
    assert grade_many([(f"so $\\boxed{{{answer}}}$", answer)])[0].correct


@settings(max_examples=100, deadline=None)
@given(SHAPES, SHAPES)
def test_a_verdict_and_its_reason_depend_on_nothing_but_the_two_answers(answer, gold):
    pairs = [(f"\\boxed{{{a}}}", g) for a, g in ((answer, gold), (gold, answer), (answer, answer), ("1", gold))]
    forwards = [(g.correct, g.reason) for g in grade_many(pairs)]
    backwards = [(g.correct, g.reason) for g in grade_many(pairs[::-1])][::-1]
    assert forwards == backwards


@settings(max_examples=100, deadline=None)
@given(LISTS.flatmap(lambda items: st.tuples(st.just(items), st.permutations(items))))
def test_order_of_a_list_does_not_count(both):
    items, shuffled = both
    assert verdict(", ".join(shuffled), ", ".join(items))[0]


@settings(max_examples=150, deadline=None)
@given(st.one_of(WHOLE, FRACTIONS, EXPRESSIONS), st.one_of(WHOLE, FRACTIONS, EXPRESSIONS))
def test_exact_expressions_are_equal_in_both_directions(answer, gold):
    """Not for decimals: there the gold answer says how precise it is."""
    if "." not in answer + gold:
        assert verdict(answer, gold)[0] == verdict(gold, answer)[0]
