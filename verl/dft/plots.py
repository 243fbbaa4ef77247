"""Training curves of one or several runs, from their metrics.jsonl.

python -m verl.dft.plots checkpoints/run_a checkpoints/run_b --out curves.png
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

PANELS = {
    "nll": "NLL per target token",
    "mean_p": "mean probability of a target token",
    "accuracy": "share of target tokens ranked first",
    "loss": "the objective itself",
}


def read_metrics(folder: str | Path) -> list[dict[str, float]]:
    """The lines of ``folder/metrics.jsonl``, with NaN for null. Raises ValueError when there are none."""
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"expected the folder of a training run, found no metrics.jsonl in {folder}")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{name: float("nan") if value is None else value for name, value in line.items()} for line in lines]


def plot_curves(runs: Mapping[str, str | Path], out: str | Path) -> None:
    """Write one PNG with a panel per quantity: training as a line, validation as dots; runs by colour."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 7), constrained_layout=True)
    for axis, (name, title) in zip(axes.flat, PANELS.items(), strict=True):
        for label, folder in runs.items():
            lines = read_metrics(folder)
            train = [(line["step"], line[f"train/{name}"]) for line in lines]
            (drawn,) = axis.plot(*zip(*train, strict=True), alpha=0.6, label=label)
            val = [(line["step"], line[f"val/{name}"]) for line in lines if f"val/{name}" in line]
            if val:
                axis.plot(*zip(*val, strict=True), "o", color=drawn.get_color(), markersize=4)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("optimizer step")
        axis.grid(alpha=0.3)
        if name == "loss":
            axis.set_yscale("log")  # the objectives' scales differ by orders of magnitude
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=len(runs), title="line: training, dots: validation"
    )
    figure.savefig(out, dpi=120)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the curves of the runs that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders of training runs (trainer.default_local_dir)")
    parser.add_argument("--out", default="curves.png", help="the picture to write (default: %(default)s)")
    options = parser.parse_args(argv)
    plot_curves({Path(run).name: run for run in options.runs}, options.out)
    print(f"Wrote {options.out}.")


if __name__ == "__main__":
    main()
