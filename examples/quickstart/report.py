"""Score the quickstart's models in one process, print their table, write report.md and the plots.

python examples/quickstart/report.py --out outputs/quickstart --models base=... sft=... dft=...
"""

import argparse
from pathlib import Path

from verl.dft.plots import plot_curves, read_metrics
from verl.math_eval.backends.options import BackendOptions
from verl.math_eval.generation import make_backend
from verl.math_eval.harness import EvalOptions, Evaluation, evaluate
from verl.math_eval.report import write_report

SAMPLES = 16


def score(label: str, checkpoint: str, out: Path, seed: int) -> tuple[Evaluation, Evaluation]:
    """Greedy, and SAMPLES samples at temperature 1, on the held-out questions."""
    backend = make_backend(BackendOptions(checkpoint))
    questions = {"data_names": (str(out / "data" / "test.jsonl"),), "max_tokens_per_call": 64, "seed": seed}
    sampling = EvalOptions(**questions, n_sampling=SAMPLES, temperature=1.0)
    try:
        sampled = evaluate(backend, out / "eval" / label, sampling, label)
        greedy = evaluate(backend, out / "eval" / label / "greedy", EvalOptions(**questions), label)
    finally:
        backend.close()
    return greedy, sampled


def table(scores: dict[str, tuple[Evaluation, Evaluation]], out: Path) -> str:
    """Markdown: accuracies in % with standard errors over questions, and how the model sees the clean answers."""
    lines = [
        f"| model | greedy | avg@{SAMPLES} | pass@{SAMPLES} | maj@{SAMPLES} | NLL | mean p |",
        "|---|---|---|---|---|---|---|",
    ]
    for label, (greedy, sampled) in scores.items():
        one, many = greedy.metrics["test"]["scores"], sampled.metrics["test"]["scores"]
        cells = [one["greedy"], *(many[f"{kind}@{SAMPLES}"] for kind in ("avg", "pass", "maj"))]
        last = read_metrics(out / label)[-1]
        lines.append(
            f"| {label} | "
            + " | ".join(f"{100 * cell['value']:.1f} ± {100 * cell['stderr']:.1f}" for cell in cells)
            + f" | {last['val/nll']:.3f} | {last['val/mean_p']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=CHECKPOINT")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    models = dict(pair.split("=", 1) for pair in options.models)
    scores = {label: score(label, checkpoint, options.out, options.seed) for label, checkpoint in models.items()}
    plot_curves({label: options.out / label for label in models if label != "base"}, options.out / "curves.png")
    write_report(options.out, [evaluation for pair in scores.values() for evaluation in pair])
    text = table(scores, options.out)
    report = options.out / "report.md"
    report.write_text(
        f"# Quickstart\n\n{text}\n\n"
        "Accuracies in % of 200 held-out questions; ± is the standard error over questions. "
        "NLL and mean p: per token of the clean held-out demonstrations.\n\n"
        "![training curves](curves.png)\n\n" + report.read_text(encoding="utf-8"),
        encoding="utf-8",
    )
    print(text)


if __name__ == "__main__":
    main()
