"""The shared module: boxes, samples, counts, the schema on disk and files that are whole or not there."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filters import text_filter
from preprocess import Selection, atomic_path, run, write_split
from rows import INSTRUCTION, DropRow, last_boxed, require_text, training_row
from sources import Source


@pytest.mark.parametrize(
    "text, expected",
    [
        (r"so $\boxed{5}$.", "5"),
        (r"\boxed{1} and then \boxed{2}", "2"),  # the last one counts
        (r"\boxed 4$ then \boxed{5}", "5"),  # a bare one before does not hide it
        (r"\boxed{4} then $\boxed 5$", "5"),
        (r"\fbox{7}", "7"),
        (r"\boxed{1} \fbox{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),  # escaped braces do not nest
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{a \\}", r"a \\"),  # a line break, then the closing brace
        (r"\boxed{x = \boxed{3}}", "3"),
        (r"\boxed {5}", "5"),
        ("\\boxed{\n 5 \n}", "5"),
        (r"\boxed 42.", "42"),
        (r"\boxed 1,000$", "1,000"),
        (r"$\boxed -3\)", "-3"),
        (r"\boxed A", "A"),
        (r"\boxed 4\sqrt{2}$", None),  # where a bare argument ends is anybody's guess
        (r"\boxed and so on", None),
        (r"\boxed{5", None),
        (r"\boxed{1} and \boxed{\frac{1}{2}", None),  # cut off: an earlier box is not the answer
        (r"\boxed{\}", None),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        (r"\boxed", None),
        (r"\boxedtext{5}", None),
        ("boxed{5}", None),
        ("", None),
    ],
)
def test_last_boxed(text, expected):
    assert last_boxed(text) == expected


def test_training_row_has_the_instruction_in_the_prompt_only():
    assert training_row("set", "1 + 1?", "It is 2.", "2", "train", 7, note="x") == {
        "data_source": "set",
        "prompt": [{"role": "user", "content": f"1 + 1? {INSTRUCTION}"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"split": "train", "index": 7, "question": "1 + 1?", "answer": "It is 2.", "note": "x"},
    }


@pytest.mark.parametrize(
    "example, reason",
    [
        ({"q": None}, "q is null"),
        ({}, "q is null"),
        ({"q": " \n"}, "q is empty"),
        ({"q": 5}, "q is int, not text"),
        ({"q": ["a"]}, "q is list, not text"),
        ({"q": "x" * 1_000_001}, "q is longer than 1,000,000 characters"),
    ],
)
def test_text_that_cannot_be_trained_on_drops_the_row(example, reason):
    with pytest.raises(DropRow, match=reason):
        require_text(example, "q")


# --- samples


def test_a_sample_is_the_same_for_the_same_seed_on_every_machine():
    assert sorted(Selection(0, 4, seed=0).row_numbers(10)) == [1, 5, 7, 8]
    assert Selection(0, 4, seed=0).row_numbers(10) != Selection(0, 4, seed=1).row_numbers(10)


def test_ranges_of_one_seed_share_no_row_and_together_are_the_split():
    parts = [Selection(0, 30, seed=3), Selection(30, 60, seed=3), Selection(60, 0, seed=3)]
    rows = [number for part in parts for number in part.row_numbers(100)]
    assert sorted(rows) == list(range(100))


def test_first_takes_the_range_in_the_order_of_the_split():
    assert list(Selection(2, 5, first=True).row_numbers(10)) == [2, 3, 4]
    assert list(Selection(8, 0, first=True).row_numbers(10)) == [8, 9]
    assert list(Selection().row_numbers(3)) == [0, 1, 2]


@pytest.mark.parametrize("start, end", [(-1, 5), (5, 5), (5, 3), (0, -1)])
def test_an_empty_or_negative_range_is_refused(start, end):
    with pytest.raises(ValueError, match=f"found --train_start {start} --train_end {end}"):
        Selection(start, end)


@pytest.mark.parametrize("selection", [Selection(0, 11), Selection(10, 0), Selection(3, 11, first=True)])
def test_a_range_beyond_the_split_is_refused(selection):
    with pytest.raises(ValueError, match="more than the split's 10 rows"):
        selection.row_numbers(10)


# --- a split on disk


def source_of(rows: list[dict], **types: pa.DataType) -> Source:
    return Source("rows", len(rows), pa.schema(list(types.items())), rows.__iter__)


def row(example, split, index):
    question = require_text(example, "question")
    return training_row("set", question, "a", last_boxed(question), split, index)


def test_rows_are_counted_in_out_and_dropped_with_their_reason(tmp_path, capsys):
    rows = [{"question": text} for text in (r"\boxed{1}", None, "", "no box", 3, None)]
    counts = write_split(source_of(rows), row, "train", tmp_path / "train.parquet")
    assert (counts.rows_in, counts.rows_out, counts.without_ground_truth) == (6, 2, 1)
    assert counts.dropped == {"question is null": 2, "question is empty": 1, "question is int, not text": 1}
    printed = capsys.readouterr().out
    assert "rows in 6, rows out 2, dropped 4" in printed
    assert "dropped 2: question is null" in printed
    assert "kept 1 without a boxed answer (ground_truth null)" in printed
    written = pq.read_table(tmp_path / "train.parquet").to_pylist()
    assert [each["extra_info"]["index"] for each in written] == [0, 3]  # row numbers of the source
    assert [each["reward_model"]["ground_truth"] for each in written] == ["1", None]


def test_only_the_selected_rows_are_read_and_counted(tmp_path, capsys):
    rows = [{"question": str(number)} for number in range(10)]
    selection = Selection(0, 4, seed=0)
    counts = write_split(source_of(rows), row, "train", tmp_path / "a.parquet", selection)
    written = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [each["extra_info"]["question"] for each in written] == ["1", "5", "7", "8"]
    assert counts.rows_in == 4
    assert "10 rows; random sample, places 0 to 4 of a shuffle with seed 0" in capsys.readouterr().out


def test_other_columns_are_kept_and_a_name_taken_is_said(tmp_path, capsys):
    rows = [{"question": "q", "level": "5", "ability": "chess"}]
    source = source_of(rows, level=pa.string(), ability=pa.string())
    write_split(source, row, "train", tmp_path / "a.parquet")
    (written,) = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert (written["level"], written["ability"]) == ("5", "math")
    assert "column 'ability' of the source is replaced" in capsys.readouterr().out


def test_types_do_not_depend_on_the_values(tmp_path):
    for name, text in (("a", "no box"), ("b", r"\boxed{1}")):
        write_split(source_of([{"question": text, "level": None}], level=pa.string()), row, "train", tmp_path / name)
    schema = pq.read_schema(tmp_path / "a")
    assert schema == pq.read_schema(tmp_path / "b")
    assert schema.field("reward_model").type == pa.struct([("style", pa.string()), ("ground_truth", pa.string())])
    assert schema.names == ["data_source", "prompt", "ability", "reward_model", "extra_info", "level"]


def test_nothing_is_written_when_every_row_is_dropped(tmp_path):
    with pytest.raises(ValueError, match="rows in 1, rows out 0, dropped 1; dropped 1: question is null"):
        write_split(source_of([{"question": None}]), row, "train", tmp_path / "train.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_in_the_middle_leaves_the_old_file_and_no_other(tmp_path):
    def failing_rows():
        yield {"question": "q"}
        raise ValueError("disk on fire")

    path = tmp_path / "train.parquet"
    path.write_text("old")
    with pytest.raises(ValueError, match="disk on fire"):
        write_split(Source("rows", 2, pa.schema([]), failing_rows), row, "train", path, overwrite=True)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_value_that_does_not_fit_its_column_names_the_rows(tmp_path):
    source = source_of([{"question": "q", "level": "five"}], level=pa.int64())
    with pytest.raises(ValueError, match="rows 0 to 0 does not fit its column"):
        write_split(source, row, "train", tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_exists_is_replaced_only_on_request(tmp_path):
    path = tmp_path / "train.parquet"
    write_split(source_of([{"question": "old"}]), row, "train", path)
    with pytest.raises(ValueError, match="train.parquet exists; give --overwrite"):
        write_split(source_of([{"question": "new"}]), row, "train", path)
    assert pq.read_table(path).to_pylist()[0]["extra_info"]["question"] == "old"
    write_split(source_of([{"question": "new"}]), row, "train", path, overwrite=True)
    assert pq.read_table(path).to_pylist()[0]["extra_info"]["question"] == "new"


def test_the_report_accounts_for_every_row(tmp_path):
    rows = [{"question": text} for text in (r"\boxed{1}", None, "", "no box", None)]
    write_split(source_of(rows), row, "train", tmp_path / "train.parquet", filters=[text_filter()])
    report = json.loads((tmp_path / "train.report.json").read_text())
    assert (report["source"], report["selection"]) == ("rows", "the whole split")
    assert (report["rows_in"], report["rows_out"], report["rows_out_without_ground_truth"]) == (5, 2, 1)
    assert report["dropped"] == [
        {"reason": "question is null", "rows": 2, "first_rows": [1, 4]},
        {"reason": "question is empty", "rows": 1, "first_rows": [2]},
    ]
    assert report["filters"][0]["name"] == "text" and "letter or digit" in report["filters"][0]["explanation"]


def test_long_rows_are_written_in_small_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("sources.CHUNK_CHARACTERS", 1000)
    write_split(source_of([{"question": "x" * 600}] * 4), row, "train", tmp_path / "a.parquet")
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 2


def test_the_final_name_appears_only_at_the_end(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["a.txt"]


# --- exit status


def fail(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize("error", [ValueError("no such\n  thing"), PermissionError("no such thing")])
def test_a_user_error_is_one_line_and_status_1(capsys, monkeypatch, error):
    monkeypatch.delenv("VERL_DFT_TRACEBACK", raising=False)
    assert run(fail(error)) == 1
    assert capsys.readouterr() == ("", "error: no such thing\n")


def test_the_trace_is_there_on_request_and_for_our_own_faults(monkeypatch):
    monkeypatch.setenv("VERL_DFT_TRACEBACK", "1")
    with pytest.raises(ValueError):
        run(fail(ValueError("x")))
    monkeypatch.delenv("VERL_DFT_TRACEBACK")
    with pytest.raises(AssertionError):
        run(fail(AssertionError("x")))
    assert run(lambda: Path("done")) == 0
