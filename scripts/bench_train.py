#!/usr/bin/env python
"""Tokens per second of whole training steps: this project, verl 0.9.1's own SFT trainer and TRL's, on the same rows.

    python scripts/bench_train.py                                  # 8 layers, a vocabulary of 32,000, on a CPU
    python scripts/bench_train.py --shape quickstart               # the quickstart's model
    python scripts/bench_train.py --lengths math                   # rows as long as MATH's
    python scripts/bench_train.py --shape qwen-1.5b --lengths full # one GPU, rows of 2,048 tokens; or qwen-7b
    python scripts/bench_train.py --trl_python ENV/bin/python      # with TRL: pip install trl==1.16.0 in its own ENV

Weights and ids are random. Rows have the lengths of GSM8K's (log-normal, fitted to the characters of its questions and
answers at 3.5 characters a token), with --lengths math those of MATH's, a part of NuminaMath with a longer tail, or
with --lengths full that of the longest allowed; what is longer than that is cut. Only non-padding tokens count.
Each variant runs in a process of its own, in rounds that take turns; medians of the rounds, the first step left out.
Seconds are CPU seconds on a CPU (they suffer less from other work than the clock), device time on a GPU. MFU: the
operations that the model needs (6 per token and matrix weight with the head, 6 per attended pair and unit; embedding
and recomputation not counted) over the peak: 989 TFLOP/s, or on a CPU the rate of a large matrix product.
Writes benchmarks/results/train-<shape>-<lengths>.json and .md.
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
# (mean, deviation) of log characters of questions, of answers: GSM8K's training rows, MATH-500's with their solutions
CHARACTERS = {"gsm8k": ((5.384, 0.382), (5.544, 0.487)), "math": ((5.000, 0.735), (6.013, 0.746))}
PER_TOKEN = 3.5
GPU_PEAK = 989e12  # dense bf16 of an H100 or H200
SHAPES: dict[str, dict[str, Any]] = {
    "small": {
        "model": dict(vocab_size=32_000, hidden_size=512, intermediate_size=1536, num_hidden_layers=8,
                      num_attention_heads=8, num_key_value_heads=2, tie_word_embeddings=True),
        "device": "cpu", "batch": 16, "budget": 2048, "micro": 8, "longest": 1024, "steps": 3,
    },
    "quickstart": {
        "model": dict(vocab_size=429, hidden_size=64, intermediate_size=192, num_hidden_layers=3,
                      num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True),
        "device": "cpu", "batch": 32, "budget": 8192, "micro": 16, "longest": 1024, "steps": 20,
    },
    "qwen-1.5b": {
        "model": dict(vocab_size=151_936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
                      num_attention_heads=12, num_key_value_heads=2, tie_word_embeddings=True),
        "device": "cuda", "batch": 64, "budget": 16_384, "micro": 8, "longest": 2048, "steps": 5,
    },
    "qwen-7b": {
        "model": dict(vocab_size=152_064, hidden_size=3584, intermediate_size=18_944, num_hidden_layers=28,
                      num_attention_heads=28, num_key_value_heads=4, tie_word_embeddings=False),
        "device": "cuda", "batch": 32, "budget": 8192, "micro": 4, "longest": 2048, "steps": 4, "pure_bf16": True,
    },
}  # fmt: skip
PADDED = "use_remove_padding=false"
VARIANTS: dict[str, tuple[str, str, list[str]]] = {  # label, whose engine, flags or head
    "dft": ("this project, DFT", "ours", ["objective.name=dft"]),
    "sft": ("this project, SFT", "ours", ["objective.name=sft"]),
    "dft_selective": ("this project, DFT, selective", "ours", ["model.activation_checkpointing=selective"]),
    "dft_keeping": ("this project, DFT, no checkpointing", "ours", ["model.activation_checkpointing='off'"]),
    "dft_plain": ("this project, DFT, plain head", "ours", ["model.fused_head=false"]),
    "dft_padded": ("this project, DFT, padded", "ours", [PADDED]),
    "verl": ("verl 0.9.1, SFT", "verl", []),
    "verl_fused": ("verl 0.9.1, SFT, its fused torch head", "verl", ["torch"]),
    "verl_triton": ("verl 0.9.1, SFT, its fused triton head", "verl", ["triton"]),
    "verl_padded": ("verl 0.9.1, SFT, padded", "verl", [PADDED]),
    "trl": ("TRL, DFT", "trl", []),
    "trl_packed": ("TRL, DFT, padding-free", "trl", ["padding_free"]),
}


def rows(shape: dict[str, Any], lengths: str) -> list[dict[str, Any]]:
    """Random ids for one step of warm-up and the timed ones; the same in every process."""
    import numpy as np
    import torch

    random = np.random.default_rng(0)
    made = []
    for _ in range(shape["batch"] * (shape["steps"] + 1)):
        if lengths == "full":
            prompt, answer = shape["longest"] // 4, shape["longest"] - shape["longest"] // 4
        else:
            prompt, answer = (max(2, round(float(random.lognormal(*fit)) / PER_TOKEN)) for fit in CHARACTERS[lengths])
            answer = min(answer, shape["longest"] - prompt)
        ids = torch.from_numpy(random.integers(10, shape["model"]["vocab_size"], prompt + answer))
        mask = (torch.arange(len(ids)) >= prompt).long()
        made.append({"input_ids": ids, "position_ids": torch.arange(len(ids)), "loss_mask": mask})
    return made


def operations(shape: dict[str, Any], lengths: list[int]) -> float:
    """What a step on rows of these lengths needs, forward and backward."""
    m = shape["model"]
    head_size = m["hidden_size"] // m["num_attention_heads"]
    attention = m["hidden_size"] * head_size * (2 * m["num_attention_heads"] + 2 * m["num_key_value_heads"])
    layer = attention + 3 * m["hidden_size"] * m["intermediate_size"]
    weights = layer * m["num_hidden_layers"] + m["hidden_size"] * m["vocab_size"]
    units = m["num_hidden_layers"] * m["hidden_size"]
    return sum(6 * weights * n + 6 * units * n * n for n in lengths)


def peak_rate(shape: dict[str, Any]) -> float:
    """Operations per second (CPU second on a CPU) that count as 1 for MFU."""
    if shape["device"] != "cpu":
        return GPU_PEAK
    import torch

    a, rates = torch.randn(2048, 2048), []
    for _ in range(5):
        began = sum(os.times()[:2])
        for _ in range(4):
            a @ a
        rates.append(4 * 2 * 2048**3 / (sum(os.times()[:2]) - began))
    return max(rates)


class Timer:
    """Clock and CPU seconds of steps, and the peak memory of the process or the device."""

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu, self.seconds, self.cpu_seconds = on_gpu, [], []  # type: ignore[var-annotated]

    def start(self) -> None:
        self.began, self.cpu_began = time.perf_counter(), sum(os.times()[:2])

    def stop(self) -> None:
        if self.on_gpu:
            import torch

            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.began)
        self.cpu_seconds.append(sum(os.times()[:2]) - self.cpu_began)

    def result(self, shape: dict[str, Any], made: list[dict[str, Any]]) -> dict[str, float]:
        """Of all steps but the first."""
        import torch

        lengths = [len(row["input_ids"]) for row in made[shape["batch"] :]]
        timed = sum((self.seconds if self.on_gpu else self.cpu_seconds)[1:])
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {
            "seconds_per_step": statistics.mean(self.seconds[1:]),
            "timed_seconds_per_step": timed / shape["steps"],
            "tokens_per_timed_second": sum(lengths) / timed,
            "operations_per_timed_second": operations(shape, lengths) / timed,
            "peak_memory": torch.cuda.max_memory_allocated() if self.on_gpu else resident,
        }


def make_trainer(name: str, folder: Path, shape: dict[str, Any], made: list[dict[str, Any]]) -> Any:
    """This project's trainer, with the engine of variant ``name``, on the rows ``made``. Call it under torchrun."""
    import numpy as np
    import torch
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
    from verl.workers.utils.losses import sft_loss

    from verl.dft.data.rows import TokenizedRows
    from verl.trainer.fsdp_dft_trainer.command_line import compose_config
    from verl.trainer.fsdp_dft_trainer.settings import Launch, complete_config
    from verl.trainer.fsdp_dft_trainer.stopping import StopRequests
    from verl.trainer.fsdp_dft_trainer.trainer import DFTTrainer

    ids, mask = (torch.cat([row[key] for row in made]).numpy() for key in ("input_ids", "loss_mask"))
    starts = np.cumsum([0, *(len(row["input_ids"]) for row in made)])
    tokenized = TokenizedRows(ids.astype(np.int32), mask.astype(np.uint8), starts, np.arange(len(made)))

    class Bench(DFTTrainer):
        def _dataset(self, files: list[str], flag: str, max_rows: int) -> Any:
            return tokenized

        def _build_engine(self) -> None:
            super()._build_engine()
            if VARIANTS[name][1] == "verl":
                ours = self.engine
                parts = ours.model_config, ours.engine_config, ours.optimizer_config, ours.checkpoint_config
                self.engine = FSDPEngineWithLMHead(*parts)
                self.objective = lambda **given: sft_loss(config=None, **given)

        def _tell_activation_memory(self) -> None:
            pass

    torch.distributed.init_process_group("gloo" if shape["device"] == "cpu" else "cpu:gloo,cuda:nccl")
    config = complete_config(compose_config(_flags(name, folder, shape)), Launch.of_torchrun(), say=lambda text: None)
    if verls_head(name):  # flags that this project's own command refuses
        config.model.use_fused_kernels = True
        config.model.fused_kernel_options = {"impl_backend": verls_head(name)}
    return Bench(config, StopRequests())


def verls_head(name: str) -> str | None:
    """Which of verl's fused heads a variant uses."""
    return next((how for how in VARIANTS[name][2] if how in ("torch", "triton")), None)


def measure(name: str, folder: Path, shape: dict[str, Any], lengths: str) -> dict[str, float]:
    """One variant on this project's or verl's engine, under torchrun with one rank."""
    import torch
    from verl.utils import tensordict_utils as tu

    made = rows(shape, lengths)
    trainer, timer = make_trainer(name, folder, shape, made), Timer(shape["device"] != "cpu")
    for step in range(shape["steps"] + 1):
        timer.start()
        batch = trainer._batch(made[step * shape["batch"] : (step + 1) * shape["batch"]])
        if verls_head(name):
            tu.assign_non_tensor(batch, use_fused_kernels=True)
        with trainer.engine.train_mode():
            trainer.engine.train_batch(batch, loss_function=trainer.objective)
        trainer.engine.lr_scheduler_step()
        timer.stop()
    torch.distributed.destroy_process_group()
    return timer.result(shape, made)


def _flags(name: str, folder: Path, shape: dict[str, Any]) -> list[str]:
    _, engine, how = VARIANTS[name]
    flags = [f"model.partial_pretrain={folder}", f"data.train_files={folder}/rows.parquet", "data.chat_template=direct"]
    flags += [f"data.train_batch_size={shape['batch']}", f"data.max_length={shape['longest']}", "trainer.logger=[]"]
    flags += [f"trainer.default_local_dir={folder}/out", "trainer.resume_mode=disable", "optim.lr=1e-5"]
    if shape.get("pure_bf16"):
        flags.append("model.fsdp_config.model_dtype=bf16")
    if engine == "verl" and shape["device"] == "cpu":
        flags.append("model.override_config.attn_implementation=sdpa")  # what verl has without flash-attn
    if PADDED in how:
        flags.append(f"data.micro_batch_size_per_gpu={shape['micro']}")
    else:
        flags.append(f"data.max_token_len_per_gpu={shape['budget']}")
    return flags + [flag for flag in how if "=" in flag]


def save_model(folder: Path, shape: dict[str, Any]) -> None:
    """Random weights, and what else the trainer's checks want to see."""
    import pandas as pd
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    Qwen2ForCausalLM(Qwen2Config(**shape["model"])).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<end>": 0, "What": 1, "is": 2, "?": 3}, unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>").save_pretrained(folder)
    pd.DataFrame({"question": ["?"], "answer": ["?"]}).to_parquet(folder / "rows.parquet")


def command_of(name: str, trl_python: str | None) -> list[str]:
    if VARIANTS[name][1] == "trl":
        return [str(trl_python), str(Path(__file__).with_name("bench_trl.py"))]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1", __file__]


def run(names: list[str], args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_model(folder, SHAPES[args.shape])
        for turn in range(args.rounds):
            for name in names if turn % 2 == 0 else reversed(names):
                command = [*command_of(name, args.trl_python), "--shape", args.shape, "--lengths", args.lengths]
                command += ["--worker", name, "--folder", str(folder)]
                done = subprocess.run(command, capture_output=True, text=True)
                lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
                if not lines:
                    errors = [line for line in done.stderr.splitlines() if "Error: " in line]
                    print(f"{name} failed: {errors[0] if errors else done.stderr[-2000:]}", flush=True)
                    continue
                found[name].append(json.loads(lines[0].removeprefix("RESULT ")))
                rate = found[name][-1]["tokens_per_timed_second"]
                print(f"round {turn + 1}/{args.rounds} {name}: {rate:,.0f} tokens per timed second", flush=True)
    return {
        name: {key: statistics.median(x[key] for x in runs) for key in runs[0]} | {"rounds": runs}
        for name, runs in found.items()
        if runs
    }


def table(results: dict[str, dict[str, Any]], device: str, peak: float) -> str:
    unit = "CPU second" if device == "cpu" else "second"
    base = results.get("verl", next(iter(results.values())))["tokens_per_timed_second"]
    lines = [f"| trainer | tokens per {unit} | of verl's | {unit}s per step | MFU | peak memory, GiB |"]
    lines.append("|---|---|---|---|---|---|")
    for name, values in sorted(results.items(), key=lambda item: -item[1]["tokens_per_timed_second"]):
        rate, memory = values["tokens_per_timed_second"], values["peak_memory"] / 2**30
        mfu, step = values["operations_per_timed_second"] / peak, values["timed_seconds_per_step"]
        lines.append(
            f"| {VARIANTS[name][0]} | {rate:,.0f} | {rate / base:.2f} | {step:.3g} | {mfu:.0%} | {memory:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="small", choices=list(SHAPES))
    parser.add_argument("--lengths", default="gsm8k", choices=[*CHARACTERS, "full"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), help="default: all that can run here")
    parser.add_argument("--trl_python", help="the Python of an environment with TRL")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    if args.worker:
        print("RESULT " + json.dumps(measure(args.worker, args.folder, shape, args.lengths)), flush=True)
        return
    import torch

    possible = [
        name
        for name, (_, engine, _) in VARIANTS.items()
        if (engine != "trl" or args.trl_python) and (name != "verl_triton" or shape["device"] != "cpu")
    ]
    results, peak = run(args.variants or possible, args), peak_rate(shape)
    cores = f"{os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}"
    machine = f"{torch.cuda.get_device_name()}; {cores}" if shape["device"] != "cpu" else cores
    report = {"machine": machine, "shape": shape, "lengths": args.lengths, "peak": peak, "results": results}
    RESULTS.mkdir(parents=True, exist_ok=True)
    text, stem = table(results, shape["device"], peak), RESULTS / f"train-{args.shape}-{args.lengths}"
    stem.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    stem.with_suffix(".md").write_text(f"{machine}; MFU of {peak / 1e9:,.0f} GFLOP/s\n\n{text}\n")
    print(text)


if __name__ == "__main__":
    main()
