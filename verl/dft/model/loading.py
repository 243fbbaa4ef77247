"""Which class a model folder is, as what it is loaded, and which of its weights text trains."""

import inspect
import warnings
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM
from verl.models.transformers.monkey_patch import apply_monkey_patch
from verl.utils.fsdp_utils import get_init_weight_context_manager
from verl.utils.model import get_hf_auto_model_class

from verl.dft.model.activations import layers_of


def model_class(hf_config: Any) -> Any:
    """The class with ``from_pretrained`` and :func:`without_weights` that the folder's weights were saved from.

    That is the architecture its config.json names, so that what is saved loads as what it was; AutoModelForCausalLM
    where that has no output layer, and verl's choice for code that comes with the model.
    """
    if hasattr(hf_config, "auto_map"):
        return get_hf_auto_model_class(hf_config=hf_config)
    names = getattr(hf_config, "architectures", None) or [""]
    named = getattr(transformers, names[0], None)
    has_head = isinstance(named, type) and ("CausalLM" in names[0] or _is_multimodal(hf_config))
    return named if has_head else AutoModelForCausalLM


def without_weights(hf_config: Any, trust_remote_code: bool = False, **kwargs: Any) -> Any:
    """A model of this configuration, initialised as its class does, on torch's current device."""
    chosen = model_class(hf_config)
    if hasattr(chosen, "from_config"):
        return chosen.from_config(hf_config, trust_remote_code=trust_remote_code, **kwargs)
    return chosen._from_config(hf_config, **kwargs)


def pretrained(model_config: Any, dtype: torch.dtype, mesh: Any, shards: int) -> Any:
    """The model of a folder in ``dtype``; on ranks other than the first without numbers, unless weights are tied.

    model_config: verl's. verl's changes to transformers' classes are for flash-attn under Ulysses (``shards`` > 1) and
    are made only there: on other models and other attention they fail, or change what is computed.
    """
    hf_config = model_config.hf_config
    tied = any(getattr(config, "tie_word_embeddings", True) for config in (hf_config, text_config(hf_config)))
    with get_init_weight_context_manager(use_meta_tensor=not tied, mesh=mesh)(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = model_class(hf_config).from_pretrained(
            model_config.local_path,
            dtype=dtype,
            config=hf_config,
            trust_remote_code=model_config.trust_remote_code,
        )
        if model_config.use_liger:
            from liger_kernel.transformers.monkey_patch import _apply_liger_kernel_to_instance

            _apply_liger_kernel_to_instance(model=module, fused_linear_cross_entropy=False, swiglu=True)
        if hf_config._attn_implementation == "flash_attention_2" and shards > 1:
            apply_monkey_patch(model=module, use_remove_padding=True, ulysses_sp_size=shards)
        return module.to(dtype)  # some classes keep parameters in another one


def text_config(hf_config: Any) -> Any:
    """The part of a configuration that describes the language model: itself, unless the model reads more than text."""
    return hf_config.get_text_config(decoder=True)


def check_heads(hf_config: Any, shards: int) -> None:
    """Raise ValueError unless Ulysses with so many ``shards`` can give each an equal number of the model's heads."""
    config = text_config(hf_config)
    heads = getattr(config, "num_attention_heads", None)
    if shards == 1 or not heads:
        return
    pairs = getattr(config, "num_key_value_heads", None) or heads
    if heads % shards or (pairs % shards and shards % pairs):
        raise ValueError(
            f"expected ulysses_sequence_parallel_size={shards} to divide the model's {heads} attention heads, and "
            f"to divide or be a multiple of its {pairs} key-value heads. Choose another size, or 1."
        )
    if _is_multimodal(hf_config):
        raise ValueError(
            f"ulysses_sequence_parallel_size={shards} is not supported for a multimodal model, whose text would be cut "
            "up after its embedding. Set it to 1."
        )


def freeze_all_but_text(module: torch.nn.Module) -> int:
    """Freeze what text never passes: images' and sounds' encoders and their projections. How many weights that are."""
    model: Any = module
    if not _is_multimodal(model.config):
        return 0
    trained = {id(p) for p in model.get_decoder().parameters()}
    trained |= {id(p) for p in model.get_output_embeddings().parameters()}
    trained |= {id(p) for p in model.get_input_embeddings().parameters()}
    frozen = [p for p in model.parameters() if id(p) not in trained]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return sum(p.numel() for p in frozen)


def classes_to_shard(module: torch.nn.Module) -> list[str] | None:
    """Names of the layers that FSDP gathers one at a time; None where the model's own list of them does.

    That list may be missing, and may name a part of a layer beside the layer, which fsdp2 cannot shard.
    """
    named = set(getattr(module, "_no_split_modules", None) or ())
    found = {name: type(m).__name__ for name, m in module.named_modules() if type(m).__name__ in named}
    outer = {kind for name, kind in found.items() if not any(name.startswith(f"{other}.") for other in found)}
    if outer and outer == set(found.values()):
        return None
    return sorted(outer or {type(layer).__name__ for layer in layers_of_text(module)})


def layers_of_text(module: Any) -> torch.nn.ModuleList:
    """The layers of the language model in a module that may hold others."""
    decoder = module.get_decoder() if hasattr(module, "get_decoder") else module
    return layers_of(decoder if isinstance(decoder, torch.nn.Module) else module)


def text_only_inputs(module: torch.nn.Module, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """What some multimodal models want beside text in training: that no token is part of an image."""
    model: Any = module
    wanted = ("token_type_ids", "mm_token_type_ids") if _is_multimodal(model.config) else ()
    parameters = inspect_forward(model)
    return {name: torch.zeros_like(input_ids) for name in wanted if name in parameters}


def inspect_forward(module: Any) -> set[str]:
    """Names of the arguments of a model's forward pass."""
    base = module.get_base_model() if hasattr(module, "peft_config") else module
    return set(inspect.signature(type(base).forward).parameters)


def _is_multimodal(hf_config: Any) -> bool:
    return text_config(hf_config) is not hf_config
