"""What makes a run the run that it is: the settings that its result depends on, and its rows and weights by content.

Left out is what changes nothing but speed and files: ranks, micro-batches, packing, head, attention, logging, paths.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf

from verl.dft.data.rows import TokenizedRows
from verl.dft.model.engine import DFTEngine

SCHEDULE = ("lr_scheduler_type", "lr_warmup_steps", "lr_warmup_steps_ratio", "min_lr_ratio", "num_cycles")
OPTIMIZER = ("optimizer_impl", "optimizer", "lr", "betas", "weight_decay", "clip_grad", "override_optimizer_config")
LORA = ("lora_rank", "lora_alpha", "target_modules", "exclude_modules", "lora_adapter_path")
# Told beside changed rows, because one of them is the likely reason.
READING: tuple[str, ...] = ("max_length", "truncation", "train_max_samples", "chat_template", "response_end")
READING += ("response_key", "system_prompt", "fold_system_prompt", "weight_key")


def run_identity(
    config: DictConfig, engine: DFTEngine, train_rows: Any, val_rows: Any, total_steps: int
) -> dict[str, Any]:
    """Name -> JSON value for everything that the result depends on. Every rank must call it, before resuming."""
    optim, data, model = config.optim, config.data, config.model
    found: dict[str, Any] = {
        "trainer.seed": config.trainer.seed,
        "data.train_batch_size": data.train_batch_size,
        "rows of data.train_files": _rows_digest(train_rows, config, data.train_files),
        "rows of data.val_files": _rows_digest(val_rows, config, data.val_files),
        "weights of model.partial_pretrain": _weights_digest(engine),
        "model.fsdp_config.model_dtype": config.engine.model_dtype,
        "engine.dtype": config.engine.dtype,
    }
    found |= {f"objective.{key}": value for key, value in config.objective.items()}
    if config.objective.path:
        found["objective.path"] = "file " + _file_digest(config.objective.path)
    found |= {f"optim.{key}": optim.get(key) for key in (*OPTIMIZER, *SCHEDULE)}
    if _depends_on_length(config):
        found["trainer.total_training_steps (for optim.lr_scheduler)"] = total_steps
    found |= {f"model.{key}": model.get(key) for key in (LORA if model.lora_rank else LORA[:1])}
    found |= {f"data.{key}": data.get(key) for key in READING}
    return json.loads(json.dumps({key: _plain(value) for key, value in found.items()}))


def differences(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One phrase for each setting that differs. How rows are read counts only where it made other rows of them."""
    changed = [key for key in {**stored, **now} if stored.get(key) != now.get(key)]
    reading = {f"data.{key}" for key in READING}
    if not any(key.startswith("rows of") for key in changed):
        changed = [key for key in changed if key not in reading]
    return [
        f"{key} (its content)" if key.startswith(("rows", "weights")) else f"{key} {stored.get(key)} -> {now.get(key)}"
        for key in changed
    ]


def _depends_on_length(config: DictConfig) -> bool:
    optim = config.optim
    by_ratio = (optim.get("lr_warmup_steps") or -1) <= 0 and optim.lr_warmup_steps_ratio > 0
    return optim.lr_scheduler_type != "constant" or by_ratio


def _rows_digest(rows: Any, config: DictConfig, files: Any) -> str | None:
    """sha256 of what training sees; of a user's own dataset, of its code and files. On rank 0, which compares."""
    if rows is None or dist.get_rank() != 0:
        return None
    digest = hashlib.sha256()
    if isinstance(rows, TokenizedRows):
        for array in (rows.input_ids, rows.loss_mask, rows.starts, rows.weights, rows.reference_log_probs):
            digest.update(np.ascontiguousarray(array).data)
    else:
        for file in (config.data.custom_cls.path, *files):
            digest.update(_file_digest(file).encode())
    return digest.hexdigest()


def _file_digest(path: str) -> str:
    """sha256 of a file; of its name where it is no local one."""
    file = Path(path).expanduser()
    return hashlib.sha256(file.read_bytes() if file.is_file() else path.encode()).hexdigest()


@torch.no_grad()
def _weights_digest(engine: DFTEngine) -> str:
    """The sum of the weights' bit patterns, modulo 2^64: the same however they are sharded, and read in one pass.

    With LoRA of the frozen weights; the adapter's are drawn from the seed.
    """
    total = torch.zeros((), dtype=torch.int64)
    for parameter in engine.module.parameters():
        if engine.model_config.lora_rank and parameter.requires_grad:
            continue
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        bits = local.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[local.element_size()])
        total += bits.sum(dtype=torch.int64).cpu()
    total = total.to(engine.device_mesh.device_type)
    dist.all_reduce(total)
    return f"{int(total) % 2**64:016x}"


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
