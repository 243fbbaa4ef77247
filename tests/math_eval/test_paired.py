"""The comparison of two runs, problem by problem."""

import json
import math
import random

import pytest
from made_runs import store_evaluation

from verl.math_eval.__main__ import main
from verl.math_eval.paired import paired_difference


def test_equal_runs_differ_by_nothing():
    d = paired_difference([([0.0, 1.0, 0.5], [0.0, 1.0, 0.5])])
    assert (d.mean, d.low, d.high, d.p, d.better, d.worse) == (0, 0, 0, 1, 0, 0)


def test_the_mean_is_of_the_benchmarks_means():
    d = paired_difference([([0.0] * 4, [1.0] * 4), ([1.0, 1.0], [0.0, 1.0])])
    assert d.mean == pytest.approx((1 - 0.5) / 2)
    assert (d.problems, d.better, d.worse) == (6, 4, 1)


def test_nothing_to_compare_is_nan():
    assert math.isnan(paired_difference([]).mean) and math.isnan(paired_difference([([], [])]).low)


def test_the_interval_has_the_width_of_the_normal_approximation():
    rng = random.Random(0)
    a = [float(rng.random() < 0.5) for _ in range(400)]
    b = [float(rng.random() < 0.6) for _ in range(400)]
    d = paired_difference([(a, b)], seed=1)
    differences = [y - x for x, y in zip(a, b, strict=True)]
    mean = sum(differences) / 400
    error = math.sqrt(sum((v - mean) ** 2 for v in differences) / 399 / 400)
    assert d.mean == pytest.approx(mean)
    assert d.low == pytest.approx(mean - 1.96 * error, abs=0.006)
    assert d.high == pytest.approx(mean + 1.96 * error, abs=0.006)


def test_intervals_cover_the_truth_as_often_as_they_claim_and_p_is_small_as_often():
    rng = random.Random(4)
    covered = small = 0
    for trial in range(300):
        hard = [rng.random() for _ in range(80)]
        a = [float(rng.random() < p) for p in hard]
        b = [float(rng.random() < p) for p in hard]  # the same model twice: the true difference is 0
        d = paired_difference([(a, b)], confidence=0.9, seed=trial, resamples=500)
        covered += d.low <= 0 <= d.high
        small += d.p < 0.1
    assert covered / 300 == pytest.approx(0.9, abs=0.05)
    assert small / 300 == pytest.approx(0.1, abs=0.05)


def test_pairing_sees_a_small_gain_that_hides_among_hard_and_easy_problems():
    a = [0.0] * 50 + [0.5] * 50 + [0.9] * 50
    b = [v + 0.05 for v in a]
    assert paired_difference([(a, b)]).p < 0.001


A = {"sums": [["1", "1", "1", "2"], ["2", "2", "2", "1"], ["2", "2", "2", "2"], ["1", "1", "1", "1"]]}
B = {"sums": [["1", "1", "1", "1"], ["1", "1", "1", "2"], ["2", "2", "2", "2"], ["2", "3", "4", "2"]]}


def cli(*args) -> int:
    return main(["compare", *map(str, args)])


def test_the_command_reports_differences_and_what_flipped(tmp_path, capsys):
    store_evaluation(tmp_path / "a", "sft", A)
    store_evaluation(tmp_path / "b", "dft", B)
    assert cli(tmp_path / "a", tmp_path / "b", "--output_dir", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "## dft against sft" in out and "gained 1 (1), lost 1 (3)" in out
    (found,) = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["differences"]["avg"]["sums"]["mean"] == pytest.approx((4 + 3 + 0 + 0) / 16 - (3 + 1 + 0 + 4) / 16)
    assert found["differences"]["maj@4"]["sums"]["mean"] == pytest.approx(0)
    assert found["flips"]["sums"] == {"gained": ["sums/1"], "lost": ["sums/3"]}
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "comparison.png" in (tmp_path / "out" / "comparison.md").read_text()


def test_more_runs_are_each_compared_with_the_first(tmp_path, capsys):
    for name in "abc":
        store_evaluation(tmp_path / name, "same name", A)
    assert cli(*(tmp_path / name for name in "abc"), "--output_dir", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [(c["a"], c["b"]) for c in found] == [(str(tmp_path / "a"), str(tmp_path / n)) for n in "bc"]


def test_what_differs_beside_the_model_is_said(tmp_path, capsys):
    store_evaluation(tmp_path / "a", "sft", {**A, "more": A["sums"]})
    store_evaluation(tmp_path / "b", "dft", {"sums": [[row[0]] for row in B["sums"][:3]]}, temperature=0.0)
    assert cli(tmp_path / "a", tmp_path / "b", "--output_dir", tmp_path / "out") == 0
    out = capsys.readouterr().out
    for words in ("differ in sampling", "differ in samples per problem", "only the 3 problems", "left out: more"):
        assert words in out


@pytest.mark.parametrize("other", ["data", "benchmark", "nothing", "several"])
def test_what_cannot_be_paired_is_refused(tmp_path, capsys, other):
    store_evaluation(tmp_path / "a", "sft", A)
    if other == "data":
        store_evaluation(tmp_path / "b", "dft", B, data="another hash")
    elif other == "benchmark":
        store_evaluation(tmp_path / "b", "dft", {"others": B["sums"]})
    elif other == "several":
        for step in (1, 2):
            store_evaluation(tmp_path / "b" / f"global_step_{step}", "dft", B)
    assert cli(tmp_path / "a", tmp_path / "b", "--output_dir", tmp_path / "out") == 1
    message = {
        "data": "expected the same problems of sums", "benchmark": "expected a benchmark in common",
        "nothing": "expected the output folder", "several": "name one of",
    }[other]  # fmt: skip
    assert message in capsys.readouterr().err
