"""A run that was killed goes on; other settings are refused; samples are graded again, or merged, without a model."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from verl.math_eval.__main__ import main
from verl.math_eval.backends.transformers_backend import TransformersBackend
from verl.math_eval.harness import evaluate
from verl.math_eval.samples import SampleStore


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """They take most of the time, and test_report.py looks at them."""
    monkeypatch.setattr("verl.math_eval.report.draw_all", lambda *args: [])


def lines(folder):
    return sorted((folder / "sums" / "samples.jsonl").read_bytes().splitlines())


def cli(*args) -> int:
    return main([str(a) for a in args])


def test_killed_at_five_random_moments_a_run_gives_the_samples_of_an_uninterrupted_one(backend, options, tmp_path):
    options = replace(options, n_sampling=8, max_tokens_per_call=40)
    backend.batch_size, kept = 5, backend.batch_size
    try:
        evaluate(backend, tmp_path / "whole", options)
        whole, torn = (tmp_path / name / "sums" / "samples.jsonl" for name in ("whole", "torn"))
        moments = sorted(random.sample(range(whole.stat().st_size), 5))
        killed = 0
        for moment in moments:
            # fork: the child has the model already. Its death is as sudden as that of any other process.
            run = multiprocessing.get_context("fork").Process(
                target=evaluate, args=(backend, tmp_path / "torn", options)
            )
            run.start()
            while run.is_alive() and (torn.stat().st_size if torn.exists() else 0) < moment:
                time.sleep(0.001)
            time.sleep(random.uniform(0, 0.05))
            os.kill(run.pid, signal.SIGKILL)
            run.join()
            killed += run.exitcode == -signal.SIGKILL
        evaluate(backend, tmp_path / "torn", options)
    finally:
        backend.batch_size = kept
    assert killed >= 3, f"killed {killed} of 5 runs at {moments}"
    assert lines(tmp_path / "torn") == lines(tmp_path / "whole")
    assert len(lines(tmp_path / "whole")) == 48


@pytest.mark.slow
def test_the_command_line_killed_at_five_random_moments_loses_nothing(tiny_model, data, tmp_path):
    def command(out):
        return [sys.executable, "-m", "verl.math_eval", "--model_name_or_path", tiny_model, "--data_names", data,
                "--output_dir", out, "--n_sampling", "24", "--temperature", "1", "--max_tokens_per_call", "200",
                "--batch_size", "8", "--device", "cpu"]  # fmt: skip

    start = time.monotonic()
    subprocess.run([*map(str, command(tmp_path / "whole"))], check=True)
    seconds = time.monotonic() - start
    for _ in range(5):
        run = subprocess.Popen([*map(str, command(tmp_path / "torn"))])
        time.sleep(random.uniform(0.2, 0.9) * seconds)
        run.kill()
        run.wait()
    subprocess.run([*map(str, command(tmp_path / "torn"))], check=True)
    assert lines(tmp_path / "torn") == lines(tmp_path / "whole")


def test_a_line_that_was_torn_is_drawn_again(backend, options, tmp_path):
    evaluate(backend, tmp_path / "whole", options)
    evaluate(backend, tmp_path / "torn", options)
    path = tmp_path / "torn" / "sums" / "samples.jsonl"
    found = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(found[:7]) + found[7][:40])
    evaluate(backend, tmp_path / "torn", options)
    assert lines(tmp_path / "torn") == lines(tmp_path / "whole")


def test_two_runs_do_not_write_to_one_folder(backend, options, tmp_path):
    evaluate(backend, tmp_path / "out", options)
    store = SampleStore(tmp_path / "out" / "sums", SampleStore.stored(tmp_path / "out" / "sums").settings).open()
    with pytest.raises(ValueError, match="another run is writing to"):
        evaluate(backend, tmp_path / "out", options)
    store.close()
    evaluate(backend, tmp_path / "out", options)


def test_other_grading_settings_grade_stored_samples_again(backend, options, tmp_path, monkeypatch):
    evaluate(backend, tmp_path / "out", options)
    say(tmp_path / "out", lambda r: f"so it is {int(r['gold'])}")
    second = evaluate(backend, tmp_path / "out", replace(options, extraction="strict"))
    third = evaluate(backend, tmp_path / "out", options)
    assert (second.metrics["sums"]["correct"], third.metrics["sums"]["correct"]) == (0, 18)


def say(folder, text):
    """Put other words into the samples of a finished run."""
    store = SampleStore(folder / "sums", SampleStore.stored(folder / "sums").settings).open()
    store.replace([{**r, "text": text(r)} for r in store.records.values()])
    store.close()


def test_regrade_needs_no_model_and_writes_metrics_and_report_anew(backend, options, tmp_path, monkeypatch):
    evaluate(backend, tmp_path / "out", options)
    say(tmp_path / "out", lambda r: f"\\boxed{{{int(r['gold']) + (r['sample'] == 2)}}}")
    monkeypatch.setattr(TransformersBackend, "__init__", lambda *a, **k: pytest.fail("the model was loaded"))
    (tmp_path / "out" / "report.md").unlink()
    assert cli("--regrade", "--output_dir", tmp_path / "out") == 0
    metrics = json.loads((tmp_path / "out" / "sums" / "metrics.json").read_text())
    assert metrics["scores"]["avg@3"]["value"] == pytest.approx(2 / 3)
    assert metrics["scores"]["maj@3"]["value"] == 1
    assert "66.7" in (tmp_path / "out" / "report.md").read_text()


def test_the_original_rules_give_a_second_score_that_is_labelled(backend, options, tmp_path):
    evaluate(backend, tmp_path / "out", options)
    say(tmp_path / "out", lambda r: f"\\boxed{{{100 * int(r['gold'])}}}")
    assert cli("--regrade", "--output_dir", tmp_path / "out", "--grader", "legacy") == 0
    metrics = json.loads((tmp_path / "out" / "sums" / "metrics.json").read_text())
    assert (metrics["scores"]["avg@3"]["value"], metrics["legacy_scores"]["avg@3"]["value"]) == (0, 1)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "By the original's rules" in report
    assert cli("--regrade", "--output_dir", tmp_path / "out") == 0
    assert "legacy" not in (tmp_path / "out" / "sums" / "samples.jsonl").read_text()
    assert "By the original's rules" not in (tmp_path / "out" / "report.md").read_text()


def test_regrade_refuses_a_folder_without_samples_or_with_missing_ones(backend, options, tmp_path, capsys):
    assert cli("--regrade", "--output_dir", tmp_path / "nothing") == 1
    assert "found no samples in" in capsys.readouterr().err
    evaluate(backend, tmp_path / "out", options)
    path = tmp_path / "out" / "sums" / "samples.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5]))
    assert cli("--regrade", "--output_dir", tmp_path / "out") == 1
    assert "13 of 18 samples are missing" in capsys.readouterr().err


def test_merging_another_seed_adds_its_samples_under_the_next_numbers(backend, options, tmp_path, monkeypatch):
    first = evaluate(backend, tmp_path / "a", options)
    evaluate(backend, tmp_path / "b", replace(options, seed=1))
    monkeypatch.setattr(TransformersBackend, "generate", lambda *a, **k: pytest.fail("something was generated"))
    six = replace(options, n_sampling=6)
    both = evaluate(backend, tmp_path / "a", six, merge_from=[tmp_path / "b"])
    again = evaluate(backend, tmp_path / "a", six, merge_from=[tmp_path / "b"])
    assert both.metrics["sums"]["samples"] == again.metrics["sums"]["samples"] == 36
    assert len(lines(tmp_path / "a")) == 36  # merging twice adds nothing
    texts = {
        name: sorted((json.loads(line)["problem"], json.loads(line)["text"]) for line in lines(tmp_path / name))
        for name in "ab"
    }
    assert first.metrics["sums"]["samples"] == 18 and all(text in texts["a"] for text in texts["b"])


def test_parts_of_a_benchmark_merge_into_the_whole(backend, options, tmp_path):
    evaluate(backend, tmp_path / "whole", options)
    evaluate(backend, tmp_path / "head", replace(options, end=2))
    evaluate(backend, tmp_path / "tail", replace(options, start=2))
    evaluate(backend, tmp_path / "out", options, merge_from=[tmp_path / "head", tmp_path / "tail"])
    assert lines(tmp_path / "out") == lines(tmp_path / "whole")


def test_samples_under_other_settings_are_not_merged(backend, options, tmp_path):
    evaluate(backend, tmp_path / "hot", replace(options, temperature=0.5))
    with pytest.raises(ValueError, match="found another sampling: they cannot be merged"):
        evaluate(backend, tmp_path / "out", options, merge_from=[tmp_path / "hot"])
    greedy = replace(options, temperature=0.0, n_sampling=1)
    evaluate(backend, tmp_path / "greedy", greedy)
    with pytest.raises(ValueError, match="its samples are copies"):
        evaluate(backend, tmp_path / "greedy1", replace(greedy, seed=1), merge_from=[tmp_path / "greedy"])
    with pytest.raises(ValueError, match="found no settings.json"):
        evaluate(backend, tmp_path / "out", options, merge_from=[tmp_path / "nothing"])
