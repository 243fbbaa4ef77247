"""Offline RL data: sample from a model, keep what is right -> <local_dir>/train.parquet.

    python examples/data_preprocess/rejection_sampling.py --model Qwen/Qwen2.5-Math-1.5B \\
        --source data/numina_cot/train.parquet --local_dir data/offline_rl --decontaminate

The defaults are the paper's recipe (arXiv 2508.05629, section 4.2): 4 responses per question from the base model at
temperature 1.0, graded with math-verify (inside the evaluation's grader), all correct ones kept. The paper says nothing
on top_p, length, duplicates or a limit per question; here top_p is 1 and a response has at most 2,048 tokens.

Questions come from a training parquet (``extra_info.question`` and ``reward_model.ground_truth``) or from any file with
``question`` and ``answer``, the final answer; other columns by flags. Samples and their grades go to
``<local_dir>/samples`` as they arrive, in the format of the evaluation: the same command again draws what is missing,
after a kill too. A sample's seed is a hash of ``--seed``, question and number, so how it was batched does not matter.
Each row says in ``provenance`` where it comes from. ``--reuse_samples`` selects again without a model; ``--dry_run``
does that and writes nothing.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from filters import Filter, build_filters
from preprocess import (
    Counts,
    Selection,
    check_free,
    checked,
    explanations,
    filtered,
    report_path,
    run,
    source_parser,
    write_with_report,
)
from rows import DropRow, nested, require_text, training_row, training_schema
from selection import KEEP, Rules, Sample, parse_pass_rate, pass_rate, select
from sources import Row, Source, open_source
from tqdm import tqdm

if TYPE_CHECKING:
    from verl.math_eval.samples import SampleStore

SAMPLES = "samples"  # the folder below local_dir
TRAINING_KEYS, PLAIN_KEYS = ("extra_info.question", "reward_model.ground_truth"), ("question", "answer")
PROVENANCE = pa.struct(
    [
        ("model", pa.string()),
        ("model_hash", pa.string()),
        ("sample", pa.int64()),
        ("seed", pa.int64()),
        ("temperature", pa.float64()),
        ("top_p", pa.float64()),
        ("finish_reason", pa.string()),
        ("tokens", pa.int64()),
        ("pass_rate", pa.float64()),
        ("extraction", pa.string()),
        ("grader_version", pa.string()),
    ]
)


@dataclass(frozen=True)
class Question:
    """index: row number in the source. gold: the final answer that samples are graded against."""

    index: int
    text: str
    gold: str
    data_source: str

    @property
    def id(self) -> str:
        return f"{SAMPLES}/{self.index}"


# --- questions ----------------------------------------------------------------------------------------------------


def open_questions(args: argparse.Namespace) -> tuple[Source, str, str]:
    """The source, and its columns with question and final answer."""
    source = open_source(args.source, "train", ())
    names = source.other_columns.names
    default = TRAINING_KEYS if {"extra_info", "reward_model"} <= set(names) else PLAIN_KEYS
    question_key, gold_key = args.question_key or default[0], args.ground_truth_key or default[1]
    for flag, key in (("--question_key", question_key), ("--ground_truth_key", gold_key)):
        if key.split(".")[0] not in names:
            raise ValueError(f"{flag} {key}: no such column in {source.name}; found {', '.join(names)}")
    return source, question_key, gold_key


def read_questions(args: argparse.Namespace) -> list[Question]:
    """The selected questions that can be asked and graded; the others are counted and printed."""
    source, question_key, gold_key = open_questions(args)
    selection = Selection(args.train_start, args.train_end, args.seed, args.first)
    numbers = selection.row_numbers(source.num_rows)
    counts, questions = Counts(), []
    for index, example in enumerate(tqdm(source.rows(), desc="reading", total=source.num_rows, disable=None)):
        if index not in numbers:
            continue
        counts.rows_in += 1
        try:
            gold = nested(example, gold_key)
            if isinstance(gold, int | float) and not isinstance(gold, bool):
                gold = str(gold)
            text, gold = require_text(example, question_key), require_text({gold_key: gold}, gold_key)
        except DropRow as reason:
            counts.drop(str(reason), index)
            continue
        questions.append(Question(index, text, gold.strip(), str(example.get("data_source") or Path(args.source).stem)))
    counts.rows_out = len(questions)
    print(f"questions: {source.name}; {selection}\n" + "\n".join(counts.lines()))
    if not questions:
        raise ValueError(f"no question of {source.name} can be asked; see the reasons above")
    return questions


# --- samples ------------------------------------------------------------------------------------------------------


def draw_samples(args: argparse.Namespace, questions: Sequence[Question]) -> None:
    """Draw and grade what is missing in ``<local_dir>/samples``; the evaluation's own run does the work."""
    from verl.dft.model_folder import resolve_model
    from verl.math_eval.backends.options import backend_options
    from verl.math_eval.benchmark_list import Benchmark
    from verl.math_eval.benchmark_run import BenchmarkRun
    from verl.math_eval.benchmarks import Problem
    from verl.math_eval.benchmarks import Source as BenchmarkSource
    from verl.math_eval.evaluation import Evaluation
    from verl.math_eval.generation import make_backend
    from verl.math_eval.harness import model_fingerprint
    from verl.math_eval.options import EvalOptions
    from verl.math_eval.prompting import check_prompt_type, choose_format, encoded

    options = EvalOptions(
        data_names=(args.source,),
        prompt_type=args.prompt_type,
        n_sampling=args.n_sampling,
        temperature=args.temperature,
        top_p=args.top_p,
        max_tokens_per_call=args.max_new_tokens,
        seed=args.seed,
        extraction=args.extraction,
    )
    _ = options.sampling  # raises for numbers out of range, before the model is loaded
    check_prompt_type(args.prompt_type)
    resolve_model(args.model)
    problems = [Problem(q.id, q.text, q.gold, {}) for q in questions]
    entry = Benchmark(SAMPLES, ("question",), ("answer",), (), "the questions' own")
    backend = make_backend(backend_options(args.model, args))
    try:
        chosen = choose_format(args.prompt_type, backend.folder, backend.tokenizer)
        warnings = (chosen.warning,) if chosen.warning else ()
        label = "/".join(Path(args.model).parts[-2:])
        evaluation = Evaluation(label, Path(args.local_dir).expanduser(), chosen.format.name, warnings)
        print(f"{args.model} under the prompt format {chosen.format.name}, stops at {', '.join(chosen.format.stop)}")
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
        fingerprint = model_fingerprint(backend.folder, backend.commit)
        place = BenchmarkSource(SAMPLES, entry, Path(args.source))
        prompts = encoded(problems, chosen.format, backend.tokenizer)
        BenchmarkRun(backend, chosen.format, evaluation, options, place, problems, prompts, fingerprint).execute()
    finally:
        backend.close()


def stored_samples(args: argparse.Namespace) -> "SampleStore":
    """What is in ``<local_dir>/samples``, read only. ValueError if there is nothing."""
    from verl.math_eval.samples import SampleStore

    return SampleStore.stored(Path(args.local_dir).expanduser() / SAMPLES)


def by_question(
    questions: Sequence[Question], store: "SampleStore", count: int
) -> tuple[list[tuple[Question, list[Sample]]], int]:
    """Each question with its ``count`` samples in order; and how many questions have not got all of them yet."""
    complete, missing = [], 0
    for question in questions:
        samples = [store.records.get((question.id, number)) for number in range(count)]
        if all(samples):
            found = [sample for sample in samples if sample is not None]
            if found[0]["gold"] != question.gold:
                raise ValueError(f"{store.path}: the gold of row {question.index} was another one; sample anew")
            complete.append((question, found))
        else:
            missing += 1
    return complete, missing


# --- rows ---------------------------------------------------------------------------------------------------------


def sample_rows(
    groups: Sequence[tuple[Question, list[Sample]]], rules: Rules, settings: Mapping[str, Any], counts: Counts
) -> Iterator[Row]:
    """A training row per selected sample, in the order of the questions; every sample is counted."""
    generation, grading = settings["generation"], settings["grading"]
    shared = {
        "model": settings["described"]["model"],
        "model_hash": generation["model"],
        "temperature": generation["sampling"]["temperature"],
        "top_p": generation["sampling"]["top_p"],
        "grader_version": str(grading["grader"]),
    }
    for question, samples in tqdm(groups, desc="selecting", unit=" questions", disable=None):
        rate = pass_rate(samples)
        for sample, reason in zip(samples, select(samples, rules), strict=True):
            counts.rows_in += 1
            if reason:
                counts.drop(reason, question.index)
                continue
            row = training_row(
                question.data_source, question.text, sample["text"], question.gold, "train", question.index
            )
            own = {name: sample[name] for name in ("sample", "seed", "finish_reason", "tokens")}
            yield {**row, "provenance": {**shared, **own, "pass_rate": rate, "extraction": sample["method"]}}


def pass_rate_lines(groups: Sequence[tuple[Question, list[Sample]]]) -> list[str]:
    rates = Counter(pass_rate(samples) for _, samples in groups)
    mean = sum(rate * count for rate, count in rates.items()) / len(groups)
    lines = [f"{len(groups)} questions, mean pass rate {mean:.3f}; questions by pass rate:"]
    return lines + [f"  {rate:.2f}: {rates[rate]} ({rates[rate] / len(groups):.1%})" for rate in sorted(rates)]


def add_options(parser: argparse.ArgumentParser) -> None:
    from verl.math_eval.backends.options import add_backend_options

    parser.add_argument("--model", help="hub id, HF folder or trainer checkpoint to sample from")
    parser.add_argument("--question_key", help=f"column (default: {TRAINING_KEYS[0]} or {PLAIN_KEYS[0]})")
    parser.add_argument("--ground_truth_key", help=f"column (default: {TRAINING_KEYS[1]} or {PLAIN_KEYS[1]})")
    sampling = parser.add_argument_group("sampling", "the paper's: 4 samples at temperature 1.0")
    sampling.add_argument("--n_sampling", type=int, default=4, help="samples per question (default: 4)")
    sampling.add_argument("--temperature", type=float, default=1.0, help="default: 1.0")
    sampling.add_argument("--top_p", type=float, default=1.0, help="default: 1.0")
    sampling.add_argument("--max_new_tokens", type=int, default=2048, help="per sample (default: 2048)")
    sampling.add_argument("--prompt_type", default="auto", help="as in the evaluation (default: auto)")
    sampling.add_argument("--extraction", default="lenient", help="strict: answers from a box or after a marker only")
    chosen = parser.add_argument_group("selection")
    chosen.add_argument("--keep", choices=KEEP, default="correct", help="default: correct")
    chosen.add_argument("--max_per_question", type=int, help="rows per question at most")
    chosen.add_argument("--pass_rate", default="0:1", metavar="LOW:HIGH", help="of the questions (default: 0:1, all)")
    chosen.add_argument("--drop_truncated", action="store_true", help="drop right answers cut at the token limit")
    chosen.add_argument("--drop_duplicates", action="store_true", help="of one text per question keep the first")
    chosen.add_argument("--reuse_samples", action="store_true", help="select from the samples there; load no model")
    chosen.add_argument("--dry_run", action="store_true", help="the same, and write nothing")
    add_backend_options(parser)


def main(argv: Sequence[str] | None = None) -> None:
    parser = source_parser(__doc__, None, local_dir="data/offline_rl")
    add_options(parser)
    args = parser.parse_args(argv)
    if checked(args):
        return
    if not args.source:
        raise ValueError("expected --source: the questions, a training parquet or a file with question and answer")
    if args.n_sampling < 1 or (args.temperature == 0 and args.n_sampling > 1):
        raise ValueError(
            f"--n_sampling {args.n_sampling} --temperature {args.temperature:g}: expected at least 1 sample, and at "
            "temperature 0, where all are alike, only 1"
        )
    rates = parse_pass_rate(args.pass_rate)
    rules = Rules(args.keep, args.max_per_question, rates, args.drop_truncated, args.drop_duplicates, args.seed)
    out = Path(args.local_dir).expanduser() / "train.parquet"
    if not args.dry_run:
        check_free(out, args.overwrite)
    filters = build_filters(args)  # before hours of sampling: the benchmarks may be out of reach
    questions = read_questions(args)
    if not (args.dry_run or args.reuse_samples):
        if not args.model:
            raise ValueError("expected --model, the model to sample from; or --reuse_samples")
        draw_samples(args, questions)
    store = stored_samples(args)
    count, sampling = store.settings["asked"]["samples"], store.settings["generation"]["sampling"]
    print(
        f"samples of {store.settings['described']['model']} in {store.folder}: {count} per question at temperature "
        f"{sampling['temperature']:g}, top_p {sampling['top_p']:g}, at most {sampling['max_new_tokens']} tokens"
    )
    groups, missing = by_question(questions, store, count)
    if missing and not args.dry_run:
        raise ValueError(f"{missing} questions lack samples in {store.folder}; run again without --reuse_samples")
    if missing:
        print(f"{missing} questions lack some of their samples, and are not looked at")
    if not groups:
        raise ValueError(f"no question of {args.source} has its {count} samples in {store.folder}")
    write_rows(groups, rules, store.settings, filters, None if args.dry_run else out)


def write_rows(
    groups: Sequence[tuple[Question, list[Sample]]],
    rules: Rules,
    settings: Mapping[str, Any],
    filters: Sequence[Filter],
    out: Path | None,
) -> None:
    """Select, filter and write to ``out``; None: only print what would be kept and why."""
    print("\n".join(pass_rate_lines(groups)))
    counts, kept = Counts(), set[int]()
    schema = training_schema(pa.schema([("provenance", PROVENANCE)]))[0]

    def rows() -> Iterator[Row]:
        for row in filtered(sample_rows(groups, rules, settings, counts), filters, counts):
            kept.add(row["extra_info"]["index"])
            yield row

    if out is None:
        for _ in rows():
            pass
    else:
        origin = {"samples": settings, "selection": {name: str(value) for name, value in vars(rules).items()}}
        write_with_report(rows(), out, schema, counts, filters, json.loads(json.dumps(origin)))
    print("samples: " + "\n".join([*counts.lines(), *explanations(filters)]))
    print(f"rows from {len(kept)} of {len(groups)} questions")
    print("dry run: nothing is written" if out is None else f"wrote {out} and {report_path(out).name}")


if __name__ == "__main__":
    sys.exit(run(main))
