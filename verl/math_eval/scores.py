"""Scores of repeated samples: avg@k, pass@k, maj@k, each with a standard error over problems. Pure functions.

Samples of one problem are not independent trials, so every standard error is taken over problems: each problem gives
one number and the error is their standard deviation / sqrt(number of problems). What is undefined is NaN, never a
flattering number.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

NAN = float("nan")


@dataclass(frozen=True)
class Score:
    """value and its standard errors, all in [0, 1].

    stderr: over problems: how far the value would move with other problems of the same kind.
    sampling_stderr: with these very problems and other samples; NaN where there is one sample per problem.
    """

    value: float
    stderr: float
    sampling_stderr: float = NAN


def mean_and_error(values: Sequence[float]) -> Score:
    """Mean over problems and sd / sqrt(n), with n - 1 in the variance; the error of one problem is NaN."""
    n = len(values)
    if n == 0:
        return Score(NAN, NAN)
    mean = math.fsum(values) / n
    if n == 1:
        return Score(mean, NAN)
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
    return Score(mean, math.sqrt(variance / n))


def avg_at_k(correct: Sequence[Sequence[bool]]) -> Score:
    """Mean over problems of the share of right samples. correct[problem][sample]; a problem without samples is an
    error.
    """
    shares = [sum(row) / len(row) for row in correct]
    score = mean_and_error(shares)
    if not correct or min(len(row) for row in correct) < 2:
        return score
    variance = math.fsum(p * (1 - p) / (len(row) - 1) for p, row in zip(shares, correct, strict=True))
    return Score(score.value, score.stderr, math.sqrt(variance) / len(correct))


def pass_at_k(correct: Sequence[Sequence[bool]], k: int) -> Score:
    """Mean over problems of the chance that k of its n samples, drawn without replacement, hold a right one.

    1 - C(n - c, k) / C(n, k) with c right samples out of n; NaN when a problem has fewer than k samples.
    """
    if k < 1 or any(len(row) < k for row in correct):
        return Score(NAN, NAN)
    values = [1 - math.comb(len(row) - sum(row), k) / math.comb(len(row), k) for row in correct]
    return mean_and_error(values)


def maj_at_k(answers: Sequence[Sequence[Hashable | None]], correct: Sequence[Sequence[bool]]) -> Score:
    """Mean over problems of whether the most frequent answer is right, over all samples of the problem.

    answers[problem][sample]: equal keys are equal answers; None is no answer and does not vote. Between answers with
    the same number of votes the draw is fair: the value is the share of right ones among them. Nobody voting is wrong.
    """
    values = []
    for row, right in zip(answers, correct, strict=True):
        votes = Counter(a for a in row if a is not None)
        if not votes:
            values.append(0.0)
            continue
        most = max(votes.values())
        is_right = {a: r for a, r in zip(row, right, strict=True) if a is not None}
        winners = [a for a, n in votes.items() if n == most]
        values.append(sum(is_right[a] for a in winners) / len(winners))
    return mean_and_error(values)
