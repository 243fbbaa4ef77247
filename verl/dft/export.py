"""A trained module as a plain Hugging Face folder that transformers and vLLM load as it is."""

from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM
from verl.utils.fsdp_utils import get_fsdp_full_state_dict
from verl.utils.transformers_compat import drop_tied_target_keys


def export_hf_model(
    module: torch.nn.Module, hf_config: Any, generation_config: Any, folder: Path, dtype: torch.dtype
) -> None:
    """Write the model's weights and configuration to ``folder`` from rank 0; every rank must call it.

    dtype: of the written weights, and what config.json calls them. With the dtype of the forward pass the folder
    holds exactly the numbers that were multiplied in training; master weights stay in the shards beside it.
    LoRA adapters are merged: W + (alpha / r) B A.
    """
    state = get_fsdp_full_state_dict(module, offload_to_cpu=True, rank0_only=True)
    if torch.distributed.get_rank() == 0:
        unwrapped: Any = getattr(module, "_fsdp_wrapped_module", module)
        if hasattr(unwrapped, "peft_config"):
            state = merge_lora(state, unwrapped.peft_config["default"])
        state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        with init_empty_weights():
            skeleton = AutoModelForCausalLM.from_config(hf_config, dtype=dtype)
        if generation_config is not None:
            skeleton.generation_config = generation_config
        drop_tied_target_keys(state, skeleton, hf_config)
        skeleton.save_pretrained(folder, state_dict=state)
    torch.distributed.barrier()


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
