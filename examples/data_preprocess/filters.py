"""What may be left out of a training set: filters that say for each row why it is dropped, or keep it.

A filter sees a batch of training rows at a time and answers with a reason or None for each. They are applied in the
order of :func:`build_filters`; those that remember rows (duplicates) come last, and see only what the others kept.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from decontamination import BenchmarkIndex, load_benchmarks
from duplicates import SIMILARITY, ExactDuplicates, NearDuplicates
from rows import last_boxed, row_texts
from sources import Row

PLAIN_FILTERS = ("text", "box", "exact", "near")
SHOWN = 200  # characters of a question in the report
PAIRS = 20  # near duplicates that the report shows; of contaminated rows it shows all

LONGEST_WORD = 1000
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ue000-\uf8ff\ufffd]")
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")

LANGUAGE_PROBABILITY = 0.01  # 9,000 English problems: at least 0.11 each; ten other languages: at most 0.0005
LANGUAGE_BYTES = (20, 200)  # shorter texts tell nothing; what comes later in a text tells nothing new
_FORMULA = re.compile(
    r"\$\$.*?\$\$|\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)|\\[a-zA-Z]+|[^\w\s]|[\d_]", re.DOTALL
)  # and commands, digits and punctuation outside of formulas


class Filter(Protocol):
    """name and explanation: for the report, which also lists ``findings``."""

    name: str
    explanation: str
    findings: list[dict[str, Any]]

    def reasons(self, rows: Sequence[Row]) -> list[str | None]: ...


class RowFilter:
    """A filter that needs nothing but question and answer: ``check(question, answer)`` -> reason or None."""

    def __init__(self, name: str, explanation: str, check: Callable[[str, str], str | None]) -> None:
        self.name, self.explanation, self.check = name, explanation, check
        self.findings: list[dict[str, Any]] = []

    def reasons(self, rows: Sequence[Row]) -> list[str | None]:
        return [self.check(*row_texts(row)) for row in rows]


def text_filter() -> RowFilter:
    return RowFilter(
        "text",
        "question and answer must be text: with a letter or digit, at most 1 % of control, private-use or replacement "
        f"characters, and no word of over {LONGEST_WORD} characters that is not LaTeX",
        no_text,
    )


def no_text(question: str, answer: str) -> str | None:
    for part, text in (("question", question), ("answer", answer)):
        if not _LETTER_OR_DIGIT.search(text):
            return f"{part} has no letter and no digit"
        if _NO_TEXT.search(text) and len(_NO_TEXT.findall(text)) > len(text) / 100:
            return f"{part} is no text (over 1 % control or replacement characters)"
        if len(text) > LONGEST_WORD and "\\" not in text and max(map(len, text.split())) > LONGEST_WORD:
            return f"{part} is no text (a word of over {LONGEST_WORD} characters)"
    return None


def box_filter() -> RowFilter:
    return RowFilter(
        "box",
        "the answer must end in a \\boxed{...} that is not empty and is closed",
        lambda question, answer: None if last_boxed(answer) is not None else "no boxed answer",
    )


def language_filter(language: str) -> RowFilter:
    """Drops what py3langid is sure is not ``language``, an ISO 639 code such as ``en``; formulas do not count."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # the model takes 0.7 s to load

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    if language not in identifier.labels:
        raise ValueError(f"--language: expected one of {', '.join(sorted(identifier.labels))}; found {language!r}")

    def check(question: str, answer: str) -> str | None:
        for text in (question, answer):  # a question that is one formula says nothing; its answer may
            words = " ".join(_FORMULA.sub(" ", text[: 4 * LANGUAGE_BYTES[1]]).split()).encode("utf-8", "replace")
            if len(words) >= LANGUAGE_BYTES[0]:
                start = words[: LANGUAGE_BYTES[1]]
                if identifier.classify(start)[0] == language:  # most rows; to rank all languages takes longer
                    return None
                sure_not = dict(identifier.rank(start))[language] < LANGUAGE_PROBABILITY
                return f"not in language {language}" if sure_not else None
        return None

    explanation = (
        f"the question's words, without formulas, must not have a probability below {LANGUAGE_PROBABILITY} of being "
        f"{language} by py3langid; if they are too few, the answer's; if those are too few, the row stays"
    )
    return RowFilter("language", explanation, check)


class LengthFilter:
    """Drops rows of more than ``max_length`` tokens of question and answer; a chat template's tokens come on top."""

    def __init__(self, tokenizer: str, max_length: int) -> None:
        self.name = "length"
        self.tokenizer, self.max_length = load_tokenizer(tokenizer), max_length
        self.explanation = (
            f"question and answer must have at most {max_length} tokens of {tokenizer}, without the chat template's"
        )
        self.findings: list[dict[str, Any]] = []

    def reasons(self, rows: Sequence[Row]) -> list[str | None]:
        reasons: list[str | None] = [None] * len(rows)
        texts = ["\n".join(row_texts(row)) for row in rows]
        # A token is a character at least, and ASCII stays as long as it is under any normalisation.
        long = [place for place, text in enumerate(texts) if len(text) > self.max_length or not text.isascii()]
        if long:
            ids = self.tokenizer([texts[place] for place in long], add_special_tokens=False)["input_ids"]
            for place, tokens in zip(long, ids, strict=True):
                if len(tokens) > self.max_length:
                    reasons[place] = f"longer than {self.max_length} tokens"
        return reasons


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model folder or hub id. ValueError when there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"--tokenizer {name} cannot be loaded: {str(error).splitlines()[0]}") from error


class ContaminationFilter:
    """Drops rows whose question is, or nearly is, a benchmark's; lists each with the question that it looks like."""

    def __init__(self, questions: Sequence[tuple[str, str]], notes: Sequence[str]) -> None:
        self.name = "contamination"
        self.index = BenchmarkIndex(questions)
        self.explanation = "the question must not share most of its n-grams with a benchmark's; " + "; ".join(notes)
        self.findings: list[dict[str, Any]] = []

    def reasons(self, rows: Sequence[Row]) -> list[str | None]:
        return [self._reason(row) for row in rows]

    def _reason(self, row: Row) -> str | None:
        question = row_texts(row)[0]
        match = self.index.find(question)
        if match is None:
            return None
        self.findings.append(
            {
                "data_source": row["data_source"],
                "row": row["extra_info"]["index"],
                "benchmark": match.benchmark,
                "overlap": round(match.overlap, 3),
                "question": question[:SHOWN],
                "benchmark_question": match.question[:SHOWN],
            }
        )
        return f"question of benchmark {match.benchmark.split('/')[0]}"


class ExactFilter:
    def __init__(self) -> None:
        self.name = "exact"
        self.explanation = "question and answer together must not have been there before, blanks and case aside"
        self.findings: list[dict[str, Any]] = []
        self.rows = ExactDuplicates()

    def reasons(self, rows: Sequence[Row]) -> list[str | None]:
        seen = [self.rows.seen(row["extra_info"]["index"], *row_texts(row)) for row in rows]
        return [None if first is None else "exact duplicate" for first in seen]


class NearFilter:
    def __init__(self) -> None:
        self.name = "near"
        self.explanation = (
            f"the question must not have a Jaccard similarity of {SIMILARITY} or more (word trigrams, MinHash) to an "
            f"earlier one with the same numbers; the first {PAIRS} are listed"
        )
        self.findings: list[dict[str, Any]] = []
        self.questions = NearDuplicates()

    def reasons(self, rows: Sequence[Row]) -> list[str | None]:
        indices, questions = [row["extra_info"]["index"] for row in rows], [row_texts(row)[0] for row in rows]
        found = self.questions.seen(indices, questions)
        for index, question, match in zip(indices, questions, found, strict=True):
            if match and len(self.findings) < PAIRS:
                self.findings.append(
                    {"row": index, "like": match[0], "similarity": round(match[1], 3), "question": question[:SHOWN]}
                )
        return [None if match is None else "near duplicate" for match in found]


# --- command line -------------------------------------------------------------------------------------------------


def add_filter_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("filters", "none by default; what each drops is counted, and in the saved report")
    group.add_argument(
        "--filter",
        nargs="+",
        choices=PLAIN_FILTERS,
        default=[],
        help="text: drop what is no text; box: no boxed answer; exact: the same question and answer again; near: "
        "nearly the same question again (leave it out where one question may have several answers)",
    )
    group.add_argument("--language", help="drop rows that are not in this language, e.g. en")
    group.add_argument("--tokenizer", help="model folder or hub id, for --max_length and --check")
    group.add_argument("--max_length", type=int, help="drop rows with more tokens of question and answer")
    group.add_argument(
        "--decontaminate",
        nargs="*",
        metavar="BENCHMARK",
        help="drop questions of the evaluation's benchmarks (no name: of all of them)",
    )
    group.add_argument("--benchmark_dir", help="local copies of the benchmarks, as for the evaluation; else the hub")


def build_filters(args: argparse.Namespace) -> list[Filter]:
    """The filters that ``args`` asks for, cheap ones first. ValueError for options that do not go together."""
    if args.max_length is not None and not (args.tokenizer and args.max_length > 0):
        raise ValueError(f"--max_length {args.max_length}: expected a positive number of tokens and a --tokenizer")
    if args.benchmark_dir and args.decontaminate is None:
        raise ValueError("--benchmark_dir says where --decontaminate finds the benchmarks; found no --decontaminate")
    filters: list[Filter] = []
    if "text" in args.filter:
        filters.append(text_filter())
    if "box" in args.filter:
        filters.append(box_filter())
    if args.language:
        filters.append(language_filter(args.language))
    if args.decontaminate is not None:
        filters.append(ContaminationFilter(*load_benchmarks(args.decontaminate or ["all"], args.benchmark_dir)))
    if args.max_length is not None:
        filters.append(LengthFilter(args.tokenizer, args.max_length))
    if "exact" in args.filter:
        filters.append(ExactFilter())
    if "near" in args.filter:
        filters.append(NearFilter())
    return filters


def apply_filters(filters: Sequence[Filter], rows: Sequence[Row]) -> list[str | None]:
    """For each row the reason of the first filter that drops it, or None."""
    reasons: list[str | None] = [None] * len(rows)
    alive = list(range(len(rows)))
    for each in filters:
        for place, reason in zip(alive, each.reasons([rows[place] for place in alive]), strict=True):
            reasons[place] = reason
        alive = [place for place in alive if reasons[place] is None]
    return reasons
