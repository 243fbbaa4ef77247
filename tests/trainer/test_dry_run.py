"""--dry_run: what a command would do, from a model folder without weights."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tiny_model import tiny_tokenizer, tokens_of
from verl.dft.model import activations, attention
from verl.trainer.fsdp_dft_trainer import memory
from verl.trainer.fsdp_dft_trainer.__main__ import main


@pytest.fixture
def no_weights(tmp_path, tiny_model) -> Path:
    """The folder of a model: configuration and tokenizer only."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


@pytest.fixture
def dry_run(tmp_path, no_weights, parquet_files, monkeypatch, capsys):
    """dry_run(flag, ..., ranks=1) -> what is printed."""

    monkeypatch.setattr(memory, "loaded", lambda: 0)  # this process has all that other tests loaded

    def run(*flags: str, ranks: int = 1) -> str:
        monkeypatch.setenv("WORLD_SIZE", str(ranks))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        out = tmp_path / "out"
        given = {
            "data.train_files": parquet_files[0],
            "model.partial_pretrain": no_weights,
            "trainer.default_local_dir": out,
            "data.train_batch_size": 8,
            "data.max_length": 256,
        } | dict(flag.split("=", 1) for flag in flags)
        main([f"{name}={value}" for name, value in given.items()] + ["--dry_run"])
        assert not out.exists()
        return capsys.readouterr().out

    return run


def parts(text: str) -> dict[str, float]:
    """What -> MiB, of the printed memory."""
    assert "memory per rank in MiB" in text
    lines = text[text.index("memory per rank") :].splitlines()[1:]
    return {line.strip().split("  ", 1)[1].split(":")[0]: float(line.split()[0]) for line in lines}


def test_steps_tokens_and_targets_are_those_of_the_rows(dry_run, parquet_files):
    rows = tokens_of(parquet_files[0], tiny_tokenizer())
    text = dry_run("trainer.total_epochs=2")
    tokens = sum(len(ids) for ids, _ in rows)
    targets = sum(len(ids) - prompt for ids, prompt in rows)
    assert f"40 rows in, 40 kept; {tokens} tokens, {targets} of them targets" in text
    assert "10 steps of 8 rows, 5 per epoch\n" in text
    assert f"mean {tokens / 5:,.0f}" in text and f"mean {targets / 5:,.0f}" in text
    assert f"in all about {2 * tokens:,} tokens, {2 * targets:,} of them targets" in text
    assert "⟦0 plus 0 is \\boxed{0}.<|endoftext|>⟧" in text


def test_rows_that_fill_no_batch_are_told_and_a_given_number_of_steps_is_used(dry_run):
    text = dry_run("data.train_batch_size=12", "trainer.total_training_steps=7")
    assert "7 steps of 12 rows, 3 per epoch; each epoch leaves out 4 rows that fill no batch" in text


def test_micro_batches_are_counted_for_the_ranks_of_the_environment(dry_run, parquet_files):
    assert "step 1: 1 micro-batch(es) per rank" in dry_run()
    assert "Dry run for 2 rank(s)" in (text := dry_run("data.micro_batch_size_per_gpu=2", ranks=2))
    assert "step 1: 2 micro-batch(es) per rank" in text
    padded = dry_run("data.micro_batch_size_per_gpu=40", "data.train_batch_size=40", "use_remove_padding=false")
    longest = max(len(ids) for ids, _ in tokens_of(parquet_files[0], tiny_tokenizer()))
    assert f"1 micro-batch(es) per rank, the largest of {40 * longest:,} tokens" in padded


def test_validation_rows_are_looked_at_too(dry_run, parquet_files):
    assert "data.val_files: 13 rows in, 13 kept" in dry_run(f"data.val_files={parquet_files[1]}")


def test_memory_follows_from_the_parameters_the_dtypes_and_the_ranks(dry_run, tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    count = sum(p.numel() for p in model.parameters())
    text = dry_run("data.micro_batch_size_per_gpu=4", ranks=2)
    assert f"{count:,} parameters, {count:,} trained" in text
    found = parts(text)
    MiB = 2**20
    assert found["weights in fp32"] == pytest.approx(4 * count / 2 / MiB, abs=0.005)
    assert found["optimizer"] == pytest.approx(8 * count / 2 / MiB, abs=0.005)
    assert found["gradients, sharded"] == found["weights in fp32"]
    halved = parts(dry_run("data.micro_batch_size_per_gpu=4", "model.fsdp_config.model_dtype=bf16", ranks=2))
    assert halved["weights in bf16"] == pytest.approx(2 * count / 2 / MiB, abs=0.005)
    # With two micro-batches, gradients stay whole until the second: on each rank, in fp32.
    whole = parts(dry_run("data.micro_batch_size_per_gpu=2", ranks=2))
    assert whole["gradients, whole"] == pytest.approx(4 * count / MiB, abs=0.005)
    assert "gradients, sharded" not in whole


@pytest.mark.parametrize("kind", activations.KINDS)
def test_activations_are_those_that_the_whole_model_would_be_told(dry_run, tiny_model, kind):
    tokens = 8192
    attention.register()
    model = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation=attention.NAME)
    whole = activations.bytes_per_token(model, torch.float32)
    again = whole["off"] / 2 if kind != "off" else 0  # one of the two layers is computed again at a time
    text = dry_run(f"model.activation_checkpointing={kind}")
    name = f"activations of {tokens:,} tokens, model.activation_checkpointing={kind}"
    assert parts(text)[name] == pytest.approx((whole[kind] + again) * tokens / 2**20, abs=0.01)


def test_on_a_cpu_what_is_loaded_into_the_process_counts(dry_run, monkeypatch):
    monkeypatch.setattr(memory, "loaded", lambda: 5 * 2**20)
    assert parts(dry_run())[memory.LOADED] == 5.0
    monkeypatch.undo()
    held = np.ones(2**27, dtype=np.uint8)
    assert 2**27 < memory.loaded() < 2**37
    assert held[-1] == 1


def test_lora_trains_rank_times_the_sides_of_each_matrix(dry_run):
    hidden, inner, kv, rank = 32, 64, 16, 4
    sides = 2 * (hidden + hidden) + 2 * (hidden + kv) + 3 * (hidden + inner)  # q o, k v, gate up down
    assert f"parameters, {2 * rank * sides:,} trained" in dry_run(f"model.lora_rank={rank}")


def test_logits_and_a_frozen_model_are_counted_where_they_are_kept(dry_run):
    assert "logits of up to 8,192 targets" in dry_run("model.fused_head=false")
    assert "the initial model, frozen" in dry_run("objective.name=asft")
    assert "the initial model, frozen" not in dry_run("objective.name=asft", "model.lora_rank=4")


def test_what_would_end_a_run_ends_a_dry_run_too(dry_run, no_weights, tmp_path):
    with pytest.raises(ValueError, match="data.train_files: expected a data file, found nothing at .*missing"):
        dry_run(f"data.train_files={tmp_path}/missing.parquet")
    with pytest.raises(ValueError, match="at least data.train_batch_size=64 training rows, found 40"):
        dry_run("data.train_batch_size=64")
    with pytest.raises(ValueError, match="multiple of the 3 data-parallel ranks"):
        dry_run(ranks=3)
    with pytest.raises(ValueError, match="at most|hold a row of data.max_length=9000"):
        dry_run("data.max_length=9000")
    config = json.loads((no_weights / "config.json").read_text())
    (no_weights / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
    with pytest.raises(ValueError, match="They do not belong together"):
        dry_run()
    for file in no_weights.glob("token*"):
        file.unlink()
    with pytest.raises(ValueError, match="expected a (model and its )?tokenizer"):
        dry_run()


def test_only_the_first_rank_speaks(dry_run, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert dry_run(ranks=2) == ""


def test_the_target_count_of_a_step_is_a_sum_over_its_rows(dry_run, parquet_files):
    rows = tokens_of(parquet_files[0], tiny_tokenizer())
    text = dry_run("data.train_batch_size=40")
    targets = sum(len(ids) - prompt for ids, prompt in rows)
    assert f"targets: mean {targets:,}, least {targets:,}, most {targets:,}" in text
    assert math.isfinite(sum(parts(text).values()))
