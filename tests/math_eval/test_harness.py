"""From a model and a file to samples, metrics and a report."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tiny_model import save_tiny_model
from verl.dft.data.prompts import resolve_prompt_format
from verl.math_eval import harness
from verl.math_eval.__main__ import main
from verl.math_eval.backends.options import BackendOptions
from verl.math_eval.backends.transformers_backend import TransformersBackend
from verl.math_eval.harness import EvalOptions, checkpoints_in, evaluate, evaluate_all, model_fingerprint
from verl.math_eval.report import write_report
from verl.math_eval.tables import score_table

ROOT = Path(__file__).parents[2]


def samples(folder):
    return [json.loads(line) for line in (folder / "sums" / "samples.jsonl").read_text().splitlines()]


def scripted(monkeypatch, texts):
    """Let the model say ``texts[problem][sample]``; everything else stays as it is."""
    original = TransformersBackend.generate

    def generate(self, requests, *args):
        for batch in original(self, requests, *args):
            yield [replace(c, text=texts(c.request.problem_id, c.request.sample), finish_reason="stop") for c in batch]

    monkeypatch.setattr(TransformersBackend, "generate", generate)


def test_files_of_a_run_hold_what_a_reader_needs(backend, options, tmp_path):
    result = evaluate(backend, tmp_path / "out", options, label="tiny")
    records = samples(tmp_path / "out")
    assert len(records) == 18
    assert set(records[0]) == {
        "problem", "sample", "seed", "prompt", "text", "finish_reason", "tokens", "gold", "extracted", "method",
        "correct", "status", "reason", "details", "question",
    }  # fmt: skip
    assert len({r["seed"] for r in records}) == 18
    metrics = json.loads((tmp_path / "out" / "sums" / "metrics.json").read_text())
    assert metrics == result.metrics["sums"]
    assert set(metrics["scores"]) == {"avg@3", "pass@2", "pass@3", "maj@3"}
    assert metrics["versions"]["math-verify"] and metrics["settings"]["generation"]["model"]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "avg@3" in report and "tiny" in report and "chat_template" in report
    assert (tmp_path / "out" / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_scores_are_those_of_the_answers(backend, options, tmp_path, monkeypatch):
    # Problem i is answered right in samples 0 .. i - 1.
    scripted(monkeypatch, lambda p, s: f"\\boxed{{{int(p[-1]) + (1 if s < int(p[-1]) else 2)}}}")
    scores = evaluate(backend, tmp_path / "out", options).metrics["sums"]["scores"]
    assert scores["avg@3"]["value"] == pytest.approx((0 + 1 + 2 + 3 + 3 + 3) / 18)
    assert scores["pass@3"]["value"] == pytest.approx(5 / 6)
    assert scores["maj@3"]["value"] == pytest.approx(4 / 6)


def test_health_is_reported(backend, options, tmp_path, monkeypatch):
    scripted(monkeypatch, lambda p, s: ["\\boxed{1}", "so it is 1", "I have no idea how to begin with that."][s])
    metrics = evaluate(backend, tmp_path / "out", options).metrics["sums"]
    assert metrics["extraction"] == {
        "box": pytest.approx(1 / 3),
        "number": pytest.approx(1 / 3),
        "none": pytest.approx(1 / 3),
    }
    assert metrics["no_answer"] == pytest.approx(1 / 3)
    assert metrics["ungraded"] == {}


def test_greedy_decoding_takes_one_sample_and_says_so(backend, options, tmp_path):
    result = evaluate(backend, tmp_path / "out", replace(options, temperature=0.0, n_sampling=16))
    assert set(result.metrics["sums"]["scores"]) == {"greedy"}
    assert len(samples(tmp_path / "out")) == 6
    assert "greedy" in result.warnings[0]


def test_more_samples_and_problems_continue_the_same_folder(backend, options, tmp_path):
    few = evaluate(backend, tmp_path / "out", replace(options, n_sampling=2, num_test_sample=4))
    assert few.metrics["sums"]["samples"] == 8
    more = evaluate(backend, tmp_path / "out", options)
    assert more.metrics["sums"]["samples"] == len(samples(tmp_path / "out")) == 18


def test_a_part_of_a_benchmark_draws_the_samples_of_the_whole(backend, options, tmp_path):
    evaluate(backend, tmp_path / "whole", options)
    part = evaluate(backend, tmp_path / "part", replace(options, start=2, end=4))
    assert part.metrics["sums"]["problems"] == 2
    assert part.warnings == ("sums: 2 of 6 problems, from number 2",)
    whole = {(r["problem"], r["sample"]): r for r in samples(tmp_path / "whole")}
    assert all(whole[r["problem"], r["sample"]] == r for r in samples(tmp_path / "part"))
    assert {r["problem"] for r in samples(tmp_path / "part")} == {"sums/2", "sums/3"}


def test_a_broken_line_in_the_samples_is_named(backend, options, tmp_path):
    evaluate(backend, tmp_path / "out", options)
    path = tmp_path / "out" / "sums" / "samples.jsonl"
    path.write_text(path.read_text().replace('"problem"', "problem", 1))
    with pytest.raises(ValueError, match="line 1: expected a sample"):
        evaluate(backend, tmp_path / "out", options)


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0.5}, {"seed": 1}, {"max_tokens_per_call": 9}, {"prompt_type": "qwen-boxed"}, {"top_p": 0.9}],
)
def test_other_settings_in_the_same_folder_are_refused(backend, options, tmp_path, change):
    evaluate(backend, tmp_path / "out", options)
    with pytest.raises(ValueError, match="holds samples of other settings"):
        evaluate(backend, tmp_path / "out", replace(options, **change))


def test_other_weights_or_data_are_refused(backend, options, tmp_path, data, monkeypatch):
    evaluate(backend, tmp_path / "out", options)
    data.write_text(data.read_text().replace('"answer": 1}', '"answer": 11}'))
    with pytest.raises(ValueError, match="data"):
        evaluate(backend, tmp_path / "out", options)
    monkeypatch.setattr(harness, "model_fingerprint", lambda *_: "other")
    with pytest.raises(ValueError, match="model"):
        evaluate(backend, tmp_path / "out", options)


def test_fingerprint_follows_the_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(10_000_000))
    before = model_fingerprint(str(tmp_path))
    assert model_fingerprint(str(tmp_path)) == before
    (tmp_path / "model.safetensors").write_bytes(bytes(9_999_999) + b"\x01")
    assert model_fingerprint(str(tmp_path)) != before
    assert model_fingerprint("org/model", "abc") == "org/model@abc"


def test_stored_prompt_format_is_used_and_another_one_is_warned_about(
    tiny_model, backend, options, tmp_path, monkeypatch, capsys
):
    stored = resolve_prompt_format("deepseek-math", backend.tokenizer)
    monkeypatch.setattr("verl.math_eval.prompting.stored_format", lambda folder: stored)
    own = evaluate(backend, tmp_path / "own", options)
    assert (own.prompt_format, own.warnings) == ("deepseek-math", ())
    assert samples(tmp_path / "own")[0]["prompt"].startswith("User: ")
    same = evaluate(backend, tmp_path / "same", replace(options, prompt_type="deepseek-math"))
    assert same.warnings == ()
    other = evaluate(backend, tmp_path / "other", replace(options, prompt_type="qwen-boxed"))
    assert "not the one this checkpoint was trained with" in other.warnings[0]
    assert "**Warning**" in (tmp_path / "other" / "report.md").read_text()
    assert "warning:" in capsys.readouterr().err


def test_format_beside_the_checkpoint_is_found(tiny_model, backend, tmp_path):
    from verl.math_eval.prompting import stored_format

    folder = tmp_path / "global_step_1" / "huggingface"
    folder.mkdir(parents=True)
    assert stored_format(str(folder)) is None
    resolve_prompt_format("direct", backend.tokenizer).save(folder.parent)
    assert stored_format(str(folder)).name == "direct"


def test_a_model_without_any_format_asks_for_one(backend, options, tmp_path, monkeypatch):
    monkeypatch.setattr(backend.tokenizer, "chat_template", None)
    with pytest.raises(ValueError, match="--prompt_type"):
        evaluate(backend, tmp_path / "out", options)


def test_one_report_over_several_evaluations(backend, options, tmp_path):
    runs = [
        evaluate(backend, tmp_path / "a", options, label="first"),
        evaluate(backend, tmp_path / "b", replace(options, temperature=0.0, n_sampling=1), label="second"),
    ]
    report = write_report(tmp_path, runs).read_text()
    assert "| first | avg@3 |" in report and "| first | maj@3 |" in report and "| second | greedy |" in report
    assert score_table(runs) in report


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ("Qwen/Qwen2.5-Math-1.5B", "Qwen2.5-Math-1.5B"),
        ("runs/dft/global_step_390", "dft/global_step_390"),
        ("runs/dft/global_step_390/huggingface", "dft/global_step_390"),
        ("/models/mine/", "mine"),
    ],
)
def test_a_model_is_called_by_its_last_name_and_a_checkpoint_by_its_run_too(source, label):
    assert harness._name(source) == label


def cli(*args) -> int:
    return main([str(a) for a in args])


def test_command_line_scores_a_model(tiny_model, data, tmp_path, capsys):
    status = cli("--model_name_or_path", tiny_model, "--output_dir", tmp_path / "out", "--data_name", data,
                 "--n_sampling", 2, "--temperature", 1, "--max_tokens_per_call", 4, "--device", "cpu")  # fmt: skip
    out = capsys.readouterr().out
    assert status == 0
    assert "prompt format: chat_template" in out and "<|im_start|>user" in out and "avg@2" in out


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A training run's folder: two steps with models of their own, and files that are no checkpoints."""
    folder = tmp_path_factory.mktemp("run")
    for step in (2, 10):
        (folder / f"global_step_{step}").mkdir()
        save_tiny_model(folder / f"global_step_{step}" / "huggingface", seed=step)
    (folder / "global_step_20.partial").mkdir()
    (folder / "metrics.jsonl").write_text("")
    return folder


def test_every_checkpoint_of_a_folder_is_scored_with_a_learning_curve(checkpoints, data, tmp_path, capsys):
    assert [p.name for p in checkpoints_in(str(checkpoints))] == ["global_step_2", "global_step_10"]
    status = cli("--model_name_or_path", checkpoints, "--output_dir", tmp_path / "out", "--data_name", data,
                 "--n_sampling", 2, "--temperature", 1, "--max_tokens_per_call", 4, "--device", "cpu", "--with_greedy",
                 "--num_test_sample", 3)  # fmt: skip
    assert status == 0
    table = [line.split(" | ")[:2] for line in capsys.readouterr().out.splitlines() if line.startswith("| global")]
    scores = ["greedy", "avg@2", "maj@2", "pass@2"]
    assert table == [[f"| global_step_{step}", score] for step in (2, 10) for score in scores]
    for file in (
        "learning_curve.png",
        "report.md",
        "global_step_2/samples.html",
        "global_step_10/greedy/sums/metrics.json",
    ):
        assert (tmp_path / "out" / file).is_file(), file


def test_a_broken_checkpoint_among_others_is_found_before_the_first_is_scored(checkpoints, data, tmp_path, capsys):
    run = tmp_path / "run"
    (run / "global_step_30").mkdir(parents=True)
    (run / "global_step_1").symlink_to(checkpoints / "global_step_2")
    assert cli("--model_name_or_path", run, "--output_dir", tmp_path / "out", "--data_name", data) == 1
    assert "expected a model in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_regrade_takes_all_checkpoints_of_an_output_folder(checkpoints, data, tmp_path, capsys):
    args = ["--output_dir", tmp_path / "out", "--data_name", data, "--max_tokens_per_call", 2, "--device", "cpu"]
    assert cli("--model_name_or_path", checkpoints, *args) == 0
    assert cli("--regrade", "--output_dir", tmp_path / "out", "--extraction", "strict") == 0
    assert capsys.readouterr().out.count("| global_step_10 | greedy |") == 2
    settings = json.loads((tmp_path / "out" / "global_step_2" / "sums" / "settings.json").read_text())
    assert settings["grading"]["extraction"] == "strict"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data_names", "math501"], "math500/math_oai"),
        (["--data_names", "math500", "--data_dir", "/nowhere"], "expected a folder in --benchmark_dir"),
        (["--prompt_type", "qwen-box"], "qwen-boxed"),
        (["--use_vllm"], "backend vllm is not installed"),
        (["--temperature", "-1"], "expected temperature 0 (greedy)"),
        (["--n_sampling", "0"], "n_sampling >= 1"),
        (["--extraction", "kind"], "strict"),
        (["--grader", "kind"], "grader out of default, legacy"),
        (["--prompt_type", "pal"], "nothing here runs what a model wrote"),
        (["--num_shots", "3"], "--num_shots needs a named prompt type"),
        (["--answer_kind", "choice"], "expected a gold answer of kind choice"),
        (["--merge"], "found none in"),
        (["--start", "3", "--end", "2"], "start < end"),
        (["--start", "6"], "start < 6"),
        (["--model_name_or_path", "/nowhere/model"], "found no folder"),
        (["--question_key", "problem"], "expected a column problem"),
    ],
)
def test_mistakes_are_one_line_before_the_model_loads(tiny_model, data, tmp_path, capsys, monkeypatch, args, message):
    monkeypatch.setattr(TransformersBackend, "__init__", lambda *a, **k: pytest.fail("the model was loaded"))
    assert cli("--model_name_or_path", tiny_model, "--data_names", data, "--output_dir", tmp_path / "out", *args) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_script_without_arguments_explains_itself():
    run = subprocess.run(["bash", ROOT / "sh" / "eval.sh", "auto"], capture_output=True, text=True)
    assert run.returncode == 2
    assert "usage: bash sh/eval.sh PROMPT_TYPE MODEL" in run.stderr


def test_script_hands_its_arguments_on(tmp_path):
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    run = subprocess.run(
        ["bash", ROOT / "sh" / "eval.sh", "auto", "my model", "out", "16", "1", "--seed", "3"],
        capture_output=True, text=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin", "VIRTUAL_ENV": "x"},
    )  # fmt: skip
    words = run.stdout.splitlines()
    assert words[words.index("--model_name_or_path") + 1] == "my model"
    assert words[words.index("--n_sampling") + 1] == "16"
    assert words[-2:] == ["--seed", "3"]


def test_a_folder_of_checkpoints_is_not_scored_through_one_server(tmp_path):
    (tmp_path / "global_step_1" / "huggingface").mkdir(parents=True)
    (tmp_path / "global_step_1" / "huggingface" / "config.json").write_text("{}")
    backend = BackendOptions(str(tmp_path), base_url="http://localhost:1/v1")
    with pytest.raises(ValueError, match="localhost:1/v1 serves one model"):
        evaluate_all(backend, tmp_path / "out", EvalOptions(data_names=("gsm8k",)))
