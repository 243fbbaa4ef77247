"""OpenR1-Math -> <local_dir>/train.parquet: problems of NuminaMath 1.5 with verified solutions of DeepSeek-R1.

    python examples/data_preprocess/openr1_math.py
    python examples/data_preprocess/openr1_math.py --from_220k --tokenizer Qwen/Qwen2.5-Math-1.5B --max_length 8192

The paper's second data set (its section A.5): the part of OpenR1-Math whose solutions math-verify accepted and that
have at most 8,192 tokens, as filtered for LUFFY (arXiv 2504.14945). That selection is on the hub and the default.
``--from_220k`` makes one like it from open-r1/OpenR1-Math-220k: of each problem the first solution that is complete and
that math-verify accepted. Solutions keep their ``<think>`` part; LUFFY's system prompt is left out.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from preprocess import checked, prepare, run, source_parser
from rows import DropRow, require_text, training_row
from sources import Row

SOURCE = "Elliott/Openr1-Math-46k-8192"
SOURCE_220K = "open-r1/OpenR1-Math-220k"


def row(example: Mapping[str, Any], split: str, index: int) -> Row:
    """{prompt, target, reward_model} -> training row; prompt and target are chat messages."""
    question, answer = _message(example, "prompt", "user"), _message(example, "target", "assistant")
    gold = require_text(example, "reward_model.ground_truth")
    return training_row(SOURCE, question, answer, gold, split, index)


def row_220k(example: Mapping[str, Any], split: str, index: int) -> Row:
    """{problem, answer, generations, correctness_math_verify, is_reasoning_complete} -> training row."""
    problem, gold = require_text(example, "problem"), require_text(example, "answer")
    flags = [example.get(name) or [] for name in ("correctness_math_verify", "is_reasoning_complete")]
    for number, generation in enumerate(example.get("generations") or []):
        # A list of flags that is too short says nothing about the rest, which is then not verified.
        if all(number < len(flag) and flag[number] for flag in flags):
            answer = require_text({"generation": generation}, "generation")
            return training_row(SOURCE_220K, problem, answer, gold, split, index)
    raise DropRow("no complete solution that math-verify accepted")


def _message(example: Mapping[str, Any], column: str, role: str) -> str:
    messages = example.get(column)
    if not isinstance(messages, list):
        raise DropRow(f"{column} is not a list of messages")
    texts = [message for message in messages if isinstance(message, Mapping) and message.get("role") == role]
    if not texts:
        raise DropRow(f"{column} has no message of the {role}")
    return require_text({column: texts[-1].get("content")}, column)


def main(argv: Sequence[str] | None = None) -> None:
    parser = source_parser(__doc__, None, local_dir="data/openr1_math")
    parser.add_argument("--from_220k", action="store_true", help=f"select from {SOURCE_220K} instead")
    args = parser.parse_args(argv)
    if checked(args):
        return
    args.source = args.source or (SOURCE_220K if args.from_220k else SOURCE)
    if args.from_220k:
        columns = ("problem", "answer", "generations", "correctness_math_verify", "is_reasoning_complete")
        prepare(args, row_220k, columns, ("train",), config="default" if args.source == SOURCE_220K else None)
    else:
        prepare(args, row, ("prompt", "target", "reward_model"), ("train",))


if __name__ == "__main__":
    sys.exit(run(main))
