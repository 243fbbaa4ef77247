"""The fused head against float64, against the plain head, and against the memory it may use."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from verl.dft.loss.fused_head import linear_objective
from verl.dft.loss.objectives import objective, objective_names
from verl.dft.loss.plain_head import plain_objective
from verl.dft.loss.statistics import STATISTICS

N, H, V = 37, 16, 101


def problem(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, H, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(V, H, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(V, (N,), generator=generator)


def values_for(made, dtype=torch.float64):
    """Values of tokens that do not come from the logits."""
    names = ("reference_log_probs", "sequence_log_ratio")
    return {name: torch.linspace(-2, 0, N, dtype=dtype) for name in made.needs if name in names}


@pytest.mark.parametrize("chunk_size", [1, 10, 37, 1000])
@pytest.mark.parametrize("name", objective_names())
def test_it_is_the_plain_head_for_every_objective(name, chunk_size):
    made, asked = objective(name), ("entropy", "logit_gap")
    hidden, weight, targets = problem()
    ref_hidden, ref_weight, _ = (x.detach() for x in problem(seed=1))
    given = values_for(made)
    loss, found = linear_objective(
        hidden, weight, targets, made, 7.0, chunk_size=chunk_size, values=given,
        reference=(ref_hidden, ref_weight), statistics=asked,
    )  # fmt: skip
    got = torch.autograd.grad(loss, (hidden, weight))
    logits, of_reference = hidden @ weight.T, ref_hidden @ ref_weight.T
    loss_plain, found_plain = plain_objective(
        logits, targets, made, 7.0, values=given, reference_logits=of_reference, statistics=asked
    )
    expected = torch.autograd.grad(loss_plain, (hidden, weight))
    torch.testing.assert_close(loss, loss_plain)
    torch.testing.assert_close(got, expected)
    assert found.keys() == found_plain.keys()
    torch.testing.assert_close(found, found_plain)


def test_statistics_are_what_they_say():
    logits = torch.randn(5, 30, dtype=torch.float64) * 3
    targets = torch.tensor([3, 0, 29, 7, 7])
    for i, row in enumerate(logits):
        p = row.softmax(0)
        top = row.sort(descending=True).values[:20].softmax(0)
        expected = {
            "entropy": -(p * p.log()).sum(),
            "top20_entropy": -(top * top.log()).sum(),
            "sum_of_squares": (p * p).sum(),
            "logit_gap": row[targets[i]] - max(z for v, z in enumerate(row) if v != targets[i]),
        }
        for name, value in expected.items():
            assert STATISTICS[name](logits, targets)[i].item() == pytest.approx(value.item()), name


def spread_problem(dtype):
    """Targets with p from 1e-12 to 1 - 1e-7 in a vocabulary of 20,000; the exact gradients by hand in float64."""
    generator = torch.Generator().manual_seed(3)
    vocabulary, size, count = 20_000, 64, 160
    hidden = torch.randn(count, size, generator=generator).to(dtype)
    weight = (torch.randn(vocabulary, size, generator=generator) * 0.3).to(dtype)
    targets = torch.randint(vocabulary, (count,), generator=generator)
    # The hidden state leans towards its target's row of the weight by more and more.
    lean = torch.linspace(-9, 13.5, count).unsqueeze(1)
    hidden = (hidden.float() + lean * weight[targets].float() / weight[targets].float().norm(dim=1, keepdim=True)).to(
        dtype
    )
    logits = hidden.double() @ weight.double().T
    others = logits.scatter(1, targets.unsqueeze(1), -torch.inf).logsumexp(1)
    gap = logits.gather(1, targets.unsqueeze(1)).squeeze(1) - others
    return hidden, weight, targets, logits, gap


def exact(name, hidden, weight, targets, logits, gap):
    """log p, and the gradients of the summed loss, with 1 - p from the other tokens' mass and never as a difference."""
    log_p, rest = F.logsigmoid(gap), torch.sigmoid(-gap)  # rest = 1 - p
    factor = torch.ones_like(log_p) if name == "sft" else log_p.exp()
    d_logits = (logits - logits.logsumexp(1, keepdim=True)).exp() * factor.unsqueeze(1)
    d_logits.scatter_(1, targets.unsqueeze(1), (-factor * rest).unsqueeze(1))
    return log_p, d_logits @ weight.double(), d_logits.T @ hidden.double()


def usual(name, hidden, weight, targets):
    """The line that other trainers run: F.cross_entropy in the logits' dtype, times the detached probability."""
    nll = F.cross_entropy(hidden @ weight.T, targets, reduction="none")
    return ((1.0 if name == "sft" else (-nll.detach()).exp()) * nll).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["sft", "dft"])
def test_gradients_are_no_further_from_float64_than_those_of_cross_entropy(name, dtype):
    hidden, weight, targets, logits, gap = spread_problem(dtype)
    log_p, d_hidden, d_weight = exact(name, hidden, weight, targets, logits, gap)
    assert log_p.min() < -27.6 and -torch.expm1(log_p.max()) < 1e-7  # p < 1e-12 and p > 1 - 1e-7
    hidden.requires_grad_(), weight.requires_grad_()
    loss, found = linear_objective(hidden, weight, targets, objective(name), 1.0, chunk_size=32)
    ours = torch.autograd.grad(loss, (hidden, weight))
    theirs = torch.autograd.grad(usual(name, hidden, weight, targets), (hidden, weight))

    def errors(gradients):
        rows = (gradients[0].double() - d_hidden).norm(dim=1) / d_hidden.norm(dim=1)
        matrix = (gradients[1].double() - d_weight).norm() / d_weight.norm()
        return rows.median(), rows.max(), matrix

    for mine, other in zip(errors(ours), errors(theirs), strict=True):
        assert mine <= other
    # fp32 logits of magnitude 30 are known to 2e-6; bf16 gradients are rounded once, 2^-9, when they are stored.
    assert errors(ours)[1] < (3e-5 if dtype == torch.float32 else 2**-8)
    assert (found["log_probs"].double() - log_p).abs().max() < 2e-5
    assert (found["log_probs"] <= 0).all()


def test_the_probability_of_everything_else_is_no_difference():
    """p = 1 - 1e-12 in fp32: a gradient formed as p - 1 would be 0."""
    hidden = torch.eye(2, requires_grad=True)
    weight = torch.tensor([[27.6, 0.0], [0.0, 0.0]])
    loss, found = linear_objective(hidden, weight, torch.tensor([0, 0]), objective("sft"), 1.0)
    loss.backward()
    q = torch.sigmoid(torch.tensor(-27.6, dtype=torch.float64)).item()
    assert hidden.grad[0, 0].item() == pytest.approx(-27.6 * q, rel=1e-5)
    assert found["log_probs"].tolist() == pytest.approx([-q, -0.6931472], rel=1e-6)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("name", objective_names())
def test_nothing_of_the_size_of_the_logits_is_ever_made(name):
    made, rows, size, vocabulary, chunk = objective(name), 400, 8, 300, 24
    hidden, weight = torch.randn(rows, size, requires_grad=True), torch.randn(vocabulary, size, requires_grad=True)
    given = {key: torch.zeros(rows) for key in values_for(made)}
    with Largest() as largest:
        linear_objective(
            hidden, weight, torch.randint(vocabulary, (rows,)), made, 1.0, chunk_size=chunk, values=given,
            reference=(hidden.detach(), weight.detach()),
        )[0].backward()  # fmt: skip
    assert largest.elements == max(chunk * vocabulary, rows * size)


def test_gradients_go_only_where_they_are_wanted():
    for wanted in ((True, True), (True, False), (False, True)):
        hidden, weight, targets = problem()
        all_gradients = torch.autograd.grad(
            linear_objective(hidden, weight, targets, objective("dft"), 1.0)[0], (hidden, weight)
        )
        leaves = [x.detach().requires_grad_(w) for x, w in zip((hidden, weight), wanted, strict=True)]
        linear_objective(*leaves, targets, objective("dft"), 1.0)[0].backward()
        for leaf, want, expected in zip(leaves, wanted, all_gradients, strict=True):
            assert torch.equal(leaf.grad, expected) if want else leaf.grad is None


def test_without_gradients_the_loss_and_the_statistics_are_the_same():
    hidden, weight, targets = problem()
    loss, found = linear_objective(hidden, weight, targets, objective("dft"), 3.0, chunk_size=10)
    with torch.no_grad():
        alone, found_alone = linear_objective(hidden, weight, targets, objective("dft"), 3.0, chunk_size=10)
    assert not alone.requires_grad and torch.equal(alone, loss)
    assert all(torch.equal(found[name], found_alone[name]) for name in found)
    assert not any(value.requires_grad for value in found.values())


def test_the_factor_of_the_backward_pass_reaches_both_gradients():
    hidden, weight, targets = problem()
    once = torch.autograd.grad(linear_objective(hidden, weight, targets, objective("dft"), 1.0)[0], (hidden, weight))
    loss = 3 * linear_objective(hidden, weight, targets, objective("dft"), 1.0)[0] + hidden.sum() * 0
    torch.testing.assert_close(torch.autograd.grad(loss, (hidden, weight)), tuple(3 * g for g in once))


def test_a_second_backward_pass_is_refused():
    hidden, weight, targets = problem()
    loss, _ = linear_objective(hidden, weight, targets, objective("dft"), 1.0)
    loss.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="one backward pass"):
        loss.backward()


def test_no_target_gives_zero_gradients_and_empty_statistics():
    hidden = torch.zeros(0, H, requires_grad=True)
    weight = torch.randn(V, H, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.long)
    loss, found = linear_objective(hidden, weight, nothing, objective("eaft"), 1.0, statistics=("entropy",))
    loss.backward()
    assert loss.item() == 0 and torch.equal(weight.grad, torch.zeros_like(weight)) and hidden.grad.shape == (0, H)
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(
        ("log_probs", "losses", "hits", "entropy"), (0,)
    )


def test_an_objective_that_ignores_every_token_gives_zero_gradients():
    hidden, weight, targets = problem()
    loss, _ = linear_objective(hidden, weight, targets, objective("threshold", q=1.0), 1.0)
    loss.backward()
    assert loss.item() == 0 and not hidden.grad.any() and not weight.grad.any()


def test_autocast_changes_nothing():
    hidden, weight, targets = problem(torch.float32)
    plain = linear_objective(hidden, weight, targets, objective("dft"), 1.0)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = linear_objective(hidden, weight, targets, objective("dft"), 1.0)[0]
    assert torch.equal(plain, inside)
