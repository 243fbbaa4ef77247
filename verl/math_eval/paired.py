"""The paired bootstrap: how far apart are two models on the same problems? Pure functions of numbers per problem."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verl.math_eval.scores import NAN

RESAMPLES = 10_000
_AT_ONCE = 500  # resamples drawn together, so that memory stays small


@dataclass(frozen=True)
class Difference:
    """mean: of b - a over problems. low, high: percentile interval. p: two-sided, under resampling of problems.

    better, worse: problems on which b has the higher, the lower number. Undefined (no problem) is NaN.
    """

    mean: float
    low: float
    high: float
    p: float
    problems: int
    better: int
    worse: int


def paired_difference(
    groups: Sequence[tuple[Sequence[float], Sequence[float]]],
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference:
    """groups: one (a, b) per benchmark, with numbers per problem in the same order. The mean is of the benchmarks'
    means, and problems are drawn with replacement within each benchmark, the pair of a problem always together.
    """
    differences = [np.asarray(b, float) - np.asarray(a, float) for a, b in groups]
    if not differences or any(len(d) == 0 for d in differences):
        return Difference(NAN, NAN, NAN, NAN, 0, 0, 0)
    rng = np.random.default_rng(seed)
    means = np.mean([_resampled_means(d, rng, resamples) for d in differences], axis=0)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    # Add one to both: the data themselves are one of the resamples, so p is never 0.
    tail = min((means <= 0).sum(), (means >= 0).sum())
    every = np.concatenate(differences)
    return Difference(
        mean=float(np.mean([d.mean() for d in differences])),
        low=float(low),
        high=float(high),
        p=min(1.0, 2 * float(tail + 1) / (resamples + 1)),
        problems=len(every),
        better=int((every > 0).sum()),
        worse=int((every < 0).sum()),
    )


def _resampled_means(differences: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    parts = []
    for start in range(0, resamples, _AT_ONCE):
        size = (min(_AT_ONCE, resamples - start), len(differences))
        parts.append(differences[rng.integers(len(differences), size=size)].mean(axis=1))
    return np.concatenate(parts)
