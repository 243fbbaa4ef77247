"""What only a GPU can show: bf16 products with fp32 results, the kernel for packed rows, no waiting for the device."""

import pytest
import torch

from verl.dft.loss.fused_head import linear_objective
from verl.dft.loss.objectives import objective
from verl.dft.model.attention import PackedRows, _by_groups, _packed_kernel

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def problem(tokens=512, size=1536, vocabulary=151_936):
    torch.manual_seed(0)
    hidden = torch.randn(tokens, size, device="cuda", dtype=torch.bfloat16)
    weight = (torch.randn(vocabulary, size, device="cuda") * 0.05).bfloat16()
    targets = torch.randint(vocabulary, (tokens,), device="cuda")
    lean = torch.linspace(0, 12, tokens, device="cuda").unsqueeze(1)  # p from about 1e-6 to nearly 1
    hidden = (hidden + lean * weight[targets]).bfloat16()
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def test_bf16_gradients_and_p_are_those_of_float64_on_the_same_inputs():
    hidden, weight, targets = problem()
    loss, found = linear_objective(hidden, weight, targets, objective("dft"), 1.0, chunk_size=200)
    loss.backward()
    wide = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    log_p = (wide[0] @ wide[1].T).log_softmax(-1)[torch.arange(len(targets)), targets]
    (-log_p.detach().exp() * log_p).sum().backward()
    error = found["log_probs"].double().exp() / log_p.exp() - 1
    assert error.abs().max() < 1e-5
    for ours, exact in zip((hidden, weight), wide, strict=True):
        assert (ours.grad.double() - exact.grad).norm() / exact.grad.norm() < 2**-8


def test_memory_beyond_the_gradients_is_under_two_gigabytes():
    hidden, weight, targets = problem(tokens=8192)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss, _ = linear_objective(hidden, weight, targets, objective("dft"), 1.0)
    loss.backward()
    fp32_gradient = weight.numel() * 4
    gradients = fp32_gradient + weight.numel() * 2 + hidden.numel() * 2
    assert torch.cuda.max_memory_allocated() - before - gradients < 2e9


def test_the_head_never_waits_for_the_device():
    hidden, weight, targets = problem(tokens=4096)
    linear_objective(hidden, weight, targets, objective("dft"), 1.0)[0].backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        linear_objective(hidden, weight, targets, objective("dft"), 1.0)[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("pairs", [2, 12])
def test_the_kernel_for_packed_rows_agrees_with_the_groups(pairs):
    torch.manual_seed(0)
    lengths = [300, 1, 1200, 77]
    shapes = [(sum(lengths), heads, 128) for heads in (12, pairs, pairs)]
    query, key, value = (torch.randn(s, device="cuda", dtype=torch.bfloat16, requires_grad=True) for s in shapes)
    rows = PackedRows(torch.tensor([0, *lengths]).cumsum(0), "cuda")
    by_kernel = _packed_kernel(query, key, value, rows, 128**-0.5)
    wide = [x.detach().float().requires_grad_() for x in (query, key, value)]
    exact = _by_groups(*wide, rows, 128**-0.5, 0.0)
    assert (by_kernel.float() - exact).abs().max() < 2e-2
    weights = torch.randn_like(exact)
    ours = torch.autograd.grad((by_kernel.float() * weights).sum(), (query, key, value))
    for gradient, reference in zip(ours, torch.autograd.grad((exact * weights).sum(), wide), strict=True):
        assert (gradient.float() - reference).norm() / reference.norm() < 1e-2
