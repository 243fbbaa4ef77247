"""Tables, plots and the report, from evaluations whose numbers are known."""

import csv
import json
from dataclasses import replace

import pytest
from made_runs import store_evaluation

from verl.math_eval.charts import draw_all, draw_learning_curve
from verl.math_eval.evaluation import load_evaluation
from verl.math_eval.report import write_report
from verl.math_eval.tables import average, csv_table, latex_table, score_table

HALF = {"one": [["1", "2", "1", "2"], ["1", "1", "3", "4"]], "two": [["1", "1", "1", "1"], ["2", "2", "2", "2"]]}
GREEDY = {"one": [["1"], ["2"]], "two": [["1"], ["1"]]}


@pytest.fixture
def runs(tmp_path):
    return [
        store_evaluation(tmp_path / "a", "model_a", HALF),
        store_evaluation(tmp_path / "a" / "greedy", "model_a", GREEDY, temperature=0.0),
        store_evaluation(tmp_path / "b", "model_b", {"one": HALF["one"]}, warnings=["the prompt format is another"]),
    ]


def test_the_table_has_a_line_per_model_and_kind_and_averages_complete_lines_only(runs):
    lines = score_table(runs).splitlines()
    assert lines[0] == "| model | score | one | two | average |"
    assert lines[2] == "| model_a | greedy | 50.0 ± 50.0 | 100.0 ± 0.0 | 75.0 ± 25.0 |"
    assert lines[3] == "| model_a | avg@4 | 50.0 ± 0.0 | 50.0 ± 50.0 | 50.0 ± 25.0 |"
    assert lines[4].startswith("| model_a | maj@4 | 75.0 ± 25.0 | 50.0 ± 50.0 | 62.5")
    assert lines[5].startswith("| model_a | pass@4 | 100.0 ± 0.0 | 50.0 ± 50.0 |")
    assert lines[6] == "| model_b | avg@4 | 50.0 ± 0.0 |  |  |"


def test_latex_escapes_names_and_csv_has_every_score(runs):
    tex = latex_table(runs)
    assert r"model\_a & greedy & $50.0_{\pm 50.0}$ & $100.0_{\pm 0.0}$ & $75.0_{\pm 25.0}$ \\" in tex
    assert {line.count("&") - line.count(r"\&") for line in tex.splitlines() if line.endswith(r"\\")} == {4}
    assert tex.count(r"\midrule") == 2 and r"\begin{tabular}{llrrr}" in tex
    rows = list(csv.DictReader(csv_table(runs).splitlines()))
    found = {(r["model"], r["benchmark"], r["score"]): r for r in rows}
    assert float(found["model_a", "one", "avg@4"]["value"]) == 0.5
    assert found["model_a", "one", "greedy"]["sampling_stderr"] == ""
    assert {"avg@4", "pass@2", "pass@4", "maj@4"} == {r["score"] for r in rows if r["model"] == "model_b"}


def test_an_average_of_something_undefined_is_undefined():
    good, bad = {"value": 0.5, "stderr": 0.1, "sampling_stderr": None}, {"value": 0.2, "stderr": None}
    assert average([good, {**bad, "sampling_stderr": None}])["stderr"] is None
    assert average([good, {**bad, "value": None, "sampling_stderr": None}])["value"] is None


def test_the_report_holds_everything_and_its_links_lead_somewhere(runs, tmp_path):
    for run in runs:
        write_report(run.folder, [run])
    text = write_report(tmp_path, runs).read_text()
    for words in (
        "> **Warning** (model_b): the prompt format is another", "scores.tex", "![scores](scores.png)",
        "model_a](a/samples.html)", "a/greedy/samples.html", "one by level", "## Health", "0123456789ab",
        "nothing to compare with", "````\nQ ``` <b>?\n````",
    ):  # fmt: skip
        assert words in text, words
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert links and all((tmp_path / link).is_file() for link in links)


def test_plots_are_drawn_where_they_have_something_to_show(runs, tmp_path):
    (tmp_path / "plots").mkdir()
    assert draw_all(tmp_path / "plots", runs) == ["scores.png", "pass_at_k.png", "lengths.png"]
    assert draw_all(tmp_path / "plots", [runs[1]]) == ["scores.png", "lengths.png"]


def test_checkpoints_give_a_learning_curve(runs):
    steps = [replace(runs[i], label=f"global_step_{step}") for i, step in ((0, 100), (1, 100), (0, 20))]
    figure = draw_learning_curve(steps)
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    drawn = [list(line.get_xdata()) for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 2]
    assert [20, 100] in drawn and figure.axes[-1].get_title() == "average", lines
    assert draw_learning_curve(runs) is None


def test_an_unfinished_run_is_not_read(runs, tmp_path):
    (tmp_path / "a" / "two" / "metrics.json").unlink()
    with pytest.raises(ValueError, match="its run was not finished"):
        load_evaluation(tmp_path / "a")
    with pytest.raises(ValueError, match="expected the output folder of an evaluation"):
        load_evaluation(tmp_path / "nothing")


def test_undefined_is_null_in_json_and_never_nan(tmp_path):
    store_evaluation(tmp_path, "m", {"one": [["1", "2"]]})
    text = (tmp_path / "one" / "metrics.json").read_text()
    assert json.loads(text)["scores"]["avg@2"]["stderr"] is None and "NaN" not in text
