"""Is a gain learning, or only a lower temperature? Two models over several temperatures, each also at its own best one.

A model that puts more weight on its favourite answers gains at temperature 1 what any model gains by sampling colder.
So the difference is also taken with each model at the temperature that suits it. That temperature is chosen on one half
of the problems and scored on the other, both ways, so that the luck of the choice is not counted as skill. Pure
functions of numbers per problem.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from verl.math_eval.paired import Difference, paired_difference

# benchmark -> problem id -> number of one score at one temperature
Numbers = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class AtBest:
    """One score of models a and b, each at its own best temperature.

    chosen_a, chosen_b: the temperature chosen on the first, the second half of the problems.
    value_a, value_b: the means over benchmarks of the scores on the halves that did not choose, in [0, 1].
    difference: b - a of these. The interval takes the chosen temperatures as given.
    same: b - a at ``temperature``, the highest that both have. explained: ``same - difference``, what a choice of
    temperature makes of the gap.
    """

    score: str
    chosen_a: tuple[float, float]
    chosen_b: tuple[float, float]
    value_a: float
    value_b: float
    difference: Difference
    temperature: float
    same: Difference
    explained: Difference


def at_best(
    score: str, a: Mapping[float, Numbers], b: Mapping[float, Numbers], confidence: float = 0.95, seed: int = 0
) -> AtBest:
    """Compare two models whose numbers are a[temperature][benchmark][problem]; both hold the same problems.

    The temperatures need not be the same ones, but one of them must be, and a benchmark needs two problems.
    """
    common = sorted(a.keys() & b.keys())
    assert common, "two models without a common temperature"
    ids = {name: list(numbers) for name, numbers in a[common[0]].items()}
    halves = _halves(ids, seed)
    chosen_a, chosen_b = (tuple(_best(model, half) for half in halves) for model in (a, b))
    pairs, same, explained = [], [], []
    for name in ids:
        crossed = [
            (problem, ours, theirs)
            for half, ours, theirs in zip(halves, reversed(chosen_a), reversed(chosen_b), strict=True)
            for problem in half[name]
        ]
        left = [a[ours][name][p] for p, ours, _ in crossed]
        right = [b[theirs][name][p] for p, _, theirs in crossed]
        left_same, right_same = ([model[common[-1]][name][p] for p, _, _ in crossed] for model in (a, b))
        pairs.append((left, right))
        same.append((left_same, right_same))
        explained.append((np.subtract(right, left).tolist(), np.subtract(right_same, left_same).tolist()))
    return AtBest(
        score,
        (chosen_a[0], chosen_a[1]),
        (chosen_b[0], chosen_b[1]),
        float(np.mean([np.mean(left) for left, _ in pairs])),
        float(np.mean([np.mean(right) for _, right in pairs])),
        paired_difference(pairs, confidence, seed),
        common[-1],
        paired_difference(same, confidence, seed),
        paired_difference(explained, confidence, seed),
    )


def _halves(ids: Mapping[str, Sequence[str]], seed: int) -> list[dict[str, list[str]]]:
    """The problems of each benchmark in two halves, drawn at random."""
    rng = np.random.default_rng(seed)
    halves: list[dict[str, list[str]]] = [{}, {}]
    for name, problems in ids.items():
        order = rng.permutation(len(problems))
        for side in (0, 1):
            halves[side][name] = [problems[i] for i in sorted(order[side::2])]
    return halves


def _best(model: Mapping[float, Numbers], half: Mapping[str, Sequence[str]]) -> float:
    """The temperature with the highest mean over benchmarks; of equal ones the lowest."""
    return max(
        sorted(model), key=lambda t: np.mean([np.mean([model[t][name][p] for p in ids]) for name, ids in half.items()])
    )


def verdict(found: AtBest, a: str, b: str) -> str:
    """One sentence: is the difference between b and a sharpening?"""
    same, best, t = found.same, found.difference, f"temperature {found.temperature:g}"
    if not _shown(same):
        if not _shown(best):
            return (
                f"No difference between {b} and {a} was shown, neither at {t} ({points(same)}) nor with each at its "
                f"own best temperature ({points(best)}): there is no gain to explain."
            )
        return (
            f"At {t} no difference was shown ({points(same)}), but with each at its own best temperature {b} differs "
            f"from {a} by {points(best)}: temperature hid it, and it is not sharpening."
        )
    ahead, behind = (b, a) if same.mean > 0 else (a, b)
    gap = f"the lead of {ahead} over {behind} at {t} ({b} - {a}: {points(same)})"
    if not _shown(best):
        return (
            f"Sharpening, as far as {same.problems} problems can tell: {gap} was not shown with each at its own best "
            f"temperature ({points(best)})."
        )
    if (best.mean > 0) != (same.mean > 0):
        return f"Sharpening: {gap} turns into its opposite with each at its own best temperature ({points(best)})."
    if _shown(found.explained) and (found.explained.mean > 0) == (same.mean > 0):
        return (
            f"Partly sharpening: of {gap}, {points(best)} remain with each at its own best temperature; "
            f"{points(found.explained)} go with the temperature."
        )
    return f"Not sharpening: {gap} remains with each at its own best temperature ({points(best)})."


def points(d: Difference) -> str:
    """``+4.6 points, +0.6 to +8.6``."""
    return f"{100 * d.mean:+.1f} points, {100 * d.low:+.1f} to {100 * d.high:+.1f}"


def _shown(d: Difference) -> bool:
    return not d.low <= 0 <= d.high
