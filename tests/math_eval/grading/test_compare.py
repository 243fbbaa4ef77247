"""Right and wrong answers, each with its reason. The near misses matter as much as the other spellings."""

from pathlib import Path

import pytest

from verl.math_eval.grading.compare import answer_key, compare

CASES = Path(__file__).with_name("answers.txt")


def rows(sign: str) -> list:
    found, reason = [], ""
    for line in CASES.read_text(encoding="utf-8").splitlines()[1:]:
        if line.startswith("# "):
            reason = line[2:]
        elif f"  {sign}  " in line:
            answer, gold = line.split(f"  {sign}  ")
            found.append(pytest.param(answer, gold, id=f"{reason}: {answer} | {gold}"))
    return found


@pytest.mark.parametrize(("answer", "gold"), rows("=="))
def test_same_answer_in_another_spelling(answer, gold):
    verdict = compare(answer, gold, symbolic=lambda a, g: pytest.fail(f"asked about {a!r}"))
    assert verdict.equal, verdict.reason


@pytest.mark.parametrize(("answer", "gold"), rows("!="))
def test_close_answer_is_still_wrong(answer, gold):
    verdict = compare(answer, gold, symbolic=lambda a, g: False)
    assert not verdict.equal, verdict.reason


def test_every_line_of_the_cases_is_read():
    lines = [line for line in CASES.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(rows("==")) + len(rows("!=")) > 1000


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^{9}}}",
        "10^{10^{10}}",
        "2^{100000000}",
        "10^{-10^{10}}",
        "(10^{10})!",
        "((3!)!)!",
        "\\binom{1000000000}{500000000}",
        "\\log_{10^{10^{9}}} 2",
        "(x+1)^{5000}",
        "\\sum_{k=1}^{1000000000000} \\frac{1}{k}",
        "1" + "+1" * 5_000,
        "\\sqrt{" * 500 + "2" + "}" * 500,
        "(" * 3_000 + ")" * 3_000,
        "\\frac" * 700,
        "9" * 3_900,
        "x^{" * 1_000,
        "\\pm" * 1_000,
        ",".join("\\pm1" for _ in range(900)),
    ],
    ids=lambda text: text[:20],
)
def test_answers_built_to_be_expensive_are_refused_at_once(answer):
    assert not compare(answer, "3", symbolic=lambda a, g: pytest.fail(f"asked about {a[:40]!r}")).equal


def test_a_gold_beyond_the_limits_still_equals_itself():
    assert compare("2^{2^{2^{2^{2}}}}", "2^{2^{2^{2^2}}}").equal
    assert not compare("10^{10^{9}}", "10^{10^{10}}").equal


def test_answer_keys_group_spellings_of_one_answer():
    assert answer_key("0.5") == answer_key("\\frac12") == answer_key(" \\dfrac{1}{2} ")
    assert answer_key("(1, 2)") == answer_key("\\left(1,2\\right)") != answer_key("(2, 1)")
