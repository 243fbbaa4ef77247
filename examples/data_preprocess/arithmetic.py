"""Synthetic arithmetic word problems -> <local_dir>/pretrain.parquet, train.parquet, test.parquet and test.jsonl.

    python examples/data_preprocess/arithmetic.py --noise 0.3
    python examples/data_preprocess/arithmetic.py --noise 0.5 --bad wrong --ways 1

A set that a transformer of 200,000 parameters learns on one CPU core in a minute or two; made offline, and the same for
the same options. One to three steps with results from 1 to 60; each solution can be written in several right ways.

pretrain.parquet  clean demonstrations, to make a base model; always in all WAYS of writing
train.parquet     a share ``--noise`` of bad demonstrations: half of them ``wrong`` (one step slips, and the mistake
                  carries on into the answer), half ``badly_written`` (no steps, a ramble or a scrawl; right box), or
                  all of the kind ``--bad``; the others in the first ``--ways`` ways of writing
test.parquet      clean, in the first ``--ways`` ways; test.jsonl holds the same questions and final answers for the
                  evaluation

``extra_info.demonstration`` names the kind of each row, and ``reward_model.ground_truth`` is always the true answer. No
question occurs twice, in one file or in two.
"""

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from preprocess import atomic_path, check_free, run, write_split
from rows import training_row
from sources import Row, Source

DATA_SOURCE = "verl-dft/arithmetic"
NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo")
THINGS = ("apples", "books", "cards", "coins", "pens", "shells", "stamps", "stones")

# Question and steps. A letter is a number of the question, a digit the result of that step.
TEMPLATES = (
    ("{name} has {a} {things} and finds {b} more. How many now?", "a+b"),
    ("{name} has {a} {things} and gives {b} to {other}. How many are left?", "a-b"),
    ("{name} has {a} bags of {b} {things}. How many {things}?", "a*b"),
    ("{name} has {a} {things}, finds {b} and loses {c}. How many now?", "a+b 1-c"),
    ("{name} has {a} {things}, gives {b} to {other} and sells {c}. How many are left?", "a-b 1-c"),
    ("{name} has {a} bags of {b} {things} and finds {c} more. How many now?", "a*b 1+c"),
    ("{name} has {a} bags of {b} {things} and sells {c}. How many are left?", "a*b 1-c"),
    ("{name} has {a} dollars and buys {b} {things} for {c} dollars each. How many dollars are left?", "b*c a-1"),
    ("{name} has {a} {things} and {other} has {b} more. How many do both have?", "a+b a+1"),
    ("{name} has {a} {things} and {other} has {b} times as many. How many do both have?", "a*b a+1"),
    ("{name} has {a} bags of {b} {things} and {c} bags of {d} {things}. How many {things}?", "a*b c*d 1+2"),
    ("{name} has {a} bags of {b} {things}, finds {c} and sells {d}. How many are left?", "a*b 1+c 2-d"),
)

FACTORS = (2, 9)
OTHER_NUMBERS = (2, 20)
LARGEST = 60
SLIPS = (-10, -2, -1, 1, 2, 10)
WAYS = 3  # of writing a solution
TRIES = 1000


@dataclass(frozen=True)
class Problem:
    """A question, its numbers by letter, and its steps such as ``("a*b", "1+c")``."""

    question: str
    numbers: dict[str, int]
    steps: tuple[str, ...]

    def solve(self, slip_at: int = -1, slip: int = 0) -> tuple[list[str], list[int]]:
        """The steps written out (``"3 * 4 = 12"``) and their results; step ``slip_at`` is wrong by ``slip``."""
        lines, results = [], []
        for position, (left, operator, right) in enumerate(self.steps):
            x, y = (results[int(each) - 1] if each.isdigit() else self.numbers[each] for each in (left, right))
            result = {"+": x + y, "-": x - y, "*": x * y}[operator] + slip * (position == slip_at)
            lines.append(f"{x} {operator} {y} = {result}")
            results.append(result)
        return lines, results


def draw_problem(rng: random.Random, largest: int = LARGEST) -> Problem:
    """A problem whose results are all from 1 to ``largest``."""
    text, program = rng.choice(TEMPLATES)
    steps = tuple(program.split())
    factors = {letter for step in steps if "*" in step for letter in step}
    while True:
        letters = [letter for letter in "abcd" if f"{{{letter}}}" in text]
        numbers = {letter: rng.randint(*(FACTORS if letter in factors else OTHER_NUMBERS)) for letter in letters}
        problem = Problem(text, numbers, steps)
        if all(0 < result <= largest for result in problem.solve()[1]):
            break
    name, other = rng.sample(NAMES, 2)
    return Problem(text.format(name=name, other=other, things=rng.choice(THINGS), **numbers), numbers, steps)


def draw_problems(count: int, rng: random.Random, taken: set[str], largest: int = LARGEST) -> list[Problem]:
    """``count`` problems whose questions are not in ``taken``, and are added to it."""
    problems: list[Problem] = []
    for _ in range(count):
        for _ in range(TRIES):
            problem = draw_problem(rng, largest)
            if problem.question not in taken:
                break
        else:
            raise ValueError(f"found only {len(taken)} different questions; ask for fewer rows in all")
        taken.add(problem.question)
        problems.append(problem)
    return problems


def clean(problem: Problem, rng: random.Random, ways: int = WAYS) -> str:
    """A right solution, in one of the first ``ways`` ways of writing it."""
    lines, results = problem.solve()
    return _written(lines, results[-1], rng, ways)


def wrong(problem: Problem, rng: random.Random, ways: int = WAYS) -> str:
    """A solution that looks like a clean one, with one slip that makes the final answer wrong."""
    truth = problem.solve()[1][-1]
    slips = [(position, slip) for position in range(len(problem.steps)) for slip in SLIPS]
    for position, slip in rng.sample(slips, len(slips)):
        lines, results = problem.solve(position, slip)
        if all(0 < result <= LARGEST for result in results) and results[-1] != truth:
            return _written(lines, results[-1], rng, ways)
    raise AssertionError("the last step can always be wrong by one")


def badly_written(problem: Problem, rng: random.Random, ways: int = WAYS) -> str:
    """The right answer in its box, without steps, in a ramble or in a scrawl. Not one of the ``ways``."""
    lines, results = problem.solve()
    box = f"\\boxed{{{results[-1]}}}"
    scrawl = " ;; ".join(line.replace(" ", "").replace("=", "->") for line in lines)
    return rng.choice(
        (
            box,
            f"It is just {box}.",
            f"Hmm, let me see. This one is long and I am not sure where to begin. Well, I would say {box}.",
            f"I did it in my head and then I did it again, and both times it was about {box}.",
            f"{scrawl} ;; ans {box}",
        )
    )


def _written(lines: Sequence[str], result: int, rng: random.Random, ways: int) -> str:
    numbered = " ".join(f"Step {number}: {line}." for number, line in enumerate(lines, start=1))
    written = (
        f"{'. '.join(lines)}. The answer is \\boxed{{{result}}}.",
        f"First {', then '.join(lines)}. So it is \\boxed{{{result}}}.",
        f"{numbered} Result: \\boxed{{{result}}}.",
    )
    return rng.choice(written[:ways])


DEMONSTRATIONS = {"clean": clean, "wrong": wrong, "badly_written": badly_written}
BAD = {"both": ("badly_written", "wrong"), "wrong": ("wrong", "wrong"), "badly_written": ("badly_written",) * 2}


def make_examples(
    problems: Sequence[Problem], noise: float, rng: random.Random, bad: str = "both", ways: int = WAYS
) -> list[dict[str, str]]:
    """{question, answer, gold, demonstration} of each problem; exactly round(noise * count) of them are bad."""
    count = round(noise * len(problems))
    one, other = BAD[bad]
    kinds = [one] * (count // 2) + [other] * (count - count // 2) + ["clean"] * (len(problems) - count)
    rng.shuffle(kinds)
    return [
        {
            "question": problem.question,
            "answer": DEMONSTRATIONS[kind](problem, rng, ways),
            "gold": str(problem.solve()[1][-1]),
            "demonstration": kind,
        }
        for problem, kind in zip(problems, kinds, strict=True)
    ]


def row(example: Mapping[str, Any], split: str, index: int) -> Row:
    """{question, answer, gold, demonstration} -> training row."""
    kind = example["demonstration"]
    return training_row(
        DATA_SOURCE, example["question"], example["answer"], example["gold"], split, index, demonstration=kind
    )


def make_splits(
    sizes: Mapping[str, int], noise: float, seed: int, largest: int = LARGEST, bad: str = "both", ways: int = WAYS
) -> dict[str, list[dict[str, str]]]:
    """Examples by split. The test questions depend on the seed and their number only, whatever is trained on."""
    taken: set[str] = set()
    splits = {}
    for split in ("test", "train", "pretrain"):
        problems = draw_problems(sizes[split], random.Random(f"{seed} {split} questions"), taken, largest)
        demonstrations = random.Random(f"{seed} {split} demonstrations")
        bad_share = noise if split == "train" else 0.0
        splits[split] = make_examples(problems, bad_share, demonstrations, bad, WAYS if split == "pretrain" else ways)
    return splits


def write_questions(examples: Sequence[Mapping[str, str]], path: Path) -> None:
    """JSON lines of {question, answer}, answer being the true final number."""
    with atomic_path(path) as temporary:
        lines = (json.dumps({"question": each["question"], "answer": each["gold"]}) + "\n" for each in examples)
        temporary.write_text("".join(lines), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--local_dir", default="data/arithmetic", help="folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same rows (default: 0)")
    parser.add_argument("--pretrain_size", type=int, default=20000, help="rows for a base model (default: %(default)s)")
    parser.add_argument("--train_size", type=int, default=4000, help="rows to fine-tune on (default: %(default)s)")
    parser.add_argument("--test_size", type=int, default=200, help="rows to evaluate on (default: %(default)s)")
    parser.add_argument("--noise", type=float, default=0.3, help="share of bad demonstrations in train (default: 0.3)")
    parser.add_argument("--bad", choices=BAD, default="both", help="what is bad about them (default: %(default)s)")
    parser.add_argument("--ways", type=int, choices=range(1, WAYS + 1), default=WAYS, help="ways of writing the others")
    parser.add_argument("--largest", type=int, default=LARGEST, help="largest result (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    args = parser.parse_args(argv)
    if not 20 <= args.largest <= LARGEST:
        raise ValueError(f"expected --largest from 20 to {LARGEST}, found {args.largest}")
    sizes = {"pretrain": args.pretrain_size, "train": args.train_size, "test": args.test_size}
    if min(sizes.values()) < 1 or not 0 <= args.noise <= 1:
        raise ValueError(f"expected sizes of at least 1 and --noise from 0 to 1, found {sizes} and {args.noise}")

    folder = Path(args.local_dir).expanduser()
    splits = make_splits(sizes, args.noise, args.seed, args.largest, args.bad, args.ways)
    for name in [*(f"{split}.parquet" for split in splits), "test.jsonl"]:
        check_free(folder / name, args.overwrite)
    for split, examples in splits.items():
        source = Source(f"made with seed {args.seed}", len(examples), pa.schema([]), examples.__iter__)
        write_split(
            source, row, split, folder / f"{split}.parquet", extra_info=("demonstration",), overwrite=args.overwrite
        )
        kinds = Counter(example["demonstration"] for example in examples)
        print(f"{split}: demonstrations " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    write_questions(splits["test"], folder / "test.jsonl")  # last: where it is, all is
    print(f"test: wrote {folder / 'test.jsonl'}")


if __name__ == "__main__":
    sys.exit(run(main))
