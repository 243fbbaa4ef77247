"""samples.html: every sample with its grade, to be read in a browser, in one file without connections.

A model's text is not trusted: it is compressed and encoded in the file, put on the page as text only, and the page's
security policy allows no script but its own and KaTeX, which turns formulas into MathML. Samples are unpacked when they
are shown, so that 25,000 of them open at once.
"""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from verl.math_eval.evaluation import Evaluation
from verl.math_eval.repetition import ends_in_a_loop
from verl.math_eval.samples import Record

PAGE = "samples.html"
CHUNK = 200  # samples that are unpacked together
MOST = 100_000  # samples on a page; a browser has to open it
LEVEL = 4  # of compression: 9 takes ten times as long for a file that is a tenth smaller
FLAGS = {"right": 1, "truncated": 2, "no answer": 4, "ungraded": 8, "loop": 16, "undecided": 32}
HERE = Path(__file__).parent


def write_page(path: Path, evaluations: Sequence[Evaluation], names: Sequence[str] = ()) -> None:
    """Write the page of one evaluation, or of several side by side; reads their ``samples.jsonl`` files.

    names: of the models, in place of their labels. Of more than MOST samples it shows the first problems of each
    benchmark, and says so.
    """
    labels = list(names) or [e.label for e in evaluations]
    index: dict[str, Any] = {"models": labels, "flags": FLAGS, "benchmarks": [], "left_out": 0}
    most = MOST // max(1, sum(len(e.metrics) for e in evaluations))
    chunks: list[str] = []
    for model, evaluation in enumerate(evaluations):
        for name, metrics in evaluation.metrics.items():
            problems, ids = [], []
            shown = max(1, most // metrics["samples_per_problem"])
            index["left_out"] += max(0, metrics["problems"] - shown) * metrics["samples_per_problem"]
            for rows in _chunks(islice(evaluation.rows(name), shown)):
                for position, row in enumerate(rows):
                    ids.append(row[0]["problem"].split("/", 1)[-1])
                    problems.append([len(chunks), position, [_flags(r) for r in row], [r["tokens"] for r in row]])
                chunks.append(_packed([_problem(row) for row in rows]))
            index["benchmarks"].append({"name": name, "model": model, "ids": ids, "problems": problems})
    script, maths = ((HERE / name).read_text(encoding="utf-8") for name in ("page.js", "katex.min.js"))
    text = (HERE / "page.html").read_text(encoding="utf-8")
    blocks = (f'<script type="text/plain" id="chunk{i}">{data}</script>' for i, data in enumerate(chunks))
    parts = {
        "POLICY": _policy(script),
        "MATHSPOLICY": _policy(maths),
        "INDEX": _safe_json(index),
        "CHUNKS": "\n".join(blocks),
        "MATHS": maths,
        "SCRIPT": script,
    }
    path.write_text(re.sub("@([A-Z]+)@", lambda mark: parts[mark[1]], text), encoding="utf-8")


def _policy(script: str) -> str:
    """The hash by which the page's security policy knows a script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _chunks(rows: Iterable[Sequence[Record]]) -> Iterable[list[Sequence[Record]]]:
    """Problems in order, in groups of at least CHUNK samples, the last one apart."""
    group: list[Sequence[Record]] = []
    for row in rows:
        group.append(row)
        if sum(map(len, group)) >= CHUNK:
            yield group
            group = []
    if group:
        yield group


def _problem(row: Sequence[Record]) -> dict[str, Any]:
    first = row[0]
    return {
        "problem": first["problem"],
        "prompt": first["prompt"],
        "question": first.get("question", ""),
        "gold": first["gold"],
        "details": first.get("details", {}),
        "samples": [
            {key: r.get(key) for key in ("sample", "text", "extracted", "method", "reason", "finish_reason", "legacy")}
            for r in row
        ],
    }


def _flags(record: Record) -> int:
    found = {
        "right": record["correct"],
        "truncated": record["finish_reason"] == "length",
        "no answer": record["status"] == "no_answer",
        "ungraded": record["status"] in ("timeout", "error"),
        "undecided": record["status"] == "undecided",
        "loop": ends_in_a_loop(record["text"]),
    }
    return sum(FLAGS[name] for name, yes in found.items() if yes)


def _packed(value: Any) -> str:
    # A lone surrogate in a model's text becomes "?": it is no character that a file or a browser could hold.
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), LEVEL, mtime=0)).decode("ascii")


def _safe_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
