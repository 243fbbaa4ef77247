"""How rows go through the model: packed, padded or one at a time, and with which attention; decided by trying."""

import numpy as np
import torch
import torch.distributed as dist
from omegaconf import open_dict
from verl.utils.device import get_device_id
from verl.utils.py_functional import convert_to_regular_types
from verl.workers.config import HFModelConfig

from verl.dft.model import probe
from verl.dft.model.loading import text_config
from verl.trainer.fsdp_dft_trainer.agreement import from_first
from verl.trainer.fsdp_dft_trainer.recipe import CompletedConfig


def choose_layout(config: CompletedConfig, model: HFModelConfig) -> tuple[str, ...]:
    """Complete ``config`` and ``model`` with a layout that is exact for this model; the lines to be said about it.

    Tried on a small copy of the model, on rank 0 for all ranks. Raises ValueError where nothing is exact, or not what
    was asked for.
    """
    wishes = probe.Wishes(
        attention=config.model.given_attention,
        packed=config.model.given_packing,
        shards=config.engine.ulysses_sequence_parallel_size,
        longest=config.data.max_length,
    )

    def decide() -> probe.Plan:
        device = get_device_id() if torch.cuda.is_available() else "cpu"
        return probe.choose(model.hf_config, wishes, model.trust_remote_code, device)

    plan = from_first(decide) if dist.is_initialized() else decide()
    lines = (*plan.lines, *_choose_adapted(config, model))
    model.hf_config._attn_implementation = plan.attention
    with open_dict(config):
        config.model.override_config.attn_implementation = plan.attention
        config.model.use_remove_padding = plan.layout == probe.PACKED
        if plan.layout == probe.SINGLE:
            config.data.use_dynamic_bsz, config.data.micro_batch_size_per_gpu = False, 1
    object.__setattr__(model, "use_remove_padding", config.model.use_remove_padding)  # verl freezes the dataclass
    return lines


def _choose_adapted(config: CompletedConfig, model: HFModelConfig) -> tuple[str, ...]:
    """Set what LoRA adapts, where that is left to this and not all of it can be; the line about it."""
    if not model.lora_rank or model.lora_adapter_path:
        return ()
    names = ("target_modules", "target_parameters", "exclude_modules")
    lora = {"r": model.lora_rank, **{name: convert_to_regular_types(getattr(model, name)) for name in names}}

    def decide() -> tuple[list[str] | None, str]:
        return probe.adaptable(model.hf_config, lora, model.trust_remote_code)

    modules, line = from_first(decide) if dist.is_initialized() else decide()
    if modules is None:
        return ()
    object.__setattr__(model, "target_modules", modules)
    with open_dict(config):
        config.model.target_modules = modules
    return (line,)


def check_context(model: HFModelConfig, lengths: np.ndarray, flag: str) -> str | None:
    """A line about rows that are longer than the model's context; None where there are none.

    Raises ValueError where the model has no position for their last tokens.
    """
    text = text_config(model.hf_config)
    context, longest = getattr(text, "max_position_embeddings", None), int(lengths.max())
    if not isinstance(context, int) or context < 1 or longest <= context:
        return None
    count = int((lengths > context).sum())
    told = (
        f"{count:,} rows of {flag} are longer than the model's context of {context:,} tokens (the longest: {longest:,})"
    )
    if probe.has_learned_positions(model.hf_config, model.trust_remote_code):
        raise ValueError(f"{told}, and the model has no positions beyond it. Set data.max_length={context} or less.")
    return f"warning: {told}. What it does there it has not learnt; data.max_length={context} cuts them."
