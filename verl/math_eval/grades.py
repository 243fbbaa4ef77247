"""The grades of records: what of a grade is stored beside a sample, and under which settings it was given."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from verl.math_eval.grading import GRADER_VERSION, grade_many
from verl.math_eval.samples import Record

PIECE = 1000  # samples in memory together while stored ones are graded again
GRADE_FIELDS = ("extracted", "method", "correct", "status", "reason", "legacy")


def grading_settings(
    extraction: str, grader: str, first_marker: bool = False, end_of_thinking: Sequence[str] = ()
) -> dict[str, Any]:
    """Samples stored under other grading settings are graded again."""
    settings = {"grader": GRADER_VERSION, "extraction": extraction, "legacy": grader == "legacy"}
    if first_marker:
        settings["first_marker"] = True
    if end_of_thinking:
        settings["end_of_thinking"] = list(end_of_thinking)
    return settings


def graded(records: Iterable[Record], settings: dict[str, Any]) -> list[Record]:
    """Records with "text" and "gold" -> the same with their grades, in order; grades that were there are replaced."""
    records = [{key: value for key, value in r.items() if key not in GRADE_FIELDS} for r in records]
    pairs = [(r["text"], r["gold"]) for r in records]
    grades = grade_many(
        pairs,
        settings["extraction"],
        first_marker=settings.get("first_marker", False),
        end_of_thinking=settings.get("end_of_thinking", ()),
    )
    for record, grade in zip(records, grades, strict=True):
        record |= {  # no seconds: the same samples must give the same file
            "extracted": grade.extracted,
            "method": grade.method,
            "correct": grade.correct,
            "status": grade.status,
            "reason": grade.reason,
        }
    if settings["legacy"]:
        from verl.math_eval.grading.legacy import grade_legacy_many

        for record, correct in zip(records, grade_legacy_many(pairs), strict=True):
            record["legacy"] = correct
    return records


def graded_in_pieces(records: Iterable[Record], settings: dict[str, Any]) -> Iterator[Record]:
    """As :func:`graded`, for more records than memory holds: PIECE at a time."""
    records = iter(records)
    while piece := list(islice(records, PIECE)):
        yield from graded(piece, settings)
