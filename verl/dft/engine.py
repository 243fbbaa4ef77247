"""verl's FSDP engine with a token objective in place of its loss.

One method is replaced: a micro-batch in, the loss that is differentiated and the statistics that are logged out.
Sharding, packing, accumulation, clipping and checkpoints are verl's.
"""

import functools
import inspect
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch.utils.checkpoint import checkpoint
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.utils.torch_functional import get_wsd_schedule_with_warmup
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from verl.dft import attention
from verl.dft.metrics import ModelFlops, token_sums
from verl.dft.objectives import Objective

# Rows of logits held in fp32 at a time while log p is read off: 512 x 151,936 x 4 bytes = 297 MiB.
LOGIT_ROWS = 512


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cpu")
class DFTEngine(FSDPEngineWithLMHead):
    """``forward_step`` = the loss of one micro-batch under a token objective.

    ``loss_function`` is an :data:`~verl.dft.objectives.Objective`. verl's FSDP averages gradients over the
    data-parallel ranks, so the sum over target tokens is divided by the global count and multiplied by ``dp_size``.
    """

    stop_token_id: int = -1  # the token that ends a response, for the statistics
    flops: ModelFlops

    def _build_module(self) -> torch.nn.Module:
        attention.register()
        module = super()._build_module()
        self.flops = ModelFlops.of(module, self.model_config.hf_config)  # before sharding hides the shapes
        return module

    def _build_lr_scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        optim = self.optimizer_config
        if optim.lr_scheduler_type != "wsd":
            return super()._build_lr_scheduler(optimizer)
        total, warmup = optim.total_training_steps, optim.lr_warmup_steps or 0
        if warmup <= 0:
            warmup = int(optim.lr_warmup_steps_ratio * total)
        return get_wsd_schedule_with_warmup(optimizer, warmup, total, min_lr_ratio=optim.min_lr_ratio or 0.0)

    def forward_step(
        self, micro_batch: TensorDict, loss_function: Objective, forward_only: bool
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        micro_batch = micro_batch.to(get_device_id())
        inputs, layout = self.prepare_model_inputs(micro_batch=micro_batch)
        is_target, next_ids = predicting_positions(micro_batch["input_ids"].values(), micro_batch["loss_mask"].values())
        if tu.get_non_tensor_data(micro_batch, "use_remove_padding", True):
            inputs |= self._packed_rows(micro_batch, layout)
            log_probs, correct = self._packed_log_probs(inputs, is_target, next_ids, layout["pad_size"])
        else:
            logits = _without_padding(self._logits(inputs), micro_batch["input_ids"].offsets().diff())
            log_probs, correct = log_probs_and_hits(logits[is_target], next_ids[is_target])
        losses = loss_function(log_probs)
        # A global batch without targets divides an empty sum: 0 / 1, with zero gradients, instead of NaN.
        denominator = max(tu.get_non_tensor_data(micro_batch, "batch_num_tokens", None), 1)
        loss = losses.sum() / denominator * tu.get_non_tensor_data(micro_batch, "dp_size", None)
        sums = token_sums(losses, log_probs, correct, is_stop=next_ids[is_target] == self.stop_token_id)
        return loss, {"loss": loss.detach(), "metrics": {"sums": sums}}

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of the matrix products; the master weights may be wider."""
        return self._autocast_dtype

    def _logits(self, inputs: dict[str, Any]) -> torch.Tensor:
        low_precision = self.compute_dtype != torch.float32
        autocast = torch.autocast(get_device_name(), dtype=self.compute_dtype) if low_precision else nullcontext()
        with autocast:
            return self.module(**inputs, use_cache=False).logits

    def _packed_rows(self, micro_batch: TensorDict, layout: dict[str, Any]) -> dict[str, attention.PackedRows]:
        """What :mod:`verl.dft.attention` needs to know; padding counts as a row."""
        if self.model_config.hf_config._attn_implementation != attention.NAME:
            return {}
        borders = micro_batch["input_ids"].offsets()
        if layout["pad_size"]:
            borders = torch.cat([borders, borders[-1:] + layout["pad_size"]])
        return {"packed_rows": attention.PackedRows(borders)}

    def _packed_log_probs(
        self, inputs: dict[str, Any], is_target: torch.Tensor, next_ids: torch.Tensor, pad_size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log p and top-1 hit of the target tokens, both ``(N,)``. Only their positions reach the vocabulary.

        Under Ulysses a rank holds one slice of the packed sequence: it reads its own targets, then all are gathered.
        verl's gather multiplies the gradient by the group's size, which undoes FSDP's mean over that group.
        """
        here = inputs["input_ids"].shape[1]  # (T + pad) / sequence-parallel size
        first = torch.distributed.get_rank(self.ulysses_parallel_group) * here if self.use_ulysses_sp else 0
        mine = F.pad(is_target, (0, pad_size))[first : first + here]
        ids = F.pad(next_ids, (0, pad_size))[first : first + here]
        if self._skips_positions:
            logits = self._logits({**inputs, "logits_to_keep": mine.nonzero().squeeze(1)}).squeeze(0)
        else:
            logits = self._logits(inputs).squeeze(0)[mine]
        log_probs, hits = log_probs_and_hits(logits, ids[mine])
        if not self.use_ulysses_sp:
            return log_probs, hits

        def gathered(values: torch.Tensor) -> torch.Tensor:
            in_place = values.new_zeros(here).masked_scatter(mine, values)
            return self._gather_and_unpad_packed(in_place, pad_size)[is_target]

        return gathered(log_probs), gathered(hits.to(log_probs.dtype)).bool()

    @functools.cached_property
    def _skips_positions(self) -> bool:
        """Whether the model can be asked for the logits of some positions only, as most of transformers' can."""
        module: Any = getattr(self.module, "_fsdp_wrapped_module", self.module)
        model = module.get_base_model() if hasattr(module, "peft_config") else module
        return "logits_to_keep" in inspect.signature(model.forward).parameters


def predicting_positions(input_ids: torch.Tensor, loss_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a target is predicted, and the id that follows each position: both ``(T,)``, for packed rows ``(T,)``.

    A token is predicted from the position before it. No row starts with a target (see ``verl.dft.dataset``), so the
    roll lets nothing leak from one row into the end of the row before.
    """
    return torch.roll(loss_mask, shifts=-1).bool(), torch.roll(input_ids, shifts=-1)


def log_probs_and_hits(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``log softmax(logits)[targets]``, in fp32 for bf16 logits, and ``argmax(logits) == targets``.

    logits: ``(N, V)``. targets: ``(N,)``. By logsumexp: torch's fp32 ``log_softmax`` on a CPU loses the tail of a large
    vocabulary. In slices of rows, made again in the backward pass: of bf16 logits, no full fp32 copy ever exists.
    """
    log_probs, hits = [], []
    # At least one slice, so that an empty micro-batch stays in the graph and every rank runs the same backward.
    for rows, labels in zip(logits.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True):
        if rows.dtype in (torch.bfloat16, torch.float16):
            log_probs.append(checkpoint(_log_probs_of_slice, rows, labels, use_reentrant=False))
        else:
            log_probs.append(_log_probs_of_slice(rows, labels))
        hits.append(rows.detach().argmax(-1) == labels)
    return torch.cat(log_probs), torch.cat(hits)


def _log_probs_of_slice(rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return rows.gather(-1, labels.unsqueeze(-1)).squeeze(-1) - rows.logsumexp(-1)


def _without_padding(padded: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """``(B, L, V)`` right-padded rows and their ``(B,)`` lengths to ``(sum of lengths, V)``."""
    positions = torch.arange(padded.shape[1], device=padded.device)
    return padded[positions.unsqueeze(0) < lengths.unsqueeze(1)]
