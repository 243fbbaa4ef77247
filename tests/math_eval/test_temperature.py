"""Sharpening and learning told apart: on models that are made so that the answer is known."""

import json
import random

import pytest
from made_runs import store_evaluation

from verl.math_eval.__main__ import main
from verl.math_eval.temperature import at_best, verdict


def model(rng, skill, temperatures):
    """Numbers of 200 problems: right with the chance of the problem's ease + what ``skill(temperature)`` adds."""
    ease = [rng.random() * 0.5 for _ in range(200)]
    return {
        t: {"sums": {str(i): sum(rng.random() < e + skill(t) for _ in range(16)) / 16 for i, e in enumerate(ease)}}
        for t in temperatures
    }


GRID = (0.0, 0.3, 0.6, 1.0)


@pytest.mark.parametrize(
    ("a", "b", "word"),
    [
        (lambda t: 0.3 - 0.2 * t, lambda t: 0.3, "Sharpening, as far as 200 problems can tell"),
        (lambda t: 0.1, lambda t: 0.3, "Not sharpening"),
        (lambda t: 0.2 - 0.2 * t, lambda t: 0.3, "Partly sharpening"),
        (lambda t: 0.1, lambda t: 0.1, "No difference"),
        (lambda t: 0.3, lambda t: 0.3 - 0.2 * t, "Sharpening, as far as 200 problems can tell: the lead of a over b"),
        (lambda t: 0.4 - 0.3 * t, lambda t: 0.2, "turns into its opposite"),
    ],
)
def test_the_sentence_says_what_the_models_were_made_to_do(a, b, word):
    left, right = model(random.Random(5), a, GRID), model(random.Random(5), b, GRID)
    assert word in verdict(at_best("avg", left, right), "a", "b")


def test_the_choice_of_a_temperature_is_not_counted_as_skill():
    # All temperatures are equally good; choosing the best of eight on the same problems would show a gain.
    gains, naive = [], []
    for trial in range(40):
        rng = random.Random(trial)
        many = {t / 8: {"s": {str(i): float(rng.random() < 0.5) for i in range(40)}} for t in range(1, 9)}
        one = {1.0: {"s": {str(i): 0.5 for i in range(40)}}}
        gains.append(at_best("avg", one, many).difference.mean)
        naive.append(max(sum(numbers["s"].values()) / 40 for numbers in many.values()) - 0.5)
    assert sum(gains) / 40 == pytest.approx(0, abs=0.025)
    assert sum(naive) / 40 > 0.08


def test_the_numbers_are_those_of_a_hand_written_split():
    a = {0.0: {"s": dict.fromkeys("abcd", 1.0)}, 1.0: {"s": dict.fromkeys("abcd", 0.25)}}
    b = {0.0: {"s": dict.fromkeys("abcd", 0.5)}, 1.0: {"s": dict.fromkeys("abcd", 0.75)}}
    found = at_best("avg", a, b)
    assert (found.chosen_a, found.chosen_b) == ((0.0, 0.0), (1.0, 1.0))
    assert (found.value_a, found.value_b, found.difference.mean) == (1.0, 0.75, -0.25)
    assert (found.temperature, found.same.mean, found.explained.mean) == (1.0, 0.5, 0.75)


def test_compare_takes_folders_of_several_temperatures(tmp_path, capsys):
    cold, hot = (
        [["1", "1"], ["1", "1"], ["2", "2"], ["1", "2"]] * 6,
        [["1", "2"], ["2", "2"], ["2", "2"], ["2", "1"]] * 6,
    )
    for name, warm in (("a", hot), ("b", cold)):
        for t, rows in ((0.3, cold), (1.0, warm)):
            store_evaluation(tmp_path / name / f"temperature_{t:g}", name, {"sums": rows}, temperature=t)
        greedy = [[row[0]] for row in cold]
        store_evaluation(tmp_path / name / "temperature_0", name, {"sums": greedy}, temperature=0.0)
    args = [str(tmp_path / "a"), str(tmp_path / "b"), "--output_dir", str(tmp_path / "out")]
    assert main(["compare", *args]) == 0
    out = capsys.readouterr().out
    assert "## b against a: is it sharpening?" in out and "**Sharpening, as far as 24 problems" in out
    assert "| T=0 (greedy) | T=0.3 | T=1 |" in out
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [c["temperature"] for c in found] == [0.0, 0.3, 1.0]
    (best,) = json.loads((tmp_path / "out" / "temperatures.json").read_text())
    assert [one["score"] for one in best["scores"]] == ["avg", "maj@2", "pass@2"]
    assert best["scores"][0]["difference"]["mean"] == 0 and best["scores"][0]["same"]["mean"] == pytest.approx(0.375)
    assert (tmp_path / "out" / "temperature.png").read_bytes().startswith(b"\x89PNG")
