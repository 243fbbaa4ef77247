"""MATH (MATH-lighteval) -> <local_dir>/train.parquet and test.parquet; on request MATH-500 -> math500.parquet.

    python examples/data_preprocess/math_dataset.py
    python examples/data_preprocess/math_dataset.py --math500

The default folder, data/math500, is the one that the paper's training command reads. Its name misleads: test.parquet is
the full MATH test set (5,000 problems). The 500 problems of MATH-500, which are drawn from it, are in math500.parquet.
Validating on all of the test set every few steps costs a good part of a training run; on math500.parquet, a tenth.

``extra_info.question`` is the bare problem, as in every other data set here, so that training and validation see the
same prompt; the original script put the instruction into it. ``prompt`` has the instruction.
"""

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from preprocess import check_free, checked, prepare, run, source_parser, write_split
from rows import last_boxed, require_text, training_row
from sources import Row, open_source

SOURCE = "DigitalLearningGmbH/MATH-lighteval"
MATH_500, MATH_500_ROWS = "HuggingFaceH4/MATH-500", 500


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


def math500_row(example: Mapping[str, Any], split: str, index: int) -> Row:
    """{problem, solution, answer} -> training row; the final answer is its own column."""
    problem, solution = require_text(example, "problem"), require_text(example, "solution")
    return training_row(MATH_500, problem, solution, require_text(example, "answer"), split, index)


def write_math500(name: str, path: Path, overwrite: bool) -> None:
    """``path`` from MATH-500, under the hub id or local path ``name``. ValueError if it has not 500 problems."""
    source = open_source(name, "test", ("problem", "solution", "answer"))
    if source.num_rows != MATH_500_ROWS:
        raise ValueError(f"--math500 {name}: expected {MATH_500_ROWS} problems, found {source.num_rows}: not MATH-500")
    write_split(source, math500_row, "math500", path, overwrite=overwrite)


def main(argv: Sequence[str] | None = None) -> None:
    parser = source_parser(__doc__, SOURCE, local_dir="data/math500")
    parser.add_argument(
        "--math500",
        nargs="?",
        const=MATH_500,
        metavar="SOURCE",
        help=f"also write math500.parquet, from this hub id, file or folder (default: {MATH_500})",
    )
    parser.add_argument("--hdfs_dir", help="also copy the files to this HDFS folder (needs the hdfs command)")
    args = parser.parse_args(argv)
    if checked(args):
        return
    if args.hdfs_dir and not shutil.which("hdfs"):
        raise ValueError(
            f"--hdfs_dir {args.hdfs_dir}: no hdfs command on PATH; leave the option out and copy by other means"
        )
    math500 = Path(args.local_dir).expanduser() / "math500.parquet"
    if args.math500:
        check_free(math500, args.overwrite)
    files = prepare(args, row, columns=("problem", "solution"), splits=("train", "test"))
    if any(file.name == "test.parquet" for file in files):
        print("note: test.parquet is the source's full test split (for MATH 5,000 problems). It is NOT MATH-500")
    if args.math500:
        write_math500(args.math500, math500, args.overwrite)
        files.append(math500)
    if args.hdfs_dir:
        copy_to_hdfs(files, args.hdfs_dir)


if __name__ == "__main__":
    sys.exit(run(main))
