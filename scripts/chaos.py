#!/usr/bin/env python
"""Kills a training run with -9 again and again, starts the same command each time, and compares the end with a run that
nobody touched: every tensor of the last checkpoint bit by bit, and every line of metrics.jsonl.

    python scripts/chaos.py                        # 20 kills; 2 ranks on a CPU, some 10 minutes
    python scripts/chaos.py --kills 3 --steps 60   # the short form that the tests run

Killed are one rank, all ranks, torchrun, or everything at once; at a random moment of training, or a random while after
a checkpoint's folder has appeared and before it has its name. A life ends when all its processes are gone.
Writes --report (benchmarks/results/chaos).json and .md; exit status 1 if anything differs.
"""

import argparse
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch
from safetensors.torch import load_file

PROJECT = Path(__file__).resolve().parents[1]
RANKS, ROWS = 2, 240
VICTIMS = ("one rank", "all ranks", "torchrun", "everything")
START_SECONDS = 300  # until a life must have made its first step


def make_run(folder: Path, steps: int, save_every: int) -> list[str]:
    """A model, its data, and the command, but for trainer.default_local_dir."""
    sys.path.insert(0, str(PROJECT / "tests"))
    from tiny_model import save_tiny_model

    save_tiny_model(folder / "model", attention_dropout=0.1)
    rows = [
        {"question": f"What is {i} + {i % 17}?", "answer": f"{i + i % 17}." + " Yes." * (i % 9)} for i in range(ROWS)
    ]
    pd.DataFrame(rows[:-24]).to_parquet(folder / "train.parquet")
    pd.DataFrame(rows[-24:]).to_parquet(folder / "val.parquet")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={RANKS}"]
    return [
        *[*command, "-m", "verl.trainer.fsdp_dft_trainer"],
        f"data.train_files={folder}/train.parquet",
        f"data.val_files={folder}/val.parquet",
        f"model.partial_pretrain={folder}/model",
        "data.train_batch_size=8",
        "data.max_length=128",
        "optim.lr=1e-3",
        f"trainer.total_training_steps={steps}",
        f"trainer.save_freq={save_every}",
        f"trainer.test_freq={save_every}",
        "trainer.max_ckpt_to_keep=3",
        "trainer.logger=[tensorboard]",
    ]


class Life:
    """One start of the command, from its first process to the last one gone."""

    def __init__(self, command: list[str], run: Path) -> None:
        self.run, self.started = run, time.monotonic()
        self.log = (run.parent / f"{run.name}.log").open("ab")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        arguments = [*command, f"trainer.default_local_dir={run}"]
        self.launcher = psutil.Popen(arguments, stdout=self.log, stderr=subprocess.STDOUT, env=environment)
        self.inode = inode(run)

    def ranks(self) -> list[psutil.Process]:
        return [p for p in self.launcher.children() if "verl.trainer.fsdp_dft_trainer" in p.cmdline()]

    def wait_for_step(self) -> bool:
        """Until it has made a step of its own; False if it ended before."""
        until, lines = time.monotonic() + START_SECONDS, None
        while time.monotonic() < until:
            if self.launcher.poll() is not None:
                return False
            if inode(self.run) != self.inode:  # it has cut the metrics at its checkpoint
                lines = len(metrics(self.run)) if lines is None else lines
                if len(metrics(self.run)) > lines:
                    return True
            time.sleep(0.02)
        raise SystemExit(f"no step in {START_SECONDS} s; see {self.log.name}")

    def wait_for_saving(self) -> bool:
        while self.launcher.poll() is None:
            if any(self.run.glob(".partial_global_step_*")):
                return True
            time.sleep(0.002)
        return False

    def kill(self, victim: str, chance: random.Random) -> float:
        """Kill with -9; the seconds until nothing of this life is left."""
        ranks = self.ranks()
        hit = {
            "one rank": [chance.choice(ranks)] if ranks else [],
            "all ranks": ranks,
            "torchrun": [self.launcher],
            "everything": [self.launcher, *ranks],
        }[victim]
        for process in hit:
            process.kill()
        killed = time.monotonic()
        _, left = psutil.wait_procs([self.launcher, *ranks], timeout=60)
        for process in left:
            process.kill()
        if left:
            raise SystemExit(f"{len(left)} processes outlived the kill of {victim} by 60 s")
        self.launcher.wait()
        return time.monotonic() - killed


def metrics(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def inode(run: Path) -> int | None:
    file = run / "metrics.jsonl"
    return file.stat().st_ino if file.exists() else None


def save_seconds(run: Path) -> list[float]:
    """How long each save took, as the run says."""
    log = (run.parent / f"{run.name}.log").read_text(errors="replace")
    return [float(seconds) for seconds in re.findall(r"^Saved .* in ([0-9.]+) s\.$", log, re.MULTILINE)]


def last_step(run: Path) -> int:
    lines = metrics(run)
    return lines[-1]["step"] if lines else 0


def checkpoints(run: Path) -> list[int]:
    return sorted(int(path.name.rsplit("_", 1)[1]) for path in run.glob("global_step_*"))


def torment(command: list[str], run: Path, kills: int, steps: int, chance: random.Random) -> list[dict[str, Any]]:
    """Run to the end through ``kills`` kills; what happened at each."""
    history: list[dict[str, Any]] = []
    seconds_a_step = 0.1
    while len(history) < kills:
        # The first is in the middle of saving, so that the short form has one.
        saving = not history or chance.random() < 0.4
        victim = chance.choice(VICTIMS)
        life = Life(command, run)
        if not life.wait_for_step():
            break
        start_seconds = time.monotonic() - life.started
        # A share of what is left, so that the run does not end before the kills do; at least one checkpoint's worth.
        room = max((steps - last_step(run)) / (kills - len(history) + 1), 2) * seconds_a_step
        time.sleep(chance.uniform(0, 1.5 * room))
        if saving:
            if not life.wait_for_saving():
                break
            if history:  # the first at once: its checkpoint is sure to be half written
                time.sleep(chance.uniform(0, statistics.median(save_seconds(run) or [0.1])))
        at = last_step(run)
        ended = life.kill(victim, chance)
        lines = metrics(run)
        seconds_a_step = lines[-1]["train/seconds"] + 0.01 if lines else seconds_a_step
        history.append(
            {
                "victim": victim,
                "moment": "saving" if saving else "training",
                "step": at,
                "checkpoints": checkpoints(run),
                "half written": sorted(path.name for path in run.glob(".*_global_step_*")),
                "seconds to the first step": round(start_seconds, 1),
                "seconds until all were gone": round(ended, 2),
            }
        )
        print(f"kill {len(history)} of {kills}: {history[-1]}", flush=True)
    finish(command, run)
    return history


def finish(command: list[str], run: Path) -> float:
    """Run to the end; the seconds."""
    life = Life(command, run)
    if life.launcher.wait() != 0:
        raise SystemExit(f"the run ended with status {life.launcher.returncode}; see {life.log.name}")
    return time.monotonic() - life.started


def differences(run: Path, calm: Path, steps: int) -> list[str]:
    """What is not equal, one line each; nothing is what we want."""
    found = []
    if checkpoints(run) != checkpoints(calm):
        found.append(f"checkpoints {checkpoints(run)}, expected {checkpoints(calm)}")
    if [line["step"] for line in metrics(run)] != list(range(1, steps + 1)):
        found.append("the steps of metrics.jsonl are not 1, 2, 3 ...")
    for line, expected in zip(metrics(run), metrics(calm), strict=False):
        keys = {key for key in {**line, **expected} if "second" not in key}
        unequal = sorted(key for key in keys if repr(line.get(key)) != repr(expected.get(key)))
        if unequal:
            found.append(f"metrics of step {expected['step']}: {', '.join(unequal)}")
    for step in set(checkpoints(run)) & set(checkpoints(calm)):
        files = sorted((calm / f"global_step_{step}").rglob("*.safetensors"))
        for file in files:
            own = load_file(run / file.relative_to(calm))
            other = load_file(file)
            if own.keys() != other.keys() or not all(torch.equal(own[name], other[name]) for name in other):
                found.append(f"{file.relative_to(calm)} differs")
        if not files:
            found.append(f"global_step_{step} holds no tensors")
    return found


def report(summary: dict[str, Any]) -> str:
    """A page of it."""
    history, unequal = summary["history"], summary["differences"]
    half = [kill for kill in history if kill["half written"]]
    text = [
        "# A run that is killed again and again",
        "",
        f"{len(history)} times kill -9 over {summary['steps']} training steps on {RANKS} ranks ({summary['machine']}), "
        "the same command each time, compared with a run that nobody touched: "
        + ("; ".join(unequal) or "**no difference**, in no tensor of the checkpoints and in no line of metrics.jsonl."),
        "",
        f"{len(half)} of the kills left a half-written checkpoint behind. The slowest end of a life took "
        f"{max(kill['seconds until all were gone'] for kill in history):.1f} s. The calm run took "
        f"{summary['seconds of the calm run']:.0f} s, all lives {summary['seconds of all lives']:.0f} s, of which "
        f"{sum(kill['seconds to the first step'] for kill in history):.0f} s went into starting. A save "
        f"took {summary['seconds of a save']:.2f} s, a step {summary['seconds of a step']:.3f} s (medians).",
        "",
        "| kill | victim | moment | at step | newest checkpoint | left half written |",
        "|---|---|---|---|---|---|",
    ]
    for number, kill in enumerate(history, 1):
        newest = max(kill["checkpoints"], default=0)
        left = ", ".join(kill["half written"]) or "-"
        text.append(f"| {number} | {kill['victim']} | {kill['moment']} | {kill['step']} | {newest} | {left} |")
    return "\n".join(text) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--save_every", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=PROJECT / "benchmarks" / "results" / "chaos")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="verl-dft-chaos-", ignore_cleanup_errors=True) as name:
        calm, killed = Path(name) / "calm", Path(name) / "killed"
        command = make_run(Path(name), args.steps, args.save_every)
        print(f"the calm run: {args.steps} steps ...", flush=True)
        calm_seconds = finish(command, calm)
        print(f"... took {calm_seconds:.0f} s. The other one:", flush=True)
        started = time.monotonic()
        history = torment(command, killed, args.kills, args.steps, random.Random(args.seed))
        summary = {
            "steps": args.steps,
            "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, torch {torch.__version__}",
            "differences": differences(killed, calm, args.steps),
            "seconds of the calm run": round(calm_seconds, 1),
            "seconds of all lives": round(time.monotonic() - started, 1),
            "seconds of a save": statistics.median(save_seconds(calm)),
            "seconds of a step": round(statistics.median(line["train/seconds"] for line in metrics(calm)), 4),
            "history": history,
        }
    args.report.with_suffix(".json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    args.report.with_suffix(".md").write_text(report(summary), encoding="utf-8")
    print(report(summary))
    if len(history) < args.kills:
        print(f"the run ended after {len(history)} kills: give it more --steps", file=sys.stderr)
    return int(bool(summary["differences"]) or len(history) < args.kills)


if __name__ == "__main__":
    sys.exit(main())
