"""Score models on math benchmarks, and compare runs.

Example::

    python -m verl.math_eval --model_name_or_path MODEL --output_dir DIR --n_sampling 16 --temperature 1.0
    python -m verl.math_eval compare DIR_A DIR_B
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

TRACEBACK = "VERL_DFT_TRACEBACK"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. A user's mistake is one line on stderr and status 1."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["compare"]:
        from verl.math_eval import compare

        args, command = compare.parser().parse_args(words[1:]), compare.run
    else:
        args, command = parser().parse_args(words), run
    try:
        command(args)
    except (ValueError, OSError) as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(args: argparse.Namespace) -> None:
    """Evaluate, grade texts from elsewhere, or grade again, as the command line says, and print the table of scores."""
    from verl.math_eval.export import check_form, export
    from verl.math_eval.report import REPORT
    from verl.math_eval.tables import score_table

    if args.export:
        check_form(args.export)
    if args.regrade:
        from verl.math_eval.regrading import regrade

        evaluations = regrade(
            args.output_dir, args.extraction, args.grader, args.n_sampling, args.first_marker, args.end_of_thinking
        )
    elif args.predictions:
        evaluations = _predictions(args)
    else:
        evaluations = _evaluate(args)
    print(f"\n{score_table(evaluations)}\n\nreport: {Path(args.output_dir) / REPORT}")
    if args.export:
        print(f"exported for {args.export}: {export(evaluations, args.output_dir, args.export)}")


def _evaluate(args: argparse.Namespace):
    from verl.math_eval.backends.options import backend_options
    from verl.math_eval.harness import evaluate_all

    if not args.model_name_or_path:
        raise ValueError("expected --model_name_or_path, found none")
    if args.merge is not None and not args.merge and not Path(args.output_dir).is_dir():
        raise ValueError(f"--merge adds samples to an earlier run, found none in {args.output_dir}")
    options, temperatures = _options(args)
    return evaluate_all(
        backend_options(args.model_name_or_path, args),
        args.output_dir,
        options,
        args.with_greedy,
        [Path(folder) for folder in args.merge or ()],
        temperatures,
    )


def _predictions(args: argparse.Namespace):
    from verl.math_eval.predictions import Predictions, score_predictions

    options, temperatures = _options(args)
    if len(temperatures) > 1:
        raise ValueError("expected one --temperature with --predictions, found several: score each file on its own")
    given = Predictions(Path(args.predictions).expanduser(), args.problem_key, args.text_key)
    label = Path(args.model_name_or_path).name if args.model_name_or_path else ""
    return [score_predictions(given, args.output_dir, options, args.n_sampling, label)]


def _options(args: argparse.Namespace):
    """The options of an evaluation, and all temperatures."""
    # Imported here so that --help and --regrade do not wait for torch.
    from verl.math_eval.options import DEFAULT_BENCHMARKS, EvalOptions

    names = args.data_names.split(",") if args.data_names else DEFAULT_BENCHMARKS
    given = {field.name: getattr(args, field.name) for field in fields(EvalOptions)}
    temperatures = [_number(word) for word in args.temperature.split(",")]
    given |= {"data_names": tuple(name.strip() for name in names if name.strip())}
    given |= {"n_sampling": 1 if args.n_sampling is None else args.n_sampling, "temperature": temperatures[0]}
    return EvalOptions(**given), temperatures


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"expected numbers in --temperature, such as 1 or 0,0.3,0.6,1; found {word!r}") from None


def parser() -> argparse.ArgumentParser:
    """The command line without its other command, ``compare``."""
    from verl.math_eval.backends.options import add_backend_options

    p = argparse.ArgumentParser(
        prog="python -m verl.math_eval",
        description="Score models on math benchmarks. Another command: compare (see compare --help).",
        allow_abbrev=False,
    )
    p.add_argument(
        "--model_name_or_path",
        help="hub id, HF folder, trainer checkpoint (global_step_N), or a folder of checkpoints: all are scored",
    )
    p.add_argument("--output_dir", default="./output", help="where samples, metrics and the report go")
    p.add_argument("--seed", type=int, default=0, help="each sample's own seed is a hash of it, problem and number")
    data = p.add_argument_group("benchmarks")
    data.add_argument(
        "--data_names",
        "--data_name",
        default="",
        help="comma-separated benchmarks, or paths of jsonl/parquet files; default: the paper's five",
    )
    data.add_argument(
        "--benchmark_dir",
        "--data_dir",
        help="local copies: <name>.jsonl or <name>/test.jsonl, also parquet; else the hub",
    )
    data.add_argument("--question_key", default="question", help="column of your own file; dots reach into structures")
    data.add_argument("--answer_key", default="answer", help="column of your own file; dots reach into structures")
    data.add_argument(
        "--answer_kind", default="expression", help="answers of your own file: expression, integer, number or choice"
    )
    data.add_argument(
        "--gold_rule", default="text", help="golds of your own file: text, box (the last \\boxed), hashes (after ####)"
    )
    data.add_argument(
        "--id_key", default="", help="column of your own file with the problems' ids; default: row number"
    )
    data.add_argument("--num_test_sample", type=int, default=-1, help="problems per benchmark, the first; -1: all")
    data.add_argument("--start", type=int, default=0, help="first problem of each benchmark")
    data.add_argument("--end", type=int, default=-1, help="the problem to stop before; -1: all")
    prompts = p.add_argument_group("prompts and sampling")
    prompts.add_argument(
        "--prompt_type",
        default="auto",
        help="auto: the checkpoint's own format, else its chat template; chat_template; qwen-boxed, cot ...",
    )
    prompts.add_argument("--num_shots", type=int, default=0, help="worked examples in front, for types such as cot")
    prompts.add_argument(
        "--n_sampling", type=int, help="samples per problem; default: 1, with --regrade as in the last run"
    )
    prompts.add_argument(
        "--temperature", default="0", help="0 is greedy decoding; several, such as 0,0.3,0.6,1: a curve"
    )
    prompts.add_argument("--top_p", type=float, default=1.0)
    prompts.add_argument("--max_tokens_per_call", type=int, default=4096, help="new tokens per sample")
    prompts.add_argument("--with_greedy", action="store_true", help="score greedy decoding too, in DIR/greedy")
    grading = p.add_argument_group("grading, and what is there already")
    grading.add_argument(
        "--extraction", default="lenient", help="strict: box or marker only; lenient: also the last formula or number"
    )
    grading.add_argument(
        "--first_marker",
        action="store_true",
        help="the first answer counts, not the last: for base models that go on with a next problem",
    )
    grading.add_argument(
        "--end_of_thinking",
        nargs="*",
        default=(),
        metavar="MARK",
        help="marks that end a chain of thought, beside the known ones; a text without any is an unfinished thought",
    )
    grading.add_argument(
        "--grader", default="default", help="legacy: a second score by the original's rules, which pass wrong answers"
    )
    grading.add_argument("--regrade", action="store_true", help="grade the samples of --output_dir again, no model")
    grading.add_argument(
        "--merge",
        nargs="*",
        metavar="DIR",
        help="add samples to the run in --output_dir: those of other runs' folders, then draw up to n_sampling",
    )
    grading.add_argument(
        "--predictions", metavar="FILE", help="no model: grade the texts of a jsonl or parquet file, sampled elsewhere"
    )
    grading.add_argument("--problem_key", default="problem", help="column of FILE: the problem's id")
    grading.add_argument("--text_key", default="text", help="column of FILE: the text")
    grading.add_argument("--export", help="also write the results as inspect (logs for its viewer) or hf (Hub entries)")
    add_backend_options(p)
    return p


if __name__ == "__main__":
    sys.exit(main())
