"""Rows without a single target token contribute nothing: no NaN, no hang, and no line that is not JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model, parquet_files) -> Path:
    out = tmp_path_factory.mktemp("run")
    flags = [
        f"data.train_files={parquet_files[0]}",
        f"data.val_files={parquet_files[1]}",
        f"data.custom_cls.path={Path(__file__).with_name('no_targets.py')}",
        "data.custom_cls.name=Rows",
        f"model.partial_pretrain={tiny_model}",
        f"trainer.default_local_dir={out}",
        "data.train_batch_size=8",
        "trainer.total_training_steps=4",
        "trainer.total_epochs=2",
        "optim.lr=1e-3",
        "optim.lr_scheduler=constant",
        "optim.warmup_steps_ratio=0",
        "optim.weight_decay=0",
        "trainer.save_freq=1",
        "trainer.test_freq=2",
    ]
    command = [*TORCHRUN, "-m", "verl.trainer.fsdp_dft_trainer", *flags]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ}, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def no_json(word: str):
    raise AssertionError(f"{word} is not JSON")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_the_metrics_are_json_with_null_for_what_has_no_mean(trained):
    text = (trained / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line, parse_constant=no_json) for line in text]
    assert [line["train/target_tokens"] for line in lines] == [0, 20, 40, 40]
    assert lines[0]["train/nll"] is None and lines[0]["train/grad_norm"] == 0
    assert all(line["train/nll"] > 0 and line["train/grad_norm"] > 0 for line in lines[1:])
    assert [line["val/nll"] for line in lines if "val/nll" in line] == [None, None]


def test_a_batch_without_targets_leaves_the_weights_alone_and_the_next_one_trains(trained, tiny_model):
    before, first, last = weights(tiny_model), *(weights(trained / f"global_step_{i}" / "huggingface") for i in (1, 4))
    assert all(torch.equal(before[name], first[name]) for name in before)
    assert all(torch.isfinite(value).all() for value in last.values())
    assert not torch.equal(before["model.embed_tokens.weight"], last["model.embed_tokens.weight"])
