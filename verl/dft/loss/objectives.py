"""Token objectives: pure functions from per-token log-probabilities to per-token losses.

Every objective enters training in one way only, with y a target token and p the model's probability of it:

    loss = sum over target tokens of objective(log p)  /  number of target tokens in the global batch

so nothing about batching, packing or parallelism can change its gradient.

An objective is a function of ``log_probs`` (N,) in (-inf, 0]. A further positional parameter asks for another value of
the same tokens by its name (see ``TOKEN_VALUES``); keyword-only parameters are its options. ``sg`` is stop-gradient: a
weight is computed without gradient, which is what makes it a weight.

Left out, because their published formulas could not be verified: TALR (arXiv 2509.20758; its lower bound and its
normalisation), CADFT (arXiv 2606.11206; which standard deviation), SAFT (no formula found).
"""

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from verl.dft.loss.statistics import STATISTICS

# What an objective may ask for beside log p, each (N,):
#   statistics of the same logits (verl.dft.loss.statistics)
#   reference_log_probs  log p of the same tokens under the frozen initial model
#   sequence_log_ratio   mean over the target tokens of the token's row of sg(log p) - reference_log_probs
#   reference_kl         KL(reference || model) over the vocabulary at the token's position; the one with a gradient
TOKEN_VALUES = (*STATISTICS, "reference_log_probs", "sequence_log_ratio", "reference_kl")


def sft(log_probs: torch.Tensor) -> torch.Tensor:
    """``-log p``: the cross-entropy of supervised fine-tuning. Gradient on the target's logit: ``-(1 - p)``."""
    return -log_probs


def dft(log_probs: torch.Tensor, *, floor: float = 0.0, mix: float = 1.0, power: float = 1.0) -> torch.Tensor:
    """``-sg(p) log p`` (Dynamic Fine-Tuning, arXiv 2508.05629, eq. 9); in general ``-sg(w) log p`` with
    ``w = mix max(p, floor)^power + 1 - mix``.

    Its gradient is that of ``1 - p``: ``-p (1 - p)`` on the target's logit. Its *value* is 0 both at p = 0 and at
    p = 1 (largest, 1/e, at p = 1/e), so it does not measure progress; read NLL, 1 - p and accuracy instead.
    Without the stop-gradient a token with p < 1/e would be pushed down.

    floor: in [0, 1], so that tokens the model finds impossible are still learned (``scale`` in the authors' later
    code, who suggest 0.1). mix: in [0, 1], 0 is SFT (``alpha`` in a public fork, Lauorie/DFT). power: >= 0, 0 is SFT.
    """
    _require(0 <= floor <= 1, "objective.floor", "in [0, 1]", floor)
    _require(0 <= mix <= 1, "objective.mix", "in [0, 1]", mix)
    _require(power >= 0, "objective.power", "at least 0", power)
    weight = log_probs.detach().exp().clamp(min=floor) ** power
    return -(mix * weight + (1 - mix)) * log_probs


def alpha_family(log_probs: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    """``(1 - p^alpha) / alpha`` (Beyond Log Likelihood, arXiv 2510.00526). Gradient on the target's logit:
    ``-p^alpha (1 - p)``; alpha -> 0 is SFT, 1 has the gradient of DFT, larger ones trust the model more.

    alpha: > 0; the paper tries 0.1 to 10.
    """
    _require(alpha > 0, "objective.alpha", "above 0", alpha)
    return _one_minus_power(log_probs, alpha) / alpha


def threshold(log_probs: torch.Tensor, *, q: float = 0.2) -> torch.Tensor:
    """``-log p`` where ``p >= q``, else 0 (arXiv 2510.00526; ProFit, arXiv 2601.09195, with q = 0.1). q: in [0, 1].

    The denominator stays the number of all target tokens; the code of 2510.00526 divides by those that are kept.
    """
    _require(0 <= q <= 1, "objective.q", "in [0, 1]", q)
    return torch.where(log_probs.detach().exp() >= q, -log_probs, torch.zeros_like(log_probs))


def eaft(log_probs: torch.Tensor, top20_entropy: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    """``-(H / 3)^alpha log p`` with H the entropy of the softmax over the 20 largest logits (EAFT, arXiv 2601.02151, as
    in LLaMA-Factory; 3 stands for log 20 = 2.996). Tokens the model is sure of are spared. alpha: >= 0.
    """
    _require(alpha >= 0, "objective.alpha", "at least 0", alpha)
    return -((top20_entropy / 3.0) ** alpha) * log_probs


def idft(
    log_probs: torch.Tensor, entropy: torch.Tensor, *, b: float = 1.0, low: float = 0.1, high: float = 2.0
) -> torch.Tensor:
    """``-sg(p^g) log p`` with ``g = clamp(exp(-(log p + H) / b), low, high)`` and H the entropy at the position (IDFT,
    arXiv 2602.12222, as in the authors' code). :func:`dft` with a power per token: near 1 where the target is as likely
    as a sample of the model would be on average, nearer 0 (SFT) where it is likelier, larger where it is less likely.

    b: > 0. low, high: 0 <= low <= high.
    """
    _require(b > 0, "objective.b", "above 0", b)
    _require(0 <= low <= high, "objective.low", f"in [0, high={high}]", low)
    own = log_probs.detach()
    power = (-(own + entropy) / b).exp().clamp(low, high)
    return -(power * own).exp() * log_probs


def deft(log_probs: torch.Tensor, sum_of_squares: torch.Tensor) -> torch.Tensor:
    """``(1 - p^a) / (a + 1e-6)`` with ``a = sg(sum_v pi_v^2)`` (DEFT, arXiv 2602.11424, as in the authors' code):
    :func:`alpha_family` with an alpha per token, near SFT where the model is undecided and near DFT where it is sure.
    """
    return _one_minus_power(log_probs, sum_of_squares) / (sum_of_squares + 1e-6)


def trim(log_probs: torch.Tensor, logit_gap: torch.Tensor, *, center: float = 1.5, width: float = 0.8) -> torch.Tensor:
    """``-exp(-(g - center)^2 / (2 width^2)) log p`` with g the target's logit less the largest other one (TrimSFT,
    arXiv 2609.09707; read from a third party's code, not from the authors'). width: > 0.
    """
    _require(width > 0, "objective.width", "above 0", width)
    return -torch.exp(-((logit_gap - center) ** 2) / (2 * width**2)) * log_probs


def asft(log_probs: torch.Tensor, reference_kl: torch.Tensor, *, kl_weight: float = 0.05) -> torch.Tensor:
    """``-sg(p) log p + kl_weight KL(reference || model)`` (ASFT, arXiv 2509.23753). The direction of the KL is that of
    the official code; the reference is the model before training. kl_weight: >= 0; paper 0.05, its code 0.1.
    """
    _require(kl_weight >= 0, "objective.kl_weight", "at least 0", kl_weight)
    return dft(log_probs) + kl_weight * reference_kl


def base_target(log_probs: torch.Tensor, reference_kl: torch.Tensor) -> torch.Tensor:
    """``-sg(p) log p + sg(1 - p) KL(reference || model)``. Ours, experimental.

    DFT's gradient on the logits is ``pi - Q`` with ``Q = p onehot(y) + (1 - p) pi``: self-distillation that trusts the
    target by p and itself for the rest (the lens of Target-SFT, arXiv 2606.11189). Here the frozen reference takes the
    rest, ``Q = sg(p) onehot(y) + sg(1 - p) pi_ref``: a leash to the initial model without a weight to choose. The value
    is the cross-entropy with Q less ``(1 - p)`` times the reference's entropy, which has no gradient.
    """
    return dft(log_probs) - torch.expm1(log_probs.detach()) * reference_kl


def iw_sft(
    log_probs: torch.Tensor, sequence_log_ratio: torch.Tensor, *, temperature: float = 1.0, max_weight: float = 16.0
) -> torch.Tensor:
    """``-w log p`` with ``w = min(exp(temperature mean(log p - log p_ref)), max_weight)``, the mean over the row's
    target tokens (iw-SFT, arXiv 2507.12856, as in the authors' code). temperature: >= 0. max_weight: > 0.
    """
    _require(temperature >= 0, "objective.temperature", "at least 0", temperature)
    _require(max_weight > 0, "objective.max_weight", "above 0", max_weight)
    return -(temperature * sequence_log_ratio).exp().clamp(max=max_weight) * log_probs


def iw_sft_token(
    log_probs: torch.Tensor, reference_log_probs: torch.Tensor, *, low: float = 0.2, high: float = 1.8
) -> torch.Tensor:
    """``-clamp(p / p_ref, low, high) log p``, the weight without gradient: the token-wise variant of :func:`iw_sft`."""
    _require(0 <= low <= high, "objective.low", f"in [0, high={high}]", low)
    return -(log_probs.detach() - reference_log_probs).exp().clamp(low, high) * log_probs


def _one_minus_power(log_probs: torch.Tensor, power: float | torch.Tensor) -> torch.Tensor:
    """``1 - p^power``, with the derivative ``-power p^power`` by log p.

    The derivative is spelled out, because autograd's own for expm1 is expm1(x) + 1: for a small p the difference of two
    numbers near 1.
    """
    exponent = power * log_probs.detach()
    return -torch.expm1(exponent) - power * exponent.exp() * (log_probs - log_probs.detach())


_OBJECTIVES: dict[str, Callable[..., torch.Tensor]] = {
    function.__name__: function
    for function in (
        sft,
        dft,
        alpha_family,
        threshold,
        eaft,
        idft,
        deft,
        trim,
        asft,
        base_target,
        iw_sft,
        iw_sft_token,
    )
}


@dataclass(frozen=True)
class Objective:
    """``losses = objective(log_probs, **values)``: ``(N,)`` log-probabilities to ``(N,)`` losses.

    needs: the names of the values that the function asks for. full_weight: whether the tokens marked in the boolean
    value ``full_weight`` (N,) get the loss ``-log p`` instead. reference_in_data: whether the rows bring the
    reference's log p along, so that no reference is run. A value ``weight`` (N,) multiplies the losses.
    """

    name: str
    function: Callable[..., torch.Tensor]
    options: Mapping[str, float] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    full_weight: bool = False
    reference_in_data: bool = False

    def __call__(self, log_probs: torch.Tensor, **values: torch.Tensor) -> torch.Tensor:
        losses = self.function(log_probs, *(values[name] for name in self.needs), **self.options)
        losses = torch.where(values["full_weight"], -log_probs, losses) if self.full_weight else losses
        return losses * values["weight"] if "weight" in values else losses

    @property
    def statistics(self) -> tuple[str, ...]:
        """Those of ``needs`` that the heads compute from the logits."""
        return tuple(name for name in self.needs if name in STATISTICS)

    @property
    def needs_reference(self) -> bool:
        """Whether a frozen copy of the initial model must be run beside the model."""
        return not self.reference_in_data and any(name not in STATISTICS for name in self.needs)


def objective_names() -> list[str]:
    """The names that ``objective.name`` may have, sorted."""
    return sorted(_OBJECTIVES)


def objective(
    name: str,
    *,
    path: str | None = None,
    full_weight: bool = False,
    reference_in_data: bool = False,
    **options: float,
) -> Objective:
    """The objective called ``name`` with its options.

    path: a Python file that defines the function ``name``, for an objective of a user's own (the file is run).
    Raises ValueError for an unknown name, for options that it does not have or that are out of range, for a function
    that is not an objective as the top of this module describes it, and for ``reference_in_data`` where log p of the
    targets is not what the objective asks of a reference.
    """
    if path is not None:
        function = _function_of_file(path, name)
    elif name in _OBJECTIVES:
        function = _OBJECTIVES[name]
    else:
        raise ValueError(
            f"expected objective.name to be one of {', '.join(objective_names())}, or a function of the file "
            f"objective.path=...; found {name!r}"
        )
    needs, known = _parameters(name, function)
    unknown = sorted(set(options) - set(known))
    if unknown:
        has = f"has the options {', '.join(known)}" if known else "has no options"
        raise ValueError(f"objective {name!r} {has}; found {', '.join(unknown)}.")
    for key, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"expected a number for objective.{key}; found {value!r}")
    if reference_in_data:
        _check_reference_in_data(name, needs)
    made = Objective(name, function, dict(options), needs, full_weight, reference_in_data)
    _try_out(made)
    return made


def _check_reference_in_data(name: str, needs: tuple[str, ...]) -> None:
    if "reference_kl" in needs:
        raise ValueError(
            f"objective.reference_key holds the reference's log p of the target tokens, but {name} compares whole "
            "distributions (reference_kl) and must run the reference. Remove objective.reference_key."
        )
    if all(value in STATISTICS for value in needs):
        raise ValueError(f"objective.reference_key is set, but {name} does not compare with a reference. Remove it.")


def _parameters(name: str, function: Callable[..., torch.Tensor]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The token values that a function asks for, and its options."""
    parameters = inspect.signature(function).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    options = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
    if not positional or positional[0] != "log_probs":
        raise ValueError(f"expected the first parameter of objective {name!r} to be log_probs; found {positional[:1]}")
    unknown = [value for value in positional[1:] if value not in TOKEN_VALUES]
    if unknown:
        raise ValueError(
            f"objective {name!r} asks for {', '.join(unknown)}; it may ask for {', '.join(TOKEN_VALUES)}. Options must "
            "be keyword-only parameters, after a *."
        )
    return tuple(positional[1:]), options


def _try_out(made: Objective) -> None:
    """One call on two tokens, so that a wrong option or function ends here and not in the first training step."""
    log_probs = torch.tensor([-0.5, -2.0], requires_grad=True)
    values = {name: torch.full((2,), 0.5) for name in made.needs} | {"full_weight": torch.tensor([True, False])}
    losses = made(log_probs, **values)
    if not isinstance(losses, torch.Tensor) or losses.shape != (2,) or not losses.isfinite().all():
        raise ValueError(
            f"expected objective {made.name!r} to return one finite loss per token; for 2 tokens it returned {losses}"
        )


def _function_of_file(path: str, name: str) -> Callable[..., torch.Tensor]:
    if not Path(path).is_file():
        raise ValueError(f"objective.path={path} is not a file.")
    spec = importlib.util.spec_from_file_location("verl_dft_user_objective", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"expected a Python file in objective.path; found {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{path} defines no function called {name}; set objective.name to the one to use.")
    return function


def _require(holds: bool, option: str, expected: str, found: float) -> None:
    if not holds:
        raise ValueError(f"expected {option} to be {expected}; found {found}")
