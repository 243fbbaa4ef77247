"""What a child process of the study does: make data, train, evaluate, measure. Each writes a JSON when finished.

Results are files, so that a study that was stopped goes on where it was: what has its file is not done again. Heavy
imports stand inside the functions; the children are forked from a server that has done them (see run.py).
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from plan import MAX_LENGTH, UNSEEN_END, Run, Scale, checkpoint, evaluation_command, start_folder
from plan import data_options as options_of_data
from plan import trainer_flags as flags_of

EXAMPLES = Path(__file__).parents[1]
FORECAST_ROWS = 500


def once(path: Path, settings: Sequence[str], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is in ``path``, or else what ``work`` returns, written there with its time. Raises ValueError where the file
    was made with other settings."""
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["settings"] != list(settings):
            raise ValueError(
                f"{path} was made with other settings: expected {list(settings)}, found {found['settings']}. "
                "Choose another OUT, or remove that folder."
            )
        return found
    wall, cpu = time.monotonic(), _cpu_seconds()
    result = work()
    result |= {"settings": list(settings), "wall_s": time.monotonic() - wall, "cpu_s": _cpu_seconds() - cpu}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1), encoding="utf-8")
    partial.replace(path)
    return result


def _cpu_seconds() -> float:
    """Of this process and its finished children, such as the grader's workers."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def make_data(scale: Scale, seed: int, out: Path) -> None:
    """The files of every condition, and the untrained model of this seed."""
    sys.path[:0] = [str(EXAMPLES / "data_preprocess"), str(EXAMPLES / "quickstart")]
    import arithmetic
    import make_model

    options = [options_of_data(scale, condition, seed, out) for condition in ("base", *scale.conditions)]

    def work() -> dict[str, Any]:
        for each in options:
            arithmetic.main(each)
        sys.argv = ["make_model.py", f"--data={out}/data/base-seed{seed}/pretrain.parquet"]
        sys.argv += [f"--out={start_folder(out, 0, seed)}", f"--seed={seed}"]
        make_model.main()
        return {}

    once(out / f"data/made-seed{seed}.json", [word for each in options for word in each], work)


def give_unseen_end(scale: Scale, seed: int, out: Path) -> None:
    """The full base with another eos token, one that it has never seen: what it learned to write at the end means
    nothing any more."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, folder = start_folder(out, scale.full_base, seed), out / f"unseen_end/seed{seed}"

    def work() -> dict[str, Any]:
        tokenizer = AutoTokenizer.from_pretrained(source)
        tokenizer.eos_token = UNSEEN_END
        model = AutoModelForCausalLM.from_pretrained(source)
        model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
        return {}

    once(out / f"unseen_end/made-seed{seed}.json", [str(source)], work)


def train(run: Run, scale: Scale, out: Path) -> None:
    """The command ``python -m verl.trainer.fsdp_dft_trainer``, and what came of it."""
    from verl.trainer.fsdp_dft_trainer.__main__ import main

    flags = flags_of(run, out, scale)

    def work() -> dict[str, Any]:
        main(flags)
        lines = [json.loads(line) for line in (out / run.name / "metrics.jsonl").open(encoding="utf-8")]
        last = {name: lines[-1][f"val/{name}"] for name in ("nll", "mean_p", "accuracy", "stop_p")}
        first = {"first_batch_mean_p": lines[0]["train/mean_p"]}
        end = checkpoint(run, out, scale) / "huggingface"
        rounded = any(flag.endswith("model_dtype=bf16") for flag in flags)
        return {"steps": len(lines), **last, **first, **_moved(run.start(out), end, rounded)}

    once(out / run.name / "training.json", flags, work)


def _moved(start: Path, end: Path, rounded: bool) -> dict[str, float]:
    """changed: the share of weights with another value than at the start. distance: |change| / |start|.

    rounded: training began by rounding the start to bf16, which is no change that it made.
    """
    import torch
    from safetensors.torch import load_file

    before, after = load_file(start / "model.safetensors"), load_file(end / "model.safetensors")
    changed, total, square, size = 0, 0, 0.0, 0.0
    for name, old in before.items():
        old = old.to(torch.bfloat16).double() if rounded else old.double()
        new = after[name].double()
        changed, total = changed + int((new != old).sum()), total + old.numel()
        square, size = square + float((new - old).square().sum()), size + float(old.square().sum())
    return {"changed": changed / total, "distance": (square / size) ** 0.5}


def evaluate(run: Run, scale: Scale, out: Path) -> None:
    """The command ``python -m verl.math_eval``: greedy, and samples at temperature 1."""
    from verl.math_eval import __main__ as command_line
    from verl.math_eval.evaluation import load_evaluation

    command = evaluation_command(run, out, scale)

    def work() -> dict[str, Any]:
        command_line.run(command_line.parser().parse_args(command))
        folder = out / run.name / "eval"
        (greedy,) = load_evaluation(folder / "greedy").metrics.values()
        (sampled,) = load_evaluation(folder).metrics.values()
        result = {"greedy": greedy["scores"]["greedy"]["value"], "greedy_truncated": greedy["truncated"]}
        for kind in ("avg", "pass", "maj"):
            result[kind] = sampled["scores"][f"{kind}@{run.samples}"]["value"]
        return {**result, "truncated": sampled["truncated"], "samples": run.samples, "questions": sampled["problems"]}

    once(out / run.name / "evaluation.json", command, work)


def forecast(scale: Scale, base_steps: int, seed: int, conditions: Sequence[str], out: Path) -> None:
    """What ``python -m verl.dft.diagnose`` finds for one base on the training data of each condition; and the base's
    NLL and mean p on its held-out data."""
    from verl.dft import diagnose
    from verl.dft.forecast import advise, summary

    def work() -> dict[str, Any]:
        model, tokenizer = diagnose.load(str(start_folder(out, base_steps, seed)), "cpu")

        def measured(file: Path) -> dict[str, Any]:
            how, _ = diagnose.row_format_of(str(file), tokenizer, MAX_LENGTH)
            rows, _ = diagnose.sampled_rows(str(file), how, tokenizer, FORECAST_ROWS, seed=0)
            (stop,) = tokenizer(how.response_end, add_special_tokens=False)["input_ids"]
            return summary(diagnose.measure(model, rows, stop))

        found = {}
        for condition in conditions:
            folder = out / f"data/{condition}-seed{seed}"
            train_rows, test_rows = measured(folder / "train.parquet"), measured(folder / "test.parquet")
            advice = advise(train_rows["mean_p"], train_rows["shares"]["p < 0.01"], train_rows["stop_p"])
            found[condition] = {
                "mean_p": train_rows["mean_p"],
                "impossible": train_rows["shares"]["p < 0.01"],
                "stop_p": train_rows["stop_p"],
                "verdict": advice.verdict,
                "test_nll": test_rows["nll"],
                "test_mean_p": test_rows["mean_p"],
            }
        return {"base_steps": base_steps, "seed": seed, "conditions": found}

    once(out / f"forecast/{base_steps}-seed{seed}.json", [str(start_folder(out, base_steps, seed)), *conditions], work)
