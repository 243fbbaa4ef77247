"""Causal attention over packed rows, with Ulysses sequence parallelism, on any device and without flash-attn.

transformers' own SDPA builds a mask that is quadratic in the packed length; here each row attends to itself only.
Registered with transformers under ``NAME``; the engine passes where the rows are as ``packed_rows``.
"""

import dataclasses
import functools
import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from verl.utils.ulysses import (
    gather_heads_scatter_seq,
    gather_seq_scatter_heads,
    get_ulysses_sequence_parallel_rank,
    get_ulysses_sequence_parallel_world_size,
)

from verl.dft.transfer import send

NAME = "verl_dft"

BLOCK = 64  # queries that are at least computed at once where a window is shorter
KERNEL_HEAD_SIZE = 256  # the largest that torch's kernel for packed rows computes

# torch 2.11's kernel may not take fewer key than query heads.
_KERNEL_GROUPS_HEADS = "enable_gqa" in inspect.signature(varlen_attn).parameters


def register() -> None:
    """Make ``attn_implementation="verl_dft"`` known to transformers."""
    AttentionInterface.register(NAME, attention)
    # Causality, row borders and windows are all the mask there is; see attention().
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)


class PackedRows:
    """Where the rows of one packed sequence of T tokens are, worked out once for all layers and on the host.

    borders: ``(rows + 1,)`` on the host, row i is ``[borders[i], borders[i + 1])``; the last border is T.
    Without a kernel for packed rows, rows of similar length form a group, which is computed as one batch padded to its
    longest; the padding at most doubles a row. A group is ``index`` (rows, L) into the packed sequence and ``real``,
    the entries of the flattened ``index`` that are no padding. ``places`` (T,) is where the groups' tokens belong.
    """

    def __init__(self, borders: torch.Tensor, device: torch.device | str | int = "cpu") -> None:
        self._on_host, self._device = borders, device
        self.longest = int(borders.diff().max())
        self.borders = send(borders.to(torch.int32), device)
        if not (isinstance(device, int) or torch.device(device).type == "cuda"):
            # Now, and not inside a compiled layer, whose recomputation would find them and be another graph.
            _ = self._grouped

    @functools.cached_property
    def _grouped(self) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
        """Groups and places, made when they are first asked for: torch's kernel for packed rows needs none."""
        borders, lengths = self._on_host, self._on_host.diff()
        groups, places = [], []
        group_of_row = lengths.double().log2().ceil()
        for group in group_of_row.unique():
            starts, sizes = borders[:-1][group_of_row == group], lengths[group_of_row == group]
            offsets = torch.arange(int(sizes.max()))
            index = (starts.unsqueeze(1) + offsets).clamp(max=int(borders[-1]) - 1)
            real = (offsets < sizes.unsqueeze(1)).flatten().nonzero().squeeze(1)
            places.append(index.flatten()[real])
            groups.append((send(index, self._device), send(real, self._device)))
        return groups, send(torch.cat(places), self._device)

    @property
    def groups(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(index, real) of each group."""
        return self._grouped[0]

    @property
    def places(self) -> torch.Tensor:
        """Where the tokens of the groups belong."""
        return self._grouped[1]


@dataclass(frozen=True)
class Scores:
    """What happens between q k^T and the weights of the values.

    The score of a key is ``s = scaling q k``, or ``softcap tanh(s / softcap)``. A query sees the ``window`` keys that
    end with its own position. ``sinks`` (Hq,): one more score per head that takes part in the softmax and has no value.
    """

    scaling: float
    dropout: float = 0.0
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    @property
    def are_plain(self) -> bool:
        """Whether torch's attention computes them, given a mask."""
        return self.softcap is None and self.sinks is None


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_rows: PackedRows | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """``softmax(scores(q, k)) v`` per row of the packed batch, causal; the scores are those of :class:`Scores`.

    query: ``(B, Hq, T, D)``. key: ``(B, Hkv, T, D)``, value: ``(B, Hkv, T, Dv)``; Hkv divides Hq. s_aux: the sinks.
    Returns ``(B, T, Hq, Dv)``.
    packed_rows: the rows of the one packed sequence (B = 1; under Ulysses T is this rank's part of it). Without it: B
    rows padded on the right, whose real positions a causal model computes as if the padding were not there.
    Raises ValueError for what this function does not compute: bidirectional layers, and masks of the model's own.
    """
    _refuse_other_attention(module, attention_mask)
    longest = packed_rows.longest if packed_rows else query.shape[2]
    scores = Scores(
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        dropout=dropout,
        window=sliding_window if sliding_window and sliding_window < longest else None,
        softcap=softcap,
        sinks=s_aux,
    )
    if packed_rows is None:
        return _causal(query, key, value, scores).transpose(1, 2), None
    shards = get_ulysses_sequence_parallel_world_size()
    if shards > 1:
        query, key, value = (_all_positions_of_my_heads(x, shards) for x in (query, key, value))
        if s_aux is not None:
            scores = dataclasses.replace(scores, sinks=s_aux.chunk(shards)[get_ulysses_sequence_parallel_rank()])
    query, key, value = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))  # (T, H, D) each
    if _kernel_computes(query, value, scores):
        output = _packed_kernel(query, key, value, packed_rows, scores)
    else:
        output = _by_groups(query, key, value, packed_rows, scores)
    output = output.unsqueeze(0)  # (1, T, H, Dv)
    if shards > 1:
        output = gather_heads_scatter_seq(output, head_dim=2, seq_dim=1)
    return output, None


def _kernel_computes(query: torch.Tensor, value: torch.Tensor, scores: Scores) -> bool:
    """The kernel for packed rows computes in half precision, on a GPU, without dropout, soft cap and sinks."""
    half = query.dtype in (torch.bfloat16, torch.float16)
    small = max(query.shape[-1], value.shape[-1]) <= KERNEL_HEAD_SIZE
    return query.is_cuda and half and small and scores.are_plain and not scores.dropout


def _packed_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: PackedRows, scores: Scores
) -> torch.Tensor:
    """Query ``(T, Hq, D)``, key and value ``(T, Hkv, D)`` to ``(T, Hq, D)``, with nothing padded but the head size."""
    # (n, 0): a query sees n keys before its own and none after it; -1: all.
    seen_before = -1 if scores.window is None else scores.window - 1
    options: dict[str, Any] = {"scale": scores.scaling, "window_size": (seen_before, 0)}
    value_size, size = value.shape[-1], max(query.shape[-1], value.shape[-1])
    # Zeros change neither a product of query and key nor the other components of a value.
    query, key, value = (F.pad(x, (0, size - x.shape[-1])) for x in (query, key, value))
    if _KERNEL_GROUPS_HEADS:
        options["enable_gqa"] = True
    else:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    borders, longest = rows.borders, rows.longest
    output = varlen_attn(query, key, value, borders, borders, longest, longest, **options)
    assert isinstance(output, torch.Tensor)
    return output[..., :value_size]


def _by_groups(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: PackedRows, scores: Scores
) -> torch.Tensor:
    """The same by torch's attention for batches, one group of rows at a time."""
    pieces = []
    for index, real in rows.groups:
        q, k, v = (x[index].transpose(1, 2) for x in (query, key, value))  # (rows, H, L, D) each
        padded = _causal(q, k, v, scores).transpose(1, 2).flatten(0, 1)
        pieces.append(padded.index_select(0, real))
    output = query.new_empty(*query.shape[:2], value.shape[-1])
    return output.index_copy(0, rows.places, torch.cat(pieces))


def _all_positions_of_my_heads(x: torch.Tensor, shards: int) -> torch.Tensor:
    """``(1, H, T / shards, D)`` to ``(1, H' , T, D)``: H' = H / shards, with key-value heads repeated if too few."""
    heads = x.shape[1]
    # With query heads divisible by the shards (checked at the start), repeating keeps query head h beside its key head.
    repeats = shards // math.gcd(heads, shards)
    return gather_seq_scatter_heads(x.repeat_interleave(repeats, dim=1), seq_dim=2, head_dim=1)


def _causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: Scores) -> torch.Tensor:
    """A batch of rows ``(B, H, L, D)``, each from its first token."""
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    length, window = query.shape[2], scores.window
    if window is None or window >= length:
        return _attend(query, key, value, scores, None)
    if length > 2 * max(window, BLOCK):
        return _by_blocks(query, key, value, scores, max(window, BLOCK))
    return _attend(query, key, value, scores, _band(length, length, window, query.device))


def _by_blocks(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: Scores, size: int) -> torch.Tensor:
    """Under a window of at most ``size`` keys: each block of ``size`` queries with the keys of two blocks.

    The work grows with L x size instead of L^2.
    """
    assert scores.window is not None
    length = query.shape[2]
    count = -(-length // size)
    q, k, v = (
        F.pad(x, (0, 0, 0, count * size - length)).unflatten(2, (count, size)) for x in (query, key, value)
    )  # (B, H, count, size, D) each
    first = _attend(q[:, :, 0], k[:, :, 0], v[:, :, 0], scores, _band(size, size, scores.window, query.device))
    k, v = (torch.cat([x[:, :, :-1], x[:, :, 1:]], dim=3) for x in (k, v))  # own block and the one before
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q[:, :, 1:], k, v))
    others = _attend(q, k, v, scores, _band(size, 2 * size, scores.window, query.device))
    others = others.unflatten(0, (-1, count - 1)).transpose(1, 2).flatten(2, 3)
    return torch.cat([first, others], dim=2)[:, :, :length]


def _band(queries: int, keys: int, window: int | None, device: torch.device) -> torch.Tensor:
    """``(queries, keys)``, true where a query sees a key; the last query is at the last key's position."""
    place = torch.arange(keys - queries, keys, device=device).unsqueeze(1)
    other = torch.arange(keys, device=device)
    seen = other <= place
    return seen if window is None else seen & (other > place - window)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: Scores, mask: torch.Tensor | None
) -> torch.Tensor:
    """``(B, H, L, D)`` with ``(B, H, L', D)``; mask ``(L, L')``: which keys are seen, None for causal."""
    if scores.are_plain:
        return F.scaled_dot_product_attention(
            query, key, value, mask, dropout_p=scores.dropout, is_causal=mask is None, scale=scores.scaling
        )
    # With all L x L' scores in memory, as no kernel of torch's for batches knows caps and sinks.
    if mask is None:
        mask = _band(query.shape[2], key.shape[2], None, query.device)
    logits = scores.scaling * (query @ key.transpose(2, 3))
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if scores.softcap is not None:
        logits = scores.softcap * torch.tanh(logits / scores.softcap)
    logits = logits.masked_fill(~mask, -torch.inf)
    if scores.sinks is not None:
        sinks = scores.sinks.to(logits.dtype).view(1, -1, 1, 1).expand(len(query), -1, query.shape[2], 1)
        logits = torch.cat([logits, sinks], dim=-1)
    weights = logits.softmax(-1)[..., : key.shape[2]]
    return F.dropout(weights, scores.dropout).to(value.dtype) @ value


def _refuse_other_attention(module: torch.nn.Module, attention_mask: torch.Tensor | None) -> None:
    reasons = {
        "bidirectional layers": not getattr(module, "is_causal", True),
        "an attention mask of its own": attention_mask is not None,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise ValueError(f"this model has {' and '.join(found)}, which {NAME} attention does not compute.")
