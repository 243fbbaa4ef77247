"""Grade 100,000 answers, one in a thousand built to be endless; report speed, memory, time per bomb and what is left.

    OMP_NUM_THREADS=1 python scripts/stress_grader.py [--grades 100000] [--output benchmarks/results/stress_grader.json]

Hardware: 2 CPU cores, 4 GB. Time: about 4 minutes. Expected: at least 500 grades/s on pairs that are all different,
every bomb ended within 10 s, no zombie, no worker left. Where gmpy2 can be imported, sympy and mpmath use it; the
report says so.
"""

import argparse
import importlib.util
import json
import os
import platform
import random
import resource
import time
from pathlib import Path
from typing import Any

from verl.math_eval.grading import grade_many
from verl.math_eval.grading.symbolic.pool import TimedOut, WorkerDied, shared_pool

BOMB_EVERY = 1_000
SAMPLES = 16  # of one problem, in the run with repeated answers
UNREADABLE = "n \\bmod 7"  # our reader does not know it: such an answer goes to a worker


def pair(i: int, rng: random.Random) -> tuple[str, str]:
    """(answer, gold) of many kinds; about one in two is right, one in 200 needs a worker."""
    a, b, c = rng.randrange(10**6), rng.randrange(2, 10**4), rng.randrange(2, 10**3)
    if i % 200 == 0:
        return f"{UNREADABLE}+{a}", f"{a}+{UNREADABLE}"
    other = a + rng.randrange(2)
    kinds = (
        (f"{a:,}", f"{other}"),
        (f"\\frac{{{a}}}{{{b}}}", f"{other}/{b}"),
        (f"{a / 100}", f"\\frac{{{other}}}{{100}}"),
        (f"({a},{b})", f"({other}, {b})"),
        (f"\\{{{a}, {b}, {c}\\}}", f"{c}, {b}, {other}"),
        (f"[{a},\\infty)", f"x\\geq {other}"),
        (f"(x+{b})^2-{a}", f"x^2+{2 * b}x+{b * b - other}"),
        (f"{b}\\sqrt{{{c}}}+{a}", f"{other}+{b}\\sqrt{{{c}}}"),
        (f"y={b}x+{a}", f"{b}x-y+{other}=0"),
        (f"{a}\\text{{ cm}}^2", f"{other}\\text{{ square centimeters}}"),
        (
            f"\\begin{{pmatrix}}{a}&{b}\\\\{c}&1\\end{{pmatrix}}",
            f"\\begin{{bmatrix}}{other}&{b}\\\\{c}&1\\end{{bmatrix}}",
        ),
        (f"{a}^\\circ", f"{other}"),
        (f"\\text{{Plan {a}}}", f"\\text{{plan {other}}}"),
        (f"e^{{{c}x}}\\sin({b}x)+{a}", f"{other}+\\sin({b}x)e^{{{c}x}}"),
    )
    return kinds[i % len(kinds)]


def bomb(k: int, rng: random.Random) -> str:
    """Endless expressions, deep nesting and huge powers; several kinds pass the limits and reach a worker."""
    n = rng.randrange(100, 999)
    kinds = (
        f"9^{{9^{{9^{{{n}}}}}}}",
        f"({n}{n}{n}!)!",
        f"2^{{{n}00000000}}",
        "\\sqrt{" * n + "2" + "}" * n,
        "(" * 20 * n + str(n) + ")" * 20 * n,
        "+".join(f"x^{{{i}}}" for i in range(10 * n)),
        "\\frac{1}{1+" * n + "x" + "}" * n,
        f"\\sum_{{k=1}}^{{{n}000000000}}\\frac{{1}}{{k}}",
        f"\\binom{{{n}000000000}}{{{n}00000000}}",
        f"(x+y+z+w)^{{{n}}}+{UNREADABLE}",
        f"(a+b+c+d+e+f)^{{{n}}}(a+b+c)^{{{n}}}+{UNREADABLE}",
        f"\\sin(\\cos(\\tan(\\sin(\\cos(\\tan(x)^{{{n}}})^{{{n}}})^{{{n}}})^{{{n}}})^{{{n}}})+{UNREADABLE}",
        f"\\int_0^{{{n}}} x^x dx",
        f"\\gcd({n}^{{{n}}}!, {n}!)",
    )
    return kinds[k % len(kinds)]


def texts(grades: int, repeated: bool) -> tuple[list[tuple[str, str]], list[int]]:
    """(pairs of model text and gold, positions of the bombs)."""
    rng = random.Random(0)
    different = [pair(i, rng) for i in range(-(-grades // SAMPLES) if repeated else grades)]
    pairs = [
        (f"We get $x_{i}$ step by step.\n\nThe answer is $\\boxed{{{a}}}$.", g) for i, (a, g) in enumerate(different)
    ]
    pairs = [pairs[i // SAMPLES] if repeated else pairs[i] for i in range(grades)]
    bombs = list(range(BOMB_EVERY // 2, grades, BOMB_EVERY))
    for k, i in enumerate(bombs):
        pairs[i] = (f"So \\boxed{{{bomb(k, rng)}}}", pairs[i][1])
    return pairs, bombs


def run(grades: int, repeated: bool) -> dict[str, Any]:
    pairs, bombs = texts(grades, repeated)
    before = peak_memory(resource.RUSAGE_SELF)
    start = time.monotonic()
    found = grade_many(pairs)
    seconds = time.monotonic() - start
    statuses = [grade.status for grade in found]
    return {
        "pairs": "16 samples of each problem" if repeated else "all different",
        "grades": grades,
        "different_pairs": len(set(pairs)),
        "grades_per_second": round(grades / seconds, 1),
        "seconds": round(seconds, 1),
        "right": sum(grade.correct for grade in found),
        "asked_math_verify": sum(grade.reason in ("symbolic", "unreadable") for grade in found),
        "statuses": {status: statuses.count(status) for status in sorted(set(statuses))},
        "bombs": len(bombs),
        "bombs_passed": sum(found[i].correct for i in bombs),
        "bombs_killed_at_the_deadline": sum(found[i].status == "timeout" for i in bombs),
        "slowest_bomb_seconds": round(max(found[i].seconds for i in bombs), 2),
        "slowest_grade_seconds": round(max(grade.seconds for grade in found), 2),
        "parent_peak_mb_before_and_after": [before, peak_memory(resource.RUSAGE_SELF)],
        "zombies": children("Z"),
    }


def kill(seconds: float = 3.0) -> dict[str, Any]:
    """Bombs handed to the workers past the limits: each must end at the deadline, or its process die."""
    ends: list[str] = []
    spent: list[float] = []
    for raw in ("99999999!", "9^{9^{9^{9}}}", "\\binom{999999999}{499999999}", "2^{100000000000}", "(x+y+z+w)^{5000}"):
        start = time.monotonic()
        try:
            ends.append(f"decided: {shared_pool().equal(raw, 'x+1', seconds)[0]}")
        except (TimedOut, WorkerDied) as error:
            ends.append(type(error).__name__)
        spent.append(time.monotonic() - start)
    return {
        "deadline_seconds": seconds,
        "ends": ends,
        "slowest_seconds": round(max(spent), 2),
        "zombies": children("Z"),
    }


def peak_memory(who: int) -> int:
    """MB; for children: of the largest one that has ended."""
    return round(resource.getrusage(who).ru_maxrss / 1024)


def children(state: str = "") -> int:
    """Processes started by this one that are in this state, or all of them."""
    count = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        count += int(fields[1]) == os.getpid() and state in fields[0]
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grades", type=int, default=100_000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/stress_grader.json"))
    options = parser.parse_args()
    report: dict[str, Any] = {
        "cpu_cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "gmpy2": importlib.util.find_spec("gmpy2") is not None,
        "runs": [run(options.grades, repeated) for repeated in (False, True)],
        "bombs_past_the_limits": kill(),
    }
    shared_pool().close()
    report["largest_worker_peak_mb"] = peak_memory(resource.RUSAGE_CHILDREN)
    report["processes_left"] = children()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
