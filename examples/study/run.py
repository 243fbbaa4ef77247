"""Train and score every model of the study; goes on where it was stopped. Results: OUT/study.json.

python examples/study/run.py --out outputs/study --jobs 2
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import jobs
from plan import (
    SCALES,
    Run,
    Scale,
    base_runs,
    data_options,
    evaluation_command,
    fine_tunings,
    start_folder,
    trainer_flags,
)

# Imported once by the server that every child is forked from: it takes longer than a small training run.
PRELOAD = [
    "verl.trainer.fsdp_dft_trainer.__main__",
    "verl.trainer.fsdp_dft_trainer.trainer",
    "verl.math_eval.harness",
    "verl.math_eval.backends.transformers_backend",
    "verl.dft.diagnose",
]


class Study:
    """One folder of results. Each job runs in a process of its own, at most ``workers`` at a time."""

    def __init__(self, scale: Scale, out: Path, workers: int):
        self.scale, self.out, self.workers = scale, out, workers
        self.context: ForkServerContext = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOAD)
        self.started = time.monotonic()

    def run(self) -> None:
        seeds = range(self.scale.seeds)
        self.each("data", [(f"data seed {seed}", self.data, seed) for seed in seeds])
        self.each("bases", [(run.name, self.train_and_score, run) for run in base_runs(self.scale)])
        starts = [(steps, seed) for steps in self.scale.base_steps for seed in seeds]
        self.each(
            "forecasts", [(f"forecast from {start[0]} seed {start[1]}", self.forecast, start) for start in starts]
        )
        self.each("fine-tuning", [(run.name, self.train_and_score, run) for run in fine_tunings(self.scale)])

    def each(self, what: str, tasks: Sequence[tuple[str, Callable[[Any], None], Any]]) -> None:
        """Do the tasks (name, function, argument). After a failure the others are still done; then it is raised."""
        failed = []
        with ThreadPoolExecutor(self.workers) as pool:
            waiting = {pool.submit(task, argument): name for name, task, argument in tasks}
            for count, future in enumerate(as_completed(waiting), start=1):
                name, error = waiting[future], future.exception()
                if error is not None:
                    failed.append(f"{name}: {error}")
                seconds = time.monotonic() - self.started
                print(f"[{seconds:.0f} s] {what} {count}/{len(tasks)}: {name}{' FAILED' if error else ''}", flush=True)
                collect(self.scale, self.out)
        if failed:
            raise RuntimeError("\n".join(failed))

    def data(self, seed: int) -> None:
        self.child(f"data/made-seed{seed}", jobs.make_data, self.scale, seed, self.out)

    def train_and_score(self, run: Run) -> None:
        if run.part != "base" or run.base_steps > 0:
            self.child(f"{run.name}/training", jobs.train, run, self.scale, self.out)
        self.child(f"{run.name}/evaluation", jobs.evaluate, run, self.scale, self.out)
        if run.part == "base" and run.base_steps == self.scale.full_base:
            self.child(f"unseen_end/made-seed{run.seed}", jobs.give_unseen_end, self.scale, run.seed, self.out)

    def forecast(self, start: tuple[int, int]) -> None:
        steps, seed = start
        conditions = list(self.scale.conditions) if steps == self.scale.full_base else ["clean"]
        self.child(f"forecast/{steps}-seed{seed}", jobs.forecast, self.scale, steps, seed, conditions, self.out)

    def child(self, name: str, work: Callable[..., None], *arguments: Any) -> None:
        """Run ``work`` in a fresh process that writes its output to ``name``.log."""
        log = self.out / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        process = self.context.Process(target=_logged, args=(log, work, *arguments))
        process.start()
        process.join()
        if process.exitcode != 0:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise RuntimeError(f"exit code {process.exitcode}, see {log}: {lines[-1] if lines else 'no output'}")


def _logged(log: Path, work: Callable[..., None], *arguments: Any) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    work(*arguments)


def collect(scale: Scale, out: Path) -> dict[str, Any]:
    """Everything that is finished, as OUT/study.json. The settings are those of --dry_run, and left out."""
    runs = []
    for run in [*base_runs(scale), *fine_tunings(scale)]:
        parts = {part: _read(out / run.name / f"{part}.json") for part in ("training", "evaluation")}
        if parts["evaluation"] is not None:
            runs.append({**asdict(run), "name": run.name, **parts})
    starts = [(steps, seed) for steps in scale.base_steps for seed in range(scale.seeds)]
    forecasts = [_read(out / f"forecast/{steps}-seed{seed}.json") for steps, seed in starts]
    made = [part for run in runs for part in (run["training"], run["evaluation"]) if part]
    made += (found := [each for each in forecasts if each])
    planned = len(base_runs(scale)) + len(fine_tunings(scale))
    result = {
        "scale": asdict(scale),
        "planned_runs": planned,
        "finished_runs": len(runs),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "verl")},
        "cpu_s": sum(each["cpu_s"] for each in made),
        "wall_s_sum": sum(each["wall_s"] for each in made),
        "runs": runs,
        "forecasts": found,
    }
    partial = out / "study.json.partial"
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    partial.replace(out / "study.json")
    return result


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    return {name: value for name, value in result.items() if name != "settings"}


def print_commands(scale: Scale, out: Path) -> None:
    """Every command that the study is made of, for a shell."""

    def show(*words: str) -> None:
        print(shlex.join(["python", *words]))

    for seed in range(scale.seeds):
        for condition in ("base", *scale.conditions):
            show("examples/data_preprocess/arithmetic.py", *data_options(scale, condition, seed, out))
        data, init = f"{out}/data/base-seed{seed}/pretrain.parquet", str(start_folder(out, 0, seed))
        show("examples/quickstart/make_model.py", "--data", data, "--out", init, "--seed", str(seed))
    for run in [*base_runs(scale), *fine_tunings(scale)]:
        if run.part != "base" or run.base_steps > 0:
            show("-m", "verl.trainer.fsdp_dft_trainer", *trainer_flags(run, out, scale))
        show("-m", "verl.math_eval", *evaluation_command(run, out, scale))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scale", choices=SCALES, default="full", help="smoke: one seed, a few steps (a test)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default: %(default)s)")
    parser.add_argument("--dry_run", action="store_true", help="print the commands only")
    options = parser.parse_args()
    scale, out = SCALES[options.scale], options.out.resolve()
    if options.dry_run:
        print_commands(scale, out)
        return
    out.mkdir(parents=True, exist_ok=True)
    Study(scale, out, options.jobs).run()
    result = collect(scale, out)
    print(f"{result['finished_runs']} models, {result['cpu_s'] / 60:.0f} CPU minutes: {out / 'study.json'}")


if __name__ == "__main__":
    sys.exit(main())
