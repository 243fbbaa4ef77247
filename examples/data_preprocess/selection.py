"""Which samples of a question become training rows: pure rules over graded samples, and a reason for every other one.

A sample is a record of the evaluation's samples.jsonl: ``text``, ``correct``, ``status``, ``method``, ``tokens``,
``finish_reason`` ... The pass rate of a question is the share of its samples that are correct; samples that could not
be graded count as wrong.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Sample = Mapping[str, Any]
KEEP = ("correct", "shortest", "best-n")


@dataclass(frozen=True)
class Rules:
    """The defaults keep every correct sample, as the paper does.

    keep: "correct", all of them; "shortest", the ones of fewest tokens; "best-n", first those that stopped by
        themselves, then those with their answer in a box, then the shortest.
    max_per_question: at most N rows; None: no limit, with "shortest" 1. With "correct" a seeded draw.
    pass_rate: questions solved less or more often than that are left out.
    drop_truncated: leave out samples that were cut at the token limit though their answer was right.
    drop_duplicates: of samples with one text (blanks aside) keep the first.
    """

    keep: str = "correct"
    max_per_question: int | None = None
    pass_rate: tuple[float, float] = (0.0, 1.0)
    drop_truncated: bool = False
    drop_duplicates: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.keep not in KEEP:
            raise ValueError(f"--keep: expected one of {', '.join(KEEP)}, found {self.keep!r}")
        if self.max_per_question is not None and self.max_per_question < 1:
            raise ValueError(f"--max_per_question: expected at least 1, found {self.max_per_question}")
        if self.keep == "best-n" and self.max_per_question is None:
            raise ValueError("--keep best-n: expected --max_per_question, which is the n")
        low, high = self.pass_rate
        if not 0 <= low <= high <= 1:
            raise ValueError(f"--pass_rate: expected LOW:HIGH with 0 <= LOW <= HIGH <= 1, found {low:g}:{high:g}")

    @property
    def limit(self) -> int | None:
        return 1 if self.keep == "shortest" and self.max_per_question is None else self.max_per_question


def parse_pass_rate(text: str) -> tuple[float, float]:
    """``"0.1:0.9"`` -> (0.1, 0.9)."""
    try:
        low, high = map(float, text.split(":"))
    except ValueError as error:
        raise ValueError(f"--pass_rate: expected LOW:HIGH such as 0.1:0.9, found {text!r}") from error
    return low, high


def pass_rate(samples: Sequence[Sample]) -> float:
    return sum(sample["correct"] for sample in samples) / len(samples)


def select(samples: Sequence[Sample], rules: Rules) -> list[str | None]:
    """For each sample of one question why it is left out, or None. Samples in the order of their numbers."""
    low, high = rules.pass_rate
    if not low <= pass_rate(samples) <= high:
        return [f"pass rate of the question not in {low:g}:{high:g}"] * len(samples)
    reasons = [_own_reason(sample, rules) for sample in samples]
    if rules.drop_duplicates:
        seen: set[str] = set()
        for place, sample in enumerate(samples):
            text = " ".join(sample["text"].split())
            if reasons[place] is None and text in seen:
                reasons[place] = "the same text as another sample"
            seen.update([text] if reasons[place] is None else [])
    alive = [place for place, reason in enumerate(reasons) if reason is None]
    if rules.limit is not None:
        for place in _ranked(alive, samples, rules)[rules.limit :]:
            reasons[place] = f"beyond the {rules.limit} of its question that are kept ({rules.keep})"
    return reasons


def _own_reason(sample: Sample, rules: Rules) -> str | None:
    if sample["finish_reason"] == "prompt_too_long":
        return "prompt too long for the model"
    if not sample["correct"]:
        reasons = {"graded": "wrong answer", "no_answer": "no answer found"}
        return reasons.get(sample["status"], f"not graded ({sample['status']})")
    if rules.drop_truncated and sample["finish_reason"] != "stop":
        return "cut at the token limit"
    return None


def _ranked(places: list[int], samples: Sequence[Sample], rules: Rules) -> list[int]:
    """The places, best first."""
    if rules.keep == "correct":
        problem = samples[0]["problem"]
        return random.Random(f"{rules.seed} {problem}").sample(places, len(places))

    def rank(place: int) -> tuple[Any, ...]:
        sample = samples[place]
        flaws = (sample["finish_reason"] != "stop", sample["method"] not in ("box", "boxes"))
        return (*(flaws if rules.keep == "best-n" else ()), sample["tokens"], place)

    return sorted(places, key=rank)
