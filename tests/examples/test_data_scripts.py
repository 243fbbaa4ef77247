"""Each script: its row function on literal rows, and its main from source files to parquet."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import gsm8k
import math_dataset
import numina_cot
import pandas as pd
import pyarrow.parquet as pq
import pytest
from preprocess import run
from rows import INSTRUCTION, DropRow

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = REPOSITORY / "examples" / "data_preprocess"
SHARED_DATA = Path(os.environ.get("VERL_DFT_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))

MATH_ROWS = [
    {"problem": "What is 1 + 1?", "solution": r"It is $\boxed{2}$.", "level": "Level 1", "type": "Algebra"},
    {"problem": "Prove it.", "solution": "It is so.", "level": "Level 5", "type": "Algebra"},
    {"problem": None, "solution": "What?", "level": "Level 5", "type": "Algebra"},
]
GSM8K_ROW = {
    "question": "Ann has 1,000 pens and gets half as many. How many pens?",
    "answer": "She gets 1000/2 = <<1000/2=500>>500 pens.\nThat is 1000+500 = <<1000+500=1500>>1500.\n#### 1,500",
}


def rows_of(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("script", [numina_cot, math_dataset])
def test_a_competition_row_keeps_the_raw_texts_and_the_boxed_answer(script):
    assert script.row(MATH_ROWS[0], "train", 3) == {
        "data_source": script.SOURCE,
        "prompt": [{"role": "user", "content": f"What is 1 + 1? {INSTRUCTION}"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {
            "split": "train",
            "index": 3,
            "question": "What is 1 + 1?",
            "answer": r"It is $\boxed{2}$.",
        },
    }
    assert script.row(MATH_ROWS[1], "train", 0)["reward_model"]["ground_truth"] is None
    with pytest.raises(DropRow, match="problem is null"):
        script.row(MATH_ROWS[2], "train", 0)


def test_a_gsm8k_row_has_a_clean_answer_that_ends_in_a_box():
    row = gsm8k.row(GSM8K_ROW, "test", 0)
    assert row["reward_model"]["ground_truth"] == "1500"
    assert row["extra_info"]["answer"] == (
        "She gets 1000/2 = 500 pens.\nThat is 1000+500 = 1500.\nThe answer is \\boxed{1500}."
    )
    assert row["extra_info"]["raw_answer"] == GSM8K_ROW["answer"]


@pytest.mark.parametrize(
    "final, expected", [("#### 72", "72"), ("####  -5 ", "-5"), ("#### 1,234,567\n", "1234567"), ("#### 0.5", "0.5")]
)
def test_the_final_line_of_gsm8k(final, expected):
    assert gsm8k.row({"question": "q", "answer": f"Steps.\n{final}"}, "train", 0)["reward_model"] == {
        "style": "rule",
        "ground_truth": expected,
    }


@pytest.mark.parametrize("answer", ["No final line.", "#### 5\nand more", "Five #### 5", "####"])
def test_a_gsm8k_answer_without_final_line_is_dropped(answer):
    with pytest.raises(DropRow, match="#### <number>"):
        gsm8k.row({"question": "q", "answer": answer}, "train", 0)


def test_numina_writes_the_training_split_with_the_other_columns(tmp_path, jsonl, capsys):
    source = jsonl("source/train.jsonl", MATH_ROWS)
    numina_cot.main(["--source", str(source.parent), "--local_dir", str(tmp_path / "out")])
    assert sorted(os.listdir(tmp_path / "out")) == ["train.parquet", "train.report.json"]
    first, second = rows_of(tmp_path / "out" / "train.parquet")
    assert (first["level"], first["type"], "problem" in first) == ("Level 1", "Algebra", False)
    assert second["reward_model"]["ground_truth"] is None
    assert "dropped 1: problem is null" in capsys.readouterr().out


def test_numina_samples_at_random_unless_the_first_are_asked_for(tmp_path, jsonl, capsys):
    source = jsonl("train.jsonl", [{"problem": str(number), "solution": "s"} for number in range(50)])

    def questions(*options: str) -> list[str]:
        numina_cot.main(
            ["--source", str(source), "--local_dir", str(tmp_path), "--train_end", "5", "--overwrite", *options]
        )
        return [row["extra_info"]["question"] for row in rows_of(tmp_path / "train.parquet")]

    first = ["0", "1", "2", "3", "4"]
    assert questions("--first") == first
    assert "(--first)" in capsys.readouterr().out
    assert questions() == questions("--seed", "0") != first
    assert "seed 0" in capsys.readouterr().out
    assert questions("--seed", "1") not in (questions("--seed", "2"), first)


def test_math_writes_both_splits_and_says_that_test_is_not_math_500(tmp_path, jsonl, capsys):
    for split in ("train", "test"):
        jsonl(f"source/{split}.jsonl", MATH_ROWS)
    math_dataset.main(["--source", str(tmp_path / "source"), "--local_dir", str(tmp_path / "math500")])
    (row, _) = rows_of(tmp_path / "math500" / "test.parquet")
    assert row["extra_info"] == {"split": "test", "index": 0} | {
        "question": MATH_ROWS[0]["problem"],
        "answer": MATH_ROWS[0]["solution"],
    }
    assert "NOT MATH-500" in capsys.readouterr().out


def test_math_500_is_a_file_of_its_own_and_has_500_problems(tmp_path, jsonl):
    for split in ("train", "test"):
        jsonl(f"source/{split}.jsonl", MATH_ROWS)
    few = jsonl("few.jsonl", [{"problem": "p", "solution": "s", "answer": "1"}] * 499)
    options = ["--source", str(tmp_path / "source"), "--local_dir", str(tmp_path / "out"), "--math500"]
    with pytest.raises(ValueError, match="expected 500 problems, found 499"):
        math_dataset.main([*options, str(few)])
    whole = jsonl("whole.jsonl", [{"problem": f"{i}?", "solution": "s", "answer": f"{i}"} for i in range(500)])
    math_dataset.main([*options, str(whole), "--overwrite"])
    rows = rows_of(tmp_path / "out" / "math500.parquet")
    assert len(rows) == 500 and rows[7]["reward_model"]["ground_truth"] == "7"
    assert rows[7]["data_source"] == "HuggingFaceH4/MATH-500"


def test_the_paper_command_finds_the_default_paths(tmp_path, jsonl, monkeypatch):
    for split in ("train", "test"):
        jsonl(f"source/{split}.jsonl", MATH_ROWS)
    monkeypatch.chdir(tmp_path)
    numina_cot.main(["--source", "source"])
    math_dataset.main(["--source", "source"])
    assert (tmp_path / "data/numina_cot/train.parquet").exists()
    assert (tmp_path / "data/math500/test.parquet").exists()


def test_a_missing_split_leaves_no_file_of_the_other(tmp_path, jsonl):
    source = jsonl("source/train.jsonl", [GSM8K_ROW])
    with pytest.raises(ValueError, match="no 'test' split"):
        gsm8k.main(["--source", str(source.parent), "--local_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_one_file_writes_its_own_split_and_refuses_a_training_range_for_test(tmp_path, jsonl):
    source = jsonl("test.jsonl", [GSM8K_ROW])
    gsm8k.main(["--source", str(source), "--local_dir", str(tmp_path / "out")])
    assert sorted(os.listdir(tmp_path / "out")) == ["test.parquet", "test.report.json"]
    with pytest.raises(ValueError, match="choose training rows"):
        gsm8k.main(["--source", str(source), "--local_dir", str(tmp_path / "out"), "--train_end", "1"])


def test_hub_ids_and_subsets_are_the_published_ones(tmp_path, monkeypatch):
    import datasets

    asked = []

    def load_dataset(path, name=None, split=None):
        asked.append((path, name, split))
        return datasets.Dataset.from_list([MATH_ROWS[0] | GSM8K_ROW])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for script in (numina_cot, math_dataset, gsm8k):
        script.main(["--local_dir", str(tmp_path / script.__name__)])
    gsm8k.main(["--local_dir", str(tmp_path / "another"), "--source", "someone/gsm8k"])
    assert asked == [
        ("AI-MO/NuminaMath-CoT", None, "train"),
        ("DigitalLearningGmbH/MATH-lighteval", None, "train"),
        ("DigitalLearningGmbH/MATH-lighteval", None, "test"),
        ("openai/gsm8k", "main", "train"),
        ("openai/gsm8k", "main", "test"),
        ("someone/gsm8k", None, "train"),
        ("someone/gsm8k", None, "test"),
    ]


def test_hdfs_dir_copies_the_files_and_is_refused_early_without_the_command(tmp_path, jsonl, monkeypatch):
    for split in ("train", "test"):
        jsonl(f"source/{split}.jsonl", MATH_ROWS)
    options = [
        "--source",
        str(tmp_path / "source"),
        "--local_dir",
        str(tmp_path / "out"),
        "--hdfs_dir",
        "hdfs://x/math",
    ]
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ValueError, match="no hdfs command"):
        math_dataset.main(options)
    assert not (tmp_path / "out").exists()

    command = tmp_path / "bin" / "hdfs"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    command.chmod(0o755)
    math_dataset.main(options)
    options.append("--overwrite")
    out = tmp_path / "out"
    assert (tmp_path / "calls").read_text().splitlines() == [
        "dfs -mkdir -p hdfs://x/math",
        f"dfs -put -f {out}/train.parquet {out}/test.parquet hdfs://x/math",
    ]
    command.write_text("#!/bin/sh\necho no quota >&2\nexit 1\n")
    with pytest.raises(ValueError, match="no quota"):
        math_dataset.main(options)


# --- as a program


def script(name: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / name), *options]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=120)


def test_an_unreachable_hub_is_one_line_and_status_1(tmp_path):
    done = script("numina_cot.py", "--local_dir", str(tmp_path / "out"), HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert done.returncode == 1
    assert re.fullmatch(r"error: cannot load AI-MO/NuminaMath-CoT .*--source\n", done.stderr)
    assert not (tmp_path / "out").exists()


def test_a_missing_path_is_one_line_and_a_trace_on_request():
    done = script("gsm8k.py", "--source", "/no/such/folder")
    assert done.returncode == 1
    assert re.fullmatch(r"error: --source /no/such/folder: no such file or folder.*\n", done.stderr)
    done = script("gsm8k.py", "--source", "/no/such/folder", VERL_DFT_TRACEBACK="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


MODULES = sorted(path.stem for path in SCRIPTS.glob("*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_importing_does_nothing_and_stays_light(tmp_path, name):
    code = f"import sys; import {name}; print([m for m in ('torch', 'verl', 'datasets') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(SCRIPTS)}
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not (SHARED_DATA / "gsm8k").is_dir(), reason="needs VERL_DFT_SHARED_DATA with gsm8k/")
def test_real_gsm8k_loses_no_row_and_ends_every_answer_in_its_box(tmp_path):
    assert run(lambda: gsm8k.main(["--source", str(SHARED_DATA / "gsm8k"), "--local_dir", str(tmp_path)])) == 0
    for split in ("train", "test"):
        lines = (SHARED_DATA / "gsm8k" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        frame = pd.read_parquet(tmp_path / f"{split}.parquet")
        assert len(frame) == len(lines)
        for line, info, reward in zip(lines, frame.extra_info, frame.reward_model, strict=True):
            assert info["raw_answer"] == json.loads(line)["answer"]
            assert info["answer"].endswith(f"\nThe answer is \\boxed{{{reward['ground_truth']}}}.")
            assert re.fullmatch(r"-?\d+(\.\d+)?", reward["ground_truth"])
            assert "<<" not in info["answer"] and "####" not in info["answer"]
