"""The gradient of each objective against its closed form, and the mutants that this test must kill."""

import inspect
import math
import re
from pathlib import Path

import pytest
import torch

from verl.dft.loss.fused_head import linear_objective
from verl.dft.loss.objectives import objective, objective_names
from verl.dft.loss.plain_head import plain_objective
from verl.dft.loss.targets import find_targets

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
        targets = find_targets(ids, mask, torch.tensor([0, 7, T]))
        return token_loss(logits[targets.positions], targets.ids).sum() / mask.sum()

    return loss


def ours(name: str, **options):
    return loss_of(lambda logits, targets: plain_objective(logits, targets, objective(name, **options), 1)[0])


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


# The weight of a token whose objective is a function of p alone, and the objective with its options.
WEIGHTS = {
    "sft": (lambda p: 1.0, {}),
    "dft": (lambda p: p, {}),
    "dft floor": (lambda p: max(p, 0.1), {"floor": 0.1}),
    "dft mix": (lambda p: 0.8 * p + 0.2, {"mix": 0.8}),
    "dft power": (lambda p: p**0.5, {"power": 0.5}),
    "alpha_family": (lambda p: p, {}),
    "alpha_family 0.1": (lambda p: p**0.1, {"alpha": 0.1}),
    "alpha_family 10": (lambda p: p**10, {"alpha": 10}),
    "threshold": (lambda p: float(p >= 0.2), {}),
    "threshold 0.05": (lambda p: float(p >= 0.05), {"q": 0.05}),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_gradient_equals_the_closed_form(case):
    weight, options = WEIGHTS[case]
    assert gradient_error(ours(case.split()[0], **options), weight) < 1e-10


VALUES = {
    "sft": (lambda p: -math.log(p), {}),
    "dft": (lambda p: -p * math.log(p), {}),
    "dft all": (
        lambda p: -(0.7 * max(p, 0.1) ** 2 + 0.3) * math.log(p), {"floor": 0.1, "mix": 0.7, "power": 2},
    ),
    "alpha_family": (lambda p: (1 - p**3) / 3, {"alpha": 3}),
    "threshold": (lambda p: -math.log(p) if p >= 0.2 else 0, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", VALUES)
def test_value_equals_the_formula(case):
    value, options = VALUES[case]
    p = [1e-9, 0.01, 0.2 + 1e-9, 0.5, 1 - 1e-9]
    losses = objective(case.split()[0], **options)(torch.tensor(p, dtype=torch.float64).log())
    assert losses.tolist() == pytest.approx([value(x) for x in p], abs=1e-15)


def test_objectives_that_see_more_than_p_compute_their_formulas():
    lp = torch.tensor([0.3, 0.05], dtype=torch.float64).log()

    def of(name, value, **options):
        made = objective(name, **options)
        return made(lp, **{made.needs[0]: torch.tensor(value, dtype=torch.float64)}).tolist()

    nll = [-math.log(0.3), -math.log(0.05)]
    assert of("eaft", [1.5, 3.0], alpha=2) == pytest.approx([0.25 * nll[0], nll[1]])
    # -(log p + H): log 2, then far beyond both ends.
    assert of("idft", [-math.log(0.6), 0.0]) == pytest.approx([0.09 * nll[0], 0.05**2 * nll[1]])
    assert of("idft", [9.0, 9.0], low=0.5) == pytest.approx([0.3**0.5 * nll[0], 0.05**0.5 * nll[1]])
    b = -(math.log(0.3) + 1.0) / math.log(1.5)
    assert of("idft", [1.0, 9.0], b=b) == pytest.approx([0.3**1.5 * nll[0], 0.05**0.1 * nll[1]])
    assert of("base_target", [2.0, 0.0]) == pytest.approx([0.3 * nll[0] + 0.7 * 2, 0.05 * nll[1]])
    assert of("deft", [0.5, 1.0]) == pytest.approx([(1 - 0.3**0.5) / 0.500001, 0.95 / 1.000001])
    assert of("trim", [1.5, 2.3]) == pytest.approx([nll[0], math.exp(-0.5) * nll[1]])
    assert of("asft", [2.0, 0.0], kl_weight=0.1) == pytest.approx([0.3 * nll[0] + 0.2, 0.05 * nll[1]])
    assert of("iw_sft", [math.log(2), 10.0]) == pytest.approx([2 * nll[0], 16 * nll[1]])
    assert of("iw_sft_token", [math.log(0.3), math.log(0.5)]) == pytest.approx([nll[0], 0.2 * nll[1]])


def test_the_derivative_of_the_alpha_family_keeps_its_precision_for_improbable_tokens():
    log_probs = torch.tensor([-9.0, -0.1], requires_grad=True)
    objective("alpha_family", alpha=2.0)(log_probs).sum().backward()
    assert log_probs.grad.tolist() == pytest.approx([-math.exp(-18), -math.exp(-0.2)], rel=1e-6)


def distribution(row):
    """softmax by hand: probabilities as Python numbers."""
    powers = [math.exp(z - max(row)) for z in row]
    return [x / sum(powers) for x in powers]


def gradient_of_idft(row, reference, target):
    """``p^g (softmax - onehot)``, g from log p and the entropy of the row."""
    pi = distribution(row)
    surprise = -math.log(pi[target]) - sum(-x * math.log(x) for x in pi)
    power = min(max(math.exp(surprise / 1.0), 0.1), 2.0)
    return [pi[target] ** power * (x - (v == target)) for v, x in enumerate(pi)]


def gradient_of_base_target(row, reference, target):
    """``softmax - Q`` with Q = p onehot + (1 - p) reference."""
    pi, ref = distribution(row), distribution(reference)
    return [x - pi[target] * (v == target) - (1 - pi[target]) * ref[v] for v, x in enumerate(pi)]


ROW_GRADIENTS = {"idft": gradient_of_idft, "base_target": gradient_of_base_target}


def error_against_rows(loss, gradient_of_row) -> float:
    """The largest error of ``loss(logits, reference, targets) / 7`` against a gradient given row by row."""
    worst = 0.0
    for seed in range(5):
        logits, ids, _ = batch(seed)
        reference = batch(seed + 100)[0]
        logits.requires_grad_()
        (loss(logits, reference, ids) / 7).backward()
        rows = zip(logits.tolist(), reference.tolist(), ids.tolist(), strict=True)
        expected = torch.tensor([gradient_of_row(*row) for row in rows], dtype=torch.float64) / 7
        worst = max(worst, float((logits.grad - expected).abs().max() / expected.abs().max()))
    return worst


def by_the_plain_head(made):
    return lambda logits, reference, ids: plain_objective(logits, ids, made, 1, reference_logits=reference)[0]


def by_the_fused_head(made):
    def loss(logits, reference, ids):
        hidden, weight = logits, torch.eye(V, dtype=torch.float64)
        return linear_objective(hidden, weight, ids, made, 1, reference=(reference, weight), chunk_size=5)[0]

    return loss


@pytest.mark.parametrize("head", [by_the_plain_head, by_the_fused_head])
@pytest.mark.parametrize("name", ROW_GRADIENTS)
def test_gradient_equals_the_closed_form_of_a_whole_row(name, head):
    assert error_against_rows(head(objective(name)), ROW_GRADIENTS[name]) < 1e-10


def _idft(*, low=0.1, high=2.0, sign=1.0, tracked=False):
    def loss(logits, reference, ids):
        lp = _log_softmax(logits, ids)
        power = torch.exp(-(lp + sign * torch.special.entr(logits.softmax(-1)).sum(-1))).clamp(low, high)
        weight = (power * lp).exp()
        return -((weight if tracked else weight.detach()) * lp).sum()

    return loss


def _base_target(*, backwards=False, tracked=False):
    def loss(logits, reference, ids):
        lp, own, ref = _log_softmax(logits, ids), logits.log_softmax(-1), reference.log_softmax(-1)
        kl = ((own.exp() * (own - ref)) if backwards else (ref.exp() * (ref - own))).sum(-1)
        p = lp.exp() if tracked else lp.exp().detach()
        return (-p.detach() * lp + (1 - p) * kl).sum()

    return loss


ROW_MUTANTS = {
    "idft, no clamp": ("idft", _idft(low=0, high=math.inf)),
    "idft, entropy subtracted": ("idft", _idft(sign=-1)),
    "idft, no stop-gradient": ("idft", _idft(tracked=True)),
    "base_target, KL(model || reference)": ("base_target", _base_target(backwards=True)),
    "base_target, no stop-gradient": ("base_target", _base_target(tracked=True)),
    "base_target, the whole KL": ("base_target", by_the_plain_head(objective("asft", kl_weight=1.0))),
    "base_target, dft": ("base_target", by_the_plain_head(objective("dft"))),
}


@pytest.mark.parametrize("mutant", ROW_MUTANTS)
def test_each_mutant_of_a_row_fails_its_closed_form(mutant):
    name, loss = ROW_MUTANTS[mutant]
    assert error_against_rows(loss, ROW_GRADIENTS[name]) > 1e-3
    unmutated = {"idft": _idft(), "base_target": _base_target()}[name]
    assert error_against_rows(unmutated, ROW_GRADIENTS[name]) < 1e-10


def test_base_target_of_the_reference_itself_is_dft():
    """Before the first step model and reference are one, and the residual pulls nowhere."""
    logits, ids, _ = batch(0)
    gradients = []
    for name in ("dft", "base_target"):
        leaf = logits.clone().requires_grad_()
        plain_objective(leaf, ids, objective(name), 1, reference_logits=logits)[0].backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


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
    assert gradient_error(MUTANTS[name], WEIGHTS["dft"][0]) > 1e-3


def test_the_unmutated_oracle_passes():
    assert gradient_error(_weighted(lambda z, lp: lp.detach().exp()), WEIGHTS["dft"][0]) < 1e-10


def test_dft_has_the_gradient_of_one_minus_p_and_another_value():
    p = torch.tensor([1e-6, 0.1, 1 / math.e, 0.9, 1.0], dtype=torch.float64)
    log_p = p.log().requires_grad_()
    loss = objective("dft")(log_p)
    loss.sum().backward()
    torch.testing.assert_close(log_p.grad, -p)  # d(1 - p)/d(log p) = -p
    loss = loss.detach()
    assert loss.argmax() == 2 and float(loss[2]) == pytest.approx(1 / math.e)


def test_marked_tokens_get_full_weight():
    lp = torch.tensor([0.3, 0.05]).log()
    losses = objective("dft", full_weight=True)(lp, full_weight=torch.tensor([False, True]))
    assert losses.tolist() == pytest.approx([-0.3 * math.log(0.3), -math.log(0.05)])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "dtf"}, "one of .*dft, eaft.*; found 'dtf'"),
        ({"name": "dft", "flor": 0.1}, "has the options floor, mix, power; found flor"),
        ({"name": "sft", "floor": 0.1}, "'sft' has no options; found floor"),
        ({"name": "dft", "floor": 1.5}, r"objective.floor to be in \[0, 1\]; found 1.5"),
        ({"name": "dft", "mix": -0.1}, "objective.mix"),
        ({"name": "dft", "power": "high"}, "a number for objective.power; found 'high'"),
        ({"name": "dft", "floor": True}, "a number for objective.floor; found True"),
        ({"name": "dft", "floor": math.nan}, "objective.floor"),
        ({"name": "alpha_family", "alpha": 0}, "objective.alpha to be above 0"),
        ({"name": "trim", "width": 0}, "objective.width"),
        ({"name": "iw_sft_token", "low": 2}, "objective.low"),
        ({"name": "idft", "b": 0}, "objective.b to be above 0"),
        ({"name": "idft", "high": 0.05}, r"objective.low to be in \[0, high=0.05\]; found 0.1"),
        ({"name": "mine", "path": "no/such/file.py"}, "is not a file"),
    ],
)
def test_wrong_objectives_and_options_are_refused_with_the_choices(arguments, message):
    with pytest.raises(ValueError, match=message):
        objective(**arguments)


USER_FILE = """
def good(log_probs, entropy, *, scale=2.0):
    return -scale * entropy * log_probs
def mean(log_probs):
    return log_probs.mean()
def wants(log_probs, advantage):
    return -log_probs
def first(p):
    return p
"""


def test_a_users_own_objective_is_loaded_and_checked(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(USER_FILE)
    made = objective("good", path=str(file), scale=3.0)
    assert made.needs == made.statistics == ("entropy",)
    assert made(torch.tensor([-1.0]), entropy=torch.tensor([0.5])).item() == pytest.approx(1.5)
    for name, message in {
        "mean": "one finite loss per token",
        "wants": "asks for advantage; it may ask for entropy",
        "first": "first parameter of objective 'first' to be log_probs",
        "absent": "defines no function called absent",
    }.items():
        with pytest.raises(ValueError, match=message):
            objective(name, path=str(file))


def test_only_objectives_that_compare_ask_for_a_reference():
    assert {name for name in objective_names() if objective(name).needs_reference} == {
        "asft", "base_target", "iw_sft", "iw_sft_token",
    }  # fmt: skip


def log_probs_of(logits, targets):
    return plain_objective(logits, targets, objective("sft"), 1)[1]["log_probs"]


def test_log_probs_of_confident_tokens_in_a_large_vocabulary_match_float64():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 50_000, generator=generator) * 3
    targets = torch.randint(50_000, (64,), generator=generator)
    logits[torch.arange(64), targets] = torch.linspace(0, 25, 64)
    exact = torch.log_softmax(logits.double(), -1)[torch.arange(64), targets]
    ours_error = (log_probs_of(logits, targets) - exact).abs().max()
    kernel_error = (torch.log_softmax(logits, -1)[torch.arange(64), targets] - exact).abs().max()
    assert ours_error < 5e-6 and ours_error <= kernel_error


def test_slices_do_not_matter(monkeypatch):
    logits, targets = torch.randn(33, 11), torch.randint(11, (33,))
    whole = plain_objective(logits, targets, objective("eaft"), 7)
    monkeypatch.setattr("verl.dft.loss.plain_head.LOGIT_ROWS", 4)
    sliced = plain_objective(logits, targets, objective("eaft"), 7)
    assert torch.equal(whole[0], sliced[0])
    assert all(torch.equal(whole[1][name], sliced[1][name]) for name in ("log_probs", "losses", "hits"))
    assert torch.equal(whole[1]["hits"], logits.argmax(-1) == targets)


def test_half_precision_logits_are_read_in_fp32_with_the_gradient_of_that():
    logits, targets = (torch.randn(9, 31) * 4).bfloat16(), torch.randint(31, (9,))
    exact = logits.double().requires_grad_()
    expected = torch.log_softmax(exact, -1)[torch.arange(9), targets]
    (-expected.sum()).backward()
    loss, found = plain_objective(logits.requires_grad_(), targets, objective("sft"), 1)
    loss.backward()
    assert found["log_probs"].dtype == torch.float32
    torch.testing.assert_close(found["log_probs"].double(), expected.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=2**-8, atol=1e-6)  # rounded once, to bf16


def test_no_target_still_gives_a_loss_with_a_gradient():
    logits = torch.randn(5, 7, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.long)
    plain_objective(logits[nothing], nothing, objective("dft"), 1)[0].backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


DOCS = Path(__file__).parents[3] / "docs" / "objectives.md"


def test_the_page_on_objectives_names_each_with_its_options_and_defaults():
    columns = [line.split("|") for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    rows = [(name.strip(" `"), options) for _, name, _, options, *_ in columns]
    assert sorted(name for name, _ in rows) == objective_names()
    for name, options in rows:
        signature = inspect.signature(objective(name).function).parameters.values()
        expected = {p.name: p.default for p in signature if p.kind is p.KEYWORD_ONLY}
        assert {key: float(value) for key, value in re.findall(r"`(\w+)` \(([\d.]+)\)", options)} == expected


def test_the_objective_that_the_page_gives_as_an_example_works(tmp_path):
    code = re.search(r"```python\n(.*?)```", DOCS.read_text(), flags=re.S).group(1)
    (tmp_path / "mine.py").write_text(code)
    losses = objective("focal", path=str(tmp_path / "mine.py"), gamma=3)(torch.tensor([0.5]).log())
    assert losses.tolist() == pytest.approx([0.5**3 * math.log(2)])
