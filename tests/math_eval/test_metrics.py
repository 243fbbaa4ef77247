"""What one benchmark's records say: votes, shares, groups, lengths."""

import random

import pytest

from verl.math_eval.metrics import benchmark_metrics
from verl.math_eval.repetition import ends_in_a_loop
from verl.math_eval.voting import RIGHT, answer_classes


def record(extracted="1", correct=False, **changes):
    made = {
        "problem": "p/0", "sample": 0, "text": f"\\boxed{{{extracted}}}", "finish_reason": "stop", "tokens": 5,
        "extracted": extracted, "method": "box", "correct": correct, "status": "graded", "reason": "", "details": {},
    }  # fmt: skip
    return {**made, **changes}


def classes(*answers, right=()):
    return answer_classes([[record(a, a in right) for a in answers]])[0]


def test_right_answers_are_one_class_however_they_are_written():
    assert classes("1/2", "0.5", "\\frac12", "3", right=("1/2", "0.5", "\\frac12"))[:3] == [RIGHT] * 3


def test_wrong_answers_are_grouped_by_what_the_grader_takes_for_equal():
    keys = classes("x+1", "1+x", "x+2", "7", "7.0", "8", right=("8",))
    assert keys[0] == keys[1] != keys[2]
    assert keys[3] == keys[4]
    assert len(set(keys)) == 4


def test_equal_wrong_answers_in_other_words_win_the_vote_together():
    rows = [[record(a, a == "8") for a in ("x+1", "1+x", "2x-x+1", "8", "8")]]
    assert benchmark_metrics(rows, False, 100)["scores"]["maj@5"]["value"] == 0


def test_no_answer_does_not_vote():
    assert classes("", "8", right=("8",)) == [None, RIGHT]


def test_shares_count_what_they_say():
    rows = [
        [
            record("1", True, tokens=10),
            record("", method="none", status="no_answer", finish_reason="length", tokens=100),
            record("", method="none", status="no_answer", finish_reason="length", tokens=60, text="and so on. " * 30),
            record("2", method="number", status="timeout", reason="no decision within 5 s", tokens=30),
        ]
    ]
    m = benchmark_metrics(rows, False, 100)
    assert (m["truncated"], m["truncated_by_context"], m["no_answer"], m["no_box"]) == (0.5, 0.25, 0.5, 0.75)
    assert m["repetitive"] == 0.25 and m["ungraded"] == {"no decision within 5 s": 1}
    assert m["tokens"] == {"mean": 50.0, "p5": 10, "p50": 60, "p95": 100, "max": 100}
    assert [sum(m["histogram"][kind]) for kind in ("right", "wrong", "truncated")] == [1, 1, 2]
    assert m["histogram"]["edges"][-1] <= 100 < 2 * m["histogram"]["edges"][-1]


def test_scores_by_level_and_subject():
    rows = [[record(correct=level < 3, problem=f"p/{level}", details={"level": level})] for level in (1, 2, 3, 3)]
    groups = benchmark_metrics(rows, True, 100)["groups"]
    assert {level: (g["problems"], g["value"]) for level, g in groups["level"].items()} == {
        "1": (1, 1.0),
        "2": (1, 1.0),
        "3": (2, 0.0),
    }
    assert groups["level"]["1"]["stderr"] is None  # of one problem there is none


def test_the_same_value_everywhere_or_a_text_per_problem_is_no_grouping():
    rows = [[record(problem=f"p/{i}", details={"subject": "algebra", "source": f"page {i}"})] for i in range(50)]
    assert benchmark_metrics(rows, True, 100)["groups"] == {}


def test_a_second_score_by_other_rules_stands_beside_ours():
    rows = [[record(correct=False, legacy=True), record(correct=True, legacy=True)]]
    m = benchmark_metrics(rows, False, 100)
    assert m["legacy_scores"]["avg@2"]["value"] == 1 and m["scores"]["avg@2"]["value"] == 0.5
    assert benchmark_metrics([[record()]], True, 100)["legacy_scores"] == {}


UNIT = "".join(random.Random(0).choices("abcdefgh ", k=900))


@pytest.mark.parametrize(
    ("text", "looping"),
    [
        ("Let us see. " + "So x = 1. " * 12, True),
        ("0" * 200, True),
        ("start " + UNIT * 4, True),
        ("start " + UNIT * 4 + UNIT[:13], True),
        (UNIT * 3, False),
        (UNIT * 4 + " The answer is \\boxed{4}.", False),
        ("1" + "0" * 60, False),
        ("wait, wait, wait, wait, wait.", False),
        ("", False),
    ],
)
def test_loops_at_the_end_are_seen_and_others_are_not(text, looping):
    assert ends_in_a_loop(text) is looping
