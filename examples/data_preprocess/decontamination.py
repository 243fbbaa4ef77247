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

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

N, OVERLAP = 8, 0.7
SHORT = 80  # letters and digits; questions below it follow the rule for short ones
SHORT_N, SHORT_OVERLAP = 4, 0.5
VERBATIM = 20  # a short question of at least so many letters and digits also counts when it stands whole in another

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
    """The n-grams of all benchmark questions. ``find`` takes 0.1 to 0.2 ms for a question of 250 characters."""

    def __init__(self, questions: Iterable[tuple[str, str]]) -> None:
        """questions: (name, text) of each benchmark question; texts without a letter or digit are left out."""
        self.questions = [(name, text) for name, text in questions if condensed(text)]
        texts = [condensed(text) for _, text in self.questions]
        self.is_short = [len(text) < SHORT for text in texts]
        self.grams = {n: [ngrams(text, n) for text in texts] for n in (N, SHORT_N)}
        self.places: dict[int, dict[str, list[int]]] = {N: defaultdict(list), SHORT_N: defaultdict(list)}
        for number in range(len(texts)):
            for n in (N, SHORT_N) if self.is_short[number] else (N,):
                for gram in self.grams[n][number]:
                    self.places[n][gram].append(number)
        self.whole = {text: number for number, text in reversed(list(enumerate(texts)))}

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
        found = []
        for number, shared in self._shared(text, N)[0].items():
            size = len(self.grams[N][number])
            enough = shared == size >= VERBATIM - N + 1 if self.is_short[number] else shared >= OVERLAP * size
            if enough:
                found.append((shared / size, number))
        return found

    def _alike(self, text: str) -> list[tuple[float, int]]:
        shared, own = self._shared(text, SHORT_N)
        overlaps = [(count / max(len(self.grams[SHORT_N][number]), own), number) for number, count in shared.items()]
        return [(overlap, number) for overlap, number in overlaps if overlap >= SHORT_OVERLAP]

    def _shared(self, text: str, n: int) -> tuple[Counter[int], int]:
        """How many n-grams ``text`` shares with each benchmark question that has any of them; how many it has."""
        grams, places = ngrams(text, n), self.places[n]
        return Counter(number for gram in places.keys() & grams for number in places[gram]), len(grams)

    def _match(self, number: int, overlap: float) -> Match:
        return Match(*self.questions[number], overlap)


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
    from verl.math_eval.benchmarks import load_problems, locate  # imports verl: some seconds
    from verl.math_eval.manifest import BENCHMARKS

    if folder is not None and not Path(folder).expanduser().is_dir():
        raise ValueError(f"--benchmark_dir: expected a folder, found none at {folder}")
    everything = list(names) == ["all"]
    sources, missing = [], []
    for name in [entry.name for entry in BENCHMARKS] if everything else names:
        try:
            sources.append(locate(name, folder, "question", "answer"))
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
