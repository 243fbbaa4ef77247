"""Same rows, same steps: the same loss and the same parameters, whatever the number of ranks and the batching.

The oracle is written out here: one process, one row at a time, float64, AdamW from its paper's formula.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tiny_model import tokens_of
from verl.dft.data.batches import TrainBatches

STEPS, BATCH, LR, SEED = 3, 8, 1e-3, 5
BETAS, DECAY, CLIP = (0.9, 0.95), 0.01, 1.0
# Adam's default of 1e-8 turns gradient entries of rounding-noise size into full steps of either sign; with this one the
# comparison is about the gradient.
EPS = 1e-6

BATCHING = {
    "1-micro-packed": ["data.micro_batch_size_per_gpu={all}"],
    "1-micro-padded": ["data.micro_batch_size_per_gpu={all}", "use_remove_padding=false"],
    "4-micro-packed": ["data.micro_batch_size_per_gpu={quarter}"],
    "4-micro-padded": ["data.micro_batch_size_per_gpu={quarter}", "use_remove_padding=false"],
    "token-budget": ["data.max_token_len_per_gpu=300"],
    "transformers-attention": ["data.max_token_len_per_gpu=300", "model.override_config.attn_implementation=sdpa"],
    "no-checkpointing": ["data.max_token_len_per_gpu=300", "model.enable_gradient_checkpointing=false"],
    "selective": ["data.max_token_len_per_gpu=300", "model.activation_checkpointing=selective"],
    "bucketed": ["data.max_token_len_per_gpu=300", "engine.pad_to_length=true", "engine.pad_to_length_bucket=64"],
    "ulysses": ["data.max_token_len_per_gpu=300", "ulysses_sequence_parallel_size={ranks}"],
}


# Over 22 steps: 2 of warm-up, then 18 (0.9 of the rest) at the full rate, then 2 down along a cosine.
WSD = ["optim.lr_scheduler=wsd", "optim.lr_warmup_steps=2", "trainer.total_training_steps=22"]


def flags_of(name: str, objective: str, ranks: int, model: Path, files: tuple[Path, Path]) -> list[str]:
    per_rank = BATCH // ranks
    batching = [flag.format(all=per_rank, quarter=per_rank // 4, ranks=ranks) for flag in BATCHING[name]]
    return [
        f"data.train_files={files[0]}",
        f"data.val_files={files[1]}",
        f"model.partial_pretrain={model}",
        f"objective.name={objective}",
        f"data.train_batch_size={BATCH}",
        "data.max_length=256",
        f"optim.lr={LR}",
        "optim.lr_scheduler=constant",
        "optim.warmup_steps_ratio=0",
        f"optim.override_optimizer_config={{eps:{EPS}}}",
        f"trainer.total_training_steps={STEPS}",
        f"trainer.seed={SEED}",
        *batching,
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model, parquet_files) -> Path:
    """All runs: two launches, one per number of ranks."""
    out = tmp_path_factory.mktemp("grid")
    for ranks in (1, 2):
        runs = {f"dft-{name}": flags_of(name, "dft", ranks, tiny_model, parquet_files) for name in BATCHING}
        runs["dft-wsd"] = [*flags_of("token-budget", "dft", ranks, tiny_model, parquet_files), *WSD]
        runs["sft-token-budget"] = flags_of("token-budget", "sft", ranks, tiny_model, parquet_files)
        (out / "runs.json").write_text(json.dumps(runs))
        worker = Path(__file__).with_name("grid_worker.py")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        done = subprocess.run([*command, str(worker), str(out / "runs.json"), str(out)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    return out


def sums_of_row(model, ids: list[int], prompt_length: int, objective: str):
    """Sums over the targets of one row: loss, NLL, 1 - p, hits, p of the end token; and their count."""
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    loss, nll, one_minus_p, hits = torch.zeros((), dtype=torch.float64), 0.0, 0.0, 0
    for position in range(prompt_length, len(ids)):
        log_p = torch.log_softmax(logits[position - 1], dim=0)[ids[position]]
        weight = math.exp(log_p.item()) if objective == "dft" else 1.0
        loss = loss - weight * log_p
        nll -= log_p.item()
        one_minus_p += 1 - math.exp(log_p.item())
        hits += int(logits[position - 1].argmax() == ids[position])
    return loss, nll, one_minus_p, hits, math.exp(log_p.item()), len(ids) - prompt_length


def metrics_of(model, rows, objective: str, backward: bool) -> dict[str, float]:
    count = sum(len(ids) - prompt for ids, prompt in rows)
    total = np.zeros(5)
    for ids, prompt in rows:
        loss, *others, _ = sums_of_row(model, ids, prompt, objective)
        if backward:
            (loss / count).backward()
        total += [loss.item(), *others]
    names = ("loss", "nll", "one_minus_p", "accuracy")
    means = dict(zip(names, total[:4] / count, strict=True))
    return {**means, "stop_p": total[4] / len(rows), "target_tokens": count}


def reference(objective: str, model_folder: Path, files: tuple[Path, Path]):
    """Parameters and metrics of every step, and the final validation."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float64, attn_implementation="eager")
    rows, val_rows = tokens_of(files[0], tokenizer), tokens_of(files[1], tokenizer)
    plan = TrainBatches(len(rows), None, BATCH, 0, 1, SEED)
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in model.named_parameters()}
    history = []
    for step in range(1, STEPS + 1):
        model.zero_grad()
        metrics = metrics_of(model, [rows[i] for i in plan.global_rows(step)], objective, backward=True)
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
        history.append({**metrics, "grad_norm": norm})
        for name, p in model.named_parameters():
            gradient = p.grad * min(1.0, CLIP / (norm + 1e-6))
            first, second = moments[name]
            first.mul_(BETAS[0]).add_(gradient, alpha=1 - BETAS[0])
            second.mul_(BETAS[1]).add_(gradient.square(), alpha=1 - BETAS[1])
            update = (first / (1 - BETAS[0] ** step)) / ((second / (1 - BETAS[1] ** step)).sqrt() + EPS)
            p.data = p.data * (1 - LR * DECAY) - LR * update
    with torch.no_grad():
        validation = metrics_of(model, val_rows, objective, backward=False)
    return dict(model.named_parameters()), history, validation


@pytest.fixture(scope="module")
def references(tiny_model, parquet_files):
    return {objective: reference(objective, tiny_model, parquet_files) for objective in ("dft", "sft")}


RUNS = [f"dft-{name}" for name in BATCHING] + ["sft-token-budget"]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("run", RUNS)
def test_parameters_after_three_steps_are_the_references(trained, references, run, ranks):
    expected, _, _ = references[run.split("-")[0]]
    state = load_file(trained / f"{run}-{ranks}" / "full.safetensors")
    for name, value in expected.items():
        error = (state[name].double() - value).norm() / value.norm()
        assert error < 1e-5, f"{name}: {error}"


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("run", RUNS)
def test_every_metric_is_the_references(trained, references, run, ranks):
    _, history, validation = references[run.split("-")[0]]
    lines = [json.loads(line) for line in (trained / f"{run}-{ranks}" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == STEPS
    for line, expected in zip(lines, history, strict=True):
        for name, value in expected.items():
            assert line[f"train/{name}"] == pytest.approx(value, rel=1e-5), name
        assert line["train/mean_p"] == pytest.approx(1 - line["train/one_minus_p"])
        assert line["train/tokens_per_second"] > 0
    for name, value in validation.items():
        assert lines[-1][f"val/{name}"] == pytest.approx(value, rel=1e-5), name


def test_the_wsd_schedule_warms_up_stays_and_decays(trained):
    lines = (trained / "dft-wsd-1" / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line)["train/lr"] / LR for line in lines]
    assert rates == pytest.approx([0, 0.5, *[1] * 19, 0.5])


def test_dft_and_sft_train_different_models(references):
    """Otherwise the two tests above could not tell the objectives apart."""
    dft, sft = references["dft"][0], references["sft"][0]
    name = "model.layers.0.mlp.down_proj.weight"
    assert (dft[name] - sft[name]).norm() / sft[name].norm() > 1e-3
