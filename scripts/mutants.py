#!/usr/bin/env python
"""Break the training code in one place at a time and see that the tests notice.

    python scripts/mutants.py            # about 15 minutes on 2 idle cores
    python scripts/mutants.py --only "weight"

Each mutant is one replacement in a file of verl/dft, which is put back afterwards; it is killed when a test fails. Exit
status 1 if one survives. Do not work in the tree meanwhile.
"""

import argparse
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
UNIT = [f"tests/dft/{name}.py" for name in ("loss/test_objectives", "loss/test_fused_head", "model/test_attention")]
GRID = ["tests/trainer/test_gradients.py"]

# name: (file, what stands there, what the mutant puts there, tests that should notice)
MUTANTS = {
    "weight not detached": ("loss/objectives.py", "log_probs.detach().exp().clamp(", "log_probs.exp().clamp(", UNIT),
    "weight applied twice": (
        "loss/objectives.py", "(mix * weight + (1 - mix))", "(mix * weight + (1 - mix)) ** 2", UNIT,
    ),
    "weight dropped": ("loss/objectives.py", "-(mix * weight + (1 - mix)) * log_probs", "-log_probs", UNIT),
    "weight 1 - p": (
        "loss/objectives.py", "log_probs.detach().exp().clamp(", "(-torch.expm1(log_probs.detach())).clamp(", UNIT,
    ),
    "mask shifted by one": ("loss/targets.py", "Targets(places - 1,", "Targets(places,", UNIT),
    "targets of the token before": ("loss/targets.py", "input_ids[places]", "input_ids[places - 1]", UNIT),
    "gradient of the weight overwritten by each chunk": (
        "loss/fused_head.py", "beta=0 if first else 1", "beta=0", UNIT,
    ),
    "one-hot forgotten": (
        "loss/chunk.py", "d_log_probs * self.rest + d_kl * self.own", "-d_log_probs * self.own + d_kl * self.own", UNIT,
    ),
    "1 - p as a difference": (
        "loss/chunk.py", "d_log_probs * self.rest + d_kl", "d_log_probs * (total - self.own) + d_kl", UNIT,
    ),
    "upstream factor ignored": ("loss/chunk.py", "gradient.mul_(factor)", "pass", UNIT),
    "KL in the other direction": (
        "loss/chunk.py", "d_logits.sub_(self.reference", "d_logits.add_(self.reference", UNIT,
    ),
    "rows see each other": ("model/attention.py", "starts, sizes = borders[:-1][group_of_row == group]",
                            "starts, sizes = 0 * borders[:-1][group_of_row == group]", UNIT),
    "mean of means over micro-batches": (
        "model/engine.py", "denominator / torch.distributed.get_world_size())",
        "max(len(targets.ids), 1) * 2 / torch.distributed.get_world_size())", GRID,
    ),
    "number of ranks forgotten": (
        "model/engine.py", "denominator / torch.distributed.get_world_size())", "denominator)", GRID,
    ),
    "sequence-parallel shard without neighbours": (
        "model/attention.py", "shards = get_ulysses_sequence_parallel_world_size()", "shards = 1", GRID,
    ),
    "sequence-parallel rank counts all targets": (
        "model/engine.py", "within_slice(targets, shard * width, width)", "within_slice(targets, 0, width)", GRID,
    ),
    "reference with the adapter on": (
        "model/reference.py", "if self.is_adapted else nullcontext()", "if False else nullcontext()", GRID,
    ),
    "reference is the model in training": (
        "model/engine.py", "self.module if self._is_lora else self._frozen_copy()", "self.module", GRID,
    ),
    "row means over one rank's part": ("loss/targets.py", "if group is not None:", "if False:", GRID),
    "padding's place forgotten": ("loss/targets.py", "targets.rows * width + targets.positions - borders[targets.rows]",
                                  "targets.positions", GRID),
}  # fmt: skip


def survives(name: str) -> bool:
    file, old, new, tests = MUTANTS[name]
    path = PROJECT / "verl" / "dft" / file
    text = path.read_text()
    assert old in text, f"{name}: {file} no longer holds {old!r}"
    path.write_text(text.replace(old, new))
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", *tests]
        return subprocess.run(command, cwd=PROJECT, capture_output=True).returncode == 0
    finally:
        path.write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="mutants whose name contains this")
    args = parser.parse_args()
    if subprocess.run(["git", "diff", "--quiet", "--", "verl/dft"], cwd=PROJECT).returncode:
        print("error: expected no uncommitted change in verl/dft, which is edited and put back. Commit it first.")
        return 1
    names = [name for name in MUTANTS if args.only in name]
    alive = []
    for name in names:
        lives = survives(name)
        print(f"{'SURVIVES' if lives else 'killed':10} {name}", flush=True)
        alive += [name] * lives
    print(f"{len(names) - len(alive)} of {len(names)} mutants killed")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
