"""Grade stored samples again, without a model (``--regrade``)."""

from pathlib import Path

from tqdm import tqdm

from verl.math_eval.evaluation import Evaluation, evaluation_folders, load_evaluation, write_metrics
from verl.math_eval.grades import graded, grading_settings
from verl.math_eval.options import check_grading
from verl.math_eval.report import write_report
from verl.math_eval.samples import SETTINGS, SampleStore

PIECE = 1000  # samples graded between two moves of the progress bar


def regrade(output_dir: str | Path, extraction: str, grader: str) -> list[Evaluation]:
    """Grade all samples in and below an output folder again, write metrics and reports anew; returns what they hold.

    Raises ValueError for a folder without samples, or whose run was not finished.
    """
    check_grading(extraction, grader)
    folders = evaluation_folders(output_dir)
    if not folders:
        raise ValueError(f"expected the output folder of an evaluation, found no samples in {output_dir}")
    for folder in folders:
        for path in sorted(path.parent for path in folder.glob(f"*/{SETTINGS}")):
            _regrade_benchmark(path, grading_settings(extraction, grader))
    evaluations = [load_evaluation(folder) for folder in folders]
    for evaluation in evaluations:
        write_report(evaluation.folder, [evaluation])
    if len(evaluations) > 1:
        write_report(output_dir, evaluations)
    return evaluations


def _regrade_benchmark(path: Path, grading: dict) -> None:
    store = SampleStore(path, {**SampleStore.stored(path).settings, "grading": grading}).open()
    try:
        records = list(store.records.values())
        again = []
        with tqdm(total=len(records), desc=f"grading {path.name}", unit="sample") as bar:
            for start in range(0, len(records), PIECE):
                again += graded(records[start : start + PIECE], grading)
                bar.update(len(again) - bar.n)
        store.replace(again)
        write_metrics(store)
    finally:
        store.close()
