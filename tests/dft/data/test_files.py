"""The same rows in every kind of file, and what is wrong with others, in one line."""

import gzip
import json

import pandas as pd
import pyarrow as pa
import pytest

from tiny_model import tiny_tokenizer
from verl.dft.data.dataset import RowFormat, check_files, tokenize_files
from verl.dft.data.files import columns_of, expand, rows_of_files
from verl.dft.data.prompts import resolve_prompt_format

ROWS = [{"question": "1 + 1?", "answer": 'two, "2"'}, {"question": "é\nline", "answer": "x\ty"}]


def lines(rows=ROWS) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def packed(path, text: str, how: str):
    with pa.output_stream(str(path), compression=how) as stream:
        stream.write(text.encode())


def write_stream(path):
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def write_arrow_file(path):
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


WRITERS = {
    "a.parquet": lambda path: pd.DataFrame(ROWS).to_parquet(path),
    "a.jsonl": lambda path: path.write_text(lines()),
    "bom.jsonl": lambda path: path.write_text("\ufeff" + lines(), encoding="utf-8"),
    "crlf.jsonl": lambda path: path.write_bytes(lines().replace("\n", "\r\n").encode()),
    "a.ndjson": lambda path: path.write_text(lines()),
    "list.json": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "lines.json": lambda path: path.write_text(lines()),
    "a.csv": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False),
    "a.tsv": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False, sep="\t"),
    "a.csv.gz": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines().encode())),
    "a.jsonl.zst": lambda path: packed(path, lines(), "zstd"),
    "list.json.gz": lambda path: packed(path, json.dumps(ROWS), "gzip"),
    "a.arrow": write_stream,
    "file.arrow": write_arrow_file,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name):
    WRITERS[name](tmp_path / name)
    (file,) = expand(str(tmp_path / name))
    check_files([file], {"question": "data.prompt_key"}, "data.train_files")
    assert columns_of(file) == ["question", "answer"]
    assert [row for _, row in rows_of_files([file])] == ROWS
    assert [place for place, _ in rows_of_files([file], {"answer"})] == [(file, 0), (file, 1)]


def test_folders_of_parts_and_globs_are_read_in_order(tmp_path):
    for part in (2, 1):
        (tmp_path / f"part-{part}.jsonl").write_text(lines([{"question": str(part)}]))
    (tmp_path / "train.report.json").write_text("{}")
    (tmp_path / "_SUCCESS").write_text("")
    for source in (tmp_path, tmp_path / "part-*.jsonl"):
        assert [row["question"] for _, row in rows_of_files(expand(str(source)))] == ["1", "2"]
    (tmp_path / "part-3.csv").write_text("question\n3\n")
    with pytest.raises(ValueError, match="files of one kind .* found .csv and .jsonl. Name the files"):
        expand(str(tmp_path))
    with pytest.raises(ValueError, match="no file matches"):
        expand(str(tmp_path / "*.parquet"))


def test_a_saved_data_set_is_read_as_its_own_list_of_files_says(tmp_path):
    import datasets

    saved = datasets.Dataset.from_list(ROWS)
    saved.save_to_disk(str(tmp_path / "one"), num_shards=2)
    assert [row for _, row in rows_of_files(expand(str(tmp_path / "one")))] == ROWS
    datasets.DatasetDict({"train": saved}).save_to_disk(str(tmp_path / "several"))
    with pytest.raises(ValueError, match="holds several splits of a saved data set. Give one of them: .*/train"):
        expand(str(tmp_path / "several"))


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", b"x", "expected a file that ends in .parquet"),
        ("a.jsonl", b'{"question": 1}\n{', ":2: not valid JSON"),
        ("a.jsonl", b"[1]\n", ":1: expected an object with one row, found list"),
        ("a.jsonl", b"\xff\n", ":1: not valid UTF-8"),
        ("a.json", b'"text"', "expected a list of objects, found str"),
        ("a.csv", b"question,answer\n1\n", ":2: expected 2 fields as in the first line, found 1"),
        ("a.csv", b"a,a\n1,2\n", "names of columns, each once"),
        ("a.csv", b"question\n\xff\n", "not valid UTF-8"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"),
        ("a.jsonl.zst", b"no zstd", "cannot be read"),
        ("a.arrow", b"nonsense", "cannot be read"),
        ("a.jsonl", b"", "expected rows in .*, found none"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        check_files([str(tmp_path / name)], {}, "data.train_files")
    assert "\n" not in str(caught.value)


def test_nulls_that_parquet_invents_are_no_arguments(tmp_path):
    calls = [{"function": {"name": "f", "arguments": {key: "x"}}} for key in ("city", "stock")]
    rows = [{"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}]} for call in calls]
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    assert [row for _, row in rows_of_files([str(tmp_path / "a.parquet")])] == rows


def test_weights_of_rows_messages_and_tokens_reach_the_targets(tmp_path):
    tokenizer = tiny_tokenizer()
    prompts = resolve_prompt_format(None, tokenizer)

    def weights_of(rows, **changes):
        (tmp_path / "a.jsonl").write_text(lines(rows))
        how = RowFormat(prompts, "<|endoftext|>", 200, weight_key="w", **changes)
        made, report = tokenize_files([str(tmp_path / "a.jsonl")], how, tokenizer, "data", progress=False)
        found = [made[i] for i in range(len(made))]
        assert all(
            bool(mask) == bool(w) for row in found for mask, w in zip(row["loss_mask"], row["loss_weight"], strict=True)
        )
        return [[w for w in row["loss_weight"].tolist() if w] for row in found], report

    single = [{"question": "a", "answer": "bc", "w": w} for w in (0.5, None, [1, 0, 2], 0)]
    found, report = weights_of(single)
    assert found == [[0.5] * 3, [1.0] * 3, [1.0, 2.0]] and report.dropped == {"no target token left": 1}
    chat = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
    assert weights_of([{"messages": chat, "w": [1, 0.25, 1, 3]}], multiturn=True)[0] == [[0.25] * 2 + [3.0] * 2]
    for wrong in (-1, "x", [1, 2], True):
        with pytest.raises(ValueError, match="row 0: expected .*data.weight_key"):
            weights_of([{"question": "a", "answer": "bc", "w": wrong}])
