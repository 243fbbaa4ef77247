"""The grader as a reward function for verl's own RL trainers.

    python -m verl.trainer.main_ppo ... reward.custom_reward_function.path=pkg://verl.math_eval.reward \\
        reward.custom_reward_function.name=compute_score

``+reward.custom_reward_function.reward_kwargs.mode=strict`` rewards answers in a box or after a marker only.
"""

from typing import Any

from verl.math_eval.grading import grade_many
from verl.math_eval.grading.grade import SECONDS


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    mode: str = "lenient",
    seconds: float = SECONDS,
) -> dict[str, Any]:
    """Score 1.0 for a right answer and 0.0 for every other, under the verdict of the evaluation harness.

    Returns the same keys for every row: score, acc (the same number, which verl averages in validation), pred (the
    answer found, "" for none) and status (see ``grading.Grade``). data_source and extra_info are not looked at: the
    gold answer decides how it is compared. Safe in threads and in worker processes, forked ones too; nothing in either
    text is executed. Raises ValueError for a mode that is none.
    """
    grade = grade_many([(solution_str, str(ground_truth))], mode, seconds)[0]
    score = float(grade.correct)
    return {"score": score, "acc": score, "pred": grade.extracted, "status": grade.status}
