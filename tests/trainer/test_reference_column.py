"""Training by a column of the reference's log p is training beside the reference itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from verl.dft import score
from verl.trainer.fsdp_dft_trainer.command_line import compose_config
from verl.trainer.fsdp_dft_trainer.settings import Launch, complete_config

VARIANTS = {
    "iw": ["objective.name=iw_sft", "objective.max_weight=1.2"],
    "iw-plain": ["objective.name=iw_sft", "model.fused_head=false", "use_remove_padding=false"],
    "token-ulysses": ["objective.name=iw_sft_token", "ulysses_sequence_parallel_size=2"],
    "token-lora": ["objective.name=iw_sft_token", "model.lora_rank=4", "model.target_modules=[q_proj,down_proj]"],
}


@pytest.fixture(scope="module")
def scored(tmp_path_factory, tiny_model, parquet_files) -> list[Path]:
    out = [tmp_path_factory.mktemp("scored") / file.name for file in parquet_files]
    for source, target in zip(parquet_files, out, strict=True):
        arguments = ["--model", str(tiny_model), "--data", str(source), "--out", str(target), "--max_length", "256"]
        score.score(score.parser().parse_args([*arguments, "--device", "cpu"]))
    return out


def flags(model: Path, files: list[Path]) -> list[str]:
    return [
        f"data.train_files={files[0]}",
        f"data.val_files={files[1]}",
        f"model.partial_pretrain={model}",
        "data.train_batch_size=8",
        "data.max_length=256",
        "data.max_token_len_per_gpu=400",
        "optim.lr=1e-3",
        "optim.override_optimizer_config={eps:1e-6}",
        "trainer.total_training_steps=3",
    ]


def test_the_parameters_are_those_of_training_with_a_second_model(tmp_path, tiny_model, parquet_files, scored):
    runs = {}
    for name, more in VARIANTS.items():
        runs[f"{name}-model"] = [*flags(tiny_model, list(parquet_files)), *more]
        runs[f"{name}-column"] = [*flags(tiny_model, scored), *more, "objective.reference_key=reference"]
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    worker = Path(__file__).with_name("grid_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(worker)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [*command, str(tmp_path / "runs.json"), str(tmp_path)], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = [line for line in done.stdout.splitlines() if "by the column reference" in line]
    assert len(told) == len(VARIANTS) and not any("warning" in line for line in told)
    assert done.stdout.count("a frozen copy of it takes") == 3  # with LoRA the model without its adapters
    for name in VARIANTS:
        by_model, by_column = (
            load_file(tmp_path / f"{name}-{how}-2" / "full.safetensors") for how in ("model", "column")
        )
        for key, value in by_model.items():
            torch.testing.assert_close(by_column[key], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name, message",
    [
        ("asft", "asft compares whole distributions"),
        ("base_target", "base_target compares whole distributions"),
        ("dft", "dft does not compare with a reference"),
    ],
)
def test_objectives_that_a_column_does_not_suffice_for_are_refused(name, message, tiny_model, scored):
    given = [*flags(tiny_model, scored), f"objective.name={name}", "objective.reference_key=reference"]
    with pytest.raises(ValueError, match=message):
        complete_config(compose_config(given), Launch(), say=lambda text: None)


def test_a_file_without_the_column_is_refused_with_the_command_that_adds_it(tiny_model, parquet_files):
    given = [*flags(tiny_model, list(parquet_files)), "objective.name=iw_sft", "objective.reference_key=reference"]
    with pytest.raises(ValueError, match="expected the column reference in .*python -m verl.dft.score"):
        complete_config(compose_config(given), Launch(), say=lambda text: None)
