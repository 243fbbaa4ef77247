"""Which class a model folder is, as what it is loaded, and which of its weights text trains."""

import inspect
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM
from verl.utils.model import get_hf_auto_model_class


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


def text_config(hf_config: Any) -> Any:
    """The part of a configuration that describes the language model: itself, unless the model reads more than text."""
    return hf_config.get_text_config(decoder=True)


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
