"""Grade stored samples again, without a model (``--regrade``)."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from verl.math_eval.evaluation import Evaluation, evaluation_folders, load_evaluation, missing_samples, write_metrics
from verl.math_eval.grades import graded_in_pieces, grading_settings
from verl.math_eval.options import check_grading
from verl.math_eval.report import report_over, write_report
from verl.math_eval.samples import SETTINGS, Record, SampleStore, stored_settings


def regrade(
    output_dir: str | Path,
    extraction: str,
    grader: str,
    n_sampling: int | None = None,
    first_marker: bool = False,
    end_of_thinking: Sequence[str] = (),
) -> list[Evaluation]:
    """Grade all samples in and below an output folder again, write metrics and reports anew; returns what they hold.

    n_sampling: samples per problem that count from now on, the first ones; None: as many as in the last run.
    Raises ValueError for a folder without samples or with too few of them, or whose run was not finished.
    """
    check_grading(extraction, grader)
    if n_sampling is not None and n_sampling < 1:
        raise ValueError(f"expected n_sampling >= 1, found {n_sampling}")
    folders = evaluation_folders(output_dir)
    if not folders:
        raise ValueError(f"expected the output folder of an evaluation, found no samples in {output_dir}")
    settings = grading_settings(extraction, grader, first_marker, end_of_thinking)
    for folder in folders:
        for path in sorted(path.parent for path in folder.glob(f"*/{SETTINGS}")):
            _regrade_benchmark(path, settings, n_sampling)
    evaluations = [load_evaluation(folder) for folder in folders]
    for evaluation in evaluations:
        write_report(evaluation.folder, [evaluation])
    report_over(output_dir, evaluations)
    return evaluations


def regraded(folder: Path, grading: dict) -> Evaluation:
    """A stored evaluation, graded anew where it was graded under other settings."""
    paths = sorted(path.parent for path in folder.glob(f"*/{SETTINGS}"))
    old = [path for path in paths if stored_settings(path)["grading"] != grading]
    for path in old:
        _regrade_benchmark(path, grading)
    evaluation = load_evaluation(folder)
    if old:
        write_report(folder, [evaluation])
    return evaluation


def _regrade_benchmark(path: Path, grading: dict, n_sampling: int | None = None) -> None:
    settings = {**stored_settings(path), "grading": grading}
    if n_sampling is not None and settings["generation"]["sampling"]["temperature"] > 0:
        settings["asked"] = {**settings["asked"], "samples": n_sampling}
    store = SampleStore(path, settings).open()
    try:
        if n_sampling is not None and (missing := missing_samples(store)):
            raise ValueError(
                f"expected {settings['asked']['samples']} samples of each problem in {path}, found {missing} missing: "
                "give a smaller --n_sampling, or draw them with the command that made the others"
            )
        with tqdm(total=len(store.records), desc=f"grading {path.name}", unit="sample", mininterval=1.0) as bar:
            store.replace(_counted(graded_in_pieces(store.records.values(), grading), bar))
        write_metrics(store)
    finally:
        store.close()


def _counted(records: Iterable[Record], bar: tqdm) -> Iterator[Record]:
    for record in records:
        yield record
        bar.update()
