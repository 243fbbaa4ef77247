import numpy as np
import pandas as pd
import pytest

from tiny_model import tiny_tokenizer
from verl.dft.data.dataset import RowFormat, check_files, tokenize_files
from verl.dft.data.prompts import resolve_prompt_format
from verl.dft.data.rows import TokenizedRows, decoded_example

TOKENIZER = tiny_tokenizer()
EOS = TOKENIZER.eos_token_id
ROWS = [{"question": "1+1?", "answer": "two"}, {"question": "A longer question", "answer": "and a longer answer"}]


def row_format(template=None, **changes) -> RowFormat:
    prompts = resolve_prompt_format(template, TOKENIZER)
    return RowFormat(**{"prompt_format": prompts, "response_end": TOKENIZER.eos_token, "max_length": 200, **changes})


def write(tmp_path, rows, name="rows.parquet") -> list[str]:
    path = tmp_path / name
    pd.DataFrame(rows).to_parquet(path)
    return [str(path)]


def tokenize(tmp_path, rows, **changes):
    return tokenize_files(write(tmp_path, rows), row_format(**changes), TOKENIZER, "data", progress=False)


def split(row) -> tuple[str, str]:
    """The text before the targets and the targets' text; asserts that the targets are one block at the end."""
    ids, mask = row["input_ids"], row["loss_mask"].bool()
    assert mask.tolist() == sorted(mask.tolist())
    return TOKENIZER.decode(ids[~mask]), TOKENIZER.decode(ids[mask])


def test_targets_are_the_response_and_the_eos_token_behind_the_templates_prompt(tmp_path):
    rows, report = tokenize(tmp_path, ROWS)
    assert len(rows) == report.rows_in == 2
    prompt, target = split(rows[0])
    assert prompt == "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    assert target == "two<|endoftext|>"
    assert rows[0]["position_ids"].tolist() == list(range(len(rows[0]["input_ids"])))


def test_the_prompt_has_the_ids_that_evaluation_will_give_the_model(tmp_path):
    for template in (None, "deepseek-math"):
        rows, _ = tokenize(tmp_path, ROWS, template=template)
        row = rows[1]
        prompt_ids = row["input_ids"][~row["loss_mask"].bool()].tolist()
        assert prompt_ids == resolve_prompt_format(template, TOKENIZER).encode("A longer question", TOKENIZER)


def test_nested_columns_and_chat_messages_as_prompt(tmp_path):
    rows = [{"info": {"q": [{"role": "user", "content": "hi"}], "a": "there"}}]
    tokenized, _ = tokenize(tmp_path, rows, prompt_keys=("info", "q"), response_keys=("info", "a"))
    assert split(tokenized[0]) == ("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "there<|endoftext|>")


def test_right_truncation_keeps_the_beginning_and_left_the_end_with_the_right_mask(tmp_path):
    full, _ = tokenize(tmp_path, ROWS)
    length = len(full[1]["input_ids"])
    for truncation, span in (("right", slice(0, length - 5)), ("left", slice(5, None))):
        rows, report = tokenize(tmp_path, ROWS, max_length=length - 5, truncation=truncation)
        assert report.cut == 1 and len(rows) == 2
        assert rows[1]["input_ids"].tolist() == full[1]["input_ids"][span].tolist()
        assert rows[1]["loss_mask"].tolist() == full[1]["loss_mask"][span].tolist()


def test_a_row_cut_into_its_response_on_the_left_never_starts_with_a_target(tmp_path):
    rows, _ = tokenize(tmp_path, ROWS, max_length=4, truncation="left")
    assert [row["loss_mask"].tolist() for row in (rows[0], rows[1])] == [[0, 1, 1, 1]] * 2


def test_rows_without_a_target_left_are_dropped_and_counted(tmp_path):
    rows, report = tokenize(tmp_path, [*ROWS, {"question": "x" * 300, "answer": "y"}])
    assert len(rows) == 2 and report.dropped == {"no target token left": 1} and report.cut == 1
    assert "3 rows in, 2 kept; 1 cut to the maximal length; dropped 1 (no target token left)" in report.text("d", rows)


def test_truncation_drop_and_error(tmp_path):
    length = len(tokenize(tmp_path, ROWS)[0][1]["input_ids"])
    rows, report = tokenize(tmp_path, ROWS, max_length=length - 1, truncation="drop")
    assert len(rows) == 1 and report.dropped == {f"longer than {length - 1} tokens": 1}
    with pytest.raises(ValueError, match=f"row 1: the row has {length} tokens, more than data.max_length={length - 1}"):
        tokenize(tmp_path, ROWS, max_length=length - 1, truncation="error")
    with pytest.raises(ValueError, match="one of right, left, drop, error; found 'middle'"):
        row_format(truncation="middle")


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"question": None, "answer": "x"}, "row 2: expected text or chat messages in question, found null"),
        ({"question": "x", "answer": None}, "row 2: expected text in answer, found null"),
    ],
)
def test_null_text_is_named_with_file_and_row(tmp_path, bad, message):
    with pytest.raises(ValueError, match=message):
        tokenize(tmp_path, [*ROWS, bad])


def test_numbers_are_not_taken_for_text(tmp_path):
    with pytest.raises(ValueError, match="row 0: expected text in answer, found int 7"):
        tokenize(tmp_path, [{"question": "x", "answer": 7}])


def test_a_missing_nested_key_names_what_is_there(tmp_path):
    with pytest.raises(ValueError, match="expected info.question; 'question' is not in q"):
        tokenize(tmp_path, [{"info": {"q": "x"}, "answer": "y"}], prompt_keys=("info", "question"))


def test_max_rows_takes_the_first_rows_over_files(tmp_path):
    files = write(tmp_path, ROWS, "a.parquet") + write(tmp_path, ROWS, "b.parquet")
    rows, report = tokenize_files(files, row_format(), TOKENIZER, "data", max_rows=3, progress=False)
    assert len(rows) == report.rows_in == 3
    assert rows[2]["input_ids"].tolist() == rows[0]["input_ids"].tolist()


CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
    {"role": "assistant", "content": "d"},
]


def test_a_conversation_has_the_templates_own_text_and_trains_every_assistant_turn(tmp_path):
    rows, _ = tokenize(tmp_path, [{"messages": CHAT}], multiturn=True)
    ids, mask = rows[0]["input_ids"], rows[0]["loss_mask"].bool()
    assert TOKENIZER.decode(ids) == TOKENIZER.apply_chat_template(CHAT, tokenize=False)
    assert TOKENIZER.decode(ids[mask]) == "b<|im_end|>d<|im_end|>"
    assert decoded_example(rows, TOKENIZER).endswith("<|im_start|>assistant\n⟦d<|im_end|>⟧\n")


def test_a_template_that_rewrites_earlier_turns_is_refused(tmp_path):
    forgetful = "{% for m in messages %}{{ m['content'] if loop.last or m['role'] == 'user' }};{% endfor %}"
    with pytest.raises(ValueError, match="rewrites earlier turns"):
        tokenize(tmp_path, [{"messages": CHAT[1:]}], template=forgetful, multiturn=True, train="all")


@pytest.mark.parametrize(
    "messages, message",
    [
        (None, "found null"),
        ([], "expected text or chat messages"),
        ([{"role": "user", "content": None}], "expected text as the content"),
        ([{"role": "user", "content": "only a question"}], "expected an assistant message"),
    ],
)
def test_bad_conversations_are_named(tmp_path, messages, message):
    with pytest.raises(ValueError, match=message):
        tokenize(tmp_path, [{"messages": CHAT}, {"messages": messages}], multiturn=True)


def test_files_are_checked_before_anything_is_read(tmp_path):
    files, columns = write(tmp_path, ROWS), {"question": "data.prompt_key", "answer": "data.response_key"}
    check_files(files, columns, "data.train_files")
    with pytest.raises(ValueError, match="data.train_files: .* found nothing at /no/such.parquet"):
        check_files(["/no/such.parquet"], columns, "data.train_files")
    with pytest.raises(
        ValueError, match="expected the column prompt in .*; found question, answer. Set data.prompt_key"
    ):
        check_files(files, {"prompt": "data.prompt_key"}, "data.train_files")
    with pytest.raises(ValueError, match="expected rows in .*, found none"):
        check_files(write(tmp_path, pd.DataFrame(ROWS)[:0], "empty.parquet"), columns, "data.train_files")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(ValueError, match="broken.parquet is not a readable parquet file"):
        check_files([str(tmp_path / "broken.parquet")], columns, "data.train_files")


def test_saved_rows_are_mapped_back_equal(tmp_path):
    rows, _ = tokenize(tmp_path, ROWS)
    rows.save(tmp_path)
    mapped = TokenizedRows.map(tmp_path)
    assert len(mapped) == 2 and np.array_equal(mapped.lengths(), rows.lengths())
    assert all((mapped[1][key] == rows[1][key]).all() for key in rows[1])
