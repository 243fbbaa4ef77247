"""A trained module as a plain Hugging Face folder that transformers and vLLM load as it is, and LoRA as PEFT's."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from peft import get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import GenerationConfig
from transformers.dynamic_module_utils import custom_object_save
from verl.utils.fsdp_utils import get_fsdp_full_state_dict
from verl.utils.transformers_compat import drop_tied_target_keys

from verl.dft.model.loading import text_config, without_weights


def full_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The whole state of a sharded module, on the CPU of rank 0, empty elsewhere; every rank must call it."""
    return get_fsdp_full_state_dict(module, offload_to_cpu=True, rank0_only=True)


def write_hf_model(
    state: dict[str, torch.Tensor],
    module: torch.nn.Module,
    model_config: Any,
    folder: Path,
    dtype: torch.dtype,
    stop: str,
) -> None:
    """Write model, configuration and tokenizer to ``folder``.

    stop: the trained end of a response, one token, at which generation from the folder ends.
    dtype: of the written weights, and what config.json calls them. With the dtype of the forward pass the folder
    holds exactly the numbers that were multiplied in training; master weights stay in the shards beside it.
    LoRA adapters are merged into the weights.
    """
    unwrapped, hf_config = _unwrapped(module), model_config.hf_config
    if hasattr(unwrapped, "peft_config"):
        state = merge_lora(state, unwrapped.peft_config["default"], model_config)
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    with init_empty_weights():
        skeleton = without_weights(hf_config, model_config.trust_remote_code, dtype=dtype)
    tokenizer, processor = model_config.tokenizer, model_config.get_processor()
    stop_token_id = tokenizer.convert_tokens_to_ids(stop)
    skeleton.generation_config = stopping_at(model_config.generation_config, hf_config, stop_token_id)
    text_config(skeleton.config).eos_token_id = skeleton.config.eos_token_id = stop_token_id
    drop_tied_target_keys(state, skeleton, hf_config)
    skeleton.save_pretrained(folder, state_dict=state)
    with _ending_with(stop, tokenizer, getattr(processor, "tokenizer", tokenizer)):
        processor.save_pretrained(folder)
    if hasattr(hf_config, "auto_map"):
        base = unwrapped.get_base_model() if hasattr(unwrapped, "get_base_model") else unwrapped
        custom_object_save(base, folder, config=hf_config)


@contextmanager
def _ending_with(stop: str, *tokenizers: Any) -> Iterator[None]:
    """While it lasts, the tokenizers' end-of-sequence token is ``stop``."""
    former = [tokenizer.eos_token for tokenizer in tokenizers]
    for tokenizer in tokenizers:
        tokenizer.eos_token = stop
    try:
        yield
    finally:
        for tokenizer, token in zip(tokenizers, former, strict=True):
            tokenizer.eos_token = token


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


def merge_lora(state: dict[str, torch.Tensor], lora: Any, model_config: Any) -> dict[str, torch.Tensor]:
    """The state of the base model with what its adapters have learnt added to its weights, in fp32 and by PEFT itself.

    state: of the model with adapters, whole; left as it is. lora: PEFT's configuration of them. Takes a second copy of
    the weights on the host.
    """
    with torch.device("meta"):
        base = without_weights(model_config.hf_config, model_config.trust_remote_code)
        adapted = get_peft_model(base, copy.deepcopy(lora))
    # Copies, because PEFT adds in place and these may be the weights in training.
    wide = {
        name: tensor.to(torch.float32, copy=True) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }
    adapted.load_state_dict(wide, assign=True)
    return adapted.merge_and_unload().state_dict()


def stopping_at(generation_config: Any, hf_config: Any, stop_token_id: int) -> Any:
    """A copy of a generation configuration, or a new one, by which generation ends at the trained end of a response.

    The ends that it had before follow: a model may still write them.
    """
    made = copy.deepcopy(generation_config) if generation_config else GenerationConfig.from_model_config(hf_config)
    former = made.eos_token_id if isinstance(made.eos_token_id, list) else [made.eos_token_id]
    made.eos_token_id = list(dict.fromkeys([stop_token_id, *(token for token in former if token is not None)]))
    return made
