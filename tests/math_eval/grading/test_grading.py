import json
import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from math_eval.grading.variants import same, wrappings, wrong

from verl.math_eval.benchmarks import load_problems, locate
from verl.math_eval.grading import grade_many
from verl.math_eval.grading.symbolic.pool import SymbolicPool, TimedOut, WorkerDied

UNREADABLE = "\\operatorname{foo}(x)+\\S"  # only math-verify can be asked about it


def box(answer: str) -> str:
    return f"so $\\boxed{{{answer}}}$"


def zombies() -> list[str]:
    """Children of this process that have ended and were not waited for."""
    found = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "stat="], capture_output=True, text=True).stdout
    return [line for line in found.split() if line.startswith("Z")]


def test_grades_come_in_order_and_say_how_they_were_found():
    grades = grade_many([(box("42"), "42"), ("The answer is 41.", "42"), ("no idea", "42"), ("gives 42", "42")])
    assert [g.correct for g in grades] == [True, False, False, True]
    assert [g.status for g in grades] == ["graded", "graded", "no_answer", "graded"]
    assert [g.method for g in grades] == ["box", "marker", "none", "number"]
    assert grades[2].reason and not grade_many([("gives 42", "42")], "strict")[0].correct


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="strict"):
        grade_many([("1", "1")], "generous")


def test_math_verify_decides_what_the_reader_does_not_know():
    grade = grade_many([(box("\\triangle ABC+1"), "1+\\triangle ABC")])[0]
    assert (grade.correct, grade.status, grade.reason) == (True, "graded", "symbolic")


@pytest.mark.parametrize("answer", ["f\\circ g+1", "\\sum_{k=1}^n k", "A\\cap B", "x^{10^{10^{10}}}"])
def test_what_nothing_can_tell_is_undecided_and_counts_as_wrong(answer):
    grade = grade_many([(box(answer), "2y")])[0]
    assert (grade.correct, grade.status) == (False, "undecided") and grade.reason


def test_first_marker_ends_the_text_with_its_first_answer():
    texts = ["5 + 5 = 10\n#### 10\n\nQuestion: what is 3 + 4?\n3 + 4 = 7\n#### 7", "So \\boxed{10}.\nNext: \\boxed{7}"]
    texts += ["The answer is 10.\n\nProblem 2. The answer is 7.", "no answer here but 10"]
    assert [g.correct for g in grade_many([(t, "10") for t in texts])] == [False, False, False, True]
    assert [g.correct for g in grade_many([(t, "10") for t in texts], first_marker=True)] == [True] * 4


def test_marks_of_ones_own_end_a_chain_of_thought():
    pairs = [("hm \\boxed{4} </scratch> \\boxed{5}", "5"), ("hm \\boxed{5}", "5"), ("a</think>\\boxed{5}", "5")]
    assert [g.correct for g in grade_many(pairs, end_of_thinking=["</scratch>"])] == [True, False, True]


def test_kinds_of_faults_that_were_mended():
    """450 texts in 15 kinds, with near misses: what people write without a box, or around it."""
    lines = Path(__file__).with_name("kinds.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    grades = grade_many([(c["text"], c["gold"]) for c in cases])
    missed = [c for c, g in zip(cases, grades, strict=True) if g.correct != c["right"]]
    assert [c for c in missed if not c["right"]] == []
    assert len(missed) <= 0.01 * len(cases), missed


def test_grading_works_from_many_threads_at_once():
    pairs = [(box(f"{i}+\\S"), "5") for i in range(6)] + [(box(f"\\frac{{{i}}}{{2}}"), f"{i / 2}") for i in range(50)]
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: [g.correct for g in grade_many(pairs)], range(4)))
    assert results == [[False] * 6 + [True] * 50] * 4


def test_worker_that_misses_the_deadline_is_killed_and_replaced():
    pool = SymbolicPool(1)
    try:
        assert pool.equal("x+1", "1+x", 20)[0]
        start = time.monotonic()
        with pytest.raises(TimedOut):
            pool.equal("99999999!", "3", 1.0)  # the limits would refuse it; here it reaches the library
        assert time.monotonic() - start < 10
        assert pool.equal("x+1", "1+x", 20)[0]
    finally:
        pool.close()
    assert zombies() == []


def test_worker_that_dies_is_reported_and_replaced():
    pool = SymbolicPool(1)
    try:
        assert pool.equal("x+1", "1+x", 20)[0]
        (worker,) = pool.alive
        os.kill(worker.process.pid, 9)
        with pytest.raises(WorkerDied):
            pool.equal("x+1", "1+x", 20)
        assert pool.equal("x+1", "1+x", 20)[0]
    finally:
        pool.close()


def test_timeouts_count_as_wrong_and_are_told_apart(monkeypatch):
    def slow(self, answer, gold, seconds):
        raise TimedOut

    monkeypatch.setattr(SymbolicPool, "equal", slow)
    grade = grade_many([(box(UNREADABLE), "5")])[0]
    assert (grade.correct, grade.status) == (False, "timeout")


def test_fault_of_the_grader_is_counted_and_does_not_end_the_run(monkeypatch):
    monkeypatch.setattr("verl.math_eval.grading.grade.compare", lambda *_: 1 / 0)
    grade = grade_many([(box("5"), "5")])[0]
    assert (grade.correct, grade.status) == (False, "error")
    assert "ZeroDivisionError" in grade.reason


INJECTIONS = [
    "__import__('os').system('touch {canary}')",
    "__import__('pathlib').Path('{canary}').touch()",
    "exec(\"open('{canary}','w')\")",
    "\\pi*0+open('{canary}','w')",
    "[open('{canary}','w'),1]",
    "1 if open('{canary}','w') else 2",
    "\\text{{open('{canary}','w')}}",
    "().__class__.__base__.__subclasses__()",
    "\\input{{{canary}}}",
    "open({canary},w)",
    "3;open('{canary}','w')",
    "\\begin{{pmatrix}}open('{canary}','w')\\end{{pmatrix}}",
]


def test_code_in_answers_and_golds_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [code.format(canary="canary") for code in INJECTIONS]
    pairs = [(box(t), gold) for t in texts for gold in ("5", "\\pi", "\\begin{pmatrix}1&2\\end{pmatrix}")]
    pairs += [(f"The answer is ${t}$.", "5") for t in texts] + [(box("5"), t) for t in texts]
    assert not any(grade.correct for grade in grade_many(pairs))
    assert list(tmp_path.iterdir()) == []


def test_answers_in_a_worker_are_not_run_as_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # without the limits in front of it
    pool = SymbolicPool(1)
    try:
        for code in INJECTIONS:
            assert not pool.equal(code.format(canary="canary"), "5", 20)[0]
    finally:
        pool.close()
    assert list(tmp_path.iterdir()) == []


def test_thousands_of_grades_with_bombs_among_them_end_soon():
    bombs = ["99999999!", "10^{10^{10}}", "\\S" + "^{9" * 10 + "}" * 10, "(x+1)^{5000}\\S", "\\binom{10^9}{5}\\S"]
    pairs = [(box(f"\\frac{{{i}}}{{7}}"), f"{i}/7") for i in range(5_000)] + [(box(b), "3") for b in bombs]
    start = time.monotonic()
    grades = grade_many(pairs)
    assert time.monotonic() - start < 25
    assert [g.correct for g in grades] == [True] * 5_000 + [False] * len(bombs)


def test_answers_in_the_texts_of_models():
    """Boxes, markers, tags, hedges, end tokens: texts of our own with the verdict they must get."""
    lines = Path(__file__).with_name("texts.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    grades = grade_many([(c["text"], c["gold"]) for c in cases])
    assert [c for c, g in zip(cases, grades, strict=True) if g.correct != c["right"]] == []


def test_an_answer_that_goes_on_is_not_the_number_it_starts_with():
    assert not grade_many([(box("3\\ldots"), "3")])[0].correct


def test_labelled_cases(shared_data):
    cases = [json.loads(line) for line in (shared_data / "grader_cases.jsonl").read_text().splitlines() if line]
    grades = grade_many([(c["pred"], c["gold"]) for c in cases])
    wrong_ones = [(c, g) for c, g in zip(cases, grades, strict=True) if g.correct != c["expected"]]
    assert len(wrong_ones) <= 0.01 * len(cases), wrong_ones[:10]
    never = {"bomb", "injection", "regex_bomb", "junk", "multi_answer_hack"}
    assert not [c for c, g in zip(cases, grades, strict=True) if c["kind"] in never and g.correct]
    assert max(g.seconds for g in grades) < 10


def test_matters_of_taste_are_decided_as_documented(shared_data):
    cases = [json.loads(line) for line in (shared_data / "grader_policy_cases.jsonl").read_text().splitlines() if line]
    grades = grade_many([(c["pred"], c["gold"]) for c in cases])
    assert [c["note"] for c, g in zip(cases, grades, strict=True) if g.correct != c["recommended"]] == []


def golds(shared_data) -> list[str]:
    names = ["math500", "minerva_math", "olympiadbench", "aime24", "aime25", "amc23"]
    sources = [locate(name, shared_data / "benchmarks") for name in names]
    sources.append(locate("gsm8k", shared_data))
    return list(dict.fromkeys(p.gold for source in sources for p in load_problems(source)))


def test_every_gold_is_right_against_itself_and_in_other_spellings(shared_data):
    pairs = []
    for gold in golds(shared_data):
        for kind, answer in same(gold):
            texts = wrappings(answer) if kind == "text" else list(wrappings(answer))[:1]
            pairs += [(text, gold) for _, text in texts]
    grades = grade_many(pairs)
    own = [p for p, g in zip(pairs, grades, strict=True) if not g.correct and p[0] == box(p[1])]
    refused = [p for p, g in zip(pairs, grades, strict=True) if not g.correct]
    assert own == []
    assert len(refused) <= 0.002 * len(pairs), refused[:10]


def test_near_misses_of_every_gold_are_wrong(shared_data):
    pairs = [(box(answer), gold) for gold in golds(shared_data) for _, answer in wrong(gold)]
    passed = [p for p, g in zip(pairs, grade_many(pairs), strict=True) if g.correct]
    assert len(passed) <= 0.002 * len(pairs), passed[:10]


def test_shared_pool_survives_being_asked_from_a_thread_that_ends():
    thread = threading.Thread(target=grade_many, args=([(box(UNREADABLE), "5")],))
    thread.start()
    thread.join(60)
    assert grade_many([(box(UNREADABLE + "1"), "5")])[0].status == "undecided"
