"""Texts that were sampled elsewhere: graded and reported like our own, or refused with the row's number."""

import json

import pytest

from verl.math_eval.__main__ import main


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """They take most of the time, and test_report.py looks at them."""
    monkeypatch.setattr("verl.math_eval.report.draw_all", lambda *args: [])


@pytest.fixture
def grade(tmp_path, data):
    """grade(rows, option, ...) -> the exit status, with the sums as the benchmark."""

    def run(rows, *options):
        (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        words = ["--predictions", tmp_path / "other.jsonl", "--data_names", data, "--output_dir", tmp_path / "out"]
        return main([str(word) for word in [*words, *options]])

    return run


def rows(samples=2, **more):
    """Sample 0 of each problem is right, the others are not."""
    return [{"problem": i, "text": f"so \\boxed{{{i + 1 + s}}}", **more} for s in range(samples) for i in range(6)]


def metrics(tmp_path):
    return json.loads((tmp_path / "out" / "sums" / "metrics.json").read_text())


def test_they_get_the_same_scores_files_and_report(grade, tmp_path, capsys):
    assert grade(rows(2, tokens=7), "--temperature", "0.8") == 0
    found = metrics(tmp_path)
    assert found["scores"]["avg@2"]["value"] == 0.5 and found["scores"]["pass@2"]["value"] == 1
    assert found["tokens"]["mean"] == 7
    assert "| other | avg@2 | 50.0" in capsys.readouterr().out
    assert (tmp_path / "out" / "samples.html").is_file()
    assert grade(rows(2, tokens=7), "--temperature", "0.8", "--extraction", "strict") == 0  # goes on, graded again
    assert len((tmp_path / "out" / "sums" / "samples.jsonl").read_text().splitlines()) == 12


def test_ids_may_be_full_names_in_any_order_and_columns_be_called_otherwise(grade, tmp_path):
    named = [{"meta": {"id": f"sums/{r['problem']}"}, "answer": r["text"]} for r in reversed(rows(1))]
    assert grade(named, "--problem_key", "meta.id", "--text_key", "answer") == 0
    assert metrics(tmp_path)["scores"]["greedy"]["value"] == 1


def test_what_the_file_does_not_tell_is_said(grade, tmp_path, capsys):
    assert grade([*rows(2), *rows(1)[:2]], "--temperature", "1") == 0
    warnings = metrics(tmp_path)["settings"]["described"]["warnings"]
    assert any("the first 2 texts of each problem count" in w for w in warnings)
    assert any("lengths are words" in w for w in warnings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (rows(1)[:5], "found fewer for 1, such as sums/5"),
        ([*rows(1), {"problem": 6, "text": "1"}], "row 7: expected the id of a problem, such as"),
        ([*rows(1), {"problem": 0}], "row 7, column text: expected a text"),
        ([*rows(1), {"text": "1"}], "row 7, column problem: expected a problem's id"),
        (rows(2), "expected --temperature T"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(grade, tmp_path, capsys, given, message):
    assert grade(given) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out" / "sums" / "metrics.json").exists()


def test_other_texts_in_the_same_folder_are_refused(grade, capsys):
    assert grade(rows(1)) == 0
    assert grade([{**row, "text": "7"} for row in rows(1)]) == 1
    assert "holds samples of other settings" in capsys.readouterr().err
