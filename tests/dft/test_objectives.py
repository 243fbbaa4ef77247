"""The gradient of each objective against its closed form, and the mutants that this test must kill."""

import math

import pytest
import torch

from verl.dft.engine import log_probs_and_hits, predicting_positions
from verl.dft.objectives import objective, objective_names

T, V = 14, 7


def batch(seed: int):
    """Random packed logits (T, V), ids (T,) and a loss mask (T,) of two rows; no row starts with a target."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(T, V, dtype=torch.float64, generator=generator) * 3
    ids = torch.randint(V, (T,), generator=generator)
    mask = torch.tensor([0, 0, 1, 1, 1, 0, 1] + [0, 1, 0, 1, 1, 0, 1])
    return logits, ids, mask


def loss_of(token_loss):
    """The training loss with ``token_loss(logits at predicting positions, targets)`` in the place of the objective."""

    def loss(logits, ids, mask):
        is_target, next_ids = predicting_positions(ids, mask)
        return token_loss(logits[is_target], next_ids[is_target]).sum() / mask.sum()

    return loss


def ours(name: str):
    return loss_of(lambda logits, targets: objective(name)(log_probs_and_hits(logits, targets)[0]))


def closed_form(weight_of_p, logits, ids, mask):
    """``sum over targets of w(p) (softmax - onehot) / N``, written with a loop and numbers of its own."""
    gradient = torch.zeros_like(logits)
    for position in range(T):
        if mask[position]:
            row = logits[position - 1]
            p = [math.exp(z - max(row.tolist())) for z in row.tolist()]
            total = sum(p)
            p = [x / total for x in p]
            target = int(ids[position])
            for v in range(V):
                gradient[position - 1, v] = weight_of_p(p[target]) * (p[v] - (v == target)) / int(mask.sum())
    return gradient


def gradient_error(loss, weight_of_p) -> float:
    worst = 0.0
    for seed in range(5):
        logits, ids, mask = batch(seed)
        logits.requires_grad_()
        loss(logits, ids, mask).backward()
        expected = closed_form(weight_of_p, logits.detach(), ids, mask)
        worst = max(worst, float((logits.grad - expected).abs().max() / expected.abs().max()))
    return worst


CLOSED_FORMS = {"sft": lambda p: 1.0, "dft": lambda p: p}


@pytest.mark.parametrize("name", objective_names())
def test_gradient_equals_the_closed_form(name):
    assert gradient_error(ours(name), CLOSED_FORMS[name]) < 1e-10


def _log_softmax(logits, targets):
    return torch.log_softmax(logits, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def _not_shifted(logits, ids, mask):
    log_p = _log_softmax(logits[mask.bool()], ids[mask.bool()])
    return (-log_p.detach().exp() * log_p).sum() / mask.sum()


def _weighted(weight):
    return loss_of(lambda z, y: -weight(z, _log_softmax(z, y)) * _log_softmax(z, y))


MUTANTS = {
    "no stop-gradient": _weighted(lambda z, lp: lp.exp()),
    "constant weight 0.5": _weighted(lambda z, lp: 0.5),
    "weight is the largest probability": _weighted(lambda z, lp: z.softmax(-1).amax(-1).detach()),
    "weight 1 - p": _weighted(lambda z, lp: 1 - lp.detach().exp()),
    "weight applied twice": _weighted(lambda z, lp: (2 * lp).detach().exp()),
    "labels not shifted": _not_shifted,
    "weight dropped": ours("sft"),
    "mean over rows instead of tokens": lambda z, y, m: ours("dft")(z, y, m) * int(m.sum()) / 2,
}


@pytest.mark.parametrize("name", MUTANTS)
def test_each_mutant_of_dft_fails_the_closed_form(name):
    assert gradient_error(MUTANTS[name], CLOSED_FORMS["dft"]) > 1e-3


def test_the_unmutated_oracle_passes():
    assert gradient_error(_weighted(lambda z, lp: lp.detach().exp()), CLOSED_FORMS["dft"]) < 1e-10


def test_dft_has_the_gradient_of_one_minus_p_and_another_value():
    p = torch.tensor([1e-6, 0.1, 1 / math.e, 0.9, 1.0], dtype=torch.float64)
    log_p = p.log().requires_grad_()
    loss = objective("dft")(log_p)
    loss.sum().backward()
    torch.testing.assert_close(log_p.grad, -p)  # d(1 - p)/d(log p) = -p
    loss = loss.detach()
    assert loss.argmax() == 2 and float(loss[2]) == pytest.approx(1 / math.e)


def test_unknown_objective_and_unknown_option_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="one of dft, sft; found 'dtf'"):
        objective("dtf")
    with pytest.raises(ValueError, match="no options; found floor"):
        objective("dft", floor=0.1)


def test_log_probs_of_confident_tokens_in_a_large_vocabulary_match_float64():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 50_000, generator=generator) * 3
    targets = torch.randint(50_000, (64,), generator=generator)
    logits[torch.arange(64), targets] = torch.linspace(0, 25, 64)
    exact = torch.log_softmax(logits.double(), -1)[torch.arange(64), targets]
    ours_error = (log_probs_and_hits(logits, targets)[0] - exact).abs().max()
    kernel_error = (torch.log_softmax(logits, -1)[torch.arange(64), targets] - exact).abs().max()
    assert ours_error < 5e-6 and ours_error <= kernel_error


def test_hits_are_the_argmax_and_slices_do_not_matter(monkeypatch):
    logits, targets = torch.randn(33, 11), torch.randint(11, (33,))
    whole = log_probs_and_hits(logits, targets)
    monkeypatch.setattr("verl.dft.engine.LOGIT_ROWS", 4)
    sliced = log_probs_and_hits(logits, targets)
    assert torch.equal(whole[0], sliced[0]) and torch.equal(whole[1], sliced[1])
    assert torch.equal(whole[1], logits.argmax(-1) == targets)


def test_half_precision_logits_are_read_in_fp32_with_the_gradient_of_that():
    logits, targets = (torch.randn(9, 31) * 4).bfloat16(), torch.randint(31, (9,))
    exact = logits.double().requires_grad_()
    expected = torch.log_softmax(exact, -1)[torch.arange(9), targets]
    expected.sum().backward()
    log_probs, _ = log_probs_and_hits(logits.requires_grad_(), targets)
    log_probs.sum().backward()
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.double(), expected.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=2**-8, atol=1e-6)  # rounded once, to bf16


def test_no_target_still_gives_a_loss_with_a_gradient():
    logits = torch.randn(5, 7, requires_grad=True)
    nothing = torch.zeros(5, dtype=torch.bool)
    log_probs, _ = log_probs_and_hits(logits[nothing], torch.zeros(0, dtype=torch.long))
    objective("dft")(log_probs).sum().backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))
