"""The original's rules, with what they get wrong: these tests hold the false positives in place."""

import time

import pytest

from verl.math_eval.grading import grade_many
from verl.math_eval.grading.legacy import extract_legacy, grade_legacy_many


def legacy(answer: str, gold: str) -> bool:
    return grade_legacy_many([(f"so $\\boxed{{{answer}}}$", gold)])[0]


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("5", "500"),
        ("0.05", "5"),
        ("10001", "10000"),
        ("x+a", "x+c"),
        ("\\frac{a}{2}", "\\frac{m}{2}"),
        ("5\\text{ cm}", "5\\text{ km}"),
        ("[0,1]", "(0,1)"),
        ("(1,2)", "\\{1,2\\}"),
        ("x>5", "x<5"),
        ("\\frac{1}{23}", "\\frac{12}{3}"),
        ("3 \\text{ and } 4", "34"),
        ("1", "1,-2"),
    ],
)
def test_known_false_positives_of_the_original_are_kept_and_ours_refuses_them(answer, gold):
    assert legacy(answer, gold)
    assert not grade_many([(f"so $\\boxed{{{answer}}}$", gold)])[0].correct


@pytest.mark.parametrize(("text", "gold"), [("it is \\boxed{42", "42"), ("\\boxed{41} \\boxed{42}", "42")])
def test_boxes_are_taken_as_the_original_takes_them(text, gold):
    assert grade_legacy_many([(text, gold)]) == [True]


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("42", "42"),
        ("\\dfrac{1}{2}", "\\frac12"),
        ("0.5", "\\frac{1}{2}"),
        ("1/2", "\\frac{1}{2}"),
        ("x = 5", "5"),
        ("(x+1)^2", "x^2+2x+1"),
        ("p+q-1=0", "p+q=1"),
        ("\\begin{bmatrix}1\\\\2\\end{bmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
        ("\\text{(B)}", "B"),
        ("2\\sqrt2", "\\sqrt{8}"),
        ("90^\\circ", "90"),
        ("\\text{twelve}", "12"),
    ],
)
def test_right_answers_are_right(answer, gold):
    assert legacy(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"), [("43", "42"), ("2,1", "1,2"), ("(2,1)", "(1,2)"), ("x^2", "x^3"), ("", "5"), ("B", "A")]
)
def test_other_answers_are_wrong(answer, gold):
    assert not legacy(answer, gold)


def test_answer_is_found_as_the_original_finds_it():
    assert extract_legacy("The final answer is $7$. I hope it is correct.") == "7"
    assert extract_legacy("So the answer is 12.") == "12"
    assert extract_legacy("we add 1,200 and 34") == "34"
    assert extract_legacy("nothing") == ""


def test_code_and_bombs_are_text_and_end_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [
        "__import__('os').system('touch canary')",
        "[open('canary','w'),1]",
        "\\pi*0+open('canary','w')",
        "9^{9^{9^{9}}}",
        "((3!)!)!",
        "\\sqrt{" * 500 + "2" + "}" * 500,
        "(" * 3_000,
        "1+" * 900 + "1",
        "\\binom{1000000000}{500000000}",
        "{" * 20_000,
    ]
    golds = ("5", "\\pi", "\\begin{pmatrix}1&2\\end{pmatrix}")
    start = time.monotonic()
    assert not any(grade_legacy_many([(f"\\boxed{{{t}}}", gold) for t in texts for gold in golds]))
    assert time.monotonic() - start < 5
    assert list(tmp_path.iterdir()) == []
