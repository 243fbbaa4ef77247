#!/usr/bin/env python
"""Where the time of a training step goes, and how it grows with length, vocabulary and ranks.

    python scripts/profile_step.py                      # small models on a CPU, about 5 minutes on 2 idle cores
    python scripts/profile_step.py --shape qwen-1.5b    # one GPU

Same models and rows as scripts/bench_train.py, activations kept. A part's time is what passes between its beginning and
its end, forward and backward: CPU seconds of one rank on a CPU, device time (which waits at every border, so the sum is
more than an undisturbed step) on a GPU. "FSDP" is its hooks: gathering and freeing weights, reducing gradients. "rest"
is norms, residuals, the embedding and cutting the batch up.
Writes benchmarks/results/step-<shape>.json, .md and .png.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_train import RESULTS, SHAPES, make_trainer, rows, save_model

PARTS = ("attention", "mlp", "head", "optimizer", "data", "FSDP", "rest")
# name: (tokens of a row or None for GSM8K's lengths, vocabulary or None for the shape's, ranks)
CASES: dict[str, tuple[int | None, int | None, int]] = {
    "GSM8K's lengths": (None, None, 1),
    "2 ranks": (None, None, 2),
    "vocabulary 151,936": (None, 151_936, 1),
    "rows of 128": (128, None, 1),
    "rows of 512": (512, None, 1),
    "rows of 2,048": (2048, None, 1),
}


class Parts:
    """Seconds per part of a step, by borders in the forward pass and in the graph of the backward pass."""

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu, self.seconds = on_gpu, defaultdict(float)  # type: ignore[var-annotated]
        self.open: set[str] = set()

    def now(self) -> float:
        if not self.on_gpu:
            return time.process_time()
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()

    def time(self, part: str, function: Callable) -> Callable:
        """``function``, its calls counted as ``part``."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = self.now()
            result = function(*args, **kwargs)
            self.seconds[part] += self.now() - began
            return result

        return timed

    def time_fsdp(self) -> None:
        """The hooks of all modules that are sharded from now on; torch's private names, as of 2.13."""
        from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup
        from torch.distributed.fsdp._fully_shard._fsdp_state import FSDPState

        hooks = {FSDPState: ("_pre_forward", "_post_forward", "_pre_backward", "_root_post_backward_final_callback")}
        for owner, names in {**hooks, FSDPParamGroup: ("post_backward",)}.items():
            for name in names:
                setattr(owner, name, self._outermost("FSDP", getattr(owner, name)))

    def _outermost(self, part: str, function: Callable) -> Callable:
        """As ``time``, but a call within a call counts once."""
        timed = self.time(part, function)

        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if part in self.open:
                return function(*args, **kwargs)
            self.open.add(part)
            try:
                return timed(*args, **kwargs)
            finally:
                self.open.discard(part)

        return guarded

    def time_module(self, part: str, module: Any) -> None:
        """The forward pass of ``module`` and, between two borders in the graph, its backward pass."""
        forward, border = self.time(part, module.forward), _border()

        def timed(*args: Any, **kwargs: Any) -> Any:
            open_at: list[float] = []
            if args:
                args = (border.apply(args[0], lambda: self._add(part, open_at)), *args[1:])
            else:
                hidden = border.apply(kwargs.pop("hidden_states"), lambda: self._add(part, open_at))
                kwargs["hidden_states"] = hidden
            result = forward(*args, **kwargs)
            output = result[0] if isinstance(result, tuple) else result
            output = border.apply(output, lambda: open_at.append(self.now()))
            return (output, *result[1:]) if isinstance(result, tuple) else output

        module.forward = timed

    def _add(self, part: str, open_at: list[float]) -> None:
        self.seconds[part] += self.now() - open_at.pop()


@functools.cache
def _border() -> Any:
    import torch

    class Border(torch.autograd.Function):
        """The identity; calls a function when the gradient passes."""

        @staticmethod
        def forward(ctx: Any, x: Any, on_backward: Callable[[], None]) -> Any:
            ctx.on_backward = on_backward
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            ctx.on_backward()
            return gradient, None

    return Border


def measure(folder: Path, shape: dict[str, Any], made: list[dict[str, Any]]) -> dict[str, float]:
    """Under torchrun: seconds of each part, means over all steps but the first; the clock's for a step and a save."""
    import torch

    import verl.dft.model.engine as engine_module
    from verl.dft.model.activations import layers_of

    parts = Parts(shape["device"] != "cpu")
    parts.time_fsdp()
    trainer = make_trainer("dft_keeping", folder, shape, made)
    for layer in layers_of(trainer.engine.module):
        parts.time_module("attention", layer.self_attn)
        parts.time_module("mlp", layer.mlp)
    engine_module.linear_objective = parts.time("head", engine_module.linear_objective)
    trainer.engine.optimizer_step = parts.time("optimizer", trainer.engine.optimizer_step)
    take = parts.time("data", lambda step: trainer._batch([made[i] for i in trainer.batches.rows(step)]))
    totals, steps = [], []
    for step in range(1, shape["steps"] + 2):
        began, clock = parts.now(), time.perf_counter()
        batch = take(step)
        with trainer.engine.train_mode():
            trainer.engine.train_batch(batch, loss_function=trainer.objective)
        totals.append(parts.now() - began)
        steps.append(time.perf_counter() - clock)
        if step == 1:
            parts.seconds.clear()
    clock = time.perf_counter()
    trainer.progress.note_step(step, was_skipped=False)
    trainer.checkpoints.save(trainer.progress, trainer.prompt_format)
    saving = time.perf_counter() - clock
    torch.distributed.destroy_process_group()
    total, count = statistics.mean(totals[1:]), shape["steps"]
    found = {part: parts.seconds[part] / count for part in PARTS[:-1]}
    found["rest"] = total - sum(found.values())
    return {**found, "step_clock": statistics.mean(steps[1:]), "save_clock": saving}


def shape_of(case: str, base: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The shape of a case and its rows: about as many tokens per step in each."""
    length, vocabulary, _ = CASES[case]
    shape = {**base, "model": {**base["model"], "vocab_size": vocabulary or base["model"]["vocab_size"]}}
    if length is None:
        return shape, rows(shape, "gsm8k")
    tokens = sum(len(row["input_ids"]) for row in rows(base, "gsm8k")) // (base["steps"] + 1)
    shape |= {"longest": length, "batch": max(1, round(tokens / length)), "budget": max(base["budget"], length)}
    return shape, rows(shape, "full")


def run(name: str, case: str) -> dict[str, float] | None:
    ranks = CASES[case][2]
    with tempfile.TemporaryDirectory() as temporary:
        save_model(Path(temporary), shape_of(case, SHAPES[name])[0])
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", __file__]
        done = subprocess.run(
            [*command, "--shape", name, "--worker", case, "--folder", temporary], capture_output=True, text=True
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        print(f"{case} failed: {done.stderr[-2000:]}", flush=True)
        return None
    return json.loads(lines[0].removeprefix("RESULT "))


def table(results: dict[str, dict[str, float]]) -> str:
    lines = [f"| | {' | '.join(PARTS)} | seconds | save, in steps |", "|---|" + "---|" * (len(PARTS) + 2)]
    for case, found in results.items():
        total = sum(found[part] for part in PARTS)
        shares = " | ".join(f"{found[part] / total:.1%}" for part in PARTS)
        lines.append(f"| {case} | {shares} | {total:.2f} | {found['save_clock'] / found['step_clock']:.1f} |")
    return "\n".join(lines)


def plot(results: dict[str, dict[str, float]], path: Path, unit: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(results) + 1.5))
    left = [0.0] * len(results)
    for part in PARTS:
        widths = [found[part] for found in results.values()]
        axes.barh(list(results), widths, left=left, label=part)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel(f"{unit} of a step, one rank")
    axes.legend(ncols=len(PARTS), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize="small")
    figure.savefig(path, dpi=110, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="small", choices=list(SHAPES))
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=None, help="default: all that fit here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    base = SHAPES[args.shape]
    if args.worker:
        import os

        found = measure(args.folder, *shape_of(args.worker, base))
        if os.environ["RANK"] == "0":
            print("RESULT " + json.dumps(found), flush=True)
        return
    on_cpu = base["device"] == "cpu"
    results = {}
    for case in args.cases or [case for case in CASES if on_cpu or CASES[case][2] == 1]:
        found = run(args.shape, case)
        if found:
            results[case] = found
            print(f"{case}: {sum(found[part] for part in PARTS):.2f} s", flush=True)
    stem, unit = RESULTS / f"step-{args.shape}", "CPU seconds" if on_cpu else "seconds"
    stem.with_suffix(".json").write_text(json.dumps({"shape": base, "unit": unit, "results": results}, indent=1) + "\n")
    stem.with_suffix(".md").write_text(f"{unit}\n\n{table(results)}\n")
    plot(results, stem.with_suffix(".png"), unit)
    print(table(results))


if __name__ == "__main__":
    main()
