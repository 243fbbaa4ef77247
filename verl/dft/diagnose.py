"""Before training: what does this model make of this data, and which objective suits?

python -m verl.dft.diagnose --model MODEL --data train.parquet

Rows become tokens by the trainer's own code, so that p is measured on exactly the tokens that would be trained, and
log p comes from the trainer's own output projection. What the numbers mean is in ``verl/dft/forecast.py``.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from verl.dft import forecast
from verl.dft.data.dataset import RowFormat, check_files, tokenize_files
from verl.dft.data.prompts import resolve_prompt_format
from verl.dft.data.rows import TokenizedRows
from verl.dft.errors import run_reporting_errors
from verl.dft.forecast import TargetTokens
from verl.dft.model.scoring import score_rows

MOST_ROWS, SECONDS = 2000, 60.0  # of the sample; on a CPU as many of them as can be measured in this time


def row_format_of(
    file: str,
    tokenizer: Any,
    max_length: int,
    chat_template: str | None = None,
    response_end: str | None = None,
    prompt_key: str | None = None,
    response_key: str | None = None,
    messages_key: str | None = None,
) -> tuple[RowFormat, str]:
    """How the trainer would read ``file``, and the flags that make it do so.

    Without keys: ``extra_info.question`` and ``extra_info.answer`` where the file has them filled, else ``messages``,
    else ``question`` and ``answer``. A dot reaches into structures. Other arguments as the trainer's flags.
    """
    check_files([file], {}, "--data")
    if not (prompt_key or response_key or messages_key):
        prompt_key, response_key, messages_key = _keys_of(file)
    prompts = resolve_prompt_format(chat_template, tokenizer, stop=[response_end] if response_end else None)
    if messages_key:
        check_files([file], {messages_key: "--messages_key"}, "--data")
        how = RowFormat(prompts, "", max_length, multiturn=True, messages_key=messages_key)
        return how, f"data.multiturn.enable=true data.multiturn.messages_key={messages_key}"
    prompt, response = (prompt_key or "question").split("."), (response_key or "answer").split(".")
    check_files([file], {prompt[0]: "--prompt_key", response[0]: "--response_key"}, "--data")
    how = RowFormat(prompts, prompts.stop[0], max_length, prompt_keys=prompt, response_keys=response)
    flags = [f"data.{kind}_key={keys[0]}" for kind, keys in (("prompt", prompt), ("response", response))]
    for kind, keys in (("prompt", prompt), ("response", response)):
        flags += [f"data.{kind}_dict_keys=[{','.join(keys[1:])}]"] if keys[1:] else []
    return how, " ".join(flags)


def _keys_of(file: str) -> tuple[str | None, str | None, str | None]:
    schema = pq.read_schema(file)
    if "extra_info" in schema.names and pa.types.is_struct(kind := schema.field("extra_info").type):
        names = {field.name for field in kind}
        if {"question", "answer"} <= names and not ("messages" in schema.names and _has_null_question(file)):
            return "extra_info.question", "extra_info.answer", None
    if "messages" in schema.names and "question" not in schema.names:
        return None, None, "messages"
    return "question", "answer", None


def _has_null_question(file: str) -> bool:
    batches = pq.ParquetFile(file).iter_batches(columns=["extra_info.question"])
    return any(pc.struct_field(batch.column(0), "question").null_count for batch in batches)


def sampled_rows(file: str, how: RowFormat, tokenizer: Any, count: int, seed: int) -> tuple[TokenizedRows, str]:
    """``count`` rows of ``file`` at random (all of them, if it has no more), tokenised; and the tokeniser's report."""
    total = pq.ParquetFile(file).metadata.num_rows
    if count >= total:
        rows, report = tokenize_files([file], how, tokenizer, "the data")
        return rows, report.text(file, rows)
    numbers = np.sort(np.random.default_rng(seed).choice(total, count, replace=False))
    columns = [how.messages_key] if how.multiturn else list({how.prompt_keys[0], how.response_keys[0]})
    with tempfile.TemporaryDirectory(prefix="verl-dft-") as folder:
        part = str(Path(folder) / "sample.parquet")
        pq.write_table(pa.Table.from_batches(_take(file, columns, numbers)), part)
        try:
            rows, report = tokenize_files([part], how, tokenizer, "a sample")
        except ValueError as error:
            raise ValueError(_in_terms_of(file, numbers, part, str(error))) from error
    return rows, report.text(f"{count} of the {total} rows of {file} (seed {seed})", rows)


def _take(file: str, columns: list[str], numbers: np.ndarray) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in pq.ParquetFile(file).iter_batches(columns=columns):
        here = numbers[(numbers >= start) & (numbers < start + len(batch))] - start
        if len(here):
            yield batch.take(pa.array(here))
        start += len(batch)


def _in_terms_of(file: str, numbers: np.ndarray, part: str, message: str) -> str:
    """The tokeniser's message, with the row numbers of ``file`` for those of its sample ``part``."""
    found = re.match(re.escape(part) + r", row (\d+): ", message)
    return f"{file}, row {numbers[int(found[1])]}: {message[found.end() :]}" if found else message


def measure(
    model: torch.nn.Module,
    rows: TokenizedRows,
    stop_id: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
) -> TargetTokens:
    """What ``model`` makes of the target tokens of ``rows``, in no particular order of rows.

    stop_id: the token that ends a response; None: the last target of each run of targets. seconds, seed: as in
    :func:`score_rows`.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("log_probs", "entropy", "ids", "is_first", "is_stop")}
    for part in score_rows(model, rows, ("entropy",), seconds, seed):
        predicted = part.is_target
        first = predicted & (predicted.cumsum(1) == 1)
        last = predicted & ~torch.nn.functional.pad(predicted[:, 1:], (0, 1))
        found["log_probs"].append(part.values["log_probs"].float().numpy())
        found["entropy"].append(part.values["entropy"].float().numpy())
        found["ids"].append(part.ids.numpy())
        found["is_first"].append(first[predicted].numpy())
        found["is_stop"].append((last[predicted] if stop_id is None else part.ids == stop_id).numpy())
    return TargetTokens(**{name: np.concatenate(parts) for name, parts in found.items()})


def load(name: str, device: str) -> tuple[torch.nn.Module, Any]:
    """Model and tokenizer; fp32 on a CPU, bf16 on a GPU, as the trainer's products are."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from verl.dft.model_folder import resolve_model

    folder = resolve_model(name)
    where = _device(device)
    dtype = torch.float32 if where.type == "cpu" else torch.bfloat16
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
        return model.to(where).eval(), AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, KeyError) as error:
        raise ValueError(f"--model {name} cannot be loaded: {str(error).splitlines()[0]}") from error


def _device(name: str) -> torch.device:
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # no such device, or a build of torch without it
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"--device: expected auto, cpu, cuda or cuda:N that is here, found {name!r}: {reason}"
        ) from error
    return device


def diagnose(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, print, and write ``forecast.json`` and ``forecast.png`` to ``options.out``; returns the former."""
    model, tokenizer = load(options.model, options.device)
    how, flags = row_format_from(options, tokenizer)
    print(f"rows are read as by {flags}, in the prompt format {how.prompt_format.name}")
    rows, counted = sampled_rows(options.data, how, tokenizer, options.sample or MOST_ROWS, options.seed)
    print(counted)
    stop = None if how.multiturn else tokenizer(how.response_end, add_special_tokens=False)["input_ids"][-1]
    timed = options.sample is None and next(model.parameters()).device.type == "cpu"
    tokens = measure(model, rows, stop, options.seconds if timed else None, options.seed)
    numbers = forecast.summary(tokens)
    if timed and numbers["target_rows"] < len(rows):
        counted += f"\nmeasured {numbers['target_rows']} of these rows in {options.seconds:g} s (--seconds, --sample)"
        print(counted.rsplit("\n", 1)[1])
    ignored = forecast.most_ignored(tokens, lambda token: tokenizer.decode([token]))
    advice = forecast.advise(numbers["mean_p"], numbers["shares"]["p < 0.01"], numbers["stop_p"])
    result = {
        "model": options.model,
        "data": options.data,
        "rows": counted,
        **numbers,
        "most_ignored": ignored,
        "advice": {"verdict": advice.verdict, "flags": advice.flags, "reasons": advice.reasons},
    }
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "forecast.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    forecast.plot(numbers, out / "forecast.png")
    print(f"\n{forecast.report(numbers, ignored, advice)}\n\nwrote {out / 'forecast.json'} and {out / 'forecast.png'}")
    return result


def add_row_options(p: argparse.ArgumentParser) -> None:
    """How rows are read, as in training; and where the model runs."""
    p.add_argument("--max_length", type=int, default=2048, help="rows are cut here on the right, as in training")
    p.add_argument("--prompt_key", help="column of the question, with dots into structures (default: found out)")
    p.add_argument("--response_key", help="column of the response (default: found out)")
    p.add_argument("--messages_key", help="column of conversations, in place of the two")
    p.add_argument("--chat_template", help="as data.chat_template in training (default: the tokenizer's)")
    p.add_argument("--response_end", help="as data.response_end in training (default: the eos token)")
    p.add_argument("--device", default="auto", help="auto: the GPU if there is one")


def row_format_from(options: argparse.Namespace, tokenizer: Any) -> tuple[RowFormat, str]:
    """:func:`row_format_of` the options of a command line."""
    return row_format_of(
        options.data,
        tokenizer,
        options.max_length,
        options.chat_template,
        options.response_end,
        options.prompt_key,
        options.response_key,
        options.messages_key,
    )


def parser() -> argparse.ArgumentParser:
    """The command line of ``python -m verl.dft.diagnose``."""
    p = argparse.ArgumentParser(
        prog="python -m verl.dft.diagnose", description="Will DFT help this model on this data?", allow_abbrev=False
    )
    p.add_argument("--model", required=True, help="hub id, HF folder or trainer checkpoint: what training starts from")
    p.add_argument("--data", required=True, help="training parquet")
    p.add_argument("--sample", type=int, help=f"rows to measure, at random (default: {MOST_ROWS}; CPU: see --seconds)")
    p.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help="on a CPU, without --sample: time to measure (default: %(default)s)",
    )
    p.add_argument("--seed", type=int, default=0, help="seed of the sample")
    add_row_options(p)
    p.add_argument("--out", default="outputs/forecast", help="folder of forecast.json and .png (default: %(default)s)")
    return p


def main() -> None:
    """Run it. Raises ValueError for what cannot be measured."""
    options = parser().parse_args()
    if options.seconds <= 0:
        raise ValueError(f"--seconds: expected more than 0, found {options.seconds:g}")
    if options.sample is not None and options.sample < 1:
        raise ValueError(f"--sample: expected at least 1 row, found {options.sample}")
    diagnose(options)


if __name__ == "__main__":
    sys.exit(run_reporting_errors(main))
