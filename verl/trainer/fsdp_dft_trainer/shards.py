"""Weights and optimizer state as safetensors shards, read back bit by bit on any number of ranks.

torch.distributed.checkpoint does the work: every rank writes what it holds, and reads what it needs. Its safetensors
format is chosen over its default and over verl's own shards because both of those are read by unpickling, which runs
what it finds, and because verl's fit the number of ranks that wrote them only. All ranks must see one folder.
"""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from verl.utils.fsdp_utils import load_fsdp_model_to_gpu, offload_fsdp_model_to_cpu, offload_fsdp_optimizer

from verl.dft.model.engine import DFTEngine

# Frozen weights are those of the initial model, which a run is refused to exchange; they are not stored again.
OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)


def save_shards(engine: DFTEngine, folder: Path, optimizer: bool) -> None:
    """Write ``folder/model`` and, if asked for and once it has made a step, ``folder/optimizer``; on every rank.

    Raises CheckpointException on every rank where one could not write. Files are flushed to the disk.
    """
    _write(_weights(engine), folder / "model")
    if optimizer and engine.optimizer.state:
        _write(_named(get_optimizer_state_dict(engine.module, engine.optimizer)), folder / "optimizer")


def load_shards(engine: DFTEngine, folder: Path, optimizer: bool) -> None:
    """Read what :func:`save_shards` wrote into the engine; on every rank. Raises ValueError for files that do not fit.

    The options of the optimizer, such as its learning rate, stay those of the engine.
    """
    if engine.is_param_offload_enabled:
        load_fsdp_model_to_gpu(engine.module)
    weights = _weights(engine)
    _read(weights, folder / "model")
    set_model_state_dict(engine.module, weights, options=OPTIONS)
    if optimizer and (folder / "optimizer").is_dir():
        state = get_optimizer_state_dict(engine.module, engine.optimizer)
        named = _named(state)
        _read(named, folder / "optimizer")
        _put_back(named, state)
        set_optimizer_state_dict(engine.module, engine.optimizer, state)
    if engine.is_param_offload_enabled:
        offload_fsdp_model_to_cpu(engine.module)
    if engine.is_optimizer_offload_enabled:
        offload_fsdp_optimizer(engine.optimizer)


def _write(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    dcp.save(tensors, storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True))


def _read(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    try:
        dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(folder)))
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        raise ValueError(f"{folder} does not fit this run or is damaged: {cause}") from error


def _weights(engine: DFTEngine) -> dict[str, Any]:
    """The trained weights and the buffers that belong to them, once each."""
    state: dict[str, Any] = get_model_state_dict(engine.module, options=OPTIONS)
    repeated = _repeated(get_model_state_dict(engine.module))
    return {name: tensor for name, tensor in state.items() if name not in repeated}


def _repeated(state: dict[str, Any]) -> list[str]:
    """The further names of tied weights: safetensors refuses tensors that share memory.

    Rank 0 says which, for a rank may hold an empty part of any.
    """
    repeated: list[list[str]] = [[]]
    seen: dict[int, str] = {}
    for name, tensor in state.items():
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        if local.numel() and seen.setdefault(local.data_ptr(), name) != name:
            repeated[0].append(name)
    dist.broadcast_object_list(repeated)
    return repeated[0]


def _named(state: Any) -> dict[str, torch.Tensor]:
    """The optimizer's state under flat names; numbers, such as some optimizers' step count, as tensors."""
    return {
        f"{parameter}|{name}": value if isinstance(value, torch.Tensor) else torch.tensor(value)
        for parameter, values in state["state"].items()
        for name, value in values.items()
    }


def _put_back(named: dict[str, torch.Tensor], state: Any) -> None:
    for name, tensor in named.items():
        parameter, _, key = name.rpartition("|")
        was = state["state"][parameter][key]
        state["state"][parameter][key] = tensor if isinstance(was, torch.Tensor) else type(was)(tensor.item())
