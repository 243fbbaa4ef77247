"""Score a model on math benchmarks.

Example::

    python -m verl.math_eval --model_name_or_path MODEL --output_dir DIR --n_sampling 16 --temperature 1.0
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

TRACEBACK = "VERL_DFT_TRACEBACK"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. A user's mistake is one line on stderr and status 1."""
    args = parser().parse_args(argv)
    try:
        run(args)
    except (ValueError, OSError) as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(args: argparse.Namespace) -> None:
    if args.use_vllm:
        raise ValueError("--use_vllm: there is no vLLM backend yet. Leave it out to generate with transformers.")
    # Imported here so that --help and mistakes in the options do not wait for torch.
    from verl.math_eval.generation import TransformersBackend, resolve_model
    from verl.math_eval.harness import DEFAULT_BENCHMARKS, EvalOptions, check_inputs, evaluate
    from verl.math_eval.report import REPORT, score_table

    names = args.data_names.split(",") if args.data_names else DEFAULT_BENCHMARKS
    options = EvalOptions(
        data_names=tuple(name.strip() for name in names if name.strip()),
        prompt_type=args.prompt_type,
        n_sampling=args.n_sampling,
        temperature=args.temperature,
        top_p=args.top_p,
        max_tokens_per_call=args.max_tokens_per_call,
        seed=args.seed,
        num_test_sample=args.num_test_sample,
        start=args.start,
        end=args.end,
        benchmark_dir=args.benchmark_dir,
        question_key=args.question_key,
        answer_key=args.answer_key,
        extraction=args.extraction,
    )
    resolve_model(args.model_name_or_path)  # first what needs no download
    check_inputs(options)
    backend = TransformersBackend(args.model_name_or_path, args.device, args.dtype, args.batch_size)
    evaluation = evaluate(backend, args.output_dir, options)
    print(f"\n{score_table([evaluation])}\n\nreport: {evaluation.folder / REPORT}")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m verl.math_eval", description="Score a model on math benchmarks.", allow_abbrev=False
    )
    p.add_argument(
        "--model_name_or_path", required=True, help="hub id, HF folder or trainer checkpoint (global_step_N)"
    )
    p.add_argument("--output_dir", default="./output", help="where samples, metrics and the report go")
    p.add_argument(
        "--data_names",
        "--data_name",
        default="",
        help="comma-separated benchmarks, or paths of jsonl/parquet files; default: the paper's five",
    )
    p.add_argument(
        "--benchmark_dir", help="local copies: <name>.jsonl or <name>/test.jsonl, also parquet; else the hub"
    )
    p.add_argument("--question_key", default="question", help="column of your own file; dots reach into structures")
    p.add_argument("--answer_key", default="answer", help="column of your own file; dots reach into structures")
    p.add_argument("--prompt_type", default="auto", help="auto: the checkpoint's own format, else its chat template")
    p.add_argument("--n_sampling", type=int, default=1, help="samples per problem")
    p.add_argument("--temperature", type=float, default=0.0, help="0 is greedy decoding")
    p.add_argument("--top_p", type=float, default=1.0)
    p.add_argument("--max_tokens_per_call", type=int, default=4096, help="new tokens per sample")
    p.add_argument("--num_test_sample", type=int, default=-1, help="problems per benchmark, the first ones; -1: all")
    p.add_argument("--start", type=int, default=0, help="first problem of each benchmark")
    p.add_argument("--end", type=int, default=-1, help="the problem to stop before; -1: all")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--extraction", default="lenient", help="strict: box or marker only; lenient: also the last number")
    p.add_argument("--batch_size", type=int, help="samples per batch; default: by a budget of tokens")
    p.add_argument("--device", default="auto", help="auto: the GPU if there is one")
    p.add_argument("--dtype", default="auto", help="auto: bfloat16 on a GPU, float32 on the CPU")
    p.add_argument("--use_vllm", action="store_true", help="not available yet")
    return p


if __name__ == "__main__":
    sys.exit(main())
