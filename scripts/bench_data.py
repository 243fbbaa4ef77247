"""Time and memory of data preparation at the size of NuminaMath-CoT: synthetic rows through from_files, all filters on.

python scripts/bench_data.py --out benchmarks/results/data.json

Makes the rows (a mathematics-like language of Zipf-distributed words and LaTeX, lengths as in NuminaMath-CoT: some 250
characters of question and 1,200 of answer), a byte-level BPE tokenizer of 32,000 entries and a benchmark of 500
questions; then runs the command in its own process and records its wall time and peak memory (ru_maxrss, the largest
resident set). Planted among the rows, and looked for in the report: exact and near duplicates, benchmark questions,
rows without box, in French, of no text. 859,494 rows took the time and memory in benchmarks/results/data.json.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ROWS = 859_494
LIMITS = {"seconds": 20 * 60, "gib": 4.0}
WORDS = 20_000
FRENCH = "Trouver tous les entiers positifs tels que la somme des carrés soit divisible par le produit des nombres {}."
# One row in N; the rest is clean. The shares are made up: each filter must have
# work to do.
PLANTS = {"exact": 50, "near": 50, "benchmark": 1000, "no box": 20, "french": 100, "no text": 500}


class Language:
    """Questions and answers that look like mathematics to filters and tokenizers; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        letters = "etaoinshrdlcumwfgypbvk"
        vocabulary = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(WORDS)]
        english = (
            "the of and is in to a that for let find all how many value number such with be we are this if then so"
        )
        self.words = english.split() * 3 + vocabulary
        self.weights = [1 / (rank + 3) for rank in range(len(self.words))]
        self.pool = rng.choices(self.words, self.weights, k=1_000_000)  # drawing one by one is slow
        self.formulas = [self._formula(rng) for _ in range(50_000)]

    @staticmethod
    def _formula(rng: random.Random) -> str:
        a, b, c = (rng.randint(1, 999) for _ in range(3))
        x = rng.choice("abcnxyz")
        return rng.choice(
            (f"${x}^2+{a}{x}={b}$", f"$\\frac{{{a}}}{{{b}}}$", f"${a}\\cdot {b}+{c}$", f"$\\sqrt{{{a}}}$")
        )

    def text(self, rng: random.Random, words: int) -> str:
        start = rng.randrange(len(self.pool) - words)
        pieces = self.pool[start : start + words]
        for _ in range(words // 12 + 1):
            pieces[rng.randrange(words)] = rng.choice(self.formulas)
        return " ".join(pieces)

    def row(self, rng: random.Random) -> dict[str, str]:
        length = min(400, max(8, round(rng.lognormvariate(3.6, 0.6))))
        problem = "Let " + self.text(rng, length) + f". Find the value of {rng.choice(self.formulas)}."
        solution = self.text(rng, min(2000, max(20, round(rng.lognormvariate(5.1, 0.7)))))
        return {"problem": problem, "solution": f"{solution} \\boxed{{{rng.randint(0, 999)}}}", "source": "synthetic"}


def write_rows(path: Path, count: int, benchmark: list[str], language: Language, seed: int) -> Counter[str]:
    """JSON lines with what PLANTS says; returns how many of each kind."""
    rng, planted, recent = random.Random(seed), Counter[str](), []
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            row = language.row(rng)
            kind = next((kind for kind, one_in in PLANTS.items() if rng.randrange(one_in) == 0), "clean")
            if kind in ("exact", "near") and len(recent) < 1000:
                kind = "clean"
            if kind == "exact":
                row = {**rng.choice(recent), "source": "again"}
            elif kind == "near":
                row = {**row, "problem": rng.choice(recent)["problem"] + " Explain."}
            elif kind == "benchmark":
                row["problem"] = rng.choice(benchmark).upper().replace(" ", "  ")
            elif kind == "no box":
                row["solution"] = row["solution"].replace("\\boxed", "")
            elif kind == "french":
                row["problem"] = FRENCH.format(rng.randrange(10**9))
            elif kind == "no text":
                row["problem"] = "".join(rng.choices("\x01\x02\x03abc", k=100))
            else:
                recent = [*recent[-1999:], row] if len(recent) < 2000 else recent
                if len(recent) == 2000:
                    recent[rng.randrange(2000)] = row
            planted[kind] += 1
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return planted


def write_tokenizer(folder: Path, language: Language) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rng = random.Random(1)
    texts = (language.row(rng)["solution"] for _ in range(20_000))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=32_000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)


def make_data(folder: Path, rows: int, seed: int) -> dict[str, Any]:
    """Rows, benchmark and tokenizer in ``folder``, unless they are there; returns what was asked for and planted."""
    asked = {"rows": rows, "seed": seed}
    if (folder / "made.json").exists():
        made = json.loads((folder / "made.json").read_text(encoding="utf-8"))
        if {key: made[key] for key in asked} != asked:
            raise SystemExit(f"error: {folder} holds other data: {made}")
        return made
    folder.mkdir(parents=True, exist_ok=True)
    print(f"writing {rows} rows", flush=True)
    language, rng = Language(seed), random.Random("benchmark")
    benchmark = [language.row(rng)["problem"] for _ in range(500)]
    lines = (json.dumps({"question": text, "answer": "1"}) + "\n" for text in benchmark)
    (folder / "bench.jsonl").write_text("".join(lines), encoding="utf-8")
    write_tokenizer(folder / "tokenizer", language)
    made = {**asked, "planted": dict(write_rows(folder / "train.jsonl", rows, benchmark, language, seed))}
    (folder / "made.json").write_text(json.dumps(made), encoding="utf-8")
    return made


def measured(command: list[str]) -> tuple[dict[str, float], str]:
    """Wall and processor seconds and peak resident GiB of the process, and what it printed."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    printed, _ = process.communicate()
    seconds = time.monotonic() - start
    if process.returncode:
        raise SystemExit(f"the command failed with status {process.returncode}:\n{printed}")
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)  # this is the only child
    cpu = usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_gib": usage.ru_maxrss / 2**20}, printed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS, help="default: %(default)s")
    parser.add_argument("--out", default="benchmarks/results/data.json", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="keep the data here, and use it again (default: a temporary folder)")
    parser.add_argument("--make_only", action="store_true", help="make the data in --folder, measure nothing")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        name = args.folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-data-"))
        folder = Path(name)
        made = make_data(folder, args.rows, args.seed)
        size = (folder / "train.jsonl").stat().st_size
        if args.make_only:
            return
        script = str(ROOT / "examples" / "data_preprocess" / "from_files.py")
        options = ["--source", str(folder / "train.jsonl"), "--local_dir", str(folder / "out")]
        options += ["--question_key", "problem", "--answer_key", "solution", "--filter", "text", "box", "exact", "near"]
        options += ["--language", "en", "--tokenizer", str(folder / "tokenizer"), "--max_length", "2048"]
        options += ["--decontaminate", str(folder / "bench.jsonl"), "--overwrite"]
        load = os.getloadavg()[0]
        used, printed = measured([sys.executable, script, *options])
        report = json.loads((folder / "out" / "train.report.json").read_text(encoding="utf-8"))
    result = {
        "command": " ".join(["from_files.py", *options]).replace(name, "DIR"),
        "rows": args.rows,
        "source_gib": round(size / 2**30, 3),
        **{name: round(value, 3) for name, value in used.items()},
        "cpu_microseconds_per_row": round(1e6 * used["cpu_seconds"] / args.rows, 1),
        "limits": LIMITS,
        "within_limits": used["seconds"] <= LIMITS["seconds"] and used["peak_gib"] <= LIMITS["gib"],
        "load_average_before": round(load, 1),
        "planted": made["planted"],
        "rows_out": report["rows_out"],
        "dropped": {each["reason"]: each["rows"] for each in report["dropped"]},
        "machine": {"cpus": os.cpu_count(), "cpu": _cpu(), "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
    }
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{printed}\n{json.dumps(result, indent=2)}\nwrote {out}")


def _cpu() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return found[1] if found else platform.machine()


if __name__ == "__main__":
    main()
