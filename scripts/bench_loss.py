#!/usr/bin/env python
"""Time and memory of the output layer with its loss, forward and backward, against the products it cannot do without.

    python scripts/bench_loss.py                         # 512 target tokens of a 0.5B model's head, fp32
    python scripts/bench_loss.py --tokens 2048 --rounds 3
    python scripts/bench_loss.py --device cuda           # 8192 target tokens of a 1.5B model's head, bf16

Each variant runs in a process of its own, in several rounds that take turns: a round counts its fastest iteration,
the table holds medians of rounds. Time is CPU seconds (user and system) on a CPU and device time on a GPU; memory is
the peak above hidden states and weight.
Writes benchmarks/results/loss-<device>-<tokens>.json and .md.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
DEFAULTS = {
    "cpu": {"tokens": 512, "hidden": 896, "vocabulary": 151_936, "dtype": "float32", "iterations": 2},
    "cuda": {"tokens": 8192, "hidden": 1536, "vocabulary": 151_936, "dtype": "bfloat16", "iterations": 10},
}

Step = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]


# ------------------------------------------------------------------------------------------------ the variants


def products(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> None:
    """The three products that every exact loss needs, and nothing else."""
    with torch.no_grad():
        logits = hidden @ weight.T
        hidden.grad, weight.grad = logits @ weight, logits.T @ hidden


def fused(name: str) -> Step:
    from verl.dft.loss.fused_head import linear_objective
    from verl.dft.loss.objectives import objective

    made = objective(name)

    def step(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> None:
        linear_objective(hidden, weight, targets, made, len(targets))[0].backward()

    return step


def fused_with_prompts(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> None:
    """60 % of the tokens are prompt: they never reach the vocabulary."""
    rows = (torch.arange(len(targets), device=targets.device) % 5 < 2).nonzero().squeeze(1)
    fused("dft")(hidden.index_select(0, rows), weight, targets[rows])


def plain_dft(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> None:
    from verl.dft.loss.objectives import objective
    from verl.dft.loss.plain_head import plain_objective

    plain_objective(hidden @ weight.T, targets, objective("dft"), len(targets))[0].backward()


def cross_entropy(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> None:
    """Plain SFT."""
    F.cross_entropy((hidden @ weight.T).float(), targets).backward()


def original(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> None:
    """What the original DFT repository computes: a cross-entropy, and a second softmax for the weight."""
    logits = (hidden @ weight.T).float()
    loss = F.cross_entropy(logits, targets, reduction="none")
    probs = torch.softmax(logits, dim=-1).gather(1, targets.unsqueeze(1)).squeeze(1)
    (loss * probs.detach()).mean().backward()


def verl_fused(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> None:
    """verl 0.9.1's model.use_fused_kernels=True with its torch backend, and DFT's weight on it."""
    from verl.utils.experimental.torch_functional import FusedLinearForPPO

    log_probs, _ = FusedLinearForPPO()(hidden.unsqueeze(0), weight, targets.unsqueeze(0), temperature=1.0)
    (-log_probs.detach().exp() * log_probs).mean().backward()


def liger(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> None:
    """Liger's fused linear cross-entropy with token scaling, which TRL and Axolotl use for DFT (GPU only)."""
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction as Function

    call = dict(_input=hidden, weight=weight, target=targets, use_token_scaling=True)
    Function.apply(*_in_order(Function.forward, call))[0].backward()


def _in_order(function: Callable, given: dict) -> list:
    import inspect

    parameters = list(inspect.signature(function).parameters.values())[1:]
    return [given.get(p.name, p.default) for p in parameters]


VARIANTS: dict[str, tuple[str, Callable[[], Step]]] = {
    "products": ("three bare products", lambda: products),
    "fused_dft": ("this project, DFT", lambda: fused("dft")),
    "fused_sft": ("this project, SFT", lambda: fused("sft")),
    "fused_prompts": ("this project, DFT, 60 % prompt tokens", lambda: fused_with_prompts),
    "cross_entropy": ("SFT on full logits", lambda: cross_entropy),
    "plain_dft": ("this project's plain head, DFT", lambda: plain_dft),
    "original": ("the original's DFT line", lambda: original),
    "verl_fused": ("verl 0.9.1 FusedLinearForPPO, DFT", lambda: verl_fused),
    "liger": ("Liger 0.8.5 token scaling, DFT", lambda: liger),
}


# ------------------------------------------------------------------------------------------------ one process


def measure(name: str, shape: dict) -> dict[str, float]:
    """Seconds of one step and bytes above the inputs, in this process."""
    torch.manual_seed(0)
    device, dtype = shape["device"], getattr(torch, shape["dtype"])
    hidden = torch.randn(shape["tokens"], shape["hidden"], device=device, dtype=dtype)
    weight = torch.randn(shape["vocabulary"], shape["hidden"], device=device, dtype=dtype).mul_(0.02)
    hidden.requires_grad_(), weight.requires_grad_()
    targets = torch.randint(shape["vocabulary"], (shape["tokens"],), device=device)
    step = VARIANTS[name][1]()
    step(hidden[:2], weight, targets[:2])  # whatever is set up at first use
    hidden.grad = weight.grad = None
    clock = _Clock(device)
    seconds, peak = [], 0.0
    for _ in range(shape["iterations"]):
        hidden.grad = weight.grad = None
        clock.start()
        step(hidden, weight, targets)
        elapsed, used = clock.stop()
        seconds.append(elapsed)
        peak = max(peak, used)
    return {"seconds": min(seconds), "memory": peak, "weight_gradient": weight.numel() * weight.element_size()}


class _Clock:
    """CPU seconds and peak resident memory, or device seconds and peak allocated memory."""

    def __init__(self, device: str) -> None:
        self.on_gpu = device != "cpu"

    def start(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before, self.began = torch.cuda.memory_allocated(), time.perf_counter()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            self.before, self.began = _resident("VmRSS"), sum(os.times()[:2])

    def stop(self) -> tuple[float, float]:
        if self.on_gpu:
            torch.cuda.synchronize()
            return time.perf_counter() - self.began, torch.cuda.max_memory_allocated() - self.before
        return sum(os.times()[:2]) - self.began, _resident("VmHWM") - self.before


def _resident(name: str) -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


# ------------------------------------------------------------------------------------------------ all of them


def run(names: list[str], shape: dict, rounds: int) -> dict[str, dict]:
    found: dict[str, list[dict]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            command = [sys.executable, __file__, "--worker", name, "--shape", json.dumps(shape)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{name}: {done.stderr.strip().splitlines()[-1]}", flush=True)
                continue
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {turn + 1}/{rounds} {name}: {found[name][-1]['seconds']:.4g} s", flush=True)
    return {
        name: {
            "seconds": statistics.median(x["seconds"] for x in runs),
            "seconds_of_each_round": [round(x["seconds"], 5) for x in runs],
            "memory_beyond_weight_gradient": statistics.median(x["memory"] - x["weight_gradient"] for x in runs),
        }
        for name, runs in found.items()
        if runs
    }


def table(results: dict[str, dict], shape: dict) -> str:
    unit, factor = ("ms", 1e3) if shape["device"] != "cpu" else ("CPU s", 1.0)
    lines = [
        f"| head and loss | {unit} | of the three products | MiB beyond the weight's gradient |",
        "|---|---|---|---|",
    ]
    base = results["products"]["seconds"]
    for name, values in sorted(results.items(), key=lambda item: item[1]["seconds"]):
        memory = values["memory_beyond_weight_gradient"] / 2**20
        seconds = values["seconds"]
        lines.append(f"| {VARIANTS[name][0]} | {seconds * factor:.2f} | {seconds / base:.2f} | {memory:.0f} |")
    return "\n".join(lines)


def machine(device: str) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpu = f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB"
    return f"{torch.cuda.get_device_name()}; {cpu}" if device != "cpu" else cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=list(DEFAULTS))
    for name in ("tokens", "hidden", "vocabulary", "iterations"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), help="default: all that this device can run")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(measure(args.worker, args.shape)))
        return
    given = {k: v for k, v in vars(args).items() if k in DEFAULTS["cpu"] and v is not None}
    shape = {"device": args.device, **DEFAULTS[args.device], **given}
    names = args.variants or [name for name in VARIANTS if args.device != "cpu" or name != "liger"]
    results = run(list(dict.fromkeys(["products", *names])), shape, args.rounds)
    text = table(results, shape)
    report = {"machine": machine(args.device), "torch": torch.__version__, "threads": torch.get_num_threads()}
    RESULTS.mkdir(parents=True, exist_ok=True)
    stem = RESULTS / f"loss-{args.device}-{shape['tokens']}"
    stem.with_suffix(".json").write_text(json.dumps({**report, "shape": shape, "results": results}, indent=1) + "\n")
    heading = ", ".join(f"{k} {v}" for k, v in shape.items())
    stem.with_suffix(".md").write_text(f"{heading}\n{report['machine']}, torch {torch.__version__}\n\n{text}\n")
    print(text)


if __name__ == "__main__":
    main()
