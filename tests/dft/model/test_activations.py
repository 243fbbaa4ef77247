"""What is kept for the backward pass changes memory and never a number."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from tiny_model import save_tiny_model
from verl.dft.model import activations, attention
from verl.dft.model.engine import estimate_activations


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    attention.register()
    folder = save_tiny_model(tmp_path_factory.mktemp("model"), hidden_size=64, intermediate_size=160)
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention.NAME).train()


def kept_bytes(model, ids):
    """The distinct tensors that autograd holds after a forward pass, parameters aside; and the gradients."""
    owned, kept, alive = {p.data_ptr() for p in model.parameters()}, {}, []

    def pack(tensor):
        alive.append(tensor)
        if tensor.untyped_storage().data_ptr() not in owned:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = model.model(ids, use_cache=False).last_hidden_state.square().mean()
    total = sum(kept.values())
    loss.backward()
    return total, [p.grad.clone() for p in model.model.parameters()]


def test_every_kind_gives_the_same_gradients(model):
    ids = torch.arange(96).unsqueeze(0)
    gradients = {}
    for kind in activations.KINDS:
        activations.apply(model, kind)
        gradients[kind] = kept_bytes(model, ids)[1]
    for kind in ("full", "selective"):
        torch.testing.assert_close(gradients[kind], gradients["off"])


def test_the_estimate_for_keeping_everything_is_what_autograd_keeps(model):
    ids = torch.arange(96).unsqueeze(0)
    activations.apply(model, "off")
    estimate = activations.bytes_per_token(model, torch.float32)
    # Beside the layers, autograd keeps what the embedding, the last norm and the mean need.
    outside = 96 * 64 * 4 * 4
    assert estimate["off"] * 96 == pytest.approx(kept_bytes(model, ids)[0] - outside, rel=0.1)
    assert estimate["full"] < estimate["selective"] < 0.8 * estimate["off"]


def test_selective_repeats_no_product(model):
    ids, counts = torch.arange(96).unsqueeze(0), {}
    for kind in activations.KINDS:
        activations.apply(model, kind)
        loss = model.model(ids, use_cache=False).last_hidden_state.square().mean()
        with activations._Products() as products:
            loss.backward()
        counts[kind] = products.nbytes
    assert counts["selective"] == counts["off"] < counts["full"]


def test_the_estimate_leaves_the_model_as_it_was(model):
    before = {name: p.clone() for name, p in model.named_parameters()}
    activations.bytes_per_token(model, torch.bfloat16)
    assert all(torch.equal(p, before[name]) and p.dtype == torch.float32 for name, p in model.named_parameters())
    assert activations.bytes_per_token(model, torch.bfloat16)["full"] == 2 * 64 * 2  # layers x hidden x bytes


def test_the_estimate_runs_on_the_device_that_it_is_given(model):
    devices = set()

    def look(module, args, kwargs):
        tensors = [*args, *kwargs.values(), *kwargs.get("position_embeddings", ())]
        devices.update(x.device.type for x in tensors if isinstance(x, torch.Tensor))

    handle = activations.layers_of(model)[0].register_forward_pre_hook(look, with_kwargs=True)
    try:
        elsewhere = activations.bytes_per_token(model, torch.float32, "meta")
    finally:
        handle.remove()
    assert devices == {"cpu", "meta"}  # caught on the CPU, measured on the device
    here = activations.bytes_per_token(model, torch.float32, "cpu")
    assert elsewhere["full"] == here["full"]
    assert elsewhere["off"] == pytest.approx(here["off"], rel=0.25)  # another attention kernel


def test_a_layer_that_cannot_be_tried_alone_costs_the_estimate_and_not_the_run(model, capsys):
    def refuse(*args):
        if args[1][0].dtype == torch.bfloat16:  # the copy under trial
            raise RuntimeError("not without a cache")

    handle = activations.layers_of(model)[0].register_forward_pre_hook(refuse)
    try:
        assert estimate_activations(model, torch.bfloat16) == {}
    finally:
        handle.remove()
    assert "No estimate of the activations' memory (RuntimeError: not without a cache)." in capsys.readouterr().out
