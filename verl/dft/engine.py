"""verl's FSDP engine with a token objective in place of its loss.

One method is replaced: a micro-batch in, the loss that is differentiated and the statistics that are logged out.
Sharding, packing, accumulation, clipping and checkpoints are verl's.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from verl.dft import attention
from verl.dft.metrics import token_sums
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

    def _build_module(self) -> torch.nn.Module:
        attention.register()
        return super()._build_module()

    def forward_step(
        self, micro_batch: TensorDict, loss_function: Objective, forward_only: bool
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        micro_batch = micro_batch.to(get_device_id())
        inputs, layout = self.prepare_model_inputs(micro_batch=micro_batch)
        with self._autocast():
            output = self.module(**inputs, **self._row_borders(micro_batch, layout), use_cache=False)
        is_target, next_ids = predicting_positions(micro_batch["input_ids"].values(), micro_batch["loss_mask"].values())
        log_probs, correct = self._target_log_probs(output.logits, layout, micro_batch, is_target, next_ids)
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

    def _row_borders(self, micro_batch: TensorDict, layout: dict[str, Any]) -> dict[str, torch.Tensor]:
        """For :mod:`verl.dft.attention`: where the rows of the packed sequence begin, padding counted as a row."""
        if self.model_config.hf_config._attn_implementation != attention.NAME:
            return {}
        if not tu.get_non_tensor_data(micro_batch, "use_remove_padding", True):
            return {}
        borders = micro_batch["input_ids"].offsets()
        if layout["pad_size"]:
            borders = torch.cat([borders, borders[-1:] + layout["pad_size"]])
        return {"cu_seq_lens_q": borders}

    def _autocast(self) -> AbstractContextManager:
        if self.compute_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(device_type=get_device_name(), dtype=self.compute_dtype)

    def _target_log_probs(
        self,
        logits: torch.Tensor,
        layout: dict[str, Any],
        micro_batch: TensorDict,
        is_target: torch.Tensor,
        next_ids: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log p and top-1 hit of the micro-batch's target tokens, both ``(N,)``, in the order of its rows."""
        if not tu.get_non_tensor_data(micro_batch, "use_remove_padding", True):
            rows = _without_padding(logits, micro_batch["input_ids"].offsets().diff())
            return log_probs_and_hits(rows[is_target], next_ids[is_target])
        packed = logits.squeeze(0)  # (T, V); with sequence parallelism this rank's (T + pad) / sp of them
        if not self.use_ulysses_sp:
            packed = packed[: is_target.numel()]  # engine.pad_to_length appends positions
            return log_probs_and_hits(packed[is_target], next_ids[is_target])
        return self._sharded_target_log_probs(packed, is_target, next_ids, layout["pad_size"])

    def _sharded_target_log_probs(
        self, shard: torch.Tensor, is_target: torch.Tensor, next_ids: torch.Tensor, pad_size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same under Ulysses: each rank reads its slice of the packed sequence, then the slices are gathered.

        verl's gather multiplies the gradient by the group's size, which undoes FSDP's mean over that group.
        """
        start = torch.distributed.get_rank(self.ulysses_parallel_group) * shard.shape[0]
        local = slice(start, start + shard.shape[0])
        local_target = torch.nn.functional.pad(is_target, (0, pad_size))[local]
        local_ids = torch.nn.functional.pad(next_ids, (0, pad_size))[local]
        log_probs, hits = log_probs_and_hits(shard[local_target], local_ids[local_target])
        on_shard = log_probs.new_zeros(shard.shape[0]).masked_scatter(local_target, log_probs)
        hits_on_shard = log_probs.new_zeros(shard.shape[0]).masked_scatter(local_target, hits.to(log_probs.dtype))
        everywhere = self._gather_and_unpad_packed(on_shard, pad_size)
        hits_everywhere = self._gather_and_unpad_packed(hits_on_shard, pad_size)
        return everywhere[is_target], hits_everywhere[is_target].bool()


def predicting_positions(input_ids: torch.Tensor, loss_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a target is predicted, and the id that follows each position: both ``(T,)``, for packed rows ``(T,)``.

    A token is predicted from the position before it. No row starts with a target (see ``verl.dft.dataset``), so the
    roll lets nothing leak from one row into the end of the row before.
    """
    return torch.roll(loss_mask, shifts=-1).bool(), torch.roll(input_ids, shifts=-1)


def log_probs_and_hits(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``log softmax(logits)[targets]``, in fp32 for bf16 logits, and ``argmax(logits) == targets``.

    logits: ``(N, V)``. targets: ``(N,)``. By logsumexp and in slices of rows: torch's fp32 ``log_softmax`` on a CPU
    loses the tail of a large vocabulary, and a full fp32 copy of bf16 logits is what memory runs out on.
    """
    log_probs, hits = [], []
    # At least one slice, so that an empty micro-batch stays in the graph and every rank runs the same backward.
    for rows, labels in zip(logits.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True):
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        log_probs.append(rows.gather(-1, labels.unsqueeze(-1)).squeeze(-1) - rows.logsumexp(-1))
        hits.append(rows.detach().argmax(-1) == labels)
    return torch.cat(log_probs), torch.cat(hits)


def _without_padding(padded: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """``(B, L, V)`` right-padded rows and their ``(B,)`` lengths to ``(sum of lengths, V)``."""
    positions = torch.arange(padded.shape[1], device=padded.device)
    return padded[positions.unsqueeze(0) < lengths.unsqueeze(1)]
