"""The head's kernels on a CPU, in Triton's interpreter: run by test_head_kernels.py with TRITON_INTERPRET=1."""

import pytest
import torch
from torch.nn.functional import logsigmoid

from verl.dft.loss.chunk import TorchChunk
from verl.dft.loss.fused_head import linear_objective
from verl.dft.loss.head_kernels import KernelChunk
from verl.dft.loss.objectives import objective, objective_names
from verl.dft.loss.statistics import STATISTICS

ALL = tuple(STATISTICS)


class SmallBlocks(KernelChunk):
    """So that a row of a small vocabulary takes several blocks."""

    BLOCK = 64


def memory_of(logits, multiple):
    """The same logits in rows that begin at multiples; whatever lies between them is NaN."""
    rows, vocabulary = logits.shape
    wide = torch.full((rows, vocabulary + -vocabulary % multiple), torch.nan)
    wide[:, :vocabulary] = logits
    return wide[:, :vocabulary]


def rows_of(vocabulary, count=24, seed=0):
    """Logits whose targets have p from 1e-20 to 1 - 1e-8, and their exact log p and 1 - p."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, vocabulary, generator=generator) * 2
    targets = torch.randint(vocabulary, (count,), generator=generator)
    column = targets.unsqueeze(1)
    others = logits.scatter(1, column, -torch.inf).double().logsumexp(1)
    gaps = torch.linspace(-46.1, 18.5, count) if count > 1 else torch.tensor([0.3])
    logits.scatter_(1, column, (others + gaps).float().unsqueeze(1))
    gap = logits.gather(1, column).squeeze(1).double() - others
    return logits, targets, logsigmoid(gap), torch.sigmoid(-gap)


def exact_gradient(logits, targets, d_log_probs, rest):
    wide = logits.double()
    d_logits = -(wide - wide.logsumexp(1, keepdim=True)).exp() * d_log_probs.double().unsqueeze(1)
    return d_logits.scatter_(1, targets.unsqueeze(1), (d_log_probs.double() * rest).unsqueeze(1))


def row_errors(found, exact):
    return ((found.double() - exact).norm(dim=1) / exact.norm(dim=1)).max()


@pytest.mark.parametrize("multiple", [1, 16])
@pytest.mark.parametrize("vocabulary", [1000, 64, 333, 21, 5])
def test_log_p_hits_and_gradient_are_as_near_to_float64_as_those_of_torch(vocabulary, multiple):
    logits, targets, log_p, rest = rows_of(vocabulary)
    assert log_p.exp().min() < 2e-20 and rest.min() < 2e-8
    d_log_probs, zero = torch.linspace(-2, 2, len(targets)), torch.zeros(len(targets))
    errors = {}
    for kind in (SmallBlocks, TorchChunk):
        chunk = kind(memory_of(logits, multiple), targets, (), None)
        assert torch.equal(chunk.hits, logits.argmax(1) == targets)
        gradient = chunk.gradient(d_log_probs, zero, torch.float32)
        relative = (chunk.log_probs.double() / log_p - 1).abs().max()
        errors[kind] = relative, row_errors(gradient, exact_gradient(logits, targets, d_log_probs, rest))
    for ours, torchs in zip(errors[SmallBlocks], errors[TorchChunk], strict=True):
        assert ours < max(1.5 * torchs, 5e-7) and ours < 2e-6


@pytest.mark.parametrize("multiple", [1, 16])
@pytest.mark.parametrize("vocabulary", [1000, 64, 333])
def test_a_gradient_in_bf16_stands_where_the_logits_stood_and_is_rounded_once(vocabulary, multiple):
    logits, targets, _, _ = rows_of(vocabulary)
    d_log_probs, zero = torch.linspace(-2, 2, len(targets)), torch.zeros(len(targets))
    wide = SmallBlocks(memory_of(logits, multiple), targets, (), None).gradient(d_log_probs, zero, torch.float32)
    memory = memory_of(logits, multiple)
    narrow = SmallBlocks(memory, targets, (), None).gradient(d_log_probs, zero, torch.bfloat16)
    assert narrow.data_ptr() == memory.data_ptr() and narrow.stride(0) == 2 * memory.stride(0)
    # The interpreter cuts some numbers off that a GPU rounds to the nearest.
    assert ((narrow.double() - wide.double()).abs() <= wide.double().abs() * 2**-7 + 1e-38).all()


@pytest.mark.parametrize("vocabulary", [1000, 333, 70, 21, 5])
def test_statistics_are_those_of_the_logits(vocabulary):
    logits, targets, _, _ = rows_of(vocabulary)
    chunk = SmallBlocks(memory_of(logits, 16), targets, ALL, None)
    for name, function in STATISTICS.items():
        exact = function(logits.double(), targets)
        assert (chunk.statistics[name].double() - exact).abs().max() < 1e-6 * exact.abs().clamp(min=3).max(), name


def test_only_what_is_asked_for_is_found_and_it_is_the_same():
    logits, targets, _, _ = rows_of(333)
    together = SmallBlocks(memory_of(logits, 16), targets, ALL, None)
    for name in ALL:
        alone = SmallBlocks(memory_of(logits, 16), targets, (name,), None)
        assert alone.statistics.keys() == {name}
        assert torch.equal(alone.statistics[name], together.statistics[name])
        assert torch.equal(alone.log_probs, together.log_probs)


def test_a_divergence_and_its_gradient_are_those_of_float64():
    logits, targets, _, _ = rows_of(333)
    reference = logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    reference[0] = logits[0]
    r, pi = reference.double().log_softmax(1), logits.double().log_softmax(1)
    exact = (r.exp() * (r - pi)).sum(1)
    d_kl = torch.linspace(0.1, 3, len(targets))
    chunk = SmallBlocks(memory_of(logits, 16), targets, (), memory_of(reference, 16))
    assert (chunk.kl.double() - exact).abs().max() < 1e-6 and chunk.kl[0] == 0
    gradient = chunk.gradient(torch.zeros_like(d_kl), d_kl, torch.float32)
    expected = (pi.exp() - r.exp()) * d_kl.double().unsqueeze(1)
    assert (gradient.double() - expected).abs().max() < 1e-6


def test_ties():
    """The target beside an equal logit, and a row of equal logits: most likely tokens, each of them."""
    logits = torch.zeros(3, 100)
    logits[1, [7, 9]] = 5.0
    logits[2, 9] = 5.0
    targets = torch.tensor([99, 9, 7])
    kernel = SmallBlocks(memory_of(logits, 16), targets, ALL, None)
    torchs = TorchChunk(logits.clone(), targets, ALL, None)
    assert kernel.hits.tolist() == [True, True, False]
    torch.testing.assert_close(kernel.log_probs, torchs.log_probs, rtol=1e-6, atol=0)
    torch.testing.assert_close(kernel.statistics, torchs.statistics, rtol=1e-6, atol=1e-6)


def test_a_token_that_a_model_rules_out_has_no_mass():
    logits, targets, _, _ = rows_of(333)
    logits[:, :70] = -torch.inf  # a whole block and part of the next
    targets = targets.clamp(min=70)
    chunk = SmallBlocks(memory_of(logits, 16), targets, ALL, None)
    exact = logits.double().log_softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(chunk.log_probs.double(), exact, rtol=1e-5, atol=1e-6)
    assert all(value.isfinite().all() for value in chunk.statistics.values())
    gradient = chunk.gradient(-torch.ones(len(targets)), torch.zeros(len(targets)), torch.float32)
    assert gradient.isfinite().all() and not gradient[:, :70].any()


@pytest.mark.parametrize("where", [0, 50, 99])
def test_a_logit_that_is_no_number_is_never_hidden(where):
    for bad in (torch.nan, torch.inf):
        logits = torch.zeros(1, 100)
        logits[0, where] = bad
        assert not SmallBlocks(logits, torch.tensor([50]), (), None).log_probs.isfinite().any()


@pytest.mark.parametrize("count", [0, 1])
def test_one_row_and_no_row(count):
    logits, targets, log_p, rest = (x[:count] for x in rows_of(333, 1))
    chunk = SmallBlocks(memory_of(logits, 16), targets, ALL, None)
    torch.testing.assert_close(chunk.log_probs.double(), log_p, rtol=1e-6, atol=0)
    assert all(value.shape == (count,) for value in chunk.statistics.values())
    gradient = chunk.gradient(torch.ones(count), torch.zeros(count), torch.float32)
    torch.testing.assert_close(gradient.double(), exact_gradient(logits, targets, torch.ones(count), rest), rtol=1e-5,
                               atol=1e-7)  # fmt: skip


@pytest.mark.parametrize("name", objective_names())
def test_every_objective_is_that_of_torch(name):
    made, count, size, vocabulary = objective(name, full_weight=name == "dft"), 11, 8, 101
    generator = torch.Generator().manual_seed(5)
    hidden, of_reference = torch.randn(2, count, size, generator=generator)
    weight, ref_weight = torch.randn(2, vocabulary, size, generator=generator)
    targets = torch.randint(vocabulary, (count,), generator=generator)
    names = ("reference_log_probs", "sequence_log_ratio")
    given = {key: torch.linspace(-2, 0, count) for key in made.needs if key in names}
    given["full_weight"] = torch.arange(count) % 3 == 0

    def run(kind, dtype, wanted):
        leaves = [x.detach().clone().to(dtype).requires_grad_(w) for x, w in zip((hidden, weight), wanted, strict=True)]
        loss, found = linear_objective(
            *leaves, targets, made, 7.0, chunk_size=4, statistics=ALL, chunk_type=kind,
            values={key: v if v.dtype == torch.bool else v.to(dtype) for key, v in given.items()},
            reference=(of_reference.to(dtype), ref_weight.to(dtype)),
        )  # fmt: skip
        if any(wanted):
            (2 * loss).backward()
        gradients = [x.grad for x in leaves]
        assert [g is not None for g in gradients] == list(wanted)
        return [loss.detach(), *found.values(), *(g for g in gradients if g is not None)]

    for wanted in ((True, True), (True, False), (False, True), (False, False)):
        ours, exact = run(SmallBlocks, torch.float32, wanted), run(TorchChunk, torch.float64, wanted)
        for mine, theirs in zip(ours, exact, strict=True):
            torch.testing.assert_close(mine.double(), theirs.double(), rtol=3e-5, atol=3e-6)


def test_no_target_gives_zero_gradients():
    hidden, weight = torch.zeros(0, 8, requires_grad=True), torch.randn(33, 8, requires_grad=True)
    loss, found = linear_objective(
        hidden, weight, torch.zeros(0, dtype=torch.long), objective("eaft"), 1.0, chunk_type=SmallBlocks
    )
    loss.backward()
    assert loss.item() == 0 and not weight.grad.any() and found["log_probs"].shape == (0,)


def test_a_factor_multiplies_every_number():
    numbers = torch.randn(10_000)
    for factor in (1.0, 3.0):
        expected = numbers * factor
        KernelChunk.multiply(numbers, torch.tensor(factor))
        assert torch.equal(numbers, expected)
