import json
import math

import pytest
import torch

from verl.dft.metrics import MetricsFile, ModelFlops, summarize, token_sums


def test_means_are_over_tokens_not_over_micro_batches():
    no_stop, last_stop = torch.tensor([False]), torch.tensor([False, False, True])
    first = token_sums(torch.tensor([1.0]), torch.log(torch.tensor([0.5])), torch.tensor([True]), no_stop)
    second = token_sums(torch.zeros(3), torch.log(torch.tensor([0.25, 0.3, 0.2])), last_stop, last_stop)
    summary = summarize(first + second)
    assert summary["target_tokens"] == 4
    assert summary["loss"] == pytest.approx(1 / 4)
    assert summary["nll"] == pytest.approx(-math.log(0.5 * 0.25 * 0.3 * 0.2) / 4)
    assert summary["mean_p"] == pytest.approx((0.5 + 0.25 + 0.3 + 0.2) / 4)
    assert summary["stop_p"] == pytest.approx(0.2)
    assert summary["one_minus_p"] == pytest.approx(1 - summary["mean_p"])
    assert summary["accuracy"] == pytest.approx(0.5)


def test_no_target_token_gives_nan_and_not_a_flattering_zero():
    empty = torch.zeros(0)
    summary = summarize(token_sums(empty, empty, empty.bool(), empty.bool()))
    assert summary["target_tokens"] == 0
    assert all(math.isnan(summary[name]) for name in ("loss", "nll", "one_minus_p", "mean_p", "accuracy", "stop_p"))


def test_one_minus_p_keeps_its_digits_where_p_is_almost_one():
    log_p = torch.tensor([-1e-12], dtype=torch.float64)
    sums = token_sums(-log_p, log_p, torch.tensor([True]), torch.tensor([False]))
    assert summarize(sums)["one_minus_p"] == pytest.approx(1e-12)


def test_a_resumed_run_forgets_the_lines_beyond_its_step_and_half_a_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsFile(path, 0)
    for step in (1, 2, 3):
        log.append({"train/loss": float(step)}, step)
    with path.open("a") as file:
        file.write('{"step": 4, "trai')
    MetricsFile(path, 2).append({"train/loss": 30.0}, 3)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["train/loss"]) for line in lines] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_flops_count_the_head_once_and_the_embedding_never():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    flops = ModelFlops.of(Qwen2ForCausalLM(config), config)
    per_layer = 16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 32  # q, k and v, o, MLP
    assert flops.matrix_weights == 2 * per_layer + 16 * 50
    assert flops.attention == 2 * 16
