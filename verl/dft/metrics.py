"""What is logged about a batch: sums over target tokens, added up over micro-batches and ranks, divided once.

A mean of means would weigh the tokens of a sparse micro-batch more than the others; sums cannot.
"""

import errno
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

# The order of the entries in every statistics vector of this module.
SUMS: tuple[str, ...]
SUMS = ("target_tokens", "loss", "nll", "one_minus_p", "correct", "stop_tokens", "stop_p", "impossible")
SUMS += ("weight", "weighted_nll")
LOG_P_ROUNDING = 1e-4  # how far above 0 a head may round log p


def token_sums(
    losses: torch.Tensor,
    log_probs: torch.Tensor,
    correct: torch.Tensor,
    is_stop: torch.Tensor,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """``(len(SUMS),)`` float64 sums over the target tokens of one micro-batch, detached.

    losses, log_probs: ``(N,)`` floats. correct: ``(N,)`` bool, the target is the model's most likely token.
    is_stop: ``(N,)`` bool, the target ends a response. weights: ``(N,)`` by which the losses were multiplied; None: 1.
    """
    log_probs = log_probs.detach().double()
    weights = torch.ones_like(log_probs) if weights is None else weights.double()
    return torch.stack(
        [
            log_probs.new_full((), log_probs.numel()),  # filled on the device: no copy, no waiting
            losses.detach().double().sum(),
            -log_probs.sum(),
            -torch.expm1(log_probs).sum(),
            correct.double().sum(),
            is_stop.double().sum(),
            (log_probs.exp() * is_stop).sum(),
            (~(log_probs <= LOG_P_ROUNDING) | ~losses.isfinite()).double().sum(),  # NaN is not <= anything
            weights.sum(),
            -(weights * log_probs).sum(),
        ]
    )


def summarize(sums: torch.Tensor) -> dict[str, float]:
    """Means over target tokens from summed statistics. Without a target token every mean is NaN, never 0.

    Keys: loss, nll, one_minus_p, mean_p, accuracy, stop_p (mean p of the tokens that end a response), target_tokens.
    Where tokens have weights, of which loss alone knows: mean_weight, and weighted_nll, divided by the tokens as well.
    """
    values = dict(zip(SUMS, sums.tolist(), strict=True))
    count, stops, stop_p, _ = (values.pop(name) for name in ("target_tokens", "stop_tokens", "stop_p", "impossible"))
    weight, weighted = values.pop("weight"), values.pop("weighted_nll")
    mean = {name: value / count if count else float("nan") for name, value in values.items()}
    found = {
        "loss": mean["loss"],
        "nll": mean["nll"],
        "one_minus_p": mean["one_minus_p"],
        "mean_p": 1.0 - mean["one_minus_p"],
        "accuracy": mean["correct"],
        "stop_p": stop_p / stops if stops else float("nan"),
        "target_tokens": int(count),
    }
    if weight != count:
        found |= {"mean_weight": weight / count, "weighted_nll": weighted / count}
    return found


class MetricsFile:
    """``metrics.jsonl``: one line of metrics per step. Opened at a resumed step, it forgets what lies beyond it."""

    def __init__(self, path: Path, last_step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= last_step]
        partial = path.with_suffix(".partial")  # whoever is killed here still has the old file
        partial.write_text("".join(kept), encoding="utf-8")
        os.replace(partial, path)
        self.path = path

    def append(self, metrics: dict[str, float], step: int) -> None:
        """One more line, or none: raises OSError where a full disk takes but a part of it.

        A mean over no token is null: JSON has no NaN.
        """
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        line = (json.dumps({"step": step, **values}, allow_nan=False) + "\n").encode()
        with self.path.open("ab", buffering=0) as file:
            end = file.tell()
            if file.write(line) != len(line):
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None:
        """The lines reach the disk."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())


def _complete_lines(path: Path) -> list[str]:
    """The lines of a file that end; a process that was killed may have left half a line."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


@dataclass(frozen=True)
class ModelFlops:
    """Floating-point operations that training must make: 6 per token and matrix weight, 6 per attended pair and unit.

    The embedding is a lookup, not a product, and is not counted; recomputation for activation checkpointing is not
    counted either. matrix_weights: weights of all linear layers with the head. attention: layers x heads x head size.
    """

    matrix_weights: int
    attention: int

    @classmethod
    def of(cls, module: torch.nn.Module, config: Any) -> "ModelFlops":
        """Counted on the modules of a language model that is not sharded yet."""
        linear = [m.weight.numel() for m in module.modules() if isinstance(m, torch.nn.Linear)]
        text = config.get_text_config(decoder=True)
        heads = getattr(text, "num_attention_heads", 0)  # none in a model without attention
        head_size = getattr(text, "head_dim", None) or (text.hidden_size // heads if heads else 0)
        return cls(sum(linear), text.num_hidden_layers * heads * head_size)

    def utilization(self, tokens: float, squared_lengths: float, seconds: float) -> float:
        """Share of the devices' peak rate (MFU). squared_lengths: sum over rows of length^2; causal, so half count."""
        from verl.utils.flops_counter import get_device_flops

        # Two products of 2 operations each per pair, forward once and backward twice, half of the pairs: 6.
        flops = 6 * self.matrix_weights * tokens + 6 * self.attention * squared_lengths
        return flops / seconds / (get_device_flops(unit="T") * 1e12) / torch.distributed.get_world_size()
