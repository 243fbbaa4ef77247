"""Scores of repeated samples: avg@k, pass@k, maj@k, each with a standard error over problems. Pure functions.

Samples of one problem are not independent trials, so every standard error is taken over problems: each problem gives
one number and the error is their standard deviation / sqrt(number of problems). What is undefined is NaN, never a
flattering number.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

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
    shares = avg_values(correct)
    score = mean_and_error(shares)
    if not correct or min(len(row) for row in correct) < 2:
        return score
    variance = math.fsum(p * (1 - p) / (len(row) - 1) for p, row in zip(shares, correct, strict=True))
    return Score(score.value, score.stderr, math.sqrt(variance) / len(correct))


def pass_at_k(correct: Sequence[Sequence[bool]], k: int) -> Score:
    """Mean over problems of the chance that k of its n samples, drawn without replacement, hold a right one.

    1 - C(n - c, k) / C(n, k) with c right samples out of n; NaN when a problem has fewer than k samples.
    """
    return mean_and_error(pass_values(correct, k))


def maj_at_k(
    answers: Sequence[Sequence[Hashable | None]], correct: Sequence[Sequence[bool]], k: int | None = None
) -> Score:
    """Mean over problems of the chance that the most frequent answer among k samples, drawn without replacement, is
    right. Exact: over all subsets of size k. k None: all samples of each problem.

    answers[problem][sample]: equal keys are equal answers; None is no answer and does not vote. Between answers with
    the same number of votes the draw is fair. Nobody voting is wrong. NaN when a problem has fewer than k samples.
    """
    return mean_and_error(maj_values(answers, correct, k))


def avg_values(correct: Sequence[Sequence[bool]]) -> list[float]:
    """One number per problem, as all ``*_values``: what the score is the mean of."""
    return [sum(row) / len(row) for row in correct]


def pass_values(correct: Sequence[Sequence[bool]], k: int) -> list[float]:
    """Per problem the chance that one of k of its samples is right. NaN where there are fewer than k."""
    if k < 1 or any(len(row) < k for row in correct):
        return [NAN] * len(correct)
    return [1 - math.comb(len(row) - sum(row), k) / math.comb(len(row), k) for row in correct]


def maj_values(
    answers: Sequence[Sequence[Hashable | None]], correct: Sequence[Sequence[bool]], k: int | None = None
) -> list[float]:
    """Per problem the chance that the most frequent answer of k samples is right, as in :func:`maj_at_k`."""
    if k is not None and (k < 1 or any(len(row) < k for row in answers)):
        return [NAN] * len(answers)
    values = []
    for row, right in zip(answers, correct, strict=True):
        votes = Counter(a for a in row if a is not None)
        is_right = {a: r for a, r in zip(row, right, strict=True) if a is not None}
        silent = len(row) - sum(votes.values())
        chances = []
        for answer in votes:
            if is_right[answer]:
                others = tuple(sorted(n for other, n in votes.items() if other != answer))
                chances.append(_chance_to_win(votes[answer], others, silent, len(row) if k is None else k))
        values.append(math.fsum(chances))
    return values


@lru_cache(maxsize=4096)
def _chance_to_win(size: int, others: tuple[int, ...], silent: int, k: int) -> float:
    """The chance that an answer that ``size`` samples give is drawn by lot from the most frequent ones of k samples.

    others: sizes of the other answers. silent: samples without an answer. Counts the subsets in which the answer has
    exactly ``own`` votes, no other has more, and some have as many (``ties``).
    """
    if k == size + sum(others) + silent:  # there is one subset only
        most = max((size, *others))
        return 1 / (1 + others.count(size)) if size == most else 0.0
    won = 0.0
    for own in range(1, min(size, k) + 1):
        left = k - own
        ways = np.zeros((left + 1, min(len(others), left // own) + 1))  # [votes for others, ties] -> number of ways
        ways[0, 0] = 1
        for other in others:
            extended = np.zeros_like(ways)
            for n in range(min(other, own, left) + 1):
                ties = int(n == own)
                extended[n:, ties:] += float(math.comb(other, n)) * ways[: left + 1 - n, : ways.shape[1] - ties]
            ways = extended
        silence = [float(math.comb(silent, left - votes)) for votes in range(left + 1)]
        won += math.comb(size, own) * float(silence @ ways @ (1 / np.arange(1, ways.shape[1] + 1)))
    return won / math.comb(size + sum(others) + silent, k)
