"""What a layer keeps for the backward pass: everything, its matrix products only, or its input only.

Keeping less makes the backward pass compute it again: about a third more operations for ``full``, a few percent for
``selective``, which repeats norms, rotations and activation functions but no matrix product and no attention.
"""

import copy
import functools
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

KINDS = ("full", "selective", "off")

_aten = torch.ops.aten
# Looked up by name, because not every build of torch has every kernel.
_PRODUCTS = [
    getattr(packet, overload)
    for packet_name, overload in (
        ("mm", "default"),
        ("addmm", "default"),
        ("bmm", "default"),
        ("_scaled_dot_product_flash_attention", "default"),
        ("_scaled_dot_product_flash_attention_for_cpu", "default"),
        ("_scaled_dot_product_efficient_attention", "default"),
        ("_scaled_dot_product_cudnn_attention", "default"),
        ("_flash_attention_forward", "default"),
    )
    if (packet := getattr(_aten, packet_name, None)) is not None
]


def apply(module: Any, kind: str) -> None:
    """Set a transformers model's checkpointing to one of ``KINDS``."""
    assert kind in KINDS, kind
    if kind != "off" and not module.supports_gradient_checkpointing:
        print(f"{type(module).__name__} knows no activation checkpointing: activations are kept.", flush=True)
        return
    if kind == "off":
        module.gradient_checkpointing_disable()
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if kind == "selective":
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _policy)
    module.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def layers_of(module: torch.nn.Module) -> torch.nn.ModuleList:
    """The transformer layers of a language model: its longest list of modules."""
    return max((m for m in module.modules() if isinstance(m, torch.nn.ModuleList)), key=len)


def _is_product(operation: Any) -> bool:
    # torch.nn.attention.varlen's kernel is an operator of its own.
    return operation in _PRODUCTS or str(operation).startswith("torch_attn._varlen_attn")


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if _is_product(operation) else CheckpointPolicy.PREFER_RECOMPUTE


def bytes_per_token(module: Any, dtype: torch.dtype, device: Any = "cpu", tokens: int = 64) -> dict[str, float]:
    """Bytes that all layers together keep per token, for each of ``KINDS``.

    Measured on a copy of the first layer, in ``dtype`` and on ``device``, which must be that of training: kernels such
    as flash-attn's run nowhere else. The row is short: what grows with the square of the length (attention kernels
    keep nothing such) is not in it. One layer's recomputation comes on top of ``full`` and ``selective``: what ``off``
    keeps, divided by the layers.
    """
    layers = layers_of(module)
    args, kwargs = _first_layers_input(module, layers[0], tokens)
    layer: Any = copy.deepcopy(layers[0]).to(device=device, dtype=dtype)
    layer.gradient_checkpointing = False
    hidden, *others = (_moved(value, device, dtype) for value in args)
    hidden.requires_grad_()
    rest = {key: _moved(value, device, dtype) for key, value in kwargs.items()}
    owned = {_storage(p) for p in layer.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if _storage(tensor) not in owned:
            kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    # The tensors that were packed stay alive in `output`, so that no storage is counted under another's address.
    with _Products() as products, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        output = layer(hidden, *others, **rest)
    del output
    count, input_bytes = len(layers), hidden.numel() * hidden.element_size()
    sizes = {"full": input_bytes, "selective": input_bytes + products.nbytes, "off": sum(kept.values())}
    return {kind: size * count / tokens for kind, size in sizes.items()}


class _Products(TorchDispatchMode):
    """Adds up the bytes of what products return."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if _is_product(func):
            outputs = result if isinstance(result, tuple | list) else (result,)
            self.nbytes += sum(x.numel() * x.element_size() for x in outputs if isinstance(x, torch.Tensor))
        return result


class _Stop(Exception):
    pass


def _first_layers_input(module: Any, layer: torch.nn.Module, tokens: int) -> tuple[tuple, dict[str, Any]]:
    """The arguments with which the model calls its first layer, without running any layer."""
    found: list[tuple[tuple, dict[str, Any]]] = []

    def catch(_: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        found.append((args, kwargs))
        raise _Stop

    handle = layer.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with torch.no_grad():
            module(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    except _Stop:
        pass
    finally:
        handle.remove()
    args, kwargs = found[0]
    return (args, kwargs) if args else ((kwargs.pop("hidden_states"),), kwargs)


def _moved(value: Any, device: Any, dtype: torch.dtype) -> Any:
    """Tensors, also in tuples, on ``device``; those of floats in ``dtype``."""
    if isinstance(value, tuple):
        return tuple(_moved(x, device, dtype) for x in value)
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)


def _storage(tensor: torch.Tensor) -> int:
    """What tells storages apart while they live; addresses do not where a device has none."""
    return tensor.untyped_storage()._cdata
