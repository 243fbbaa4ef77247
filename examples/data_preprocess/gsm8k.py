"""GSM8K -> <local_dir>/train.parquet and <local_dir>/test.parquet.

    python examples/data_preprocess/gsm8k.py
    python examples/data_preprocess/gsm8k.py --source folder/with/train.jsonl/and/test.jsonl

The response that is trained is the source's answer without its calculator marks (``<<48/2=24>>``) and with its last
line ``#### 72`` turned into ``The answer is \\boxed{72}.``, the form that an evaluation of boxed answers reads. The
answer as it was is kept in ``extra_info.raw_answer``.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from preprocess import checked, prepare, run, source_parser
from rows import DropRow, require_text, training_row
from sources import Row

SOURCE = "openai/gsm8k"

_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")
_FINAL_LINE = re.compile(r"^#### *(\S.*?)\s*\Z", re.MULTILINE)
_THOUSANDS_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def row(example: Mapping[str, Any], split: str, index: int) -> Row:
    """{question, answer} -> training row. DropRow if the answer does not end in a line ``#### <number>``."""
    question, raw_answer = require_text(example, "question"), require_text(example, "answer")
    final = _FINAL_LINE.search(raw_answer)
    if not final:
        raise DropRow("answer does not end in a line '#### <number>'")
    number = _THOUSANDS_COMMA.sub("", final[1])
    steps = _CALCULATOR_MARK.sub("", raw_answer[: final.start()])
    answer = f"{steps}The answer is \\boxed{{{number}}}."
    return training_row(SOURCE, question, answer, number, split, index, raw_answer=raw_answer)


def main(argv: Sequence[str] | None = None) -> None:
    args = source_parser(__doc__, SOURCE, local_dir="data/gsm8k").parse_args(argv)
    if checked(args):
        return
    config = "main" if args.source == SOURCE else None
    prepare(args, row, ("question", "answer"), ("train", "test"), config, extra_info=("raw_answer",))


if __name__ == "__main__":
    sys.exit(run(main))
