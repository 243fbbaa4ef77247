"""The summary of sh/reproduce_paper.sh: the paper's numbers beside those on disk."""

import importlib.util
from pathlib import Path

import pytest
from made_runs import store_evaluation

SCRIPT = Path(__file__).parents[2] / "examples" / "reproduce_paper" / "summary.py"
spec = importlib.util.spec_from_file_location("reproduce_paper_summary", SCRIPT)
assert spec is not None and spec.loader is not None
summary = importlib.util.module_from_spec(spec)
spec.loader.exec_module(summary)


def row(text: str, *start: str) -> list[str]:
    """Cells of the one line of a markdown table that begins with the cells ``start``."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    (found,) = [line for line in lines if tuple(line[: len(start)]) == start]
    return found


def test_the_printed_averages_of_the_paper_are_those_of_its_five_columns():
    for runs in summary.PAPER.values():
        for numbers in runs.values():
            assert sum(numbers[:5]) / 5 == pytest.approx(numbers[5], abs=0.021)  # as rounded there


def test_a_run_stands_beside_the_papers_line_with_greedy_below_and_other_models_are_left_out(tmp_path, capsys):
    answers = {name: [["1", "2"], ["1", "1"]] for name in summary.BENCHMARKS}
    store_evaluation(tmp_path / "qwen2.5-math-1.5b" / "dft", "x", answers)
    greedy = {name: [["1"], ["2"]] for name in summary.BENCHMARKS}
    store_evaluation(tmp_path / "qwen2.5-math-1.5b" / "dft" / "greedy", "x", greedy, temperature=0.0)
    assert summary.main(["--out", str(tmp_path)]) == 0
    text = (tmp_path / "summary.md").read_text()
    assert capsys.readouterr().out.strip() in text
    paper = row(text, "qwen2.5-math-1.5b", "dft", "avg@16, the paper")
    assert paper[3:] == ["64.89", "20.94", "27.08", "6.87", "38.13", "31.58"]
    assert row(text, "qwen2.5-math-1.5b", "dft", "avg@2")[3].startswith("75.0")
    ours = row(text, "qwen2.5-math-1.5b", "dft", "greedy")
    # 2 problems, one right: 50 +- sqrt(0.5 * 0.5 / (2 - 1)) = 50 per benchmark, 50 / sqrt(5) for the mean
    assert ours[3] == "50.0 ± 50.0" and ours[8] == "50.0 ± 22.4"
    assert "llama" not in text and "| sft |" not in text


def test_an_average_over_missing_benchmarks_is_left_empty(tmp_path):
    store_evaluation(tmp_path / "llama-3.2-3b" / "base", "x", {"aime24": [["1", "2"]]})
    assert row(summary.table(tmp_path), "llama-3.2-3b", "base", "avg@2")[3:] == ["", "", "", "50.0", "", ""]


def test_no_evaluation_at_all_is_an_error_that_names_the_script(tmp_path, capsys):
    assert summary.main(["--out", str(tmp_path)]) == 1
    assert "sh/reproduce_paper.sh" in capsys.readouterr().err
