"""Causal attention over packed rows, with Ulysses sequence parallelism, on any device and without flash-attn.

transformers' own SDPA builds a mask that is quadratic in the packed length; here each row attends to itself only.
Registered with transformers under ``NAME``; the engine passes where the rows are as ``packed_rows``.
"""

import inspect
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from verl.utils.ulysses import (
    gather_heads_scatter_seq,
    gather_seq_scatter_heads,
    get_ulysses_sequence_parallel_world_size,
)

NAME = "verl_dft"

# torch 2.11's kernel may not take fewer key than query heads.
_KERNEL_GROUPS_HEADS = "enable_gqa" in inspect.signature(varlen_attn).parameters


def register() -> None:
    """Make ``attn_implementation="verl_dft"`` known to transformers."""
    AttentionInterface.register(NAME, attention)
    # Causality and row borders are all the mask there is; see attention().
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)


class PackedRows:
    """Where the rows of one packed sequence of T tokens are, worked out once for all layers and on the host.

    borders: ``(rows + 1,)`` on the host, row i is ``[borders[i], borders[i + 1])``; the last border is T.
    Without a kernel for packed rows, rows of similar length form a group, which is computed as one batch padded to its
    longest; the padding at most doubles a row. A group is ``index`` (rows, L) into the packed sequence and ``real``,
    the entries of the flattened ``index`` that are no padding. ``places`` (T,) is where the groups' tokens belong.
    """

    def __init__(self, borders: torch.Tensor, device: torch.device | str | int = "cpu") -> None:
        lengths = borders.diff()
        self.longest = int(lengths.max())
        self.borders = borders.to(device, torch.int32, non_blocking=True)
        self.groups: list[tuple[torch.Tensor, torch.Tensor]] = []
        places = []
        group_of_row = lengths.double().log2().ceil()
        for group in group_of_row.unique():
            starts, sizes = borders[:-1][group_of_row == group], lengths[group_of_row == group]
            offsets = torch.arange(int(sizes.max()))
            index = (starts.unsqueeze(1) + offsets).clamp(max=int(borders[-1]) - 1)
            real = (offsets < sizes.unsqueeze(1)).flatten().nonzero().squeeze(1)
            places.append(index.flatten()[real])
            self.groups.append((index.to(device, non_blocking=True), real.to(device, non_blocking=True)))
        self.places = torch.cat(places).to(device, non_blocking=True)


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_rows: PackedRows | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """``softmax(scaling q k^T) v`` per row of the packed batch, causal.

    query: ``(B, Hq, T, D)``. key, value: ``(B, Hkv, T, D)``, Hkv divides Hq. Returns ``(B, T, Hq, D)``.
    packed_rows: the rows of the one packed sequence (B = 1; under Ulysses T is this rank's part of it). Without it: B
    rows padded on the right, whose real positions a causal model computes as if the padding were not there.
    Raises ValueError for what this function does not compute: sliding windows shorter than a row, soft caps, sinks.
    """
    _refuse_other_attention(module, packed_rows.longest if packed_rows else query.shape[2], kwargs)
    if packed_rows is None:
        return _causal(query, key, value, scaling, dropout).transpose(1, 2), None
    shards = get_ulysses_sequence_parallel_world_size()
    if shards > 1:
        query, key, value = (_all_positions_of_my_heads(x, shards) for x in (query, key, value))
    query, key, value = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))  # (T, H, D) each
    # The kernel for packed rows computes in half precision, on a GPU.
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and not dropout:
        output = _packed_kernel(query, key, value, packed_rows, scaling)
    else:
        output = _by_groups(query, key, value, packed_rows, scaling, dropout)
    output = output.unsqueeze(0)  # (1, T, H, D)
    if shards > 1:
        output = gather_heads_scatter_seq(output, head_dim=2, seq_dim=1)
    return output, None


def _packed_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: PackedRows, scaling: float | None
) -> torch.Tensor:
    """Query ``(T, Hq, D)``, key and value ``(T, Hkv, D)`` to ``(T, Hq, D)``, with nothing padded."""
    options: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0)}  # (-1, 0): causal
    if _KERNEL_GROUPS_HEADS:
        options["enable_gqa"] = True
    else:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    borders, longest = rows.borders, rows.longest
    output = varlen_attn(query, key, value, borders, borders, longest, longest, **options)
    assert isinstance(output, torch.Tensor)
    return output


def _by_groups(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: PackedRows,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """The same by torch's attention for batches, one group of rows at a time."""
    pieces = []
    for index, real in rows.groups:
        q, k, v = (x[index].transpose(1, 2) for x in (query, key, value))  # (rows, H, L, D) each
        padded = _causal(q, k, v, scaling, dropout).transpose(1, 2).flatten(0, 1)
        pieces.append(padded.index_select(0, real))
    return torch.empty_like(query).index_copy(0, rows.places, torch.cat(pieces))


def _all_positions_of_my_heads(x: torch.Tensor, shards: int) -> torch.Tensor:
    """``(1, H, T / shards, D)`` to ``(1, H' , T, D)``: H' = H / shards, with key-value heads repeated if too few."""
    heads = x.shape[1]
    # With query heads divisible by the shards (checked at the start), repeating keeps query head h beside its key head.
    repeats = shards // math.gcd(heads, shards)
    return gather_seq_scatter_heads(x.repeat_interleave(repeats, dim=1), seq_dim=2, head_dim=1)


def _causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, dropout: float
) -> torch.Tensor:
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True, scale=scaling)


def _refuse_other_attention(module: torch.nn.Module, longest: int, kwargs: dict[str, Any]) -> None:
    window = kwargs.get("sliding_window")
    reasons = {
        f"a sliding window of {window} tokens": window is not None and longest > window,
        "a soft cap": kwargs.get("softcap") is not None,
        "attention sinks": kwargs.get("s_aux") is not None,
        "bidirectional layers": not getattr(module, "is_causal", True),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise ValueError(
            f"this model has {' and '.join(found)}, which {NAME} attention does not compute. "
            "Set model.override_config.attn_implementation to flash_attention_2, sdpa or eager."
        )
