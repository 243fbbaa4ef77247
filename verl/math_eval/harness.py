"""One evaluation: a model, benchmarks, one way of decoding -> samples, grades, metrics and a report on disk.

Example::

    from verl.math_eval.harness import EvalOptions, evaluate
    evaluate("checkpoints/global_step_100", "out", EvalOptions(data_names=("math500",), n_sampling=16, temperature=1.0))
"""

import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from verl.dft.model_folder import resolve_model
from verl.math_eval.backends.options import BackendOptions
from verl.math_eval.benchmark_run import BenchmarkRun
from verl.math_eval.benchmarks import Problem, Source, repetitions
from verl.math_eval.evaluation import (
    GREEDY,
    Evaluation,
    evaluation_folders,
    folder_at,
    folders_of_a_model,
    unfinished,
)
from verl.math_eval.generation import make_backend
from verl.math_eval.options import DEFAULT_BENCHMARKS, EvalOptions, Questions, check_inputs
from verl.math_eval.prompting import ChosenFormat, choose_format, encoded
from verl.math_eval.regrading import regraded
from verl.math_eval.report import report_over, write_report

if TYPE_CHECKING:
    from verl.math_eval.backends.base import Backend

__all__ = ["DEFAULT_BENCHMARKS", "EvalOptions", "Evaluation", "checkpoints_in", "evaluate", "evaluate_all"]

PIECES, PIECE = 64, 65_536  # bytes read of each weight file: enough to tell two training steps apart


def evaluate_all(
    backend: BackendOptions,
    output_dir: str | Path,
    options: EvalOptions,
    with_greedy: bool = False,
    merge_from: Sequence[Path] = (),
    temperatures: Sequence[float] = (),
) -> list[Evaluation]:
    """Score one model, or every checkpoint in a folder of them, and write one report over all that the folder holds.

    backend: its ``model`` is a hub id, a HF folder, a trainer checkpoint, or a folder that holds ``global_step_*``.
    with_greedy: score greedy decoding too, with the model loaded once; into ``<output folder>/greedy``.
    temperatures: in place of ``options.temperature``; several go into ``<output folder>/temperature_T`` each.
    merge_from: output folders of runs of the same model, whose samples are taken over, each at its temperature.
    """
    folder = Path(output_dir)
    models = _models(backend, folder, merge_from)
    decodings = _decodings(options, temperatures, with_greedy)
    questions = check_inputs(options)
    evaluations: list[Evaluation] = []
    for label, (model, out) in models.items():
        loaded = make_backend(replace(backend, model=model))
        try:
            for decoding, place in _places(out, decodings, with_greedy and len(decodings) == 2):
                merged = _to_merge(merge_from, decoding.temperature, place.name == GREEDY)
                evaluations.append(evaluate(loaded, place, decoding, label or None, merged, questions))
        finally:
            loaded.close()
        del loaded  # or two models are in memory while the next one loads
        if out != folder:
            report_over(
                out, _with_stored(out, [e for e in evaluations if out in (e.folder, *e.folder.parents)], options)
            )
        report_over(folder, _with_stored(folder, evaluations, options))
    return _with_stored(folder, evaluations, options)


def _models(backend: BackendOptions, folder: Path, merge_from: Sequence[Path]) -> dict[str, tuple[str, Path]]:
    """Label ("" for the model's own name) -> (model, its output folder). Raises ValueError before one is loaded."""
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
        resolve_model(model)
    return models


def _decodings(options: EvalOptions, temperatures: Sequence[float], with_greedy: bool) -> list[EvalOptions]:
    """The options at each temperature, the greedy one last if it was added."""
    asked = list(temperatures) or [options.temperature]
    if twice := sorted({t for t in asked if asked.count(t) > 1}):
        raise ValueError(f"expected different temperatures, found {', '.join(f'{t:g}' for t in twice)} more than once")
    if with_greedy and 0 not in asked:
        asked.append(0.0)
    decodings = [replace(options, temperature=t) if t or len(asked) == 1 else _greedy(options) for t in asked]
    for decoding in decodings:
        _ = decoding.sampling  # raises for one that is out of range
    return decodings


def _greedy(options: EvalOptions) -> EvalOptions:
    """One sample per problem, asked for as such: no warning about copies."""
    return replace(options, temperature=0.0, n_sampling=1)


def _places(out: Path, decodings: Sequence[EvalOptions], greedy_beside: bool) -> list[tuple[EvalOptions, Path]]:
    """Each decoding and its folder. greedy_beside: one temperature in ``out`` itself, and greedy decoding below it."""
    alone = len(decodings) == 1 or greedy_beside
    places = [(decoding, folder_at(out, decoding.temperature, alone)) for decoding in decodings]
    if greedy_beside and places[1][1] == out:
        places[1] = decodings[1], out / GREEDY
    return places


def _to_merge(folders: Sequence[Path], temperature: float, optional: bool) -> list[Path]:
    """Where those runs keep their samples at this temperature; a folder that has none is an error later on."""
    found = [folders_of_a_model(folder).get(temperature) for folder in folders]
    if optional:
        return [path for path in found if path]
    return [path or folder for path, folder in zip(found, folders, strict=True)]


def _with_stored(folder: Path, evaluations: Sequence[Evaluation], options: EvalOptions) -> list[Evaluation]:
    """These evaluations and the others that lie in and below their folder: a report must not forget what is there.

    Left out, with a note: those that were not finished, and those of other weights in the place of one of ours.
    """
    ours = {e.folder for e in evaluations}
    weights = {(e.label, e.model) for e in evaluations}
    found = list(evaluations)
    for path in evaluation_folders(folder):
        if path in ours:
            continue
        if unfinished(path):
            print(f"note: {path} is not in the report, because its run was not finished", file=sys.stderr)
            continue
        stored = regraded(path, options.grading)
        if any(stored.label == label and stored.model != model for label, model in weights):
            print(f"note: {path} is not in the report, because it holds samples of other weights", file=sys.stderr)
            continue
        found.append(stored)
    order = {path: number for number, path in enumerate(evaluation_folders(folder))}
    return sorted(found, key=lambda e: order[e.folder])


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
    questions: Questions | None = None,
) -> Evaluation:
    """Score one model; writes ``<output_dir>/<benchmark>/{samples.jsonl, settings.json, metrics.json}`` and a report.

    model: a hub id, a HF folder, a trainer checkpoint, or a backend that already holds the model.
    label: the model's name in reports; default: the last part of its path.
    questions: what ``check_inputs(options)`` returned, where that was called already.

    Samples already in ``output_dir`` under the same settings are used again; other settings there are refused.
    Raises ValueError for everything the user can put right, as far as possible before the model is loaded.
    """
    sources, problems = questions = questions or check_inputs(options)
    if isinstance(model, str | Path):
        backend = make_backend(BackendOptions(str(model)))
        try:
            return evaluate(backend, output_dir, options, label, merge_from, questions)
        finally:
            backend.close()
    chosen = choose_format(options.prompt_type, model.folder, model.tokenizer, options.num_shots)
    prompts = [encoded(options.chosen(found), chosen.format, model.tokenizer) for found in problems]
    warnings = (
        *_warnings(chosen, options),
        *_partial(sources, problems, options),
        *filter(None, (repetitions(source, found) for source, found in zip(sources, problems, strict=True))),
        *filter(None, (_too_long(source, asked, model) for source, asked in zip(sources, prompts, strict=True))),
    )
    evaluation = Evaluation(label or _name(model.source), Path(output_dir), chosen.format.name, warnings)
    _announce(model, chosen, next(iter(prompts[0].values())), evaluation)
    fingerprint = model_fingerprint(model.folder, model.commit)
    for place, (source, found, asked) in enumerate(zip(sources, problems, prompts, strict=True)):
        run = BenchmarkRun(model, chosen.format, evaluation, options, source, found, asked, fingerprint, place)
        evaluation.metrics[source.name] = run.execute(merge_from)
    write_report(output_dir, [evaluation])
    return evaluation


def _too_long(source: Source, prompts: Mapping[str, Sequence[int]], model: "Backend") -> str:
    """A warning about prompts that leave no room for an answer, or "". Raises ValueError when that are all."""
    lengths = sorted(map(len, prompts.values()))
    long = sum(length >= model.context for length in lengths) if model.context else 0
    if not long:
        return ""
    if long == len(lengths):
        raise ValueError(
            f"expected prompts shorter than the {model.context} tokens of the model's context, found {lengths[0]} "
            f"tokens or more in each of the {long} problems of {source.name}: choose a model with a longer context, "
            "or fewer worked examples"
        )
    return (
        f"{source.name}: {long} of {len(lengths)} prompts leave no room in the model's context of {model.context} "
        "tokens; their samples count as wrong"
    )


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


def _announce(backend: "Backend", chosen: ChosenFormat, example: Sequence[int], evaluation: Evaluation) -> None:
    about = {**backend.settings, **backend.described}
    print(f"model: {backend.source} ({', '.join(f'{key} {value}' for key, value in about.items())})")
    print(f"prompt format: {chosen.format.name}, stops at {', '.join(map(repr, chosen.format.stop))}; an example:")
    print(f"----\n{backend.tokenizer.decode(list(example))}\n----", flush=True)
    for warning in evaluation.warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
