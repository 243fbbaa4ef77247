"""NuminaMath-CoT -> <local_dir>/train.parquet, the paper's training set.

    python examples/data_preprocess/numina_cot.py --train_end 100000           # 100,000 rows at random, as in the paper
    python examples/data_preprocess/numina_cot.py --train_end 100000 --first   # the first 100,000, as in its code

Without a range the whole split is taken (859,494 rows on the hub). Solutions without a boxed answer are kept, with a
null ground truth, as the paper's code keeps them; ``--filter box`` drops them, and --help has the other filters.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from preprocess import checked, prepare, run, source_parser
from rows import last_boxed, require_text, training_row
from sources import Row

SOURCE = "AI-MO/NuminaMath-CoT"


def row(example: Mapping[str, Any], split: str, index: int) -> Row:
    """{problem, solution} -> training row; the final answer is the last box of the solution."""
    problem, solution = require_text(example, "problem"), require_text(example, "solution")
    return training_row(SOURCE, problem, solution, last_boxed(solution), split, index)


def main(argv: Sequence[str] | None = None) -> None:
    args = source_parser(__doc__, SOURCE, local_dir="data/numina_cot").parse_args(argv)
    if not checked(args):
        prepare(args, row, columns=("problem", "solution"), splits=("train",))


if __name__ == "__main__":
    sys.exit(run(main))
