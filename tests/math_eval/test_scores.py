"""Against numbers worked out by hand."""

import math
import random
from collections import Counter
from itertools import combinations

import pytest

from verl.math_eval.scores import avg_at_k, maj_at_k, mean_and_error, pass_at_k

# Three problems, four samples each: 4, 1 and 0 right.
CORRECT = [[True] * 4, [True, False, False, False], [False] * 4]


def test_avg_is_the_mean_of_the_shares_with_errors_over_problems():
    score = avg_at_k(CORRECT)
    shares = [1, 0.25, 0]
    assert score.value == pytest.approx(sum(shares) / 3)
    # variance with n - 1: ((1 - 5/12)^2 + (1/4 - 5/12)^2 + (5/12)^2) / 2 = 0.270833...; error sqrt(that / 3)
    assert score.stderr == pytest.approx(math.sqrt(0.2708333333 / 3))
    # only problem 2 varies: 0.25 * 0.75 / 3, then sqrt and / 3 problems
    assert score.sampling_stderr == pytest.approx(math.sqrt(0.0625) / 3)


def test_pass_at_k_is_the_chance_of_a_right_one_among_k_drawn():
    # problem 2: 1 - C(3, 2) / C(4, 2) = 1/2
    assert pass_at_k(CORRECT, 2).value == pytest.approx((1 + 0.5 + 0) / 3)
    assert pass_at_k(CORRECT, 4).value == pytest.approx(2 / 3)
    assert pass_at_k(CORRECT, 1).value == pytest.approx(avg_at_k(CORRECT).value)


def test_pass_at_k_agrees_with_a_simulation():
    rng = random.Random(0)
    row = [True] * 5 + [False] * 11
    drawn = sum(any(rng.sample(row, 4)) for _ in range(20_000)) / 20_000
    assert pass_at_k([row], 4).value == pytest.approx(drawn, abs=0.012)


def test_majority_counts_equal_answers_and_shares_ties():
    answers = [["a", "a", "b", None], ["a", "b", None, None], [None] * 4, ["w", "w", "r", "r"]]
    correct = [[True, True, False, False], [True, False, False, False], [False] * 4, [False, False, True, True]]
    # right; a tie of one right and one wrong; nobody voted; a tie again
    assert maj_at_k(answers, correct).value == pytest.approx((1 + 0.5 + 0 + 0.5) / 4)


def test_majority_can_be_wrong_where_a_sample_is_right():
    assert maj_at_k([["w", "w", "r"]], [[False, False, True]]).value == 0


def test_undefined_is_nan():
    assert math.isnan(avg_at_k([]).value)
    assert math.isnan(pass_at_k(CORRECT, 5).value)
    assert math.isnan(mean_and_error([0.5]).stderr)
    assert math.isnan(avg_at_k([[True], [False]]).sampling_stderr)


def test_error_of_independent_problems_matches_a_simulation():
    rng = random.Random(1)
    means = [mean_and_error([float(rng.random() < 0.3) for _ in range(50)]) for _ in range(2_000)]
    spread = math.sqrt(sum((m.value - 0.3) ** 2 for m in means) / len(means))
    assert sum(m.stderr for m in means) / len(means) == pytest.approx(spread, rel=0.05)


def test_majority_of_fewer_samples_by_hand():
    # 3 of 4 answers are right, the 4th is wrong. Of the 6 pairs, 3 are right+right and 3 are right+wrong (a fair draw).
    assert maj_at_k([["r", "r", "r", "w"]], [[True, True, True, False]], 2).value == pytest.approx((3 + 3 / 2) / 6)
    # Of the 4 triples, each holds at least two right ones.
    assert maj_at_k([["r", "r", "r", "w"]], [[True, True, True, False]], 3).value == pytest.approx(1)
    # A silent sample does not vote: of the 3 pairs of (r, w, silent), one is a draw, one is r alone, one is w alone.
    assert maj_at_k([["r", "w", None]], [[True, False, False]], 2).value == pytest.approx((0.5 + 1 + 0) / 3)
    assert math.isnan(maj_at_k([["r", "w"]], [[True, False]], 3).value)


@pytest.mark.parametrize("answers", ["rrrwwx-", "rwxyz-", "rrwwxxy", "ssrrw--", "wwwwwr", "-------"])
def test_majority_equals_a_count_over_all_subsets(answers):
    right = {"r", "s"}  # two keys that both are right, as when the grader could not tell that they are one answer
    keys = [None if a == "-" else a for a in answers]
    correct = [a in right for a in answers]
    for k in range(1, len(answers) + 1):
        wins = []
        for subset in combinations(keys, k):
            votes = Counter(a for a in subset if a is not None)
            winners = [a for a, n in votes.items() if n == max(votes.values())]
            wins.append(sum(a in right for a in winners) / len(winners) if winners else 0)
        assert maj_at_k([keys], [correct], k).value == pytest.approx(sum(wins) / len(wins))


def test_error_knows_that_samples_of_a_problem_belong_together():
    """16 samples of each of 40 problems, of which half are easy: the spread over many such test sets."""
    rng = random.Random(2)

    def draw(chances):
        return [[rng.random() < p for _ in range(16)] for p in chances]

    scores = [avg_at_k(draw(rng.choice((0.1, 0.9)) for _ in range(40))) for _ in range(1_000)]
    spread = math.sqrt(sum((s.value - 0.5) ** 2 for s in scores) / len(scores))
    assert sum(s.stderr for s in scores) / len(scores) == pytest.approx(spread, rel=0.06)
    assert math.sqrt(0.25 / (40 * 16)) < spread / 3  # what counting all 640 samples as independent would claim

    chances = [0.1, 0.9] * 20  # now the same problems each time, and other samples
    scores = [avg_at_k(draw(chances)) for _ in range(1_000)]
    spread = math.sqrt(sum((s.value - 0.5) ** 2 for s in scores) / len(scores))
    assert sum(s.sampling_stderr for s in scores) / len(scores) == pytest.approx(spread, rel=0.06)


def test_pass_at_k_of_16_samples_estimates_the_true_chance():
    rng = random.Random(3)
    estimates = [pass_at_k([[rng.random() < 0.2 for _ in range(16)]], 4).value for _ in range(20_000)]
    assert sum(estimates) / len(estimates) == pytest.approx(1 - 0.8**4, abs=0.005)
