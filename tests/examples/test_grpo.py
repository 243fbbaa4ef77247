"""The hand-over to verl's GRPO trainer: its configuration takes every flag, and it asks and stops as was trained."""

import json
import os
import subprocess
from types import SimpleNamespace

import pandas as pd
import pytest
from commands import PROJECT, compose_rl_config, lines_of_dry_run, module_of_file
from omegaconf import OmegaConf
from transformers import AutoTokenizer, GenerationConfig
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config
from verl.utils.dataset.rl_dataset import RLHFDataset

from tiny_model import save_tiny_model
from verl.dft.data.prompts import PromptFormat, resolve_prompt_format

prepare = module_of_file(PROJECT / "examples" / "grpo" / "prepare.py")
QUESTIONS = ["What is 1 + 1?", "  Two\nlines {% with %} 'quotes' \"and\" {{braces}}\\ ", "<|im_end|> as text", "3?"]
FORMATS = {
    "chat": {"template": None},
    "text": {"template": "qwen-boxed", "stop": ["<|im_end|>"]},
    "jinja": {"template": "{% for m in messages %}<{{ m.content }}>{{ x }}{% endfor %}", "template_kwargs": {"x": "a"}},
}


def checkpoint_of(folder, name: str) -> tuple:
    model = save_tiny_model(folder / "global_step_3" / "huggingface")
    prompts = resolve_prompt_format(tokenizer=AutoTokenizer.from_pretrained(model), **FORMATS[name])
    prompts.save(model)
    return folder / "global_step_3", prompts


def rows_file(file):
    rows = [
        {
            "data_source": "made",
            "prompt": [{"role": "user", "content": f"another prompt than was trained {i}"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": None if i == 3 else str(i)},
            "extra_info": {"split": "train", "index": i, "question": question, "answer": f"\\boxed{{{i}}}"},
        }
        for i, question in enumerate(QUESTIONS)
    ]
    pd.DataFrame(rows).to_parquet(file)
    return file


def prepared(tmp_path, name: str, *more: str) -> PromptFormat:
    checkpoint, prompts = checkpoint_of(tmp_path, name)
    file = str(rows_file(tmp_path / "rows.parquet"))
    words = ["--checkpoint", str(checkpoint), "--train", file, "--val", file, "--out", str(tmp_path / "out")]
    prepare.prepare(prepare.parser().parse_args([*words, "--max_response_length", "32", *more]))
    return prompts


@pytest.mark.parametrize("name", FORMATS)
def test_verl_asks_with_the_trained_prompt_and_stops_at_the_trained_token(tmp_path, name, capsys):
    prompts = prepared(tmp_path, name)
    assert "4 rows in, 2 kept; dropped 1 whose prompt would be other tokens" in capsys.readouterr().out
    flags = (tmp_path / "out" / "flags").read_text().split("\n")[:-1]
    config = compose_rl_config(
        [f"data.train_files={tmp_path}/out/train.parquet", "actor_rollout_ref.rollout.name=vllm", *flags]
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    data = RLHFDataset([str(tmp_path / "out" / "train.parquet")], tokenizer, config.data)
    found = [data[i] for i in range(len(data))]
    assert [row["reward_model"]["ground_truth"] for row in found] == ["0", "1"]
    lengths = []
    for row, question in zip(found, QUESTIONS, strict=False):
        ids = tokenizer.apply_chat_template(
            list(row["raw_prompt"]), add_generation_prompt=True, return_dict=False,
            **config.data.apply_chat_template_kwargs,
        )  # fmt: skip
        assert ids == prompts.encode(question, AutoTokenizer.from_pretrained(tmp_path / "out" / "model"))
        lengths.append(len(ids))
    assert config.data.max_prompt_length == max(lengths)
    stops = GenerationConfig.from_pretrained(tmp_path / "out" / "model").eos_token_id
    assert [tokenizer.decode([stop]) for stop in stops] == list(prompts.stop)
    assert (tmp_path / "out" / "model" / "model.safetensors").resolve().parent.name == "huggingface"


def test_every_flag_of_the_script_is_verls_and_its_own_checks_pass(tmp_path):
    prepared(tmp_path, "text")
    (command,) = lines_of_dry_run(PROJECT / "sh" / "grpo.sh", ["C", "D"], OUT=str(tmp_path / "out"), NPROC="8")
    assert command[:3] == ["python", "-m", "verl.trainer.main_ppo"]
    config = compose_rl_config(command[3:])
    assert len(command) > 35
    for flag in command[3:]:
        name, value = flag.lstrip("+").split("=", 1)
        expected = OmegaConf.create({"v": value}) if not value.startswith("[") else None
        written = OmegaConf.select(config, name)
        assert written is not None, flag
        if expected is not None:
            assert str(written).lower() in (value.lower(), str(json_or_text(value)).lower()), flag
    assert not need_critic(config) and need_reference_policy(config)
    validate_config(config, use_reference_policy=True, use_critic=False)


def json_or_text(value: str):
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


@pytest.mark.parametrize(
    "change, message",
    [
        ({"max_response_length": 10**6}, "to fit the model's .* positions. Lower the latter"),
        ({"checkpoint": "plain"}, "expected prompt_format.json in"),
        ({"train": "other"}, "expected the columns data_source, extra_info, reward_model in"),
    ],
)
def test_what_cannot_be_handed_over_is_refused(tmp_path, change, message):
    checkpoint, _ = checkpoint_of(tmp_path, "text")
    file = rows_file(tmp_path / "rows.parquet")
    options = {"checkpoint": str(checkpoint), "train": str(file), "val": None, "held_out": 1, "seed": 0}
    options |= {"max_response_length": 16, "out": str(tmp_path / "out")} | change
    if change.get("checkpoint"):
        options["checkpoint"] = str(save_tiny_model(tmp_path / "plain"))
    if change.get("train"):
        pd.DataFrame({"question": ["1"]}).to_parquet(tmp_path / "other.parquet")
        options["train"] = str(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=message):
        prepare.prepare(SimpleNamespace(**options))


def test_the_script_says_what_it_needs():
    done = subprocess.run(
        ["bash", str(PROJECT / "sh" / "grpo.sh"), "CHECKPOINT"], capture_output=True, text=True, env={**os.environ}
    )
    assert done.returncode == 1 and "expected CHECKPOINT DATA" in done.stderr
