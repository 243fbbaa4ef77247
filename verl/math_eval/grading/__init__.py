"""Is this answer right? ``grade_many([(model text, gold answer), ...])``; see ``grade`` for the layers of one grade."""

from verl.math_eval.grading.extraction import last_box
from verl.math_eval.grading.grade import GRADER_VERSION, MODES, Grade, answer_groups, grade_many

__all__ = ["GRADER_VERSION", "MODES", "Grade", "answer_groups", "grade_many", "last_box"]
