"""One evaluation: a model, benchmarks, one way of decoding -> samples, grades and metrics on disk.

Example::

    from verl.math_eval.harness import EvalOptions, evaluate
    evaluate("checkpoints/global_step_100", "out", EvalOptions(data_names=("math500",), n_sampling=16, temperature=1.0))
"""

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from verl.math_eval.benchmarks import Problem, Source, data_hash, load_problems, locate
from verl.math_eval.generation import Completion, Request, Sampling, TransformersBackend, resolve_model, sample_seed
from verl.math_eval.grading import GRADER_VERSION, MODES, Grade, grade_many
from verl.math_eval.metrics import benchmark_metrics, versions
from verl.math_eval.prompting import ChosenFormat, check_prompt_type, choose_format
from verl.math_eval.report import write_report
from verl.math_eval.samples import Record, SampleStore

DEFAULT_BENCHMARKS = ("math500", "minerva_math", "olympiadbench", "aime24", "amc23")  # the paper's five
PIECES, PIECE = 64, 65_536  # bytes read of each weight file: enough to tell two training steps apart
TEMPLATE_FIELDS = ("kind", "template", "template_kwargs", "stop")  # what of a prompt format can change a sample


@dataclass(frozen=True)
class EvalOptions:
    """What to ask and how to sample; the command line's options under the same names.

    start, end, num_test_sample: of each benchmark, the problems from ``start`` up to but without ``end``, and of these
        the first ones; -1 is no limit. benchmark_dir: local copies instead of the hub.
    question_key, answer_key: columns of the user's own files; dots reach into structures (``extra_info.question``).
    extraction: "strict" takes answers from a box or after a marker only, "lenient" also the last formula or number.
    """

    data_names: Sequence[str] = DEFAULT_BENCHMARKS
    prompt_type: str = "auto"
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
    extraction: str = "lenient"

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
        return Sampling(self.temperature, self.top_p if self.temperature > 0 else 1.0, self.max_tokens_per_call)


@dataclass(frozen=True)
class Evaluation:
    """The result of :func:`evaluate`: benchmark name -> its metrics.json, and what a reader must be told."""

    label: str
    folder: Path
    options: EvalOptions
    prompt_format: str
    warnings: tuple[str, ...]
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)


def evaluate(
    model: str | Path | TransformersBackend, output_dir: str | Path, options: EvalOptions, label: str | None = None
) -> Evaluation:
    """Score one model; writes ``<output_dir>/<benchmark>/{samples.jsonl, settings.json, metrics.json}`` and a report.

    model: a hub id, a HF folder, a trainer checkpoint, or a backend that already holds the model.
    label: the model's name in reports; default: the last part of its path.

    Samples already in ``output_dir`` under the same settings are used again; other settings there are refused.
    Raises ValueError for everything the user can put right, as far as possible before the model is loaded.
    """
    if not isinstance(model, TransformersBackend):
        resolve_model(str(model))
    sources, problems = check_inputs(options)
    backend = model if isinstance(model, TransformersBackend) else TransformersBackend(str(model))
    chosen = choose_format(options.prompt_type, backend.folder, backend.tokenizer)
    evaluation = Evaluation(
        label or _name(backend.source),
        Path(output_dir),
        options,
        chosen.format.name,
        (*_warnings(chosen, options), *_partial(sources, problems, options)),
    )
    _announce(backend, chosen, problems[0][0], evaluation)
    fingerprint = model_fingerprint(backend.folder, getattr(backend.config, "_commit_hash", None))
    for source, asked in zip(sources, problems, strict=True):
        run = _BenchmarkRun(backend, chosen, evaluation, source, asked, fingerprint)
        evaluation.metrics[source.name] = run.execute()
    write_report(output_dir, [evaluation])
    return evaluation


def check_inputs(options: EvalOptions) -> tuple[list[Source], list[list[Problem]]]:
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
    if options.extraction not in MODES:
        raise ValueError(f"expected extraction out of {', '.join(MODES)}, found {options.extraction!r}")
    _ = options.sampling
    check_prompt_type(options.prompt_type)
    sources = [
        locate(name, options.benchmark_dir, options.question_key, options.answer_key) for name in options.data_names
    ]
    names = [s.name for s in sources]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"expected different benchmarks, found {', '.join(twice)} more than once")
    problems = [load_problems(source) for source in sources]
    for source, found in zip(sources, problems, strict=True):
        if not options.chosen(found):
            raise ValueError(f"expected start < {len(found)}, the problems of {source.name}, found {options.start}")
    return sources, problems


def model_fingerprint(folder: str, commit: str | None = None) -> str:
    """A hash that changes with the weights: the hub commit, or size and samples of the bytes of each weight file."""
    path = Path(folder)
    if not path.is_dir():
        return f"{folder}@{commit}"
    digest = hashlib.sha256()
    for file in sorted([path / "config.json", *path.glob("*.safetensors"), *path.glob("*.bin")]):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as data:
            for part in range(PIECES):
                data.seek(part * max(0, size - PIECE) // (PIECES - 1))
                digest.update(data.read(PIECE))
    return digest.hexdigest()


def _name(source: str) -> str:
    path = Path(source)
    return path.parent.name if path.name == "huggingface" else path.name


def _warnings(chosen: ChosenFormat, options: EvalOptions) -> tuple[str, ...]:
    warnings = [chosen.warning] if chosen.warning else []
    if options.n_sampling > 1 and options.temperature == 0:
        warnings.append(
            f"temperature 0 is greedy decoding: 1 sample per problem instead of {options.n_sampling} copies"
        )
    return tuple(warnings)


def _partial(sources: list[Source], problems: list[list[Problem]], options: EvalOptions) -> list[str]:
    """A line per benchmark that is not asked in full: its score is not the benchmark's."""
    asked = [
        (source.name, len(options.chosen(found)), len(found)) for source, found in zip(sources, problems, strict=True)
    ]
    return [f"{name}: {few} of {all_} problems, from number {options.start}" for name, few, all_ in asked if few < all_]


def _announce(backend: TransformersBackend, chosen: ChosenFormat, first: Problem, evaluation: Evaluation) -> None:
    ids = chosen.format.encode(first.question, backend.tokenizer)
    print(f"model: {backend.folder} ({backend.device}, {backend.dtype})")
    print(f"prompt format: {chosen.format.name}, stops at {', '.join(map(repr, chosen.format.stop))}; an example:")
    print(f"----\n{backend.tokenizer.decode(ids)}\n----", flush=True)
    for warning in evaluation.warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)


class _BenchmarkRun:
    """One benchmark of one evaluation: ask for the missing samples, grade them as they come, write the metrics."""

    def __init__(
        self,
        backend: TransformersBackend,
        chosen: ChosenFormat,
        evaluation: Evaluation,
        source: Source,
        problems: list[Problem],
        fingerprint: str,
    ):
        self.backend, self.format, self.source = backend, chosen.format, source
        self.evaluation, self.options = evaluation, evaluation.options
        self.all_problems = problems
        self.problems = self.options.chosen(problems)
        self.folder = evaluation.folder / source.name
        self.golds = {p.id: p.gold for p in self.problems}
        self.prompts = {p.id: tuple(self.format.encode(p.question, backend.tokenizer)) for p in self.problems}
        self.store = SampleStore(self.folder, self._settings(fingerprint))

    def _settings(self, fingerprint: str) -> dict[str, Any]:
        template = {key: value for key, value in asdict(self.format).items() if key in TEMPLATE_FIELDS}
        return {
            "generation": {
                "backend": self.backend.name,
                "model": fingerprint,
                "dtype": str(self.backend.dtype),
                "prompt_format": template,
                "sampling": asdict(self.options.sampling),
                "seed": self.options.seed,
                "data": data_hash(self.all_problems),  # of all, so that a larger num_test_sample continues this folder
            },
            "grading": {"grader": GRADER_VERSION, "extraction": self.options.extraction},
            "described": {
                "model": self.backend.source,
                "prompt_format": self.format.name,
                "training": self.format.training,
                "benchmark": self.source.name,
                "data": str(self.source.path or self.source.entry.hub),
                "revision": self.source.entry.revision,
                "example_prompt": self.backend.tokenizer.decode(list(self.prompts[self.problems[0].id])),
            },
        }

    def execute(self) -> dict[str, Any]:
        self.store.open()
        if self.store.needs_regrading:
            self._grade_again()
        self._generate_missing()
        metrics = self._metrics()
        text = json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False)
        (self.folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
        return metrics

    def _generate_missing(self) -> None:
        requests = [
            Request(p.id, sample, self.prompts[p.id], sample_seed(self.options.seed, p.id, sample))
            for p in self.problems
            for sample in range(self.options.samples_per_problem)
        ]
        done = {(r.problem_id, r.sample) for r in requests}.intersection(self.store.records)
        with _progress_bar(f"{self.evaluation.label} {self.source.name}", len(requests)) as bar:
            bar.update(len(done))
            meter = _TokenMeter(bar)
            sampling, stop = self.options.sampling, self.format.stop
            for completions in self.backend.generate(requests, sampling, stop, meter.add, done):
                pairs = [(c.text, self.golds[c.request.problem_id]) for c in completions]
                grades = grade_many(pairs, self.options.extraction)
                self.store.append(self._record(c, g) for c, g in zip(completions, grades, strict=True))
                bar.update(len(completions))

    def _grade_again(self) -> None:
        records = list(self.store.records.values())
        grades = grade_many([(r["text"], r["gold"]) for r in records], self.options.extraction)
        self.store.replace({**r, **_grade_fields(g)} for r, g in zip(records, grades, strict=True))

    def _record(self, completion: Completion, grade: Grade) -> Record:
        request = completion.request
        return {
            "problem": request.problem_id,
            "sample": request.sample,
            "seed": request.seed,
            "prompt": self.backend.tokenizer.decode(list(request.prompt_ids)),
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "tokens": completion.num_tokens,
            "gold": self.golds[request.problem_id],
            **_grade_fields(grade),
        }

    def _metrics(self) -> dict[str, Any]:
        sampling = self.options.sampling
        requests = [Request(p.id, 0, self.prompts[p.id], 0) for p in self.problems]
        capped = sum(0 < self.backend.limit(r, sampling) < sampling.max_new_tokens for r in requests)
        rows = [
            [self.store.records[p.id, sample] for sample in range(self.options.samples_per_problem)]
            for p in self.problems
        ]
        return {
            "benchmark": self.source.name,
            **benchmark_metrics(rows, greedy=self.options.temperature == 0),
            "problems_capped_by_context": capped,
            "settings": {**self.store.settings, "warnings": list(self.evaluation.warnings)},
            "versions": versions(),
        }


def _grade_fields(grade: Grade) -> Record:
    # No seconds here: the same samples must give the same file.
    return {
        "extracted": grade.extracted,
        "method": grade.method,
        "correct": grade.correct,
        "status": grade.status,
        "reason": grade.reason,
    }


def _progress_bar(name: str, total: int) -> tqdm:
    interval = 0.5 if sys.stderr.isatty() else 10.0  # a log file gets a line now and then
    return tqdm(total=total, desc=name, unit="sample", mininterval=interval, miniters=0, dynamic_ncols=True)


class _TokenMeter:
    """Keeps the bar moving inside a long batch."""

    def __init__(self, bar: tqdm):
        self.bar, self.tokens, self.start = bar, 0, time.monotonic()

    def add(self, tokens: int) -> None:
        self.tokens += tokens
        self.bar.set_postfix_str(f"{self.tokens / (time.monotonic() - self.start):,.0f} tokens/s", refresh=False)
        self.bar.update(0)
