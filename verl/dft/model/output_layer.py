"""Getting at the hidden states and the weight of a language model's output layer, inside its own forward pass.

FSDP holds the whole weight only while the root module's forward runs, so whoever wants to multiply with it must be
called from there.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

Reader = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def output_layer(module: torch.nn.Module) -> Any:
    """The module that maps hidden states to logits, or None."""
    unwrapped: Any = getattr(module, "_fsdp_wrapped_module", module)
    model: Any = unwrapped.get_base_model() if hasattr(unwrapped, "peft_config") else unwrapped
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None


@contextmanager
def reading(layer: torch.nn.Linear, reader: Reader) -> Iterator[None]:
    """While it lasts, ``layer(hidden)`` is ``reader(hidden, layer.weight)``: what the model returns as its logits."""
    layer.forward = lambda hidden: reader(hidden, layer.weight)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del layer.forward


def reason_against_fusing(module: torch.nn.Module, device: torch.device | str | int) -> str | None:
    """Why ``module``'s logits are something else than ``hidden @ weight^T``; None where they are that.

    Runs the model on two tokens (on all ranks together): what a model does to its logits after the output layer,
    such as a soft cap or a scale, shows there whatever it is called.
    """
    layer = output_layer(module)
    if not isinstance(layer, torch.nn.Linear):
        return f"its output layer is a {type(layer).__name__}"
    if layer.bias is not None:
        return "its output layer has a bias"
    seen: list[torch.Tensor] = []

    def product(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        seen.append(F.linear(hidden, weight.to(hidden.dtype)))
        return seen[-1]

    ids = torch.tensor([[0, 1]], device=device)
    was_training = module.training
    module.eval()
    with torch.no_grad(), reading(layer, product):
        logits = module(input_ids=ids, position_ids=torch.tensor([[0, 1]], device=device), use_cache=False).logits
    module.train(was_training)
    if len(seen) != 1 or not torch.equal(seen[0].to(logits.dtype), logits):
        return "its logits are changed after the output layer"
    return None
