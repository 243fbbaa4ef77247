"""Evaluations in the forms of other tools (``--export``): logs for inspect-ai's viewer, entries for the Hub.

Both are written from stored evaluations; neither tool is needed for it. inspect-ai's log is its JSON format, version 2,
tried with inspect-ai 0.3.285. The Hub's entries are what a model repository holds in ``.eval_results/*.yaml``.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from verl.math_eval.benchmark_list import BY_NAME
from verl.math_eval.evaluation import METRICS, Evaluation
from verl.math_eval.samples import SAMPLES, Record
from verl.math_eval.tables import headline_scores

FORMS = ("inspect", "hf")
SCORER = "math"
STOP_REASONS = {"stop": "stop", "length": "max_tokens", "prompt_too_long": "model_length"}


def export(evaluations: Sequence[Evaluation], folder: str | Path, form: str) -> Path:
    """Write all evaluations in one form; returns the folder or file. Raises ValueError for a form that there is not."""
    check_form(form)
    return (export_inspect if form == "inspect" else export_hub)(evaluations, Path(folder))


def check_form(form: str) -> None:
    """Raises ValueError for a form that there is not."""
    if form not in FORMS:
        raise ValueError(f"expected --export out of {', '.join(FORMS)}, found {form!r}")


def export_inspect(evaluations: Sequence[Evaluation], folder: Path) -> Path:
    """``<folder>/inspect/*.json``: a log per evaluation and benchmark; ``inspect view --log-dir`` opens them."""
    out = folder / "inspect"
    out.mkdir(parents=True, exist_ok=True)
    for evaluation in evaluations:
        for name in evaluation.metrics:
            _write_log(out, evaluation, name)
    return out


def _write_log(out: Path, evaluation: Evaluation, name: str) -> None:
    created = _when(evaluation.folder / name / SAMPLES)
    settings = evaluation.metrics[name]["settings"]
    identity = hashlib.sha256(json.dumps([settings["generation"], name, evaluation.label]).encode()).hexdigest()[:22]
    task = f"{name}_T{evaluation.temperature:g}"
    stamp = created.replace(":", "-")
    head = _head(evaluation, name, task, identity, created)
    with (out / f"{stamp}_{task.replace('_', '-')}_{identity}.json").open("w", encoding="utf-8") as file:
        file.write(json.dumps(head)[:-1] + ', "samples": [')
        for number, sample in enumerate(_samples(evaluation, name)):
            file.write((",\n" if number else "\n") + json.dumps(sample))
        file.write("\n]}\n")


def _head(evaluation: Evaluation, name: str, task: str, identity: str, created: str) -> dict[str, Any]:
    metrics = evaluation.metrics[name]
    settings = metrics["settings"]
    sampling = settings["generation"]["sampling"]
    scores = {key: {"name": key, "value": s["value"]} for key, s in metrics["scores"].items() if s["value"] is not None}
    first = next(iter(metrics["scores"].values()))
    if first["stderr"] is not None:
        scores["stderr"] = {"name": "stderr", "value": first["stderr"]}
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": identity,
            "run_id": identity,
            "created": created,
            "task": task,
            "task_id": identity,
            "dataset": {
                "name": name,
                "location": settings["described"]["data"]["from"],
                "samples": metrics["problems"],
                "sample_ids": settings["asked"]["problems"],
            },
            "model": f"{settings['generation']['backend']}/{evaluation.label}",
            "model_generate_config": {
                "temperature": sampling["temperature"],
                "top_p": sampling["top_p"],
                "max_tokens": sampling["max_new_tokens"],
            },
            "config": {"epochs": metrics["samples_per_problem"]},
            "packages": metrics["versions"],
            "metadata": {"grading": settings["grading"], "warnings": list(evaluation.warnings)},
        },
        "plan": {"name": "plan", "steps": [], "config": {}},
        "results": {
            "total_samples": metrics["samples"],
            "completed_samples": metrics["samples"],
            "scores": [{"name": SCORER, "scorer": SCORER, "params": {}, "metrics": scores}],
        },
        "stats": {"started_at": created, "completed_at": created, "model_usage": {}},
    }


def _samples(evaluation: Evaluation, name: str) -> Iterator[dict[str, Any]]:
    model = evaluation.label
    for row in evaluation.rows(name):
        for record in row:
            yield _sample(record, model)


def _sample(record: Record, model: str) -> dict[str, Any]:
    answer = {"role": "assistant", "content": record["text"], "source": "generate"}
    reason = STOP_REASONS.get(record["finish_reason"], "unknown")
    score = {
        "value": "C" if record["correct"] else "I",
        "answer": record["extracted"],
        "explanation": record["reason"],
        "metadata": {"method": record["method"], "status": record["status"]},
    }
    usage = {"input_tokens": 0, "output_tokens": record["tokens"], "total_tokens": record["tokens"]}
    return {
        "id": record["problem"],
        "epoch": record["sample"] + 1,
        "input": record["prompt"],
        "target": record["gold"],
        "messages": [{"role": "user", "content": record["prompt"], "source": "input"}, answer],
        "output": {"model": model, "choices": [{"message": answer, "stop_reason": reason}], "usage": usage},
        "scores": {SCORER: score},
        "metadata": {**record.get("details", {}), "seed": record["seed"]},
    }


def export_hub(evaluations: Sequence[Evaluation], folder: Path) -> Path:
    """``<folder>/eval_results/<label>.yaml``: the scores on benchmarks that have a place on the Hub, in percent.

    To be put into a model's repository as ``.eval_results/<name>.yaml``. Raises ValueError when no benchmark has one.
    """
    import yaml
    from huggingface_hub import eval_result_entries_to_yaml

    out = folder / "eval_results"
    by_label: dict[str, list[Any]] = {}
    for evaluation in evaluations:
        by_label.setdefault(evaluation.label, []).extend(_entries(evaluation))
    if not any(by_label.values()):
        raise ValueError("expected a benchmark with a place on the Hub for --export hf, found none")
    out.mkdir(parents=True, exist_ok=True)
    for label, entries in by_label.items():
        text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
        (out / f"{label.replace('/', '_')}.yaml").write_text(text, encoding="utf-8")
    return out


def _entries(evaluation: Evaluation) -> Iterator[Any]:
    from huggingface_hub import EvalResultEntry

    for name, metrics in evaluation.metrics.items():
        entry, settings = BY_NAME.get(name), metrics["settings"]
        if entry is None or entry.hub is None:
            continue
        data, sampling = settings["described"]["data"], settings["generation"]["sampling"]
        part = "" if len(settings["asked"]["problems"]) == data["problems"] else "; a part of the problems"
        for score, found in headline_scores(metrics).values():
            if found["value"] is None:
                continue
            error = "" if found["stderr"] is None else f" ± {100 * found['stderr']:.1f} (standard error over problems)"
            yield EvalResultEntry(
                dataset_id=entry.hub,
                task_id=entry.config or "default",
                value=round(100 * found["value"], 2),
                dataset_revision=data["revision"],
                date=_when(evaluation.folder / name / METRICS),
                notes=f"{score} in %{error}, temperature {sampling['temperature']:g}, top_p {sampling['top_p']:g}, "
                f"prompt {evaluation.prompt_format}{part}",
            )


def _when(path: Path) -> str:
    """When a file was written, in ISO 8601."""
    return datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).isoformat(timespec="seconds")
