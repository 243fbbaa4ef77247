"""MATH (MATH-lighteval) -> <local_dir>/train.parquet and <local_dir>/test.parquet.

    python examples/data_preprocess/math_dataset.py

The default folder, data/math500, is the one that the paper's training command reads. Its name misleads: test.parquet is
the full MATH test set (5,000 problems), not the 500 of MATH-500, which are drawn from it. Validating on all of it every
few steps costs a good part of a training run.

``extra_info.question`` is the bare problem, as in every other data set here, so that training and validation see the
same prompt; the original script put the instruction into it. ``prompt`` has the instruction.
"""

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from preprocess import Row, last_boxed, prepare, require_text, run, source_parser, training_row

SOURCE = "DigitalLearningGmbH/MATH-lighteval"


def row(example: Mapping[str, Any], split: str, index: int) -> Row:
    """{problem, solution} -> training row; the final answer is the last box of the solution."""
    problem, solution = require_text(example, "problem"), require_text(example, "solution")
    return training_row(SOURCE, problem, solution, last_boxed(solution), split, index)


def copy_to_hdfs(files: Sequence[Path], folder: str) -> None:
    """Copy ``files`` into the HDFS ``folder``, over what is there."""
    for command in (["-mkdir", "-p", folder], ["-put", "-f", *map(str, files), folder]):
        done = subprocess.run(["hdfs", "dfs", *command], capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"hdfs dfs {' '.join(command)} failed: {done.stderr}. The files are in {files[0].parent}")
    print(f"copied to {folder}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = source_parser(__doc__, SOURCE, local_dir="data/math500")
    parser.add_argument("--hdfs_dir", help="also copy the files to this HDFS folder (needs the hdfs command)")
    args = parser.parse_args(argv)
    if args.hdfs_dir and not shutil.which("hdfs"):
        raise ValueError(
            f"--hdfs_dir {args.hdfs_dir}: no hdfs command on PATH; leave the option out and copy by other means"
        )
    files = prepare(args, row, columns=("problem", "solution"), splits=("train", "test"))
    if any(file.name == "test.parquet" for file in files):
        print("note: test.parquet is the source's full test split (for MATH 5,000 problems). It is NOT MATH-500")
    if args.hdfs_dir:
        copy_to_hdfs(files, args.hdfs_dir)


if __name__ == "__main__":
    sys.exit(run(main))
