"""How much memory one rank of a run needs, from shapes: the model is built on torch's meta device, without storage.

An estimate. What FSDP keeps between steps is exact; activations are measured on one layer; the allocator's gaps,
communication buffers, what kernels take for themselves and the copies of saving are not in it. On a CPU, one rank with
41 million weights in fp32 took 1.80 GiB where this says 1.33, and without activation checkpointing 2.23 for 1.90.
"""

import copy
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from omegaconf import DictConfig
from verl.utils.device import get_device_id, get_device_name
from verl.utils.py_functional import convert_to_regular_types
from verl.utils.torch_dtypes import PrecisionType
from verl.workers.config import HFModelConfig

from verl.dft.loss.fused_head import CPU_ROWS, chunk_type_for
from verl.dft.loss.objectives import Objective
from verl.dft.model import activations, attention
from verl.dft.model.loading import without_weights

LOADED = "Python with its libraries and the rows"
WIDE = 4  # bytes of fp32, in which gradients are added up and logits are made
PROBED_VOCABULARY = 8  # of the model whose one layer is measured: its embedding is not


@dataclass(frozen=True)
class Memory:
    """parameters, trained: of the whole model, without adapters in the first. parts: what -> bytes on one rank."""

    parameters: int
    trained: int
    parts: dict[str, float]


def estimate(config: DictConfig, model: HFModelConfig, objective: Objective, ranks: int, accumulates: bool) -> Memory:
    """The parts of one rank's memory while it trains. No weights are loaded.

    config: completed by the trainer's checks. accumulates: a step has several micro-batches.
    """
    attention.register()
    engine, parts = config.engine, dict[str, float]()
    if get_device_name() == "cpu":  # where what is loaded into this process takes the memory of what it trains
        parts[LOADED] = loaded()
    module = _without_storage(config, model)
    total = _count(module)
    trained = _adapter_weights(model, module) if config.model.lora_rank else total
    layers = activations.layers_of(module)
    head = module.get_output_embeddings().weight.numel()
    kept = PrecisionType.to_dtype(engine.model_dtype).itemsize
    product = PrecisionType.to_dtype(engine.dtype)
    shards = engine.fsdp_size if engine.fsdp_size > 0 else ranks
    if not engine.offload_policy:  # else these are on the host
        parts[f"weights in {engine.model_dtype}"] = (total + trained * bool(config.model.lora_rank)) * kept / shards
        parts["optimizer: two moments of each trained weight"] = 2 * trained * kept / shards
        parts["gradients, sharded"] = trained * kept / shards
    if accumulates and engine.use_no_sync_for_gradient_accumulation:
        # The sharded ones appear layer by layer while these go, so only the larger of the two counts.
        parts.pop("gradients, sharded", None)
        name = "gradients, whole: engine.use_no_sync_for_gradient_accumulation=false shards them, and is slower"
        parts[name] = trained * WIDE
    if engine.reshard_after_forward:
        outside = total - sum(map(_count, layers))
        gathered = 2 * max(map(_count, layers)) + outside
        parts["gathered weights: two layers, embedding and output layer"] = gathered * product.itemsize
    else:
        parts["gathered weights: all, by engine.reshard_after_forward=false"] = total * product.itemsize
    if objective.needs_reference and not config.model.lora_rank:
        parts["the initial model, frozen"] = (total / shards + head) * product.itemsize
    parts |= _activations(config, model, product, len(layers))
    parts |= _output_layer(config, model, objective, 0 if config.model.lora_rank else head)
    return Memory(total, trained, parts)


def loaded() -> int:
    """Bytes of memory that this process has now."""
    return int(psutil.Process().memory_info().rss)


def tokens_at_once(config: DictConfig) -> int:
    """The most tokens that a rank's forward pass may hold."""
    data = config.data
    if data.use_dynamic_bsz:
        return int(data.max_token_len_per_gpu)
    return int(data.micro_batch_size_per_gpu * data.max_length / config.engine.ulysses_sequence_parallel_size)


def _without_storage(config: DictConfig, model: HFModelConfig) -> Any:
    with torch.device("meta"):
        return without_weights(model.hf_config, config.model.trust_remote_code)


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())  # a tied weight counts once


def _adapter_weights(model: HFModelConfig, module: Any) -> int:
    """What LoRA trains, by the same call of peft with which verl's engine adds it. ``module`` gets the adapters."""
    from peft import LoraConfig, get_peft_model

    before = _count(module)
    chosen = {key: convert_to_regular_types(getattr(model, key)) for key in ("target_modules", "exclude_modules")}
    get_peft_model(module, LoraConfig(task_type="CAUSAL_LM", r=model.lora_rank, bias="none", **chosen))
    return _count(module) - before


def _activations(config: DictConfig, model: HFModelConfig, product: torch.dtype, layers: int) -> dict[str, float]:
    """Measured on one layer with storage but without values, as the trainer measures it on the model's own first."""
    kind, tokens = config.model.activation_checkpointing, tokens_at_once(config)
    try:
        per_token = activations.bytes_per_token(_one_layer(config, model, product), product, get_device_id())
    except Exception as error:  # an architecture whose layer cannot be tried alone costs this line and nothing else
        return {f"activations: not estimated, {type(error).__name__}: {str(error).splitlines()[0]}": 0.0}
    name = f"activations of {tokens:,} tokens, model.activation_checkpointing={kind}"
    again = 0.0 if kind == "off" else per_token["off"]  # one layer is computed again at a time
    return {name: (per_token[kind] * layers + again) * tokens}


def _one_layer(config: DictConfig, model: HFModelConfig, product: torch.dtype) -> Any:
    small = copy.deepcopy(model)
    shape: Any = small.hf_config
    shape.num_hidden_layers, shape.vocab_size, shape.pad_token_id = 1, PROBED_VOCABULARY, 0
    if getattr(shape, "layer_types", None):
        shape.layer_types = shape.layer_types[:1]
    probe = _without_storage(config, small).to(product).to_empty(device="cpu")
    for tensor in (*probe.parameters(), *probe.buffers()):
        tensor.data.zero_()
    return probe


def _output_layer(
    config: DictConfig, model: HFModelConfig, objective: Objective, trained_head: int
) -> dict[str, float]:
    vocabulary, on_cpu = model.hf_config.vocab_size, get_device_name() == "cpu"
    if not config.model.fused_head:
        # Kept for the backward pass, and there again as softmax and as gradient.
        tokens = tokens_at_once(config)
        return {
            f"logits of up to {tokens:,} targets, three times (model.fused_head=false)": 3.0
            * tokens
            * vocabulary
            * WIDE
        }
    kind = chunk_type_for(torch.device(get_device_name()), PrecisionType.to_dtype(config.engine.dtype))
    chunk = (CPU_ROWS if on_cpu else kind.GPU_ROWS) * vocabulary * WIDE
    chunks = (1 if on_cpu else kind.SIZE) + ("reference_kl" in objective.needs)
    return {"output layer: a chunk of logits, the gradient of its weight in fp32": chunks * chunk + trained_head * WIDE}
