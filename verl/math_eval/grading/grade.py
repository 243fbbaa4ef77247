"""Is this answer right? ``grade_many([(model text, gold answer), ...])``, callable from any thread.

Layers of one grade: cut and extract (``extraction``), one spelling (``normalize``), structure and exact values
(``compare``), and only for what those do not know, math-verify in processes that can be killed (``workers``). Nothing
in a text is ever evaluated as code.
"""

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from verl.math_eval.grading.compare import answer_key, compare
from verl.math_eval.grading.extraction import extract
from verl.math_eval.grading.judge import NeedsSymbolic, Verdict
from verl.math_eval.grading.symbolic.pool import SymbolicPool, TimedOut, WorkerDied, shared_pool

GRADER_VERSION = "5"  # raise it with every change that can change a grade: stored samples are then graded again
MODES = ("lenient", "strict")
SECONDS = 3.0  # for all symbolic questions of one grade


@dataclass(frozen=True)
class Grade:
    """correct: the verdict. status: "graded", "no_answer", "undecided", "timeout" or "error"; all but the first count
    as wrong. "undecided": no rule and no library can tell the answer from the gold one, but a judge might.

    extracted, method: the answer found in the text and how (box, boxes, marker, whole, choice, math, result,
    number, none).
    reason: what decided.
    """

    correct: bool
    status: str
    extracted: str
    method: str
    reason: str
    seconds: float


def grade_many(
    pairs: Sequence[tuple[str, str]],
    mode: str = "lenient",
    seconds: float = SECONDS,
    first_marker: bool = False,
    end_of_thinking: Sequence[str] = (),
) -> list[Grade]:
    """One grade per (model text, gold answer), in order. Equal (answer, gold) pairs are compared once.

    mode: "strict" accepts an answer in a box or after a marker only, "lenient" also a text that is nothing but an
        answer, the last chosen letter, formula, result or number.
    first_marker, end_of_thinking: see ``extraction.extract``.
    """
    if mode not in MODES:
        raise ValueError(f"expected extraction out of {', '.join(MODES)}, found {mode!r}")
    found = [extract(text, mode, first_marker, end_of_thinking) for text, _ in pairs]
    questions = dict.fromkeys((f.answer, gold) for f, (_, gold) in zip(found, pairs, strict=True) if f.answer)
    decided = _decide(questions, seconds)
    grades = []
    for extraction, (_, gold) in zip(found, pairs, strict=True):
        if not extraction.answer:
            grades.append(Grade(False, "no_answer", "", extraction.method, extraction.reason, 0.0))
        else:
            grades.append(replace(decided[extraction.answer, gold], method=extraction.method))
    return grades


def answer_groups(answers: Sequence[str]) -> list[str | None]:
    """One key per extracted answer, equal for the same text or the same number; None for no answer."""
    return [answer_key(answer) if answer else None for answer in answers]


def _decide(questions: Iterable[tuple[str, str]], seconds: float) -> dict[tuple[str, str], Grade]:
    """Compare inline what needs no library; meanwhile the workers are asked about the rest, several at a time."""
    decided: dict[tuple[str, str], Grade] = {}
    pool = shared_pool()
    with ThreadPoolExecutor(pool.size) as threads:  # starts no thread before it is needed
        waiting = {}
        for answer, gold in questions:
            start = time.monotonic()
            try:
                decided[answer, gold] = _graded(answer, compare(answer, gold), start)
            except NeedsSymbolic:
                waiting[answer, gold] = threads.submit(_decide_slowly, answer, gold, pool, seconds)
            except Exception as error:  # a fault of the grader must not end an evaluation; it is counted and shown
                reason = f"grader fault: {type(error).__name__}: {error}"
                decided[answer, gold] = _ungraded("error", answer, reason, start)
        decided.update((question, future.result()) for question, future in waiting.items())
    return decided


def _decide_slowly(answer: str, gold: str, pool: SymbolicPool, seconds: float) -> Grade:
    start = time.monotonic()
    left = seconds

    def symbolic(a: str, g: str) -> bool | None:
        nonlocal left
        if left <= 0:
            raise TimedOut
        equal, spent = pool.equal(a, g, left)
        left -= spent
        return equal

    try:
        return _graded(answer, compare(answer, gold, symbolic), start)
    except TimedOut:
        return _ungraded("timeout", answer, f"no decision within {seconds:g} s", start)
    except WorkerDied as error:
        return _ungraded("error", answer, str(error), start)
    except Exception as error:
        return _ungraded("error", answer, f"grader fault: {type(error).__name__}: {error}", start)


def _graded(answer: str, verdict: Verdict, start: float) -> Grade:
    status = "graded" if verdict.decided else "undecided"
    return Grade(verdict.equal, status, answer, "", verdict.reason, time.monotonic() - start)


def _ungraded(status: str, answer: str, reason: str, start: float) -> Grade:
    return Grade(False, status, answer, "", reason, time.monotonic() - start)
