"""The forecast: p against transformers' own softmax, statistics against values worked out by hand, and the command."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tiny_model import save_tiny_model
from verl.dft import diagnose, forecast
from verl.dft.data.dataset import tokenize_files
from verl.dft.forecast import TargetTokens, advise, deciles, forecast_sums, most_ignored, short_form, summary
from verl.dft.loss.objectives import objective
from verl.dft.model import scoring


def target_tokens(p, ids=None, first=None, stop=None, entropy=None) -> TargetTokens:
    p = np.asarray(p, dtype=np.float64)
    no = np.zeros(len(p), dtype=bool)
    return TargetTokens(
        log_probs=np.log(p),
        entropy=np.zeros(len(p)) if entropy is None else np.asarray(entropy),
        ids=np.arange(len(p)) if ids is None else np.asarray(ids),
        is_first=no if first is None else np.asarray(first),
        is_stop=no if stop is None else np.asarray(stop),
    )


def by_hand(model, rows) -> dict[str, list]:
    """One row at a time, full logits in float64."""
    found: dict[str, list] = {name: [] for name in ("p", "entropy", "ids", "is_first", "is_stop")}
    for row in (rows[i] for i in range(len(rows))):
        with torch.no_grad():
            probs = model.double()(row["input_ids"][None]).logits[0].softmax(-1)
        targets = row["loss_mask"].nonzero().squeeze(1).tolist()
        for place in targets:
            before = probs[place - 1]
            found["p"].append(before[row["input_ids"][place]].item())
            found["entropy"].append(-(before * before.log()).sum().item())
            found["ids"].append(row["input_ids"][place].item())
            found["is_first"].append(place == targets[0])
            found["is_stop"].append(place == targets[-1])
    return found


def sorted_table(p, entropy, ids, first, stop) -> np.ndarray:
    """One line per token, in an order that does not depend on that of the rows."""
    table = np.stack([np.asarray(column, dtype=np.float64) for column in (ids, first, stop, p, entropy)], axis=1)
    return table[np.lexsort(table[:, [3, 2, 1, 0]].T)]


@pytest.mark.parametrize("bias", [False, True])  # with a bias the output layer is no plain product
def test_p_is_that_of_the_tokens_that_are_trained(tmp_path, parquet_files, bias):
    folder = save_tiny_model(tmp_path / "model", tie_word_embeddings=False)
    model, tokenizer = diagnose.load(str(folder), "cpu")
    if bias:
        layer = model.get_output_embeddings()
        layer.bias = torch.nn.Parameter(torch.linspace(-1, 1, layer.out_features))
    how, flags = diagnose.row_format_of(str(parquet_files[0]), tokenizer, max_length=96)
    assert flags == "data.prompt_key=question data.response_key=answer"
    rows, _ = tokenize_files([str(parquet_files[0])], how, tokenizer, "rows", progress=False)
    found = diagnose.measure(model, rows)
    hand = by_hand(model, rows)
    expected = sorted_table(hand["p"], hand["entropy"], hand["ids"], hand["is_first"], hand["is_stop"])
    actual = sorted_table(found.p, found.entropy, found.ids, found.is_first, found.is_stop)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
    stop = diagnose.measure(model.float(), rows, stop_id=tokenizer.eos_token_id).is_stop
    assert stop.sum() < len(rows)  # some rows are cut before their end, and their last token ends no response


def test_conversations_are_read_and_each_turn_ends_in_a_stop(tmp_path, tiny_model):
    turns = [{"role": role, "content": "ab"} for role in ("user", "assistant") * 2]
    rows = [{"messages": turns, "extra_info": {"question": None, "answer": None}}]
    pd.DataFrame(rows).to_parquet(tmp_path / "chat.parquet")
    model, tokenizer = diagnose.load(str(tiny_model), "cpu")
    how, flags = diagnose.row_format_of(str(tmp_path / "chat.parquet"), tokenizer, max_length=96)
    assert flags == "data.multiturn.enable=true data.multiturn.messages_key=messages"
    found = diagnose.measure(model, tokenize_files([str(tmp_path / "chat.parquet")], how, tokenizer, "r")[0])
    assert found.is_stop.sum() == 2
    assert set(found.ids[found.is_stop]) == {tokenizer.convert_tokens_to_ids("<|im_end|>")}


def test_a_training_parquet_is_read_by_its_extra_info(tmp_path, tiny_model):
    frame = pd.DataFrame([{"prompt": "no", "extra_info": {"question": "1?", "answer": "1"}}])
    frame.to_parquet(tmp_path / "a.parquet")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    how, flags = diagnose.row_format_of(str(tmp_path / "a.parquet"), tokenizer, max_length=96)
    assert how.prompt_keys == ["extra_info", "question"]
    assert "data.prompt_key=extra_info" in flags and "data.prompt_dict_keys=[question]" in flags


def test_a_sample_is_seeded_and_errors_name_the_row_of_the_file(tmp_path, tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    frame = pd.DataFrame({"question": [f"{i}?" for i in range(50)], "answer": [f"{i}." for i in range(50)]})
    file = str(tmp_path / "a.parquet")
    frame.to_parquet(file, row_group_size=7)
    how, _ = diagnose.row_format_of(file, tokenizer, max_length=96)

    def sample(seed: int) -> list[int]:
        return diagnose.sampled_rows(file, how, tokenizer, 10, seed)[0].input_ids.tolist()

    assert sample(0) == sample(0) != sample(1)
    frame.loc[40:, "question"] = None
    frame.to_parquet(file)
    with pytest.raises(ValueError, match=r"a\.parquet, row 4\d: expected text or chat messages in question"):
        diagnose.sampled_rows(file, how, tokenizer, 49, 0)


# --- the numbers


def test_the_summary_of_four_tokens():
    tokens = target_tokens([0.005, 0.05, 0.5, 1.0], entropy=[1, 2, 3, 4], first=[1, 0, 0, 0], stop=[0, 0, 0, 1])
    tokens = TargetTokens(tokens.log_probs, tokens.entropy, tokens.ids, tokens.is_first > 0, tokens.is_stop > 0)
    numbers = summary(tokens)
    assert numbers["mean_p"] == pytest.approx(1.555 / 4)
    assert numbers["nll"] == pytest.approx(-math.log(0.005 * 0.05 * 0.5) / 4)
    assert (numbers["entropy"], numbers["first_token_p"], numbers["stop_p"]) == pytest.approx((2.5, 0.005, 1.0))
    assert numbers["shares"] == {"p < 0.01": 0.25, "p < 0.1": 0.5, "p > 0.9": 0.25}
    assert np.nonzero(numbers["histogram"])[0].tolist() == [0, 1, 10, 19]
    assert math.isnan(summary(target_tokens([0.5]))["stop_p"])


def test_deciles_share_out_the_gradient_of_both_losses():
    p = np.repeat([0.1, 0.9], [5, 5])
    rows = deciles(p)
    assert [row["dft_weight"] for row in rows] == pytest.approx([0.1] * 5 + [0.9] * 5)
    assert [row["dft_share"] for row in rows] == pytest.approx([0.1] * 10)  # p (1 - p) is 0.09 for both
    assert [row["sft_share"] for row in rows] == pytest.approx([0.18] * 5 + [0.02] * 5)  # 0.9 and 0.1 of 5.0


def test_the_most_ignored_types_lose_most_of_sfts_gradient():
    tokens = target_tokens([0.1, 0.1, 0.0001, 0.9, 0.9, 0.9], ids=[7, 7, 8, 9, 9, 9])
    first, second, third = most_ignored(tokens, lambda token: f"<{token}>")
    lost = [2 * 0.9**2, 0.9999**2, 3 * 0.1**2]
    assert [row["token"] for row in (first, second, third)] == ["<7>", "<8>", "<9>"]
    assert [row["share_of_ignored"] for row in (first, second, third)] == pytest.approx([x / sum(lost) for x in lost])
    assert (first["times"], first["mean_p"]) == (2, pytest.approx(0.1))


@pytest.mark.parametrize(
    "mean_p, impossible, stop_p, flags",
    [
        (0.8, 0.01, 0.9, ("objective.name=dft",)),
        (0.5, 0.01, 0.9, ("objective.name=dft", "objective.mix=0.5")),
        (0.01, 0.9, 0.001, ("objective.name=sft",)),
        (0.8, 0.3, 0.9, ("objective.name=dft",)),
        (0.8, 0.01, 0.001, ("objective.name=dft", "objective.full_weight_tokens=eos")),
        (0.8, 0.01, float("nan"), ("objective.name=dft",)),
    ],
)
def test_advice_at_the_published_points(mean_p, impossible, stop_p, flags):
    advice = advise(mean_p, impossible, stop_p)
    assert advice.flags == flags
    assert f"{mean_p:.2f}" in advice.reasons[0]
    assert ("objective.floor=0.1" in advice.text()) == (impossible == 0.3)
    options = dict(flag.removeprefix("objective.").split("=") for flag in advice.flags)
    full = options.pop("full_weight_tokens", None)
    made = objective(options.pop("name"), full_weight=full == "eos", **{k: float(v) for k, v in options.items()})
    assert made is not None  # the trainer knows every flag that is advised


def test_sums_of_parts_add_up_to_the_short_form_of_the_whole():
    log_probs, stop = torch.tensor([0.001, 0.5, 0.95, 1.0]).log(), torch.tensor([False, False, False, True])
    parts = forecast_sums(log_probs[:1], stop[:1]) + forecast_sums(log_probs[1:], stop[1:])
    torch.testing.assert_close(parts, forecast_sums(log_probs, stop))
    text = short_form(parts)
    assert "on 4 target tokens: mean p 0.613; 25% with p < 0.01, 25% with p < 0.1, 50% with p > 0.9" in text
    assert "stop token 1" in text and "a tie" in text
    assert short_form(forecast_sums(log_probs[:0], stop[:0])) == "forecast: no target tokens"


# --- the command


def test_the_command_writes_what_it_prints(tmp_path, tiny_model, parquet_files, capsys):
    options = ["--model", str(tiny_model), "--data", str(parquet_files[0]), "--sample", "10"]
    diagnose.diagnose(diagnose.parser().parse_args([*options, "--out", str(tmp_path / "out")]))
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "forecast.json").read_text())
    assert (tmp_path / "out" / "forecast.png").read_bytes().startswith(b"\x89PNG")
    assert f"mean p               {result['mean_p']:.4f}" in printed
    assert result["advice"]["verdict"] in printed and len(result["most_ignored"]) == forecast.TYPES
    assert sum(result["histogram"]) == pytest.approx(1)
    assert "10 of the 40 rows" in result["rows"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"--model": "/no/such"}, "expected a model folder"),
        ({"--data": "/no/such.parquet"}, "found nothing at /no/such.parquet"),
        ({"--prompt_key": "problem"}, "expected the column problem"),
        ({"--chat_template": "no-such"}, "expected a chat template"),
    ],
)
def test_mistakes_are_told_in_the_users_terms(tiny_model, parquet_files, changes, message):
    options = {"--model": str(tiny_model), "--data": str(parquet_files[0])} | changes
    with pytest.raises(ValueError, match=message):
        diagnose.diagnose(diagnose.parser().parse_args([text for pair in options.items() for text in pair]))


def test_the_model_is_left_as_it_was(tiny_model, parquet_files):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    before = model(torch.tensor([[1, 2, 3]])).logits
    how, _ = diagnose.row_format_of(str(parquet_files[1]), tokenizer, max_length=96)
    diagnose.measure(model, tokenize_files([str(parquet_files[1])], how, tokenizer, "rows")[0])
    assert torch.equal(model(torch.tensor([[1, 2, 3]])).logits, before)


def test_on_a_cpu_the_time_decides_how_many_rows_are_measured(tmp_path, tiny_model, parquet_files, monkeypatch, capsys):
    clock = iter(range(0, 10_000, 10))  # ten seconds pass between two looks at the clock
    monkeypatch.setattr(scoring.time, "monotonic", lambda: float(next(clock)))
    options = ["--model", str(tiny_model), "--data", str(parquet_files[0]), "--device", "cpu", "--seconds", "5"]
    found = diagnose.diagnose(diagnose.parser().parse_args([*options, "--out", str(tmp_path / "out")]))
    assert found["target_rows"] == scoring.TOGETHER < 40
    assert "measured 16 of these rows in 5 s" in capsys.readouterr().out


def test_a_part_that_time_allowed_is_a_fair_sample_not_the_longest_rows(tiny_model, parquet_files):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    how, _ = diagnose.row_format_of(str(parquet_files[0]), tokenizer, max_length=96)
    rows, _ = tokenize_files([str(parquet_files[0])], how, tokenizer, "rows")
    whole, timed = diagnose.measure(model, rows), diagnose.measure(model, rows, seconds=1000)
    assert np.allclose(np.sort(whole.log_probs), np.sort(timed.log_probs), atol=1e-5)
    parts = [diagnose.measure(model, rows, seconds=1e-9, seed=seed) for seed in range(20)]
    lengths = [len(part.p) / part.is_first.sum() for part in parts]
    mean = len(whole.p) / whole.is_first.sum()
    assert min(lengths) < mean < max(lengths) and np.mean(lengths) == pytest.approx(mean, rel=0.1)


def test_the_error_of_the_mean_is_that_of_rows_drawn_again():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 30, 300)
    rows = [np.clip(rng.normal(rng.uniform(0.2, 0.9), 0.05, n), 0, 1) for n in lengths]
    first = np.concatenate([np.arange(n) == 0 for n in lengths])
    claimed = forecast.error_of_the_mean(np.concatenate(rows), first)
    drawn = [np.concatenate([rows[i] for i in rng.integers(300, size=300)]).mean() for _ in range(2000)]
    assert claimed == pytest.approx(np.std(drawn), rel=0.1)
    assert math.isnan(forecast.error_of_the_mean(np.array([0.5, 0.5]), np.array([True, False])))


def test_a_device_that_is_not_here_is_one_line(tiny_model):
    with pytest.raises(ValueError, match="--device: expected auto, cpu, cuda or cuda:N that is here, found 'cuda:99'"):
        diagnose.load(str(tiny_model), "cuda:99")
