"""Will DFT help on this data? Read off the probability p that the untrained model gives to each target token.

DFT weighs a token's gradient by p. Where the model already finds most targets likely, that keeps it from imitating the
rest; where it does not, DFT ignores what is to be learned. Published points (arXiv 2510.00526, Qwen2.5 and Llama
models): mean p about 0.8 on mathematics, where DFT won by 15 points; about 0.5 on medicine, a tie; about 0.01 on
puzzles drawn in figlet fonts, where SFT learned the task and DFT nothing. The borders here are the midpoints between
those three: a rule of thumb from three data sets, not a law.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

DFT_ABOVE, SFT_BELOW = 0.65, 0.25  # mean p
STOP_LEARNABLE = 0.1  # a stop token below it gets less than a tenth of SFT's gradient
MANY_IMPOSSIBLE = 0.1  # share of tokens with p < 0.01
SHARES: dict[str, Callable[[Any], Any]] = {  # of tokens; of arrays and tensors
    "p < 0.01": lambda p: p < 0.01,
    "p < 0.1": lambda p: p < 0.1,
    "p > 0.9": lambda p: p > 0.9,
}
BINS = 20
TYPES = 20

# The order of the entries in a vector of forecast_sums.
SUMS = ("tokens", "p", *SHARES, "stops", "stop_p")


@dataclass(frozen=True)
class TargetTokens:
    """What a model makes of the target tokens of some rows, one entry per token in each array ``(N,)``.

    log_probs: log p, in (-inf, 0]. entropy: of the distribution it was taken from, in nats. ids: the tokens.
    is_first: the first target of its row. is_stop: the token that ends a response.
    """

    log_probs: np.ndarray
    entropy: np.ndarray
    ids: np.ndarray
    is_first: np.ndarray
    is_stop: np.ndarray

    @property
    def p(self) -> np.ndarray:
        """``(N,)`` float64 probabilities."""
        return np.exp(self.log_probs.astype(np.float64))


@dataclass(frozen=True)
class Advice:
    """objective and options as flags of the trainer, and why."""

    verdict: str
    flags: tuple[str, ...]
    reasons: tuple[str, ...]

    def text(self) -> str:
        """The verdict with its flags, and a line per reason."""
        return "\n".join([f"{self.verdict}: {' '.join(self.flags)}", *(f"  - {reason}" for reason in self.reasons)])


def advise(mean_p: float, impossible: float, stop_p: float) -> Advice:
    """What to train with. mean_p: over all targets. impossible: share with p < 0.01. stop_p: mean p of the tokens that
    end a response, NaN if there are none."""
    reasons = [f"the model gives the target tokens a mean probability of {mean_p:.2f}"]
    if mean_p < SFT_BELOW:
        reasons[0] += f", below {SFT_BELOW}: it does not know this task yet, and DFT would ignore what is to be learned"
        return Advice("use SFT", ("objective.name=sft",), tuple(reasons))
    if mean_p > DFT_ABOVE:
        verdict, flags = "use DFT", ["objective.name=dft"]
        reasons[0] += f", above {DFT_ABOVE}: it mostly knows how such answers go, and DFT spares it the rest"
        reasons.append("that is about answers sampled at temperature 1; under greedy decoding the gain is often gone")
    else:
        verdict, flags = "a tie; try both, or a mixture of the two", ["objective.name=dft", "objective.mix=0.5"]
        reasons[0] += f", between {SFT_BELOW} and {DFT_ABOVE}, where neither was better in published comparisons"
        reasons.append("a mean cannot tell what is to be learned from what had better not be: bad rows favour DFT")
    if mean_p > 0.95:
        reasons.append("it nearly knows this data by heart already: expect little from any objective")
    if impossible > MANY_IMPOSSIBLE:
        reasons.append(
            f"{impossible:.0%} of the targets have p < 0.01 and would not be learned. Good if they are noise; if the "
            "model must learn them, add objective.floor=0.1, which the authors suggest, or use SFT"
        )
    if stop_p < STOP_LEARNABLE:
        flags.append("objective.full_weight_tokens=eos")
        reasons.append(
            f"the token that ends a response has p = {stop_p:.2g}: DFT alone would leave a model that does not stop"
        )
    return Advice(verdict, tuple(flags), tuple(reasons))


# --- the short form, for one batch of a training run --------------------------------------------------------------


def forecast_sums(log_probs: torch.Tensor, is_stop: torch.Tensor) -> torch.Tensor:
    """``(len(SUMS),)`` float64 sums over target tokens; add them up over micro-batches and ranks.

    log_probs: ``(N,)``. is_stop: ``(N,)`` bool, the target ends a response.
    """
    p = log_probs.detach().double().exp()
    parts = [torch.ones_like(p), p, *(holds(p) for holds in SHARES.values()), is_stop, p * is_stop]
    return torch.stack([part.double().sum() for part in parts])


def short_form(sums: torch.Tensor) -> str:
    """Some lines on what :func:`forecast_sums` found: the probabilities, and what to train with."""
    value = dict(zip(SUMS, sums.tolist(), strict=True))
    tokens = value["tokens"]
    if not tokens:
        return "forecast: no target tokens"
    share = {name: value[name] / tokens for name in ("p", *SHARES)}
    stop_p = value["stop_p"] / value["stops"] if value["stops"] else float("nan")
    advice = advise(share["p"], share["p < 0.01"], stop_p)
    shares = ", ".join(f"{share[name]:.0%} with {name}" for name in SHARES)
    return (
        f"forecast on {int(tokens)} target tokens: mean p {share['p']:.3f}; {shares}; "
        f"p of the stop token {stop_p:.3g}\n{advice.text()}"
    )


# --- the long form ------------------------------------------------------------------------------------------------


def summary(tokens: TargetTokens) -> dict[str, Any]:
    """All numbers of the forecast, for JSON. Undefined means are NaN."""
    p = tokens.p
    return {
        "target_tokens": len(p),
        "target_rows": int(tokens.is_first.sum()),
        "mean_p": _mean(p),
        "mean_p_stderr": error_of_the_mean(p, tokens.is_first),
        "nll": _mean(-tokens.log_probs),
        "entropy": _mean(tokens.entropy),
        "stop_p": _mean(p[tokens.is_stop]),
        "first_token_p": _mean(p[tokens.is_first]),
        "shares": {name: _mean(holds(p)) for name, holds in SHARES.items()},
        "histogram": (np.histogram(p, BINS, (0, 1))[0] / max(1, len(p))).tolist(),
        "deciles": deciles(p),
    }


def error_of_the_mean(values: np.ndarray, is_first: np.ndarray) -> float:
    """Standard error over rows of the mean over tokens: tokens of one row are alike, so they do not count each.

    With row sums s, row lengths n and m = sum s / sum n: sqrt(R / (R - 1) * sum (s - m n)^2) / sum n. NaN for one row.
    """
    if int(is_first.sum()) < 2:
        return float("nan")
    row = np.cumsum(is_first) - 1
    sums, lengths = np.bincount(row, weights=values), np.bincount(row)
    count, apart = len(sums), sums - values.mean() * lengths
    return float(np.sqrt(count / (count - 1) * (apart**2).sum()) / lengths.sum())


def deciles(p: np.ndarray) -> list[dict[str, float]]:
    """Tenths of the tokens in the order of p: the weight p that DFT gives them on average, and the share of all
    gradient on target logits that they get from DFT, p (1 - p), and from SFT, 1 - p."""
    p = np.sort(p)
    dft, sft = p * (1 - p), 1 - p
    return [
        {
            "from": float(part[0]),
            "to": float(part[-1]),
            "dft_weight": float(part.mean()),
            "dft_share": float((part * (1 - part)).sum() / max(dft.sum(), 1e-300)),
            "sft_share": float((1 - part).sum() / max(sft.sum(), 1e-300)),
        }
        for part in np.array_split(p, 10)
        if len(part)
    ]


def most_ignored(tokens: TargetTokens, decode: Callable[[int], str], count: int = TYPES) -> list[dict[str, Any]]:
    """The token types from which DFT takes most of SFT's gradient: largest sums of (1 - p) - p (1 - p) = (1 - p)^2."""
    ids, place = np.unique(tokens.ids, return_inverse=True)
    p = tokens.p
    lost = np.bincount(place, weights=(1 - p) ** 2)
    seen = np.bincount(place)
    mean_p = np.bincount(place, weights=p) / seen
    order = np.argsort(-lost, kind="stable")[:count]
    return [
        {
            "token": decode(int(ids[k])),
            "times": int(seen[k]),
            "mean_p": float(mean_p[k]),
            "share_of_ignored": float(lost[k] / max(lost.sum(), 1e-300)),
        }
        for k in order
    ]


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values, dtype=np.float64)) if len(values) else float("nan")


def report(numbers: dict[str, Any], ignored: Sequence[dict[str, Any]], advice: Advice) -> str:
    """The forecast as text for a terminal."""
    lines = [
        f"target tokens        {numbers['target_tokens']}",
        f"mean p               {numbers['mean_p']:.4f} ± {numbers['mean_p_stderr']:.4f} (standard error over "
        f"{numbers['target_rows']} rows)",
        f"mean -log p (NLL)    {numbers['nll']:.4f}",
        f"mean entropy, nats   {numbers['entropy']:.4f}",
        f"p of the first token {numbers['first_token_p']:.4f}",
        f"p of the stop token  {numbers['stop_p']:.4f}",
        *(f"tokens with {name:8} {share:.2%}" for name, share in numbers["shares"].items()),
        "",
        "tokens by p, a tenth each: DFT's weight, and the share of the gradient that they get",
        "      p from        to   DFT weight   from DFT   from SFT",
    ]
    for row in numbers["deciles"]:
        lines.append(
            f"  {row['from']:10.3g}{row['to']:10.3g}{row['dft_weight']:13.4f}{row['dft_share']:11.1%}"
            f"{row['sft_share']:11.1%}"
        )
    lines += ["", f"the {len(ignored)} token types that DFT would ignore most", "  share  times  mean p  token"]
    for row in ignored:
        lines.append(f"  {row['share_of_ignored']:5.1%}{row['times']:7}{row['mean_p']:8.3f}  {row['token']!r}")
    return "\n".join([*lines, "", advice.text()])


def plot(numbers: dict[str, Any], out: str | Path) -> None:
    """Two panels as a PNG: the histogram of p, and the gradient that each tenth of the tokens gets."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    edges = np.linspace(0, 1, BINS + 1)
    left.bar(edges[:-1], [100 * share for share in numbers["histogram"]], width=1 / BINS, align="edge", edgecolor="w")
    left.axvline(numbers["mean_p"], color="k", linestyle="--", label=f"mean {numbers['mean_p']:.2f}")
    left.set_xlabel("p of the target token")
    left.set_ylabel("% of target tokens")
    left.legend()
    places = np.arange(len(numbers["deciles"]))
    for shift, name in ((-0.2, "sft"), (0.2, "dft")):
        shares = [100 * row[f"{name}_share"] for row in numbers["deciles"]]
        right.bar(places + shift, shares, width=0.4, label=name.upper())
    right.set_xticks(places, [f"{row['to']:.1e}" for row in numbers["deciles"]], rotation=45, fontsize=8)
    right.set_xlabel("tenths of the tokens, by p (label: largest p)")
    right.set_ylabel("% of the gradient on target logits")
    right.legend()
    figure.savefig(out, dpi=120)
    plt.close(figure)
