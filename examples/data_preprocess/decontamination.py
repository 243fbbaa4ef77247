"""Benchmark questions among training questions, found by the overlap of their n-grams.

    overlap(training, benchmark) = |G(training) ∩ G(benchmark)| / |G(benchmark)|

where G is the set of n-grams of the question's letters and digits alone. Blanks, case, punctuation, LaTeX spacing and
LaTeX layout (``\\left``, ``\\dfrac`` for ``\\frac``, ``\\text`` ...) therefore change nothing. A changed word of w
letters costs at most n + w - 1 of the n-grams, so a long question survives it. In a short one it costs half, and short
questions are phrases that many problems share: they are compared by shorter n-grams, and with questions of about
their own length (the denominator is the larger of the two counts).

Measured on the six benchmarks of MATH-500, Minerva, OlympiadBench, AIME 24/25 and AMC 23 (1,547 questions): see
docs/data.md and tests/examples/test_data_decontamination.py.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

N, OVERLAP = 8, 0.7
SHORT = 80  # letters and digits; questions below it follow the rule for short ones
SHORT_N, SHORT_OVERLAP = 4, 0.5
VERBATIM = 20  # a short question of at least this many letters and digits also counts when it stands whole in another

_LAYOUT = re.compile(
    r"\\(?:[hv]space\*?\s*\{[^{}]*\}"
    r"|(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|q?quad|enspace|thinspace|negthinspace|space"
    r"|text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|rm|bf|operatorname)(?![a-zA-Z])"
    r"|[dtc](?=frac))"
)
_NO_LETTER_OR_DIGIT = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Match:
    """A training question that looks like a benchmark's: ``benchmark`` is ``name/row``; ``overlap`` is in (0, 1]."""

    benchmark: str
    question: str
    overlap: float


class BenchmarkIndex:
    """All benchmark questions, to be compared with one training question at a time.

    Two texts that share enough n-grams share one of the rarest of each: of a benchmark question with m n-grams, only
    the (1 - needed share) m + 1 that the fewest benchmark questions have are looked up. Nothing is missed by that, and
    phrases that half of all problems use are never looked at.
    """

    def __init__(self, questions: Iterable[tuple[str, str]]) -> None:
        """questions: (name, text) of each benchmark question; texts without a letter or digit are left out."""
        self.questions = [(name, text) for name, text in questions if condensed(text)]
        texts = [condensed(text) for _, text in self.questions]
        self.whole = {text: number for number, text in reversed(list(enumerate(texts)))}
        self.is_short = [len(text) < SHORT for text in texts]
        self.grams = {n: [ngrams(text, n) for text in texts] for n in (N, SHORT_N)}
        # A short question is looked up by N-grams only to find it verbatim, and then has all of them.
        self.places = {
            N: _rarest(self.grams[N], [1.0 if short else OVERLAP for short in self.is_short]),
            SHORT_N: _rarest(self.grams[SHORT_N], [SHORT_OVERLAP if short else None for short in self.is_short]),
        }

    def find(self, question: str) -> Match | None:
        """The benchmark question that ``question`` overlaps with most, if it overlaps enough to count."""
        text = condensed(question)
        if text in self.whole:
            return self._match(self.whole[text], 1.0)
        found = self._contained(text)
        if len(text) < SHORT / SHORT_OVERLAP:  # a longer one cannot reach SHORT_OVERLAP
            found += self._alike(text)
        overlap, number = max(found, default=(0.0, -1))
        return self._match(number, overlap) if found else None

    def _contained(self, text: str) -> list[tuple[float, int]]:
        found, own = [], ngrams(text, N)
        for number in self._candidates(own, N):
            grams = self.grams[N][number]
            shared, size = len(own & grams), len(grams)
            enough = shared == size >= VERBATIM - N + 1 if self.is_short[number] else shared >= OVERLAP * size
            if enough:
                found.append((shared / size, number))
        return found

    def _alike(self, text: str) -> list[tuple[float, int]]:
        found, own = [], ngrams(text, SHORT_N)
        for number in self._candidates(own, SHORT_N):
            grams = self.grams[SHORT_N][number]
            overlap = len(own & grams) / max(len(own), len(grams))
            if overlap >= SHORT_OVERLAP:
                found.append((overlap, number))
        return found

    def _candidates(self, own: set[str], n: int) -> set[int]:
        places = self.places[n]
        return {number for gram in places.keys() & own for number in places[gram]}

    def _match(self, number: int, overlap: float) -> Match:
        return Match(*self.questions[number], overlap)


def _rarest(grams: Sequence[set[str]], needed: Sequence[float | None]) -> dict[str, list[int]]:
    """n-gram -> the questions that must share one like it, if they share at least ``needed`` of theirs; None: not
    looked for."""
    frequency = Counter(gram for each in grams for gram in each)
    places: dict[str, list[int]] = {}
    for number, (each, share) in enumerate(zip(grams, needed, strict=True)):
        if share is not None:
            spare = len(each) - math.ceil(share * len(each) - 1e-9)
            for gram in sorted(each, key=lambda gram: (frequency[gram], gram))[: spare + 1]:
                places.setdefault(gram, []).append(number)
    return places


def condensed(text: str) -> str:
    """The letters and digits of ``text``, in one case, without the names of LaTeX layout commands."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    if "\\" in text:
        text = _LAYOUT.sub("", text)
    return _NO_LETTER_OR_DIGIT.sub("", text.casefold())


def ngrams(text: str, n: int) -> set[str]:
    """All pieces of n characters; of a shorter text, the text itself."""
    return {text[start : start + n] for start in range(max(1, len(text) - n + 1))}


def load_benchmarks(names: Sequence[str], folder: str | Path | None) -> tuple[list[tuple[str, str]], list[str]]:
    """(name/row, question) of every problem of the evaluation harness's benchmarks, and notes on what was left out.

    names: benchmarks of ``python -m verl.math_eval``, or files; ``("all",)``: all that are in ``folder``, or without
        one all that have a place on the hub, with a note on the others. ValueError for what cannot be read.
    """
    from verl.math_eval.benchmark_list import BENCHMARKS
    from verl.math_eval.benchmarks import load_problems, locate  # imports verl: some seconds

    if folder is not None and not Path(folder).expanduser().is_dir():
        raise ValueError(f"--benchmark_dir: expected a folder, found none at {folder}")
    everything = list(names) == ["all"]
    sources, missing = [], []
    for name in [entry.name for entry in BENCHMARKS] if everything else names:
        try:
            sources.append(locate(name, folder))
        except ValueError as error:
            if not everything:
                raise ValueError(f"--decontaminate: {error}") from error
            missing.append(name)
    if not sources:
        raise ValueError(f"--benchmark_dir {folder}: found none of the benchmarks {', '.join(missing)}")
    problems = [problem for source in sources for problem in load_problems(source)]
    notes = [f"compared with {len(problems)} questions of {', '.join(source.name for source in sources)}"]
    if missing:
        notes.append(f"NOT compared with {', '.join(missing)}: not {f'in {folder}' if folder else 'on the hub'}")
    return [(problem.id, _plain(problem.question)) for problem in problems], notes


def _plain(question: str | Sequence[Mapping[str, Any]]) -> str:
    return question if isinstance(question, str) else "\n".join(str(message["content"]) for message in question)
