"""from_files, openr1_math, mix and --check, and what each way of being broken gives: one line, or a counted drop."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import from_files
import mix
import openr1_math
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mix import interleaved, parse_sources, shares
from rows import DropRow

from tiny_model import tiny_tokenizer

SCRIPTS = Path(__file__).parents[2] / "examples" / "data_preprocess"


def rows_of(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


# --- from_files


def test_columns_are_named_by_flags_and_reach_into_structures(tmp_path, jsonl):
    row = {"task": {"problem": "1 + 1?"}, "solution": r"\boxed{2}", "gold": 2.0, "level": 5}
    source = jsonl("mine.jsonl", [row, row | {"task": {"problem": None}}, row | {"gold": None}])
    options = ["--question_key", "task.problem", "--answer_key", "solution", "--ground_truth_key", "gold"]
    from_files.main(["--source", str(source), "--local_dir", str(tmp_path / "out"), *options])
    (written,) = rows_of(tmp_path / "out" / "train.parquet")
    assert written["extra_info"] == {"split": "train", "index": 0, "question": "1 + 1?", "answer": r"\boxed{2}"}
    assert (written["data_source"], written["reward_model"]["ground_truth"], written["level"]) == ("mine", "2.0", 5)
    report = json.loads((tmp_path / "out" / "train.report.json").read_text())
    assert [each["reason"] for each in report["dropped"]] == [
        "task.problem is null",
        "gold is null, not a final answer",
    ]


def chat(*turns: str, system: str = "") -> list[dict]:
    roles = ["user", "assistant"] * len(turns)
    messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
    return [{"role": "system", "content": system}] * bool(system) + messages


def test_conversations_become_messages_and_single_turns_also_question_and_answer(tmp_path, jsonl):
    shared = [{"from": "human", "value": "2?"}, {"from": "gpt", "value": r"\boxed{2}"}]
    conversations = [chat("1?", "1."), shared, chat("1?", "1.", "Sure?", r"\boxed{1}"), chat("1?", "1.", system="Be.")]
    bad = [None, [], chat("1?"), chat("1?", " "), ["hm"], [{"role": "assistant", "content": "1."}]]
    source = jsonl("c.jsonl", [{"conversation": each, "n": i} for i, each in enumerate(conversations + bad)])
    options = ["--messages_key", "conversation", "--filter", "near"]
    from_files.main(["--source", str(source), "--local_dir", str(tmp_path), *options])
    written = rows_of(tmp_path / "train.parquet")
    assert [row["messages"] for row in written[:1]] == [chat("1?", "1.")]
    assert [row["n"] for row in written] == [0, 1, 2]  # the last one repeats the first one's question
    assert written[1]["messages"] == chat("2?", r"\boxed{2}") and written[1]["extra_info"]["answer"] == r"\boxed{2}"
    assert written[2]["extra_info"]["question"] is None and written[2]["extra_info"]["answer"] is None
    assert written[2]["prompt"] == chat("1?", "1.", "Sure?") and written[2]["reward_model"]["ground_truth"] == "1"


@pytest.mark.parametrize("value, reason", [("text", "not a list"), ([{"role": "user", "content": 3}], "role or text")])
def test_what_is_no_conversation_is_a_counted_drop(value, reason):
    with pytest.raises(DropRow, match=reason):
        from_files.read_messages(value, "c")


# --- openr1_math


def test_openr1_takes_the_question_without_luffys_system_prompt():
    example = {
        "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": "1 + 1?"}],
        "target": [{"role": "assistant", "content": r"<think>2</think> \boxed{2}"}],
        "reward_model": {"style": "rule", "ground_truth": "2"},
    }
    row = openr1_math.row(example, "train", 0)
    assert (row["extra_info"]["question"], row["reward_model"]["ground_truth"]) == ("1 + 1?", "2")
    assert row["extra_info"]["answer"] == r"<think>2</think> \boxed{2}"
    for column in ("prompt", "target"):
        with pytest.raises(DropRow, match=column):
            openr1_math.row(example | {column: None}, "train", 0)


def test_openr1_220k_takes_the_first_solution_that_is_complete_and_verified():
    example = {"problem": "1 + 1?", "answer": "2", "generations": ["a", "b", "c", "d"]}
    flags = {"correctness_math_verify": [True, False, True, True], "is_reasoning_complete": [False, True, True, True]}
    assert openr1_math.row_220k(example | flags, "train", 0)["extra_info"]["answer"] == "c"
    for unknown in ({}, {"correctness_math_verify": [], "is_reasoning_complete": [True] * 4}):
        with pytest.raises(DropRow, match="no complete solution"):
            openr1_math.row_220k(example | unknown, "train", 0)


def test_openr1_reads_both_sets_of_the_hub(tmp_path, monkeypatch):
    import datasets

    asked = []

    def load_dataset(path, name=None, split=None):
        asked.append((path, name))
        rows = {"prompt": [{"role": "user", "content": "q"}], "target": [{"role": "assistant", "content": "a"}]}
        more = {"reward_model": {"ground_truth": "1"}, "problem": "q", "answer": "1", "generations": ["a"]}
        flags = {"correctness_math_verify": [True], "is_reasoning_complete": [True]}
        return datasets.Dataset.from_list([rows | more | flags])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    openr1_math.main(["--local_dir", str(tmp_path / "a")])
    openr1_math.main(["--local_dir", str(tmp_path / "b"), "--from_220k"])
    assert asked == [("Elliott/Openr1-Math-46k-8192", None), ("open-r1/OpenR1-Math-220k", "default")]
    assert len(rows_of(tmp_path / "a" / "train.parquet")) == len(rows_of(tmp_path / "b" / "train.parquet")) == 1


# --- mix


@pytest.mark.parametrize(
    "rows, expected",
    [(None, {"a": 75, "b": 25}), (40, {"a": 30, "b": 10}), (11, {"a": 8, "b": 3})],
)
def test_shares_follow_the_weights_and_the_smallest_source(rows, expected):
    assert shares({"a": 100, "b": 25}, {"a": 3, "b": 1}, rows) == expected


@pytest.mark.parametrize("rows", [104, 1])
def test_a_mixture_that_cannot_be_made_is_refused(rows):
    with pytest.raises(ValueError, match="100 rows in all at most"):
        shares({"a": 100, "b": 25}, {"a": 3, "b": 1}, rows)


@pytest.mark.parametrize("texts", [["a=x"], ["a=0"], ["a=-1"], ["a=inf"], ["a=nan"], ["a=1", "a=2"]])
def test_weights_must_be_positive_numbers_of_different_files(texts):
    with pytest.raises(ValueError, match="expected FILE=WEIGHT"):
        parse_sources(texts)


def test_every_interleaving_is_equally_likely_and_keeps_each_order():
    rng = random.Random(0)
    seen = Counter(
        "".join(map(str, interleaved({"a": iter("ab"), "b": iter("xy")}, {"a": 2, "b": 2}, rng))) for _ in range(6000)
    )
    assert set(seen) == {"abxy", "axby", "axyb", "xyab", "xaby", "xayb"}
    assert all(850 < count < 1150 for count in seen.values())  # 1000 +- 5 standard errors of 29


def test_a_mixture_has_the_rows_of_its_sources_and_all_their_columns(tmp_path, jsonl, capsys):
    for name, extra in (("a", {"level": 1}), ("b", {"note": "x"})):
        rows = [{"question": f"{name}{i}?", "answer": f"{i}"} | extra for i in range(40)]
        from_files.main(["--source", str(jsonl(f"{name}.jsonl", rows)), "--local_dir", str(tmp_path / name)])
    files = [f"{tmp_path}/{name}/train.parquet={weight}" for name, weight in (("a", 3), ("b", 1))]
    out = tmp_path / "mix" / "train.parquet"
    mix.main(["--sources", *files, "--rows", "20", "--out", str(out)])
    rows = rows_of(out)
    assert Counter(row["data_source"] for row in rows) == {"a": 15, "b": 5}
    assert len({row["extra_info"]["question"] for row in rows}) == 20
    assert {(row["level"], row["note"]) for row in rows} == {(1, None), (None, "x")}
    assert "rows out by data source: 15 a, 5 b" in capsys.readouterr().out
    mix.main(["--sources", *files, "--rows", "20", "--out", str(out), "--overwrite"])
    assert rows_of(out) == rows
    mix.main(["--sources", *files, "--rows", "20", "--out", str(out), "--overwrite", "--seed", "1"])
    assert rows_of(out) != rows
    with pytest.raises(ValueError, match="exists; give --overwrite"):
        mix.main(["--sources", *files, "--out", str(out)])


# --- check


def test_check_prints_what_the_trainer_will_see(tmp_path, jsonl, capsys):
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")  # a token per byte
    rows = [{"question": "q" * (10 * i), "answer": "a" * i} for i in range(1, 101)]
    from_files.main(["--source", str(jsonl("a.jsonl", rows)), "--local_dir", str(tmp_path)])
    capsys.readouterr()
    file, options = str(tmp_path / "train.parquet"), ["--tokenizer", str(tmp_path / "tokenizer"), "--max_length", "600"]
    from_files.main(["--check", file, *options])
    printed = capsys.readouterr().out
    frame = 1 + len("user\n") + 1 + len("\n") + 1 + len("assistant\n")  # with three special tokens
    lengths = [frame + 11 * i + 1 for i in range(1, 101)]
    assert f"min {lengths[0]} " in printed and f"max {lengths[-1]} " in printed
    cut = sum(length > 600 for length in lengths)
    assert f"rows cut at   600 tokens: {cut} ({cut / 100:.2%}) <- --max_length" in printed
    assert "min 2  " in printed and "max 101  " in printed  # target tokens: the answer and its end
    assert printed.count("⟦") == 6 and "⟦a<|endoftext|>⟧" in printed  # three rows and their headings
    with pytest.raises(ValueError, match="expected --tokenizer"):
        from_files.main(["--check", file])


def test_check_names_the_row_that_cannot_be_trained(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path)
    table = pa.table({"question": ["a", None], "answer": ["b", "c"]})
    pq.write_table(table, tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match=r"bad\.parquet, row 1: expected text or chat messages"):
        from_files.main(["--check", str(tmp_path / "bad.parquet"), "--tokenizer", str(tmp_path)])


# --- bad input, as a program


def run_script(name: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / name), *options]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=120)


def truncated_parquet(folder: Path) -> None:
    pq.write_table(pa.table({"question": ["q" * 50] * 5000, "answer": ["a"] * 5000}), folder / "train.parquet")
    content = (folder / "train.parquet").read_bytes()
    (folder / "train.parquet").write_bytes(content[: len(content) // 2])


def damaged_parquet(folder: Path) -> None:
    """A page in the middle is overwritten; the footer is whole."""
    table = pa.table({"question": [str(i) * 50 for i in range(5000)], "answer": ["a"] * 5000})
    pq.write_table(table, folder / "train.parquet", compression="zstd")
    content = bytearray((folder / "train.parquet").read_bytes())
    content[2000:2400] = b"\xff" * 400
    (folder / "train.parquet").write_bytes(content)


GOOD = b'{"question": "q", "answer": "a"}\n'


@pytest.mark.parametrize(
    "make, message",
    [
        (truncated_parquet, "not a readable parquet file"),
        (damaged_parquet, "broken parquet data"),
        (GOOD * 99 + b'{"question": \n' + GOOD * 99, "train.jsonl:100: not valid JSON"),
        (GOOD * 9 + b'{"question": "\xff"}\n', "train.jsonl:10: not valid UTF-8"),
        (GOOD + b'{"a": ' + b"[" * 100_000 + b"\n", "train.jsonl:2: "),
        (b'{"question": null, "answer": "a"}\n', "dropped 1: question is null"),
    ],
)
def test_a_broken_source_is_one_line_and_no_file(tmp_path, make, message):
    source = tmp_path / "source"
    source.mkdir()
    if isinstance(make, bytes):
        (source / "train.jsonl").write_bytes(make)
    else:
        make(source)
    done = run_script("from_files.py", "--source", str(source), "--local_dir", str(tmp_path / "out"))
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "finding the columns" not in line]
    assert line.startswith("error: ") and message in line
    assert not list((tmp_path / "out").glob("*")) and not list((tmp_path / "out").glob(".*"))


def test_a_row_of_10_megabytes_is_dropped_and_counted(tmp_path, jsonl):
    source = jsonl("train.jsonl", [{"question": "q", "answer": text} for text in ("a", "b" * 10_000_000, "c")])
    done = run_script("from_files.py", "--source", str(source), "--local_dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "dropped 1: answer is longer than 1,000,000 characters" in done.stdout
    assert [row["extra_info"]["answer"] for row in rows_of(tmp_path / "train.parquet")] == ["a", "c"]


def test_an_unreachable_hub_id_is_one_line(tmp_path):
    options = ["--source", "owner/name", "--local_dir", str(tmp_path / "out")]
    done = run_script("from_files.py", *options, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot load owner/name") and done.stderr.count("\n") == 1


def test_a_run_that_is_killed_leaves_no_file_under_the_final_name(tmp_path, jsonl):
    source = jsonl("train.jsonl", ({"question": f"{i}?", "answer": "a"} for i in range(100_000)))
    command = [
        sys.executable,
        str(SCRIPTS / "from_files.py"),
        "--source",
        str(source),
        "--local_dir",
        str(tmp_path / "o"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "o").glob(".*.tmp")) and process.poll() is None:
        pass
    process.kill()
    process.wait()
    assert not (tmp_path / "o" / "train.parquet").exists()


def test_alpaca_rows_keep_their_input_and_what_does_not_fit_is_counted():
    import pytest
    from from_files import question_row, read_messages
    from rows import DropRow

    row = question_row("a", "instruction", "output", None)
    made = row({"instruction": "Add.", "input": "1 2", "output": "3"}, "train", 0)
    assert made["extra_info"]["question"] == "Add.\n\n1 2"
    assert row({"instruction": "Add.", "input": "", "output": "3"}, "train", 0)["extra_info"]["question"] == "Add."
    with pytest.raises(DropRow, match="history is not empty"):
        row({"instruction": "Add.", "history": [["a", "b"]], "output": "3"}, "train", 0)
    names = [{"from": "human", "value": "a"}, {"from": "chatgpt", "value": "b"}]
    assert [message["role"] for message in read_messages(names, "m")] == ["user", "assistant"]
    for held in ({"weight": 0}, {"tool_calls": [{}]}, {"reasoning_content": "hm"}, {"train": False}):
        with pytest.raises(DropRow, match="which the trainer reads from the file itself"):
            read_messages([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", **held}], "m")
