"""Selection rules on samples written by hand; sampling with a tiny model, also killed and resumed; the shell script."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import rejection_sampling
from selection import Rules, parse_pass_rate, select

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "data_preprocess" / "rejection_sampling.py"


def sample(correct: bool = True, **changes) -> dict:
    own = {"problem": "samples/0", "text": "t", "finish_reason": "stop", "tokens": 10, "method": "box"}
    return {**own, "status": "graded", "correct": correct, **changes}


def kept(samples: list[dict], **rules) -> list[int]:
    return [place for place, reason in enumerate(select(samples, Rules(**rules))) if reason is None]


# --- selection


def test_all_correct_samples_are_kept_by_default_and_every_other_has_a_reason():
    samples = [
        sample(),
        sample(False),
        sample(False, status="timeout"),
        sample(False, status="no_answer"),
        sample(False, finish_reason="prompt_too_long"),
        sample(finish_reason="length"),
        sample(),
    ]
    assert select(samples, Rules()) == [
        None,
        "wrong answer",
        "not graded (timeout)",
        "no answer found",
        "prompt too long for the model",
        None,
        None,
    ]
    assert kept(samples, drop_truncated=True) == [0, 6]
    assert kept(samples, drop_duplicates=True) == [0]


def test_duplicates_are_texts_but_for_blanks_and_a_dropped_one_does_not_count():
    samples = [sample(False, text="a b"), sample(text="a b"), sample(text=" a\nb "), sample(text="A b")]
    assert kept(samples, drop_duplicates=True) == [1, 3]


@pytest.mark.parametrize("rate, expected", [((0, 1), [0]), ((0.25, 0.25), [0]), ((0.3, 1), []), ((0, 0.2), [])])
def test_the_pass_rate_of_the_question_decides_on_all_its_samples(rate, expected):
    samples = [sample(), sample(False), sample(False), sample(False, status="error")]
    assert kept(samples, pass_rate=rate) == expected


def test_shortest_and_best_rank_the_right_samples():
    samples = [
        sample(tokens=9, method="number"),
        sample(tokens=30),
        sample(tokens=8, finish_reason="length"),
        sample(tokens=20),
        sample(False, tokens=1),
    ]
    assert kept(samples, keep="shortest") == [2]
    assert kept(samples, keep="shortest", max_per_question=2) == [0, 2]
    assert kept(samples, keep="best-n", max_per_question=1) == [3]
    assert kept(samples, keep="best-n", max_per_question=3) == [0, 1, 3]


def test_a_limit_draws_at_random_with_the_seed():
    samples = [sample(text=str(place)) for place in range(10)]
    drawn = [tuple(kept(samples, max_per_question=3, seed=seed)) for seed in range(20)]
    assert {len(places) for places in drawn} == {3}
    assert len(set(drawn)) > 10
    assert drawn[0] == tuple(kept(samples, max_per_question=3, seed=0))


@pytest.mark.parametrize(
    "rules, message",
    [
        ({"keep": "best-n"}, "expected --max_per_question"),
        ({"keep": "longest"}, "expected one of correct"),
        ({"max_per_question": 0}, "expected at least 1"),
        ({"pass_rate": (0.9, 0.1)}, "LOW <= HIGH"),
        ({"pass_rate": (float("nan"), 1)}, "LOW <= HIGH"),
    ],
)
def test_rules_that_make_no_sense_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        Rules(**rules)
    with pytest.raises(ValueError, match="such as 0.1:0.9"):
        parse_pass_rate("0.5")


# --- sampling


@pytest.fixture
def questions(jsonl) -> Path:
    """Answers that a random byte model hits now and then: any number at all counts as an answer to "lenient"."""
    rows = [{"question": f"{i}?", "answer": f"{i % 10}", "n": i} for i in range(20)]
    rows[7]["answer"] = None
    return jsonl("questions.jsonl", rows)


def options(model: Path, questions: Path, out: Path, *more: str) -> list[str]:
    sizes = ["--max_new_tokens", "24", "--batch_size", "5", "--n_sampling", "3"]
    return ["--model", str(model), "--source", str(questions), "--local_dir", str(out), *sizes, *more]


def lines_of(out: Path) -> list[str]:
    return sorted((out / "samples" / "samples.jsonl").read_text().splitlines())


def make_right(out: Path, hits: dict[tuple[int, int], str]) -> None:
    """Turn samples (row, number) into right ones: a random model's are all wrong."""
    path = out / "samples" / "samples.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        text = hits.get((int(record["problem"].split("/")[1]), record["sample"]))
        if text is not None:
            record |= {"text": text, "correct": True, "status": "graded", "method": "box", "finish_reason": "stop"}
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_right_samples_become_rows_with_their_provenance(tmp_path, tiny_model, questions, capsys):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="nothing to write"):
        rejection_sampling.main(options(tiny_model, questions, out, "--extraction", "strict"))
    assert not list(out.glob("train*")) and len(lines_of(out)) == 19 * 3
    make_right(out, {(0, 1): r"\boxed{0}", (3, 0): r"\boxed{3}", (3, 2): r"so \boxed{3}", (4, 0): "It is 4."})
    capsys.readouterr()

    again = ["--source", str(questions), "--local_dir", str(out), "--reuse_samples"]
    rejection_sampling.main([*again, "--dry_run"])
    printed = capsys.readouterr().out
    assert "samples: rows in 57, rows out 4, dropped 53" in printed and "dry run: nothing is written" in printed
    assert "dropped 1: answer is null" in printed and "0.33: 2 (10.5%)" in printed and "0.67: 1 (5.3%)" in printed
    assert not list(out.glob("train*"))

    rejection_sampling.main([*again, "--pass_rate", "0.4:1"])
    first, second = pq.read_table(out / "train.parquet").to_pylist()
    assert first["extra_info"] == {"split": "train", "index": 3, "question": "3?", "answer": r"\boxed{3}"}
    assert (first["data_source"], first["reward_model"]["ground_truth"]) == ("questions", "3")
    record = next(r for r in map(json.loads, lines_of(out)) if (r["problem"], r["sample"]) == ("samples/3", 2))
    provenance = second["provenance"]
    assert provenance.pop("model_hash") and provenance.pop("grader_version")
    assert provenance == {
        "model": str(tiny_model),
        "sample": 2,
        "seed": record["seed"],
        "temperature": 1.0,
        "top_p": 1.0,
        "finish_reason": "stop",
        "tokens": record["tokens"],
        "pass_rate": pytest.approx(2 / 3),
        "extraction": "box",
    }
    report = json.loads((out / "train.report.json").read_text())
    assert report["samples"]["generation"]["seed"] == 0 and report["selection"]["pass_rate"] == "(0.4, 1.0)"
    with pytest.raises(ValueError, match="exists; give --overwrite"):
        rejection_sampling.main(again)


def test_questions_are_read_from_a_training_parquet(tmp_path, tiny_model, jsonl):
    import gsm8k

    source = jsonl("train.jsonl", [{"question": f"{i}?", "answer": f"Hm.\n#### {i}"} for i in range(3)])
    gsm8k.main(["--source", str(source), "--local_dir", str(tmp_path)])
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="nothing to write"):
        rejection_sampling.main(options(tiny_model, tmp_path / "train.parquet", out, "--extraction", "strict"))
    assert {(r["problem"], r["gold"]) for r in map(json.loads, lines_of(out))} == {
        (f"samples/{i}", str(i)) for i in range(3)
    }
    make_right(out, {(1, 0): r"\boxed{1}"})
    rejection_sampling.main(["--source", str(tmp_path / "train.parquet"), "--local_dir", str(out), "--reuse_samples"])
    (row,) = pq.read_table(out / "train.parquet").to_pylist()
    assert (row["data_source"], row["extra_info"]["index"]) == ("openai/gsm8k", 1)


def test_a_run_killed_at_a_random_moment_and_resumed_equals_one_in_one_go(tmp_path, tiny_model, questions):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    samples = parts / "samples" / "samples.jsonl"
    command = [sys.executable, str(SCRIPT), *options(tiny_model, questions, parts)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    moment = random.Random().randint(1, 40)  # samples that are there when the kill comes
    while process.poll() is None and (not samples.exists() or samples.read_bytes().count(b"\n") < moment):
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert 0 < samples.read_bytes().count(b"\n") < 57
    for out in (parts, whole):
        with contextlib.suppress(ValueError):  # whether a random model is right now and then is not the question
            rejection_sampling.main(options(tiny_model, questions, out))
    assert lines_of(parts) == lines_of(whole)
    assert len({json.loads(line)["seed"] for line in lines_of(whole)}) == 57


def test_other_settings_do_not_mix_with_the_samples_there(tmp_path, tiny_model, questions):
    out = tmp_path / "out"
    run_once = options(tiny_model, questions, out, "--extraction", "strict")
    for more in ([], ["--n_sampling", "4"]):  # more samples per question go on
        with pytest.raises(ValueError, match="nothing to write"):
            rejection_sampling.main([*run_once, *more])
    assert len(lines_of(out)) == 19 * 4
    with pytest.raises(ValueError, match="samples of other settings .*temperature"):
        rejection_sampling.main([*run_once, "--temperature", "0.7"])
    with pytest.raises(ValueError, match="samples of other settings .*data"):
        rejection_sampling.main([*run_once, "--train_end", "5"])


@pytest.mark.parametrize(
    "more, message",
    [
        (["--temperature", "0"], "only 1"),
        (["--n_sampling", "0"], "at least 1 sample"),
        (["--question_key", "problem"], "no such column .*found question, answer, n"),
        (["--model", "/no/such"], "expected a model folder"),
        (["--pass_rate", "1"], "such as 0.1:0.9"),
        (["--reuse_samples"], "expected the samples of a run"),
        (["--prompt_type", "nonsense"], "expected a prompt type"),
        (["--decontaminate", "nonsense"], "expected a benchmark out of"),  # not after hours of sampling
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(tmp_path, questions, more, message):
    with pytest.raises(ValueError, match=message):
        rejection_sampling.main(["--model", "x", "--source", str(questions), "--local_dir", str(tmp_path / "o"), *more])


# --- the shell script


def test_the_script_shows_its_two_commands(tmp_path):
    words = ["bash", str(ROOT / "sh" / "offline_rl.sh"), "M", "Q Q", "O", "--keep", "shortest", "--", "optim.lr=1e-3"]
    environment = os.environ | {"DRY_RUN": "1", "NPROC": "4", "BENCHMARK_DIR": "B"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60)
    sample_command, train_command = done.stdout.splitlines()
    assert sample_command.endswith(
        r"--model M --source Q\ Q --local_dir O --decontaminate --benchmark_dir B --keep shortest "
    )
    assert "--nproc_per_node=4" in train_command and "data.train_files=O/train.parquet" in train_command
    assert train_command.rstrip().endswith("optim.lr=1e-3")
    done = subprocess.run([*words[:-2]], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60)
    assert len(done.stdout.splitlines()) == 1
    assert subprocess.run(words[:4], capture_output=True, text=True).returncode == 2


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
def test_shellcheck_has_no_objection():
    done = subprocess.run(["shellcheck", str(ROOT / "sh" / "offline_rl.sh")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
