"""The metrics of one benchmark: scores with errors, and the counts that tell whether to believe them."""

import importlib.metadata
import math
import platform
from collections import Counter
from collections.abc import Sequence
from typing import Any

from verl.math_eval.grading import GRADER_VERSION, answer_groups
from verl.math_eval.samples import Record
from verl.math_eval.scores import Score, avg_at_k, maj_at_k, pass_at_k

PACKAGES = ("torch", "transformers", "tokenizers", "math-verify", "latex2sympy2_extended", "sympy", "verl", "verl-dft")


def benchmark_metrics(rows: Sequence[Sequence[Record]], greedy: bool) -> dict[str, Any]:
    """rows[problem][sample] -> scores, counts, shares and lengths. Undefined numbers are None (NaN is not JSON)."""
    samples = [record for row in rows for record in row]
    return {
        "problems": len(rows),
        "samples_per_problem": len(rows[0]),
        "scores": {name: _as_json(score) for name, score in _scores(rows, greedy).items()},
        "correct": sum(r["correct"] for r in samples),
        "samples": len(samples),
        "truncated": _share(r["finish_reason"] == "length" for r in samples),
        "prompt_too_long": _share(r["finish_reason"] == "prompt_too_long" for r in samples),
        "no_answer": _share(r["status"] == "no_answer" for r in samples),
        # Counted as wrong in every score, and here, because they are a limit of the grader and not of the model.
        "ungraded": dict(Counter(r["reason"] for r in samples if r["status"] in ("timeout", "error"))),
        "extraction": {m: n / len(samples) for m, n in Counter(r["method"] for r in samples).most_common()},
        "tokens": _lengths([r["tokens"] for r in samples]),
    }


def versions() -> dict[str, str]:
    """Everything installed that can change a score."""
    found = {"python": platform.python_version(), "grader": GRADER_VERSION}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _scores(rows: Sequence[Sequence[Record]], greedy: bool) -> dict[str, Score]:
    correct = [[r["correct"] for r in row] for row in rows]
    samples = len(rows[0])
    if greedy:
        return {"greedy": avg_at_k(correct)}
    scores = {f"avg@{samples}": avg_at_k(correct)}
    if samples > 1:
        powers = [1 << i for i in range(1, samples.bit_length())]
        for k in sorted({*(k for k in powers if k < samples), samples}):
            scores[f"pass@{k}"] = pass_at_k(correct, k)
        answers = [answer_groups([r["extracted"] for r in row]) for row in rows]
        scores[f"maj@{samples}"] = maj_at_k(answers, correct)
    return scores


def _as_json(score: Score) -> dict[str, float | None]:
    return {
        name: None if math.isnan(value) else value
        for name, value in (
            ("value", score.value),
            ("stderr", score.stderr),
            ("sampling_stderr", score.sampling_stderr),
        )
    }


def _share(flags) -> float:
    flags = list(flags)
    return sum(flags) / len(flags)


def _lengths(tokens: list[int]) -> dict[str, float]:
    ordered = sorted(tokens)
    at = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    quantiles = {name: ordered[min(len(ordered) - 1, int(q * len(ordered)))] for name, q in at.items()}
    return {"mean": sum(ordered) / len(ordered), **quantiles}
