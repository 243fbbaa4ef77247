#!/usr/bin/env python
"""Tokens per second of whole training steps: this project's engine and verl 0.9.1's own, on the same rows.

    python scripts/bench_train.py                # a small model with a vocabulary of 32,000 on a CPU, about 15 minutes
    python scripts/bench_train.py --device cuda  # Qwen2.5-Math-1.5B's shape, random weights, one GPU

Rows have the lengths of GSM8K's: log-normal, fitted to the characters of its questions and answers at 3.5 characters a
token. Only non-padding tokens count. Each variant runs in a process of its own, in rounds that take turns; medians.
Writes benchmarks/results/train-<device>.json and .md.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
# (mean, deviation) of log characters in GSM8K's training questions and answers
QUESTION, ANSWER, CHARACTERS = (5.384, 0.382), (5.544, 0.487), 3.5
SHAPES: dict[str, dict[str, Any]] = {
    "cpu": {
        "model": dict(vocab_size=32_000, hidden_size=512, intermediate_size=1536, num_hidden_layers=8,
                      num_attention_heads=8, num_key_value_heads=2, tie_word_embeddings=True),
        "batch": 16, "budget": 2048, "micro": 8, "steps": 3,
    },
    "cuda": {
        "model": dict(vocab_size=151_936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
                      num_attention_heads=12, num_key_value_heads=2, tie_word_embeddings=True),
        "batch": 256, "budget": 16_384, "micro": 16, "steps": 5,
    },
}  # fmt: skip
PADDED = "use_remove_padding=false"
VARIANTS: dict[str, tuple[str, str, list[str]]] = {  # label, whose engine, flags
    "dft": ("this project, DFT", "ours", ["objective.name=dft"]),
    "sft": ("this project, SFT", "ours", ["objective.name=sft"]),
    "dft_keeping": ("this project, DFT, no activation checkpointing", "ours", ["model.activation_checkpointing='off'"]),
    "dft_plain": ("this project, DFT, plain head", "ours", ["model.fused_head=false"]),
    "dft_padded": ("this project, DFT, padded", "ours", [PADDED]),
    "verl": ("verl 0.9.1, SFT", "verl", ["objective.name=sft"]),
    "verl_padded": ("verl 0.9.1, SFT, padded", "verl", ["objective.name=sft", PADDED]),
}


def rows(count: int, vocabulary: int) -> list[dict[str, Any]]:
    """Random ids with the lengths of GSM8K's questions and answers."""
    import numpy as np
    import torch

    random = np.random.default_rng(0)
    made = []
    for _ in range(count):
        prompt, answer = (max(2, round(float(random.lognormal(*fit)) / CHARACTERS)) for fit in (QUESTION, ANSWER))
        ids = torch.from_numpy(random.integers(10, vocabulary, prompt + answer))
        mask = (torch.arange(len(ids)) >= prompt).long()
        made.append({"input_ids": ids, "position_ids": torch.arange(len(ids)), "loss_mask": mask})
    return made


def measure(name: str, folder: Path, shape: dict[str, Any]) -> dict[str, float]:
    """Under torchrun with one rank: seconds of a step, tokens per second, peak memory."""
    import torch
    from verl.utils.device import get_device_name
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
    from verl.workers.utils.losses import sft_loss

    from verl.trainer.fsdp_dft_trainer.checks import complete_config
    from verl.trainer.fsdp_dft_trainer.command_line import compose_config
    from verl.trainer.fsdp_dft_trainer.trainer import DFTTrainer

    class Bench(DFTTrainer):
        def _dataset(self, files: list[str], flag: str, max_rows: int) -> Any:
            return rows(shape["batch"] * (shape["steps"] + 1), shape["model"]["vocab_size"])

        def _build_engine(self) -> None:
            super()._build_engine()
            if VARIANTS[name][1] == "verl":
                ours = self.engine
                parts = ours.model_config, ours.engine_config, ours.optimizer_config, ours.checkpoint_config
                self.engine = FSDPEngineWithLMHead(*parts)
                self.objective = lambda **given: sft_loss(config=None, **given)

        def _tell_activation_memory(self) -> None:
            pass

    on_gpu = get_device_name() != "cpu"
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    flags = [f"model.partial_pretrain={folder}", f"data.train_files={folder}/rows.parquet", *VARIANTS[name][2]]
    flags += [f"data.train_batch_size={shape['batch']}", "data.max_length=1024", "trainer.logger=[]"]
    flags += [f"trainer.default_local_dir={folder}/out", "trainer.resume_mode=disable", "optim.lr=1e-5"]
    flags.append("data.chat_template=direct")
    if VARIANTS[name][1] == "verl" and not on_gpu:
        flags.append("model.override_config.attn_implementation=sdpa")  # what verl has without flash-attn
    padded = PADDED in VARIANTS[name][2]
    flags.append(f"data.micro_batch_size_per_gpu={shape['micro']}" if padded else
                 f"data.max_token_len_per_gpu={shape['budget']}")  # fmt: skip
    trainer = Bench(complete_config(compose_config(flags), say=lambda text: None))
    seconds, cpu, tokens = [], [], []
    for step in range(shape["steps"] + 1):
        batch = trainer._batch(trainer.train_dataset[step * shape["batch"] : (step + 1) * shape["batch"]])
        began, cpu_began = time.perf_counter(), sum(os.times()[:2])
        with trainer.engine.train_mode():
            trainer.engine.train_batch(batch, loss_function=trainer.objective)
        trainer.engine.lr_scheduler_step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        cpu.append(sum(os.times()[:2]) - cpu_began)
        tokens.append(int(batch["input_ids"].offsets()[-1]))
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    timed = seconds if on_gpu else cpu  # the first step, which sets things up, is left out
    torch.distributed.destroy_process_group()
    return {
        "tokens_per_second": sum(tokens[1:]) / sum(seconds[1:]),
        "tokens_per_timed_second": sum(tokens[1:]) / sum(timed[1:]),
        "peak_memory": peak,
    }


def run(names: list[str], shape: dict[str, Any], rounds: int) -> dict[str, dict[str, Any]]:
    import pandas as pd
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        Qwen2ForCausalLM(Qwen2Config(**shape["model"])).save_pretrained(folder)
        words = Tokenizer(models.WordLevel({"<end>": 0, "What": 1, "is": 2, "?": 3}, unk_token="?"))
        PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>").save_pretrained(folder)
        pd.DataFrame({"question": ["?"], "answer": ["?"]}).to_parquet(folder / "rows.parquet")
        for turn in range(rounds):
            for name in names if turn % 2 == 0 else reversed(names):
                command = [
                    sys.executable,
                    "-m",
                    "torch.distributed.run",
                    "--standalone",
                    "--nproc_per_node=1",
                    __file__,
                ]
                command += ["--worker", name, "--folder", str(folder), "--shape", json.dumps(shape)]
                done = subprocess.run(command, capture_output=True, text=True)
                lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
                if not lines:
                    errors = [
                        line for line in done.stderr.splitlines() if line.startswith("[rank0]: ") and "Error: " in line
                    ]
                    print(f"{name} failed: {errors[0] if errors else done.stderr[-2000:]}", flush=True)
                    continue
                found[name].append(json.loads(lines[0].removeprefix("RESULT ")))
                print(f"round {turn + 1}/{rounds} {name}: {found[name][-1]}", flush=True)
    return {
        name: {key: statistics.median(x[key] for x in runs) for key in runs[0]} | {"rounds": runs}
        for name, runs in found.items()
        if runs
    }


def table(results: dict[str, dict[str, Any]], device: str) -> str:
    unit = "CPU second" if device == "cpu" else "second"
    base = results.get("verl", next(iter(results.values())))["tokens_per_timed_second"]
    lines = [f"| trainer | tokens per {unit} | of verl's | peak memory, GiB |", "|---|---|---|---|"]
    for name, values in sorted(results.items(), key=lambda item: -item[1]["tokens_per_timed_second"]):
        rate, memory = values["tokens_per_timed_second"], values["peak_memory"] / 2**30
        lines.append(f"| {VARIANTS[name][0]} | {rate:,.0f} | {rate / base:.2f} | {memory:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print("RESULT " + json.dumps(measure(args.worker, args.folder, args.shape)), flush=True)
        return
    import torch

    results = run(args.variants, SHAPES[args.device], args.rounds)
    cores = f"{os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}"
    machine = f"{torch.cuda.get_device_name()}; {cores}" if args.device != "cpu" else cores
    report = {"machine": machine, "shape": SHAPES[args.device], "results": results}
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = table(results, args.device)
    (RESULTS / f"train-{args.device}.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / f"train-{args.device}.md").write_text(f"{machine}\n\n{text}\n")
    print(text)


if __name__ == "__main__":
    main()
