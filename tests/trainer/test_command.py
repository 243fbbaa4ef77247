"""The trainer as a user runs it: the command, its files, and its way of saying what is wrong."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tiny_model import CHAT_TEMPLATE, save_tiny_model
from verl.dft.data.prompts import PromptFormat
from verl.trainer.fsdp_dft_trainer.command_line import compose_config
from verl.trainer.fsdp_dft_trainer.inputs import model_and_prompts
from verl.trainer.fsdp_dft_trainer.recipe import prompt_format
from verl.trainer.fsdp_dft_trainer.settings import Launch, complete_config

PROJECT = Path(__file__).parents[2]
MODULE = ["-m", "verl.trainer.fsdp_dft_trainer"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def train(*flags: str, ranks: int | None = None, **environment: str) -> subprocess.CompletedProcess:
    launcher = [sys.executable] if ranks is None else [*TORCHRUN, f"--nproc_per_node={ranks}"]
    return subprocess.run(
        [*launcher, *MODULE, *flags], capture_output=True, text=True, env={**os.environ, **environment}, timeout=300
    )


def flags_for(model: Path, train_file: Path, out: Path, *more: str) -> list[str]:
    return [
        f"data.train_files={train_file}",
        f"model.partial_pretrain={model}",
        f"trainer.default_local_dir={out}",
        "data.train_batch_size=8",
        "data.max_length=256",
        *more,
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model, parquet_files):
    """A run of 5 steps on 2 ranks that stopped at step 3 and was started again, and the same without the stop."""
    out = tmp_path_factory.mktemp("run")
    common = (f"data.val_files={parquet_files[1]}", "optim.lr=1e-3", "trainer.save_freq=3", "trainer.test_freq=2")
    outputs = []
    for name, steps in (("stopped", 3), ("stopped", 5), ("whole", 5)):
        # The schedule must not depend on where the run stops.
        more = (
            *common,
            "optim.lr_scheduler=constant",
            "optim.lr_warmup_steps=2",
            f"trainer.total_training_steps={steps}",
        )
        done = train(*flags_for(tiny_model, parquet_files[0], out / name, *more), ranks=2)
        assert done.returncode == 0, done.stderr[-3000:]
        outputs.append(done.stdout)
    return out, outputs


def test_the_run_leaves_a_model_that_transformers_loads_with_its_prompt_format(finished, tiny_model):
    checkpoint = finished[0] / "whole" / "global_step_5"
    model = AutoModelForCausalLM.from_pretrained(checkpoint / "huggingface")
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint / "huggingface")
    assert model.dtype == torch.float32  # that of training on a CPU
    assert not torch.equal(model.lm_head.weight, base.lm_head.weight)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    stored = PromptFormat.load(checkpoint)
    assert stored == PromptFormat.load(checkpoint / "huggingface")
    assert stored.template == tokenizer.chat_template == CHAT_TEMPLATE
    assert stored.stop == ("<|endoftext|>",) and stored.training["objective"] == {"name": "dft"}


def test_the_exported_configuration_asks_for_no_attention_of_ours(finished):
    config = json.loads((finished[0] / "whole" / "global_step_5" / "huggingface" / "config.json").read_text())
    assert not [key for key in config if "attn" in key]


def test_the_first_row_is_shown_with_its_mask_and_the_rows_are_counted(finished):
    output = finished[1][2]
    assert "⟦0 plus 0 is \\boxed{0}.<|endoftext|>⟧" in output
    assert "data.train_files: 40 rows in, 40 kept" in output
    assert "data.val_files: 13 rows in, 13 kept" in output


def test_the_forecast_and_the_memory_of_activations_are_told_once(finished):
    _, (first, again, whole) = finished
    for output in (first, whole):
        assert output.count("Before the first update, on its batch: forecast on ") == 1
        assert output.count("Activations of the layers for 8192 tokens") == 1
    assert "forecast" not in again


def test_a_started_again_run_goes_on_where_it_was_and_ends_the_same(finished):
    out, outputs = finished
    assert "Going on from" in outputs[1] and "Going on from" not in outputs[2]
    lines = {name: (out / name / "metrics.jsonl").read_text().splitlines() for name in ("stopped", "whole")}
    stopped, whole = ([json.loads(line) for line in lines[name]] for name in ("stopped", "whole"))
    assert [line["step"] for line in stopped] == [1, 2, 3, 4, 5]
    assert [line["train/nll"] for line in stopped] == [line["train/nll"] for line in whole]
    ends = [
        AutoModelForCausalLM.from_pretrained(out / name / "global_step_5" / "huggingface").state_dict()
        for name in ("stopped", "whole")
    ]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_validation_happens_when_due_and_at_the_end(finished):
    lines = [json.loads(line) for line in (finished[0] / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "val/nll" in line] == [2, 4, 5]
    assert (finished[0] / "whole" / "tensorboard").is_dir()


def test_no_partial_checkpoint_is_left(finished):
    assert sorted(p.name for p in (finished[0] / "whole").glob("*global_step*")) == ["global_step_3", "global_step_5"]


def test_the_checkpoint_is_scored_by_the_evaluation_script(finished, tmp_path):
    checkpoint = finished[0] / "whole" / "global_step_5"
    questions = tmp_path / "sums.jsonl"
    questions.write_text(
        "".join(json.dumps({"question": f"What is {i} + 1?", "answer": str(i + 1)}) + "\n" for i in range(4))
    )
    command = ["bash", str(PROJECT / "sh" / "eval.sh"), "auto", str(checkpoint), str(tmp_path / "scores"), "2", "1"]
    more = ["--data_names", str(questions), "--max_tokens_per_call", "8"]
    done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    samples = (tmp_path / "scores" / "sums" / "samples.jsonl").read_text().splitlines()
    assert len(samples) == 8
    assert json.loads(samples[0])["prompt"].endswith("<|im_start|>assistant\n")
    assert (tmp_path / "scores" / "report.md").is_file()


def test_lora_trains_without_torchrun_and_is_merged_into_the_export(tmp_path, tiny_model, parquet_files):
    flags = ("model.lora_rank=4", "optim.lr=1e-2", "trainer.total_training_steps=2", "optim.warmup_steps_ratio=0")
    done = train(*flags_for(tiny_model, parquet_files[0], tmp_path, *flags))
    assert done.returncode == 0, done.stderr[-3000:]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "global_step_2" / "huggingface").state_dict()
    base = AutoModelForCausalLM.from_pretrained(tiny_model).state_dict()
    assert merged.keys() == base.keys()
    adapted = {key for key in base if not torch.equal(base[key], merged[key])}
    assert adapted == {key for key in base if "_proj.weight" in key}


CUSTOM_DATASET = """
import torch

class Repeated(torch.utils.data.Dataset):
    def __init__(self, parquet_files, tokenizer, config, processor, max_samples):
        self.first = {first}

    def __len__(self):
        return 16

    def __getitem__(self, index):
        ids = torch.arange(1, 6 + index % 3)
        mask = torch.ones_like(ids)
        mask[0] = self.first
        return {{"input_ids": ids, "position_ids": torch.arange(len(ids)), "loss_mask": mask}}
"""


@pytest.mark.parametrize("first", [0, 1])
def test_a_dataset_of_the_users_own_is_trained_unless_a_row_starts_with_a_target(
    tmp_path, tiny_model, parquet_files, first
):
    (tmp_path / "mine.py").write_text(CUSTOM_DATASET.format(first=first))
    flags = (f"data.custom_cls.path={tmp_path}/mine.py", "data.custom_cls.name=Repeated")
    done = train(*flags_for(tiny_model, parquet_files[0], tmp_path / "out", *flags))
    assert done.returncode == first, done.stderr[-3000:]
    if first:
        assert "expected loss_mask 0 at the first token of every row, found 1" in done.stderr
    else:
        line = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])
        assert line["train/target_tokens"] in range(8 * 4, 8 * 6 + 1)


def test_a_mistake_is_one_line_and_status_1(tmp_path, tiny_model):
    done = train(*flags_for(tiny_model, tmp_path / "none.parquet", tmp_path))
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(errors) == 1 and errors[0].startswith(
        "error: data.train_files: expected a data file, found nothing at"
    )


def test_the_trace_is_there_for_those_who_ask(tiny_model, parquet_files, tmp_path):
    done = train(*flags_for(tiny_model, parquet_files[0], tmp_path, "objective.name=dtf"), VERL_DFT_TRACEBACK="1")
    assert done.returncode == 1 and "Traceback" in done.stderr and "found 'dtf'" in done.stderr


def test_a_bad_row_ends_all_ranks_soon_with_the_rows_place(tmp_path, tiny_model):
    file = tmp_path / "rows.parquet"
    pd.DataFrame([{"question": "a", "answer": "b"}] * 9 + [{"question": None, "answer": "b"}]).to_parquet(file)
    started = time.monotonic()
    done = train(*flags_for(tiny_model, file, tmp_path), ranks=2)
    assert done.returncode == 1 and time.monotonic() - started < 60
    assert done.stderr.count("row 9: expected text or chat messages in question, found null") >= 1
    assert "Loading weights" not in done.stderr


def model_error(folder: Path) -> str:
    flags = [f"data.train_files={folder}/../rows.parquet", f"model.partial_pretrain={folder}"]
    pd.DataFrame([{"question": "a", "answer": "b"}]).to_parquet(folder.parent / "rows.parquet")
    with pytest.raises(ValueError) as error:
        config = complete_config(compose_config(flags), Launch(), say=lambda text: None)
        model_and_prompts(config)[1]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folders_that_are_no_models_are_named(tmp_path, tiny_model):
    (tmp_path / "empty").mkdir()
    assert "no config.json there" in model_error(tmp_path / "empty")
    shutil.copytree(tiny_model, tmp_path / "broken")
    (tmp_path / "broken" / "config.json").write_text("{")
    assert "expected a model and its tokenizer in model.partial_pretrain" in model_error(tmp_path / "broken")
    shutil.copytree(tiny_model, tmp_path / "mute")
    for file in (tmp_path / "mute").glob("*token*"):
        file.unlink()
    assert "found one without vocabulary" in model_error(tmp_path / "mute")


def test_a_model_without_chat_template_is_refused_with_the_way_out(tmp_path):
    save_tiny_model(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    assert "Give one with data.chat_template" in model_error(tmp_path)


def test_the_stop_token_is_stored_and_must_be_one_token(tiny_model, tmp_path):
    pd.DataFrame([{"question": "a", "answer": "b", "messages": []}]).to_parquet(tmp_path / "rows.parquet")

    def stop(*flags: str):
        flags = (f"data.train_files={tmp_path}/rows.parquet", f"model.partial_pretrain={tiny_model}", *flags)
        config = complete_config(compose_config(flags), Launch(), say=lambda text: None)
        return model_and_prompts(config)[1].stop

    assert stop() == ("<|endoftext|>",)
    assert stop("data.response_end='<|im_end|>'") == ("<|im_end|>",)
    assert stop("data.multiturn.enable=true") == ("<|im_end|>",)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.eos_token = None
    flags = (f"data.train_files={tmp_path}/rows.parquet", f"model.partial_pretrain={tiny_model}")
    ended = complete_config(compose_config([*flags, "data.response_end='<|im_end|>'"]), Launch(), say=lambda text: None)
    assert prompt_format(ended, tokenizer).stop == ("<|im_end|>",)
    with pytest.raises(ValueError, match="expected a tokenizer with an eos token, found none"):
        prompt_format(complete_config(compose_config(flags), Launch(), say=lambda text: None), tokenizer)
    with pytest.raises(ValueError, match="expected a response to end in a token of its own, found 'END'"):
        stop("data.response_end=END")
