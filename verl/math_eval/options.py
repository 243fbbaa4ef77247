"""What to ask a model and how to sample; everything that can be wrong with it before a model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from verl.math_eval.benchmarks import OwnData, Problem, Source, load_problems, locate
from verl.math_eval.grades import grading_settings
from verl.math_eval.grading import MODES
from verl.math_eval.prompting import check_prompt_type
from verl.math_eval.requests import Sampling

DEFAULT_BENCHMARKS = ("math500", "minerva_math", "olympiadbench", "aime24", "amc23")  # the paper's five
GRADERS = ("default", "legacy")


@dataclass(frozen=True)
class EvalOptions:
    """The command line's options under the same names.

    num_shots: worked examples in front of the question, for named prompt types.
    start, end, num_test_sample: of each benchmark, the problems from ``start`` up to but without ``end``, and of these
        the first ones; -1 is no limit. benchmark_dir: local copies instead of the hub.
    question_key, answer_key: columns of the user's own files; dots reach into structures (``extra_info.question``).
        answer_kind: what their golds look like, out of ``benchmarks.ANSWER_KINDS``. gold_rule: how a gold is read out
        of the column, out of ``benchmarks.GOLD_RULES``. id_key: column of the problem's id; "": the row's number.
    extraction: "strict" takes answers from a box or after a marker only, "lenient" also the last formula or number.
        first_marker: what follows the line of the first answer does not count. end_of_thinking: more marks that end a
        chain of thought; a text without any is an unfinished thought.
    grader: "legacy" gives a second score by the original's rules, beside ours.
    """

    data_names: Sequence[str] = DEFAULT_BENCHMARKS
    prompt_type: str = "auto"
    num_shots: int = 0
    n_sampling: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens_per_call: int = 4096
    seed: int = 0
    num_test_sample: int = -1
    start: int = 0
    end: int = -1
    benchmark_dir: str | None = None
    question_key: str = "question"
    answer_key: str = "answer"
    answer_kind: str = "expression"
    gold_rule: str = "text"
    id_key: str = ""
    extraction: str = "lenient"
    first_marker: bool = False
    end_of_thinking: Sequence[str] = ()
    grader: str = "default"

    @property
    def grading(self) -> dict[str, Any]:
        """The settings under which samples are graded."""
        return grading_settings(self.extraction, self.grader, self.first_marker, self.end_of_thinking)

    @property
    def samples_per_problem(self) -> int:
        """n_sampling, but 1 under greedy decoding, where more samples are copies."""
        return 1 if self.temperature == 0 else self.n_sampling

    def chosen(self, problems: list[Problem]) -> list[Problem]:
        """The part of a benchmark that is asked; a problem keeps its id and its seeds in every part."""
        part = problems[self.start : None if self.end == -1 else self.end]
        return part if self.num_test_sample == -1 else part[: self.num_test_sample]

    @property
    def sampling(self) -> Sampling:
        """How to sample; under greedy decoding top_p means nothing and is 1."""
        return Sampling(self.temperature, self.top_p if self.temperature > 0 else 1.0, self.max_tokens_per_call)


Questions = tuple[list[Source], list[list[Problem]]]  # the benchmarks of a run, and all problems of each


def check_inputs(options: EvalOptions) -> Questions:
    """Everything that can be wrong without a model: names, files, columns, row counts, numbers."""
    if not options.data_names:
        raise ValueError("expected at least one benchmark in --data_names, found none")
    if options.n_sampling < 1:
        raise ValueError(f"expected n_sampling >= 1, found {options.n_sampling}")
    if options.num_test_sample == 0 or options.num_test_sample < -1:
        raise ValueError(f"expected num_test_sample >= 1, or -1 for all, found {options.num_test_sample}")
    if options.start < 0 or options.end < -1 or 0 <= options.end <= options.start:
        raise ValueError(
            f"expected 0 <= start < end, or end -1 for all, found start {options.start}, end {options.end}"
        )
    check_grading(options.extraction, options.grader)
    _ = options.sampling
    check_prompt_type(options.prompt_type, options.num_shots)
    own = OwnData(
        options.question_key, options.answer_key, options.answer_kind, options.gold_rule, options.id_key or None
    )
    sources = [locate(name, options.benchmark_dir, own) for name in options.data_names]
    names = [s.name for s in sources]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"expected different benchmarks, found {', '.join(twice)} more than once")
    problems = [load_problems(source) for source in sources]
    for source, found in zip(sources, problems, strict=True):
        if not options.chosen(found):
            raise ValueError(f"expected start < {len(found)}, the problems of {source.name}, found {options.start}")
    return sources, problems


def check_grading(extraction: str, grader: str) -> None:
    """Raise ValueError for names that are no way of extracting or grading."""
    if extraction not in MODES:
        raise ValueError(f"expected extraction out of {', '.join(MODES)}, found {extraction!r}")
    if grader not in GRADERS:
        raise ValueError(f"expected grader out of {', '.join(GRADERS)}, found {grader!r}")
