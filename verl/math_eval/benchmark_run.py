"""One benchmark of one evaluation: ask for the missing samples, grade them as they come, write the metrics."""

import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from verl.dft.data.prompts import PromptFormat
from verl.math_eval.benchmarks import Problem, Source, about_data, as_text, data_hash
from verl.math_eval.evaluation import Evaluation, write_metrics
from verl.math_eval.grades import graded, graded_in_pieces
from verl.math_eval.merging import merge_samples
from verl.math_eval.options import EvalOptions
from verl.math_eval.requests import Completion, Request, sample_seed
from verl.math_eval.samples import Record, SampleStore

if TYPE_CHECKING:
    from verl.math_eval.backends.base import Backend

TEMPLATE_FIELDS = ("kind", "template", "template_kwargs", "stop")  # what of a prompt format can change a sample
MOST_WAITING = 2000  # samples that may wait for the grader, before the model waits: memory stays bounded
TOGETHER = 16  # samples graded in one go, where so many wait: the grader's workers share them


class BenchmarkRun:
    """problems: all of the benchmark. prompts: the ids of those that are asked. fingerprint: of the model's weights.
    place: the benchmark's position in reports.
    """

    def __init__(
        self,
        backend: "Backend",
        prompt_format: PromptFormat,
        evaluation: Evaluation,
        options: EvalOptions,
        source: Source,
        problems: list[Problem],
        prompts: Mapping[str, tuple[int, ...]],
        fingerprint: str,
        place: int = 0,
    ):
        self.backend, self.format, self.source = backend, prompt_format, source
        self.evaluation, self.options = evaluation, options
        self.problems = options.chosen(problems)
        self.prompts = prompts
        self.requests = [
            Request(p.id, sample, self.prompts[p.id], sample_seed(options.seed, p.id, sample))
            for p in self.problems
            for sample in range(options.samples_per_problem)
        ]
        self.by_id = {p.id: p for p in self.problems}
        self.store = SampleStore(evaluation.folder / source.name, self._settings(fingerprint, problems, place))

    def _settings(self, fingerprint: str, all_problems: list[Problem], place: int) -> dict[str, Any]:
        template = {key: value for key, value in asdict(self.format).items() if key in TEMPLATE_FIELDS}
        return {
            "generation": {
                **self.backend.settings,
                "model": fingerprint,
                "prompt_format": template,
                "sampling": asdict(self.options.sampling),
                "seed": self.options.seed,
                # Of all problems, so that a larger num_test_sample continues this folder.
                "data": data_hash(all_problems),
            },
            "grading": self.options.grading,
            "described": {
                "label": self.evaluation.label,
                "model": self.backend.source,
                "backend": self.backend.described,
                "prompt_format": self.format.name,
                "training": self.format.training,
                "example_prompt": self.backend.tokenizer.decode(list(self.prompts[self.problems[0].id])),
                "benchmark": self.source.name,
                "place": place,
                "data": about_data(self.source, all_problems),
                "warnings": list(self.evaluation.warnings),
            },
            "asked": {"problems": [p.id for p in self.problems], "samples": self.options.samples_per_problem},
        }

    def execute(self, merge_from: Sequence[Path] = ()) -> dict[str, Any]:
        """Returns what it wrote into metrics.json. merge_from: output folders whose samples are taken over."""
        self.store.open()
        try:
            if self.store.needs_regrading:
                self.store.replace(graded_in_pieces(self.store.records.values(), self.store.settings["grading"]))
            merge_samples(self.store, [folder / self.source.name for folder in merge_from])
            self._generate_missing()
            return write_metrics(self.store)
        finally:
            self.store.close()

    def _generate_missing(self) -> None:
        done = {r.key for r in self.requests}.intersection(self.store.records)
        if self.store.records:
            name = f"{self.evaluation.label} {self.source.name}"
            print(f"{name}: {len(done)} of {len(self.requests)} samples are there already", flush=True)
        if len(done) == len(self.requests):
            return
        # One thread grades and writes while the model goes on: a grade that takes long must not stop a GPU.
        with _progress_bar(self, len(done)) as bar, ThreadPoolExecutor(1) as grader:
            meter = _TokenMeter(bar)
            finished: deque[Sequence[Completion]] = deque()
            writes: deque[Future] = deque()
            waiting = 0
            batches = self.backend.generate(self.requests, self.options.sampling, self.format.stop, meter.add, done)
            for completions in batches:
                finished.append(completions)
                writes.append(grader.submit(self._write, finished))
                waiting += len(completions)
                while writes and (writes[0].done() or waiting > MOST_WAITING):
                    written = writes.popleft().result()
                    waiting -= written
                    bar.update(written)
            for write in writes:
                bar.update(write.result())

    def _write(self, finished: "deque[Sequence[Completion]]") -> int:
        """Grade and store what is finished, at least TOGETHER if there are: an engine that hands over one sample at a
        time must not make the grader take one at a time.
        """
        taken: list[Completion] = []
        while finished and len(taken) < TOGETHER:
            taken += finished.popleft()
        self.store.append(graded(map(self._record, taken), self.store.settings["grading"]))
        return len(taken)

    def _record(self, completion: Completion) -> Record:
        request = completion.request
        problem = self.by_id[request.problem_id]
        return {
            "problem": request.problem_id,
            "sample": request.sample,
            "seed": request.seed,
            "prompt": self.backend.tokenizer.decode(list(request.prompt_ids)),
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "tokens": completion.num_tokens,
            "question": as_text(problem.question),
            "gold": problem.gold,
            "details": dict(problem.details),
        }


def _progress_bar(run: BenchmarkRun, done: int) -> tqdm:
    interval = 0.5 if sys.stderr.isatty() else 10.0  # a log file gets a line now and then
    bar = tqdm(
        total=len(run.requests),
        desc=f"{run.evaluation.label} {run.source.name}",
        unit="sample",
        mininterval=interval,
        miniters=0,
        dynamic_ncols=True,
    )
    bar.update(done)
    return bar


class _TokenMeter:
    """Keeps the bar moving inside a long batch."""

    def __init__(self, bar: tqdm):
        self.bar, self.tokens, self.start = bar, 0, time.monotonic()

    def add(self, tokens: int) -> None:
        self.tokens += tokens
        self.bar.set_postfix_str(f"{self.tokens / (time.monotonic() - self.start):,.0f} tokens/s", refresh=False)
        self.bar.update(0)
