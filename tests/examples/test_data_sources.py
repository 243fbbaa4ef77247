"""Reading: split files in a folder, json, jsonl, parquet and hub sources, and an error for each way to be broken."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sources import open_source, split_files, splits_of

ROWS = [{"question": "1 + 1?", "answer": "2", "level": 1}, {"question": "2 + 2?", "answer": "4", "level": 2}]
COLUMNS = ("question", "answer")


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def json_lines(rows: list) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    "name, text",
    [
        ("train.jsonl", json_lines(ROWS)),
        ("train.jsonl", json_lines(ROWS).rstrip("\n")),  # no newline at the end
        ("train.jsonl", "\n" + json_lines(ROWS).replace("\n", "\r\n\r\n")),  # blank lines are no rows
        ("train.jsonl", "\ufeff" + json_lines(ROWS)),  # byte order mark
        ("train.json", json.dumps(ROWS)),
        ("train.json", json.dumps(ROWS, indent=2)),
        ("train.json", json_lines(ROWS)),  # JSON lines under the name .json
    ],
)
def test_json_and_jsonl_give_the_same_rows(tmp_path, name, text):
    source = open_source(str(write(tmp_path / name, text)), "train", COLUMNS)
    assert list(source.rows()) == ROWS
    assert source.num_rows == 2
    assert source.other_columns == pa.schema([("level", pa.int64())])


def test_a_file_with_one_pretty_printed_object_is_one_row(tmp_path):
    write(tmp_path / "train" / "algebra" / "1.json", json.dumps(ROWS[0], indent=1))
    write(tmp_path / "train" / "algebra" / "2.json", json.dumps(ROWS[1]))
    source = open_source(str(tmp_path), "train", COLUMNS)
    assert list(source.rows()) == ROWS


def test_parquet_keeps_types_and_forgets_foreign_metadata(tmp_path):
    schema = pa.schema(
        [("question", pa.string()), ("answer", pa.string()), ("level", pa.int8())], {"huggingface": "{}"}
    )
    pq.write_table(pa.Table.from_pylist(ROWS, schema=schema), tmp_path / "train-00000-of-00001.parquet")
    source = open_source(str(tmp_path), "train", COLUMNS)
    assert list(source.rows()) == ROWS
    assert source.other_columns == pa.schema([("level", pa.int8())])
    assert source.other_columns.metadata is None


def test_rows_can_be_read_again(tmp_path):
    source = open_source(str(write(tmp_path / "train.jsonl", json_lines(ROWS))), "train", COLUMNS)
    assert list(source.rows()) == list(source.rows())


@pytest.mark.parametrize(
    "names, expected",
    [
        (["train.jsonl", "test.jsonl"], ["train.jsonl"]),
        (["train.jsonl", "train-extra.jsonl", "train.old.jsonl"], ["train.jsonl"]),  # the plain name wins
        (["train-00001-of-00002.parquet", "train-00000-of-00002.parquet"], ["train-0000%d-of-00002.parquet"]),
        (["data/train-00000-of-00001.parquet", "README.md"], ["data/train-00000-of-00001.parquet"]),
        (["train/b/1.json", "train/a/2.json", "training/3.json"], ["train/a/2.json", "train/b/1.json"]),
    ],
)
def test_files_of_a_split(tmp_path, names, expected):
    for name in names:
        write(tmp_path / name, "")
    expected = [name % i if "%d" in name else name for name in expected for i in range(2 if "%d" in name else 1)]
    assert [str(file.relative_to(tmp_path)) for file in split_files(tmp_path, "train")] == expected


@pytest.mark.parametrize(
    "names, message",
    [
        ([], "found no such file"),
        (["test.jsonl"], "found test.jsonl"),
        (["main/train-00000-of-00001.parquet"], "found main/train-00000-of-00001.parquet"),
        ([f"{i}.json" for i in range(8)], "4.json, 3 more"),
        (["train.jsonl", "train.parquet"], "expected one format"),
        (["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"], "2 of the 3 shards"),
    ],
)
def test_a_folder_without_one_complete_split_is_refused(tmp_path, names, message):
    for name in names:
        write(tmp_path / name, "")
    with pytest.raises(ValueError, match=message):
        split_files(tmp_path, "train")


def test_a_single_file_is_the_split_that_its_name_begins_with(tmp_path):
    for name in ("test.jsonl", "train-small.jsonl", "rows.jsonl"):
        write(tmp_path / name, "")
    assert splits_of(str(tmp_path), ("train", "test")) == ("train", "test")
    assert splits_of(str(tmp_path / "test.jsonl"), ("train", "test")) == ("test",)
    assert splits_of(str(tmp_path / "train-small.jsonl"), ("train", "test")) == ("train",)
    assert splits_of(str(tmp_path / "rows.jsonl"), ("train",)) == ("train",)
    with pytest.raises(ValueError, match="begin with train or test"):
        splits_of(str(tmp_path / "rows.jsonl"), ("train", "test"))


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.jsonl", '{"question": "q", "answer": "a"}\n{"question": \n{}\n', r"a\.jsonl:2: not valid JSON"),
        ("a.jsonl", '{"question": "q", "answer": "a"}\n[1]\n', r"a\.jsonl:2: expected an object .* found list"),
        ("a.jsonl", b'{}\n\n{"question": "\xff"}\n', r"a\.jsonl:3: not valid UTF-8"),
        ("a.jsonl", '{}\n{"question": "\\ud800"}\n', r"a\.jsonl:2: .*half a character"),
        ("a.json", '[\n{"question": "q"},\n{"question" "q"}\n]', r"a\.json:3: not valid JSON"),
        ("a.json", b'[\n{"question": "\xff"}]', r"a\.json:2: not valid UTF-8"),
        ("a.json", "[\n{}, 3]", r"a\.json, item 2: expected an object"),
        ("a.json", "3", "expected a list of objects, found int"),
        ("a.jsonl", "", "question, answer missing, found no columns"),
        ("a.jsonl", '{"problem": "q", "answer": "a"}', "question missing, found problem, answer"),
        ("a.parquet", "PAR1 not really", "not a readable parquet file"),
        ("a.csv", "question,answer", r"expected a file of .*\.parquet"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, name, text, message):
    path = write(tmp_path / name, text)
    with pytest.raises(ValueError, match=message):
        open_source(str(path), "train", COLUMNS)


def test_a_truncated_parquet_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS * 1000), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"a\.parquet: not a readable parquet file"):
        open_source(str(path), "train", COLUMNS)


def test_a_half_pair_escape_is_told_from_a_whole_pair(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"question": "\\ud83d\\ude00", "answer": "a"}')
    assert next(open_source(str(path), "train", COLUMNS).rows())["question"] == "\U0001f600"


@pytest.mark.parametrize(
    "values, kind",
    [
        ([1, 2.5], pa.float64()),
        ([None, None], pa.string()),  # stable, so that files can be joined
        ([[], []], pa.list_(pa.string())),
        ([{"a": 1}, {"b": "x"}], pa.struct([("a", pa.int64()), ("b", pa.string())])),
    ],
)
def test_other_columns_get_the_type_that_holds_all_rows(tmp_path, values, kind):
    rows = [{"question": "q", "answer": "a", "extra": value} for value in values]
    source = open_source(str(write(tmp_path / "a.jsonl", json_lines(rows))), "train", COLUMNS)
    assert source.other_columns.field("extra").type == kind
    assert source.notes == ()


@pytest.mark.parametrize("values", [[1, "x"], [{}, {}], [2**70], [[1], "x"]])
def test_a_column_of_no_common_type_is_kept_as_json_text_and_said_so(tmp_path, values):
    rows = [{"question": "q", "answer": "a", "extra": value} for value in values]
    source = open_source(str(write(tmp_path / "a.jsonl", json_lines(rows))), "train", COLUMNS)
    assert source.other_columns.field("extra").type == pa.string()
    assert [json.loads(row["extra"]) for row in source.rows()] == values
    assert source.notes == ("column 'extra' does not fit one type: kept as JSON text",)


def test_types_are_joined_over_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("sources.CHUNK_ROWS", 1)
    monkeypatch.setattr("sources.chunks", lambda rows: ([row] for row in rows))
    rows = [{"question": "q", "answer": "a", "extra": value} for value in (None, 1, 2.5)]
    path = write(tmp_path / "a.jsonl", json_lines(rows))
    assert open_source(str(path), "train", COLUMNS).other_columns.field("extra").type == pa.float64()


@pytest.mark.parametrize("source", ["/no/such/folder", "./none", "none.jsonl", "a/b/c", "~/none", ""])
def test_a_path_that_is_not_there_is_not_looked_up_on_the_hub(source):
    with pytest.raises(ValueError, match="no such file or folder"):
        open_source(source, "train", COLUMNS)


def test_hub_rows_come_through_load_dataset(monkeypatch):
    import datasets

    calls = []

    def load_dataset(path, name=None, split=None):
        calls.append((path, name, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = open_source("openai/gsm8k", "train", COLUMNS, config="main")
    assert calls == [("openai/gsm8k", "main", "train")]
    assert list(source.rows()) == ROWS
    assert source.other_columns == pa.schema([("level", pa.int64())])
    with pytest.raises(ValueError, match="problem missing, found question, answer, level"):
        open_source("openai/gsm8k", "train", ("problem",))


def test_an_unreachable_hub_is_a_value_error_that_names_the_way_out(monkeypatch):
    import datasets

    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach it")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        ValueError, match="owner/name .*ConnectionError: Couldn't reach it.* pass its folder as --source"
    ):
        open_source("owner/name", "train", COLUMNS)
