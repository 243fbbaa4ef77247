"""One evaluation: a model, benchmarks, one way of decoding -> samples, grades, metrics and a report on disk.

Example::

    from verl.math_eval.harness import EvalOptions, evaluate
    evaluate("checkpoints/global_step_100", "out", EvalOptions(data_names=("math500",), n_sampling=16, temperature=1.0))
"""

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from verl.dft.model_folder import resolve_model
from verl.math_eval.backends.options import BackendOptions
from verl.math_eval.benchmark_run import BenchmarkRun
from verl.math_eval.benchmarks import Problem, Source
from verl.math_eval.evaluation import Evaluation
from verl.math_eval.generation import make_backend
from verl.math_eval.options import DEFAULT_BENCHMARKS, EvalOptions, check_inputs
from verl.math_eval.prompting import ChosenFormat, choose_format
from verl.math_eval.report import write_report

if TYPE_CHECKING:
    from verl.math_eval.backends.base import Backend

__all__ = ["DEFAULT_BENCHMARKS", "EvalOptions", "Evaluation", "checkpoints_in", "evaluate", "evaluate_all"]

PIECES, PIECE = 64, 65_536  # bytes read of each weight file: enough to tell two training steps apart
GREEDY = "greedy"  # folder of the greedy evaluation beside a sampled one


def evaluate_all(
    backend: BackendOptions,
    output_dir: str | Path,
    options: EvalOptions,
    with_greedy: bool = False,
    merge_from: Sequence[Path] = (),
) -> list[Evaluation]:
    """Score one model, or every checkpoint in a folder of them, and write one report over all.

    backend: its ``model`` is a hub id, a HF folder, a trainer checkpoint, or a folder that holds ``global_step_*``.
    with_greedy: score greedy decoding too, with the model loaded once; into ``<output folder>/greedy``.
    merge_from: output folders of runs of the same model, whose samples are taken over.
    """
    folder = Path(output_dir)
    steps = checkpoints_in(backend.model)
    if steps and merge_from:
        raise ValueError(
            "expected one model with --merge, found a folder of checkpoints: merge one checkpoint at a time"
        )
    if steps and backend.base_url:
        raise ValueError(
            f"expected one model with --base_url, found a folder of checkpoints: {backend.base_url} serves one model, "
            "which would be scored under every checkpoint's name"
        )
    models = {step.name: (str(step), folder / step.name) for step in steps} or {"": (backend.model, folder)}
    for model, _ in models.values():
        resolve_model(model)  # before the first one is loaded
    check_inputs(options)
    evaluations = []
    for label, (model, out) in models.items():
        loaded = make_backend(replace(backend, model=model))
        try:
            evaluations.append(evaluate(loaded, out, options, label or None, merge_from))
            if with_greedy and options.temperature > 0:
                greedy = replace(options, temperature=0.0, n_sampling=1)
                evaluations.append(evaluate(loaded, out / GREEDY, greedy, label or None))
        finally:
            loaded.close()
        del loaded  # or two models are in memory while the next one loads
        if len(evaluations) > 1:
            write_report(folder, evaluations)
    return evaluations


def checkpoints_in(model: str) -> list[Path]:
    """The ``global_step_*`` folders of a folder that is no model itself, by their step; [] for everything else."""
    path = Path(model).expanduser()
    if not path.is_dir() or any((p / "config.json").is_file() for p in (path, path / "huggingface")):
        return []
    found = [p for p in path.glob("global_step_*") if re.fullmatch(r"global_step_\d+", p.name)]
    return sorted(found, key=lambda p: int(p.name.rsplit("_", 1)[1]))


def evaluate(
    model: "str | Path | Backend",
    output_dir: str | Path,
    options: EvalOptions,
    label: str | None = None,
    merge_from: Sequence[Path] = (),
) -> Evaluation:
    """Score one model; writes ``<output_dir>/<benchmark>/{samples.jsonl, settings.json, metrics.json}`` and a report.

    model: a hub id, a HF folder, a trainer checkpoint, or a backend that already holds the model.
    label: the model's name in reports; default: the last part of its path.

    Samples already in ``output_dir`` under the same settings are used again; other settings there are refused.
    Raises ValueError for everything the user can put right, as far as possible before the model is loaded.
    """
    if isinstance(model, str | Path):
        resolve_model(str(model))
        check_inputs(options)
        backend = make_backend(BackendOptions(str(model)))
        try:
            return evaluate(backend, output_dir, options, label, merge_from)
        finally:
            backend.close()
    sources, problems = check_inputs(options)
    chosen = choose_format(options.prompt_type, model.folder, model.tokenizer, options.num_shots)
    evaluation = Evaluation(
        label or _name(model.source),
        Path(output_dir),
        chosen.format.name,
        (*_warnings(chosen, options), *_partial(sources, problems, options)),
    )
    _announce(model, chosen, options.chosen(problems[0])[0], evaluation)
    fingerprint = model_fingerprint(model.folder, model.commit)
    for place, (source, asked) in enumerate(zip(sources, problems, strict=True)):
        run = BenchmarkRun(model, chosen.format, evaluation, options, source, asked, fingerprint, place)
        evaluation.metrics[source.name] = run.execute(merge_from)
    write_report(output_dir, [evaluation])
    return evaluation


def model_fingerprint(folder: str, commit: str | None = None) -> str:
    """A hash that changes with the weights: the hub commit, or size and samples of the bytes of each weight file."""
    path = Path(folder)
    if not path.is_dir():
        return f"{folder}@{commit}"
    digest = hashlib.sha256()
    for file in sorted([path / "config.json", *path.glob("*.safetensors"), *path.glob("*.bin")]):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as data:
            for part in range(PIECES):
                data.seek(part * max(0, size - PIECE) // (PIECES - 1))
                digest.update(data.read(PIECE))
    return digest.hexdigest()


def _name(source: str) -> str:
    """The last part of a path or hub id; for a checkpoint also its run: two runs' ``global_step_100`` differ."""
    path = Path(source)
    path = path.parent if path.name == "huggingface" else path
    return "/".join(path.parts[-2:]) if path.name.startswith("global_step_") else path.name


def _warnings(chosen: ChosenFormat, options: EvalOptions) -> tuple[str, ...]:
    warnings = [chosen.warning] if chosen.warning else []
    if options.n_sampling > 1 and options.temperature == 0:
        warnings.append(
            f"temperature 0 is greedy decoding: 1 sample per problem instead of {options.n_sampling} copies"
        )
    return tuple(warnings)


def _partial(sources: list[Source], problems: list[list[Problem]], options: EvalOptions) -> list[str]:
    """A line per benchmark that is not asked in full: its score is not the benchmark's."""
    asked = [
        (source.name, len(options.chosen(found)), len(found)) for source, found in zip(sources, problems, strict=True)
    ]
    return [f"{name}: {few} of {all_} problems, from number {options.start}" for name, few, all_ in asked if few < all_]


def _announce(backend: "Backend", chosen: ChosenFormat, first: Problem, evaluation: Evaluation) -> None:
    ids = chosen.format.encode(first.question, backend.tokenizer)
    about = {**backend.settings, **backend.described}
    print(f"model: {backend.source} ({', '.join(f'{key} {value}' for key, value in about.items())})")
    print(f"prompt format: {chosen.format.name}, stops at {', '.join(map(repr, chosen.format.stop))}; an example:")
    print(f"----\n{backend.tokenizer.decode(ids)}\n----", flush=True)
    for warning in evaluation.warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
