"""What an output folder holds, one temperature or several; what the user's own data must be; trouble told early."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import store_evaluation

from tiny_model import save_tiny_model
from verl.math_eval.__main__ import main
from verl.math_eval.backends.options import BackendOptions
from verl.math_eval.backends.transformers_backend import TransformersBackend
from verl.math_eval.benchmarks import OwnData, load_problems, locate
from verl.math_eval.evaluation import load_evaluation
from verl.math_eval.generation import make_backend
from verl.math_eval.harness import evaluate, evaluate_all


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """They take most of the time, and test_report.py looks at them."""
    monkeypatch.setattr("verl.math_eval.report.draw_all", lambda *args: [])


def cli(*args) -> int:
    return main([str(a) for a in args])


@pytest.fixture
def model(tiny_model, data, tmp_path):
    """The command line for the tiny model and six sums."""
    return ["--model_name_or_path", tiny_model, "--data_names", data, "--output_dir", tmp_path / "out",
            "--max_tokens_per_call", 4, "--device", "cpu"]  # fmt: skip


def test_a_folder_with_one_checkpoint_gets_the_report_whose_path_is_printed(data, tmp_path, capsys):
    save_tiny_model(tmp_path / "run" / "global_step_7" / "huggingface")
    args = ["--model_name_or_path", tmp_path / "run", "--data_names", data, "--output_dir", tmp_path / "out"]
    assert cli(*args, "--max_tokens_per_call", 2, "--device", "cpu") == 0
    printed = Path(capsys.readouterr().out.rsplit("report: ", 1)[1].strip())
    assert "global_step_7" in printed.read_text()
    assert cli("--regrade", "--output_dir", tmp_path / "out") == 0
    assert "global_step_7" in printed.read_text()


def test_prompts_that_are_all_too_long_end_the_run_and_some_are_warned_about(backend, options, tmp_path, monkeypatch):
    lengths = sorted(len(backend.tokenizer(f"{i} + 1?")["input_ids"]) for i in range(6))
    monkeypatch.setattr(backend, "context", lengths[0])
    with pytest.raises(ValueError, match="expected prompts shorter than the .* in each of the 6 problems of sums"):
        evaluate(backend, tmp_path / "out", options)
    assert not (tmp_path / "out" / "sums" / "metrics.json").exists()


def test_one_prompt_that_is_too_long_is_a_warning(backend, options, tmp_path, data):
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows[2]["question"] = "what " * 5000
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = evaluate(backend, tmp_path / "out", options)
    assert any("1 of 6 prompts leave no room" in warning for warning in found.warnings)
    assert found.metrics["sums"]["prompt_too_long"] == pytest.approx(1 / 6)


def test_regrade_counts_as_many_samples_as_it_is_asked_to(tmp_path, capsys):
    store_evaluation(tmp_path / "out", "m", {"sums": [["1", "2", "1", "1"], ["2", "2", "2", "1"]]})
    assert cli("--regrade", "--output_dir", tmp_path / "out", "--n_sampling", 2) == 0
    assert "avg@2" in load_evaluation(tmp_path / "out").metrics["sums"]["scores"]
    assert cli("--regrade", "--output_dir", tmp_path / "out") == 0
    assert "avg@2" in load_evaluation(tmp_path / "out").metrics["sums"]["scores"]
    assert cli("--regrade", "--output_dir", tmp_path / "out", "--n_sampling", 4) == 0
    assert "avg@4" in load_evaluation(tmp_path / "out").metrics["sums"]["scores"]
    assert cli("--regrade", "--output_dir", tmp_path / "out", "--n_sampling", 5) == 1
    assert "found 2 missing" in capsys.readouterr().err


def test_a_run_without_greedy_keeps_the_greedy_samples_in_the_report(model, tmp_path, capsys):
    sampled = [*model, "--temperature", 1, "--n_sampling", 2]
    assert cli(*sampled, "--with_greedy") == 0
    capsys.readouterr()
    assert cli(*sampled) == 0
    out = capsys.readouterr().out
    assert "| greedy |" in out and "| greedy |" in (tmp_path / "out" / "report.md").read_text()
    assert "sums: 12 of 12 samples are there already" in out


def test_a_dead_server_and_a_missing_gpu_are_one_line_soon(model, capsys, monkeypatch):
    start = time.monotonic()
    assert cli(*model, "--base_url", "http://127.0.0.1:9/v1") == 1
    assert time.monotonic() - start < 15 and "127.0.0.1:9/v1" in capsys.readouterr().err
    assert cli(*model, "--device", "cuda:99") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: expected a device that is here") and error.count("\n") == 1


def own(tmp_path, rows, **how):
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_problems(locate(str(tmp_path / "mine.jsonl"), None, OwnData(**how)))


@pytest.mark.parametrize(
    ("gold", "rule", "message"),
    [
        ("2 + 1 = 3\n#### 3", "hashes", "found a solution .*: give --gold_rule hashes"),
        ("So $\\boxed{3}$.", "box", "found a solution .*: give --gold_rule box"),
    ],
)
def test_solutions_in_place_of_answers_are_found_before_sampling(tmp_path, gold, rule, message):
    rows = [{"question": "a", "answer": "3"}, {"question": "b", "answer": gold}]
    with pytest.raises(ValueError, match="row 2, column answer: expected an answer, " + message):
        own(tmp_path, rows)
    assert own(tmp_path, rows[1:], gold_rule=rule)[0].gold == "3"
    with pytest.raises(ValueError, match="row 1, column answer: expected a gold answer"):
        own(tmp_path, rows, gold_rule=rule)


def test_ordinary_answers_of_all_kinds_are_accepted(tmp_path):
    golds = [
        *("3", "1,234", "\\frac{1}{2}", "x^2+1", "(1, 2)", "[0, 1)", "\\{1,2\\}", "Tuesday", "50\\%", "$x=2$"),
        *("5 cm", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", "x \\in [-2,7]", "C", "1, 2, 3", "\\text{yes}", "10:30"),
    ]
    assert [p.gold for p in own(tmp_path, [{"question": g, "answer": g} for g in golds])] == golds


def test_ids_come_from_a_column_and_must_differ(tmp_path):
    rows = [{"question": "a", "answer": "1", "meta": {"id": "x7"}}, {"question": "b", "answer": "1", "meta": {"id": 8}}]
    assert [p.id for p in own(tmp_path, rows, id_key="meta.id")] == ["mine/x7", "mine/8"]
    with pytest.raises(ValueError, match="expected different ids, found 'x7' in rows 1 and 3"):
        own(tmp_path, [*rows, rows[0]], id_key="meta.id")
    with pytest.raises(ValueError, match="row 2, column meta.id: expected an id"):
        own(tmp_path, [rows[0], {"question": "b", "answer": 1}], id_key="meta.id")


def test_a_file_that_is_not_utf8_is_named_with_its_line(tmp_path):
    (tmp_path / "mine.jsonl").write_bytes(b'{"question": "a", "answer": 1}\n{"question": "caf\xe9", "answer": 1}\n')
    with pytest.raises(ValueError, match="mine.jsonl, line 2: expected UTF-8, found the byte 0xe9"):
        load_problems(locate(str(tmp_path / "mine.jsonl"), None))
    (tmp_path / "mine.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="mine.parquet: expected a parquet file"):
        load_problems(locate(str(tmp_path / "mine.parquet"), None))


def test_repeated_questions_are_told(backend, options, tmp_path, data):
    data.write_text(data.read_text() + data.read_text().splitlines()[1] + "\n")
    found = evaluate(backend, tmp_path / "out", options)
    assert found.warnings == ("sums: 1 questions repeat an earlier one (the first: 6 repeats 1)",)


def test_one_folder_per_temperature_in_one_report_and_the_same_command_goes_on(model, tmp_path, capsys, monkeypatch):
    assert cli(*model, "--temperature", "0,0.5,1", "--n_sampling", 3) == 0
    out = capsys.readouterr().out
    folders = sorted(p.name for p in (tmp_path / "out").glob("temperature_*"))
    assert folders == ["temperature_0", "temperature_0.5", "temperature_1"]
    assert "avg@3 at T=0.5" in out and "avg@3 at T=1" in out and "| greedy |" in out
    monkeypatch.setattr(TransformersBackend, "generate", lambda *a, **k: pytest.fail("something was generated"))
    assert cli(*model, "--temperature", "0,0.5,1", "--n_sampling", 3) == 0
    assert cli(*model, "--temperature", "0.5", "--n_sampling", 2) == 0
    assert "avg@3 at T=1" in capsys.readouterr().out
    assert cli("--regrade", "--output_dir", tmp_path / "out", "--n_sampling", 3) == 0
    assert "avg@3 at T=0.5" in (tmp_path / "out" / "report.md").read_text()


def test_a_temperature_that_is_there_already_is_not_drawn_again(model, tmp_path, monkeypatch):
    assert cli(*model, "--temperature", 1, "--n_sampling", 2) == 0
    assert cli(*model, "--temperature", "0,1", "--n_sampling", 2) == 0
    assert [p.name for p in (tmp_path / "out").glob("temperature_*")] == ["temperature_0"]


def test_other_runs_are_merged_temperature_by_temperature(tiny_model, options, tmp_path):
    backend = BackendOptions(str(tiny_model), device="cpu")
    two = replace(options, n_sampling=2)
    evaluate_all(backend, tmp_path / "b", replace(two, seed=1), temperatures=(0.5, 1.0))
    evaluate_all(backend, tmp_path / "a", two, temperatures=(0.5, 1.0))
    four = replace(options, n_sampling=4)
    runs = evaluate_all(backend, tmp_path / "a", four, merge_from=[tmp_path / "b"], temperatures=(0.5, 1.0))
    for run in runs:
        other = load_evaluation(tmp_path / "b" / run.folder.name)
        seeds = {r["seed"] for row in run.samples("sums") for r in row}
        assert {r["seed"] for row in other.samples("sums") for r in row} < seeds and len(seeds) == 24


@pytest.mark.parametrize(
    ("words", "message"), [("0,x", "found 'x'"), ("1,1", "1 more than once"), ("1,3", "from 0.01")]
)
def test_temperatures_that_make_no_sense_are_one_line(model, capsys, words, message):
    assert cli(*model, "--temperature", words) == 1
    assert message in capsys.readouterr().err


def test_a_stop_text_is_what_the_prompt_writes_not_a_word_of_an_answer():
    from verl.dft.data.templates import TEMPLATES

    for name in ("wizard_zs", "platypus_fs"):
        assert all(stop.startswith("###") for stop in TEMPLATES[name].stop)


def test_make_backend_says_which_device_is_missing(tiny_model):
    with pytest.raises(ValueError, match="expected a device that is here, found 'cuda:99'"):
        make_backend(BackendOptions(str(tiny_model), backend="transformers", device="cuda:99"))
