"""From a checkpoint of the trainer to what verl's RL trainer reads: a model folder, rows, and the flags that fit both.

    python examples/grpo/prepare.py --checkpoint CHECKPOINT --train train.parquet --out outputs/grpo

verl asks a model with ``tokenizer.apply_chat_template`` and stops where ``generation_config.json`` says. So OUT/model
has the checkpoint's weights (as links), a tokenizer whose chat template writes the prompt that was trained, and the
stop tokens that were trained. That the prompts are the same ids is checked for every row; a row for which they are not
is dropped and counted. OUT/train.parquet and OUT/val.parquet have verl's columns, OUT/flags one flag per line.
"""

import argparse
import importlib.util
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from transformers import AutoConfig, AutoTokenizer

from verl.dft.data.prompts import FILE_NAME, PromptFormat
from verl.dft.errors import run_reporting_errors
from verl.dft.model_folder import resolve_model

NEEDED_BY_VERL = ("transfer_queue", "vllm")  # packages, of its extras verl-core and vllm
# Files of a model folder that begin like this are written anew, not linked.
WRITTEN_ANEW = (
    "tokenizer", "special_tokens_map", "added_tokens", "chat_template", "vocab", "merges", "generation_config",
)  # fmt: skip


def chat_template_of(prompts: PromptFormat, tokenizer: Any) -> str:
    """A chat template that renders one user message as ``prompts`` does, with the tokenizer's BOS of a text format."""
    if prompts.kind == "chat":
        return prompts.template
    before, _, after = prompts.template.partition("{input}")
    lead = "".join(tokenizer.convert_ids_to_tokens(prompts.leading_ids(tokenizer)))
    texts = [json.dumps(text, ensure_ascii=False) for text in (lead + before, after)]
    return "{{ " + texts[0] + " }}{{ messages[0]['content'] }}{{ " + texts[1] + " }}"


def write_model(checkpoint: Path, prompts: PromptFormat, out: Path) -> Any:
    """``out`` with links to the weights, and the tokenizer, which is returned as it is read back from there."""
    out.mkdir(parents=True)
    for file in sorted(checkpoint.iterdir()):
        if not file.name.startswith(WRITTEN_ANEW):
            (out / file.name).symlink_to(file.resolve())
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.chat_template = chat_template_of(prompts, tokenizer)
    tokenizer.save_pretrained(out)
    ids = [tokenizer(token, add_special_tokens=False)["input_ids"] for token in prompts.stop]
    if any(len(one) != 1 for one in ids):
        raise ValueError(f"expected each of the stop tokens {', '.join(prompts.stop)} to be one token of {checkpoint}")
    stop = [one for (one,) in ids]
    config = {"eos_token_id": stop, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id}
    (out / "generation_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return AutoTokenizer.from_pretrained(out)


def rl_row(row: Mapping[str, Any], prompts: PromptFormat, tokenizer: Any, lost: Counter) -> tuple[dict, int] | None:
    """The row in verl's columns, and how many tokens its prompt has; None for one that cannot be used, then counted."""
    info, gold = row["extra_info"], (row.get("reward_model") or {}).get("ground_truth")
    question = info.get("question") if isinstance(info, Mapping) else None
    if not question or not gold:
        lost["without a question or a gold answer"] += 1
        return None
    messages = [{"role": "user", "content": question}]
    theirs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False, **prompts.template_kwargs
    )
    if theirs != prompts.encode(question, tokenizer):
        lost["whose prompt would be other tokens than in training (names of special tokens)"] += 1
        return None
    return {
        "data_source": row["data_source"],
        "prompt": messages,
        "ability": row.get("ability", "math"),
        "reward_model": {"style": "rule", "ground_truth": str(gold)},
        "extra_info": {"index": int(info.get("index", 0)), "question": question},
    }, len(theirs)


def rl_rows(file: str, prompts: PromptFormat, tokenizer: Any) -> tuple[list[dict], int]:
    """The usable rows of a training parquet, and the tokens of the longest prompt. Prints what was dropped and why."""
    columns = ("data_source", "extra_info", "reward_model")
    missing = [name for name in columns if name not in pq.read_schema(file).names]
    if missing:
        raise ValueError(
            f"expected the columns {', '.join(columns)} in {file}, as examples/data_preprocess writes them"
        )
    lost: Counter = Counter()
    rows = pq.read_table(file).to_pylist()
    kept = [found for row in rows if (found := rl_row(row, prompts, tokenizer, lost))]
    dropped = "".join(f"; dropped {count} {why}" for why, count in sorted(lost.items()))
    print(f"{file}: {len(rows)} rows in, {len(kept)} kept{dropped}")
    if not kept:
        raise ValueError(f"{file}: no row is left to train on.")
    return [row for row, _ in kept], max(length for _, length in kept)


def prepare(options: argparse.Namespace) -> None:
    """Write the folder ``options.out``. Raises ValueError for what verl could not be given exactly."""
    out, checkpoint = Path(options.out), Path(resolve_model(options.checkpoint, "--checkpoint"))
    if (out / "flags").exists():
        raise ValueError(f"--out {out} holds what an earlier call prepared. Remove it, or choose another folder.")
    if not (checkpoint / FILE_NAME).is_file():
        raise ValueError(f"expected {FILE_NAME} in {checkpoint}, a checkpoint of this trainer; how else was it asked?")
    prompts = PromptFormat.load(checkpoint)
    shutil.rmtree(out / "model", ignore_errors=True)  # of a call that ended early: flags are written last
    tokenizer = write_model(checkpoint, prompts, out / "model")
    train, longest = rl_rows(options.train, prompts, tokenizer)
    if options.val:
        val, longest_val = rl_rows(options.val, prompts, tokenizer)
        longest = max(longest, longest_val)
    else:
        order = np.random.default_rng(options.seed).permutation(len(train))
        count = min(options.held_out, len(train) // 2)
        val, train = ([train[i] for i in part] for part in (sorted(order[:count]), sorted(order[count:])))
        print(f"{count} rows are held out for validation (--val gives others)")
    limit = getattr(AutoConfig.from_pretrained(checkpoint), "max_position_embeddings", None)
    if limit and longest + options.max_response_length > limit:
        raise ValueError(
            f"expected prompts ({longest} tokens) and --max_response_length={options.max_response_length} to fit the "
            f"model's {limit} positions. Lower the latter to {limit - longest}."
        )
    for name, rows in (("train", train), ("val", val)):
        pd.DataFrame(rows).to_parquet(out / f"{name}.parquet")
    flags = [f"data.max_prompt_length={longest}", f"data.max_response_length={options.max_response_length}"]
    flags += [f"+data.apply_chat_template_kwargs.{k}={json.dumps(v)}" for k, v in prompts.template_kwargs.items()]
    part = out / "flags.part"
    part.write_text("\n".join(flags) + "\n")
    os.replace(part, out / "flags")
    absent = [name for name in NEEDED_BY_VERL if importlib.util.find_spec(name) is None]
    if absent:
        print(f"warning: verl's RL trainer needs {', '.join(absent)}, absent here; docs/rl.md says more")
    print(f"prompt format {prompts.name}, stop tokens {', '.join(prompts.stop)}; wrote {out}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    p.add_argument("--checkpoint", required=True, help="global_step_N of the trainer, or its folder huggingface")
    p.add_argument("--train", required=True, help="parquet of examples/data_preprocess")
    p.add_argument("--val", help="likewise; default: --held_out rows of --train")
    p.add_argument("--held_out", type=int, default=100, help="rows kept from training for validation (default: 100)")
    p.add_argument("--max_response_length", type=int, default=2048, help="tokens of a response (default: 2048)")
    p.add_argument("--seed", type=int, default=0, help="of the held-out rows (default: 0)")
    p.add_argument("--out", required=True, help="folder to write")
    return p


def main() -> None:
    """Run it. Raises ValueError for what cannot be prepared."""
    prepare(parser().parse_args())


if __name__ == "__main__":
    sys.exit(run_reporting_errors(main))
