"""Which samples of a problem give the same answer: the classes that a majority vote counts."""

from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations

from verl.math_eval.grading import answer_groups, grade_many
from verl.math_eval.samples import Record

RIGHT = "right"
MOST = 12  # wrong answers of one problem that are compared with each other, the most frequent ones: 66 comparisons


def answer_classes(rows: Sequence[Sequence[Record]]) -> list[list[str | None]]:
    """rows[problem][sample] -> one key per sample, equal for answers that the grader takes for equal; None: no answer.

    Right answers equal the gold answer, so they are one class. Wrong ones are grouped by their text or number first;
    then the grader compares the groups of a problem, where that can change the vote.
    """
    keys = [_by_text(row) for row in rows]
    spelled = [
        {key: record["extracted"] for key, record in zip(keys[p], row, strict=True)} for p, row in enumerate(rows)
    ]
    questions = [(p, a, b) for p, row in enumerate(keys) for a, b in _undecided(row)]
    grades = grade_many([(f"\\boxed{{{spelled[p][a]}}}", spelled[p][b]) for p, a, b in questions])
    joined: list[dict[str | None, str]] = [{} for _ in rows]
    for (p, a, b), grade in zip(questions, grades, strict=True):
        if grade.correct and _root(joined[p], a) != _root(joined[p], b):
            joined[p][_root(joined[p], b)] = _root(joined[p], a)
    return [[key and _root(joined[p], key) for key in row] for p, row in enumerate(keys)]


def _by_text(row: Sequence[Record]) -> list[str | None]:
    texts = answer_groups([record["extracted"] for record in row])
    return [RIGHT if record["correct"] else text and f"wrong: {text}" for record, text in zip(row, texts, strict=True)]


def _undecided(row: Sequence[str | None]) -> Iterator[tuple[str, str]]:
    """Pairs of wrong answers that may be equal. Without a right answer the vote is lost whatever they are."""
    if RIGHT not in row:
        return
    wrong = Counter(key for key in row if key and key != RIGHT)
    for a, b in combinations([key for key, _ in wrong.most_common(MOST)], 2):
        if not (_is_number(a) and _is_number(b)):  # two different numbers are different answers
            yield a, b


def _is_number(key: str) -> bool:
    try:
        Fraction(key.removeprefix("wrong: "))
    except (ValueError, ZeroDivisionError):
        return False
    return True


def _root(joined: dict[str | None, str], key: str) -> str:
    while key in joined:
        key = joined[key]
    return key
