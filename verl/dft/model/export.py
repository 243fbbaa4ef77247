"""A trained module as a plain Hugging Face folder that transformers and vLLM load as it is, and LoRA as PEFT's."""

import copy
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.dynamic_module_utils import custom_object_save
from verl.utils.fsdp_utils import get_fsdp_full_state_dict
from verl.utils.transformers_compat import drop_tied_target_keys


def full_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The whole state of a sharded module, on the CPU of rank 0, empty elsewhere; every rank must call it."""
    return get_fsdp_full_state_dict(module, offload_to_cpu=True, rank0_only=True)


def write_hf_model(
    state: dict[str, torch.Tensor], module: torch.nn.Module, model_config: Any, folder: Path, dtype: torch.dtype
) -> None:
    """Write model, configuration and tokenizer to ``folder``.

    dtype: of the written weights, and what config.json calls them. With the dtype of the forward pass the folder
    holds exactly the numbers that were multiplied in training; master weights stay in the shards beside it.
    LoRA adapters are merged: W + (alpha / r) B A.
    """
    unwrapped, hf_config = _unwrapped(module), model_config.hf_config
    if hasattr(unwrapped, "peft_config"):
        state = merge_lora(state, unwrapped.peft_config["default"])
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    with init_empty_weights():
        skeleton = AutoModelForCausalLM.from_config(
            hf_config, dtype=dtype, trust_remote_code=model_config.trust_remote_code
        )
    if model_config.generation_config is not None:
        skeleton.generation_config = model_config.generation_config
    drop_tied_target_keys(state, skeleton, hf_config)
    skeleton.save_pretrained(folder, state_dict=state)
    model_config.get_processor().save_pretrained(folder)
    if hasattr(hf_config, "auto_map"):
        base = unwrapped.get_base_model() if hasattr(unwrapped, "get_base_model") else unwrapped
        custom_object_save(base, folder, config=hf_config)


def write_adapter(state: dict[str, torch.Tensor], module: torch.nn.Module, folder: Path) -> None:
    """Write a LoRA adapter to ``folder`` as ``peft.PeftModel.from_pretrained`` reads it; nothing without LoRA."""
    unwrapped = _unwrapped(module)
    if not hasattr(unwrapped, "peft_config"):
        return
    config = copy.copy(unwrapped.peft_config["default"])
    config.inference_mode = True
    # Looking for trained embeddings may ask a hub.
    adapter = get_peft_model_state_dict(unwrapped, state_dict=state, save_embedding_layers=False)
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in adapter.items()}, folder / "adapter_model.safetensors")
    config.save_pretrained(folder)


def _unwrapped(module: torch.nn.Module) -> Any:
    return getattr(module, "_fsdp_wrapped_module", module)


def merge_lora(state: dict[str, torch.Tensor], lora: Any) -> dict[str, torch.Tensor]:
    """The state of the base model with ``W + (alpha / r) B A`` in place of each adapted ``W``, under plain names."""
    prefix = "base_model.model."
    merged = {}
    for name, tensor in state.items():
        if ".lora_A." in name or ".lora_B." in name:
            continue
        plain = name.removeprefix(prefix)
        if ".base_layer." in plain:
            stem = name.split(".base_layer.")[0]
            if name.endswith(".weight"):
                down, up = (state[f"{stem}.lora_{side}.default.weight"].float() for side in "AB")
                tensor = (tensor.float() + (lora.lora_alpha / lora.r) * up @ down).to(tensor.dtype)
            plain = plain.replace(".base_layer.", ".")
        merged[plain] = tensor
    return merged
