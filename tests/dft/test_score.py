"""The column of a reference's log p: exact for every row, and refused where it is of other tokens than are trained."""

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from verl.dft import score
from verl.dft.data.dataset import tokenize_files
from verl.dft.data.reference_column import read_reference_log_probs
from verl.dft.data.rows import TokenizedRows
from verl.dft.diagnose import row_format_of

MAX_LENGTH = 96  # some rows are longer


@pytest.fixture(scope="module")
def scored(tmp_path_factory, tiny_model, parquet_files):
    out = tmp_path_factory.mktemp("scored") / "train.parquet"
    arguments = ["--model", str(tiny_model), "--data", str(parquet_files[0]), "--out", str(out)]
    score.score(score.parser().parse_args([*arguments, "--max_length", str(MAX_LENGTH), "--device", "cpu"]))
    return out


def rows_of(file, model, max_length=MAX_LENGTH, count=-1) -> TokenizedRows:
    tokenizer = AutoTokenizer.from_pretrained(model)
    how, _ = row_format_of(str(file), tokenizer, max_length=max_length)
    return tokenize_files([str(file)], how, tokenizer, "rows", count, progress=False)[0]


def test_the_column_is_log_p_row_by_row(scored, tiny_model, parquet_files):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64)
    rows = rows_of(scored, tiny_model)
    rows.reference_log_probs = read_reference_log_probs([str(scored)], "reference", rows)
    for i in range(len(rows)):
        row = rows[i]
        with torch.no_grad():
            log_probs = model(row["input_ids"][None]).logits[0].log_softmax(-1)
        own = log_probs[:-1].gather(1, row["input_ids"][1:, None]).squeeze(1) * row["loss_mask"][1:]
        torch.testing.assert_close(row["reference_log_probs"][1:].double(), own, rtol=1e-5, atol=1e-5)
        assert row["reference_log_probs"][0] == 0
    before, after = pd.read_parquet(parquet_files[0]), pd.read_parquet(scored)
    pd.testing.assert_frame_equal(after.drop(columns="reference"), before)


def test_a_part_of_the_rows_and_rows_on_a_disk_keep_their_numbers(scored, tiny_model, tmp_path):
    rows = rows_of(scored, tiny_model, count=7)
    rows.reference_log_probs = read_reference_log_probs([str(scored)], "reference", rows)
    whole = rows_of(scored, tiny_model)
    whole.reference_log_probs = read_reference_log_probs([str(scored)], "reference", whole)
    rows.save(tmp_path)
    mapped = TokenizedRows.map(tmp_path)
    assert len(mapped) == 7
    for i in range(7):
        assert torch.equal(mapped[i]["reference_log_probs"], whole[i]["reference_log_probs"])


def test_numbers_of_other_tokens_are_refused_with_their_place(scored, tiny_model, tmp_path):
    longer = rows_of(scored, tiny_model, max_length=512)  # what was cut when it was scored is not cut now
    with pytest.raises(ValueError, match=r"train.parquet, row \d+: expected reference to hold log p of the \d+ tokens"):
        read_reference_log_probs([str(scored)], "reference", longer)
    frame = pd.read_parquet(scored)
    frame.loc[3, "answer"] = frame.loc[3, "answer"].replace("a", "b").replace("e", "o")  # edited after scoring
    frame.to_parquet(tmp_path / "edited.parquet")
    with pytest.raises(ValueError, match="edited.parquet, row 3: "):
        edited = rows_of(tmp_path / "edited.parquet", tiny_model)
        read_reference_log_probs([str(tmp_path / "edited.parquet")], "reference", edited)
    frame["reference"] = None
    frame.to_parquet(tmp_path / "null.parquet")
    with pytest.raises(ValueError, match="null.parquet, row 0: .* found null. Score the file"):
        read_reference_log_probs([str(tmp_path / "null.parquet")], "reference", rows_of(scored, tiny_model))


def test_nothing_is_written_over(scored, tiny_model):
    for out, message in ((scored, "--out .* exists"), (scored.with_name("again.parquet"), "--key reference")):
        arguments = ["--model", str(tiny_model), "--data", str(scored), "--out", str(out)]
        with pytest.raises(ValueError, match=message):
            score.score(score.parser().parse_args(arguments))
    assert pq.read_schema(scored).names == ["question", "answer", "reference"]
