"""Packed attention against each row computed alone in float64."""

from types import SimpleNamespace

import pytest
import torch

import verl.dft.model.attention as packed
from verl.dft.model.attention import PackedRows, attention
from verl.dft.model.engine import DFTEngine

HEADS, KV_HEADS, SIZE = 6, 2, 8


class CausalLayer(torch.nn.Module):
    is_causal = True


def tensors(length: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(1, heads, length, SIZE) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    return [torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True) for shape in shapes]


def one_row(query, key, value, scaling: float):
    """Softmax attention of one row with every product written out: (T, H, D)."""
    length, out = query.shape[2], []
    for head in range(HEADS):
        k, v = key[0, head * KV_HEADS // HEADS], value[0, head * KV_HEADS // HEADS]
        scores = scaling * query[0, head] @ k.T
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
        out.append(scores.softmax(-1) @ v)
    return torch.stack(out, dim=1)


@pytest.mark.parametrize("lengths", [[5], [1, 1, 1], [3, 1, 40, 7, 8, 9, 2]])
def test_rows_of_a_packed_sequence_do_not_see_each_other(lengths):
    query, key, value = tensors(sum(lengths))
    borders = torch.tensor([0, *lengths]).cumsum(0)
    output, _ = attention(CausalLayer(), query, key, value, None, scaling=0.3, packed_rows=PackedRows(borders))
    rows = [slice(int(a), int(b)) for a, b in zip(borders[:-1], borders[1:], strict=True)]
    expected = torch.cat([one_row(*(x[:, :, row] for x in (query, key, value)), scaling=0.3) for row in rows])
    torch.testing.assert_close(output[0], expected)
    weights = torch.randn(expected.shape, dtype=torch.float64)
    got = torch.autograd.grad((output[0] * weights).sum(), (query, key, value), retain_graph=True)
    for gradient, reference in zip(
        got, torch.autograd.grad((expected * weights).sum(), (query, key, value)), strict=True
    ):
        torch.testing.assert_close(gradient, reference)


def test_padding_on_the_right_changes_no_real_position():
    query, key, value = tensors(9)
    alone, _ = attention(CausalLayer(), *(x[:, :, :6] for x in (query, key, value)), None, scaling=0.3)
    padded, _ = attention(CausalLayer(), query, key, value, None, scaling=0.3)
    torch.testing.assert_close(padded[:, :6], alone)


@pytest.mark.parametrize(
    "kwargs, message",
    [({"sliding_window": 4}, "sliding window of 4"), ({"softcap": 50.0}, "soft cap"), ({"s_aux": 1}, "sinks")],
)
def test_what_it_does_not_compute_is_refused(kwargs, message):
    query, key, value = tensors(6)
    with pytest.raises(ValueError, match=message):
        attention(CausalLayer(), query, key, value, None, **kwargs)


def test_a_window_that_no_row_exceeds_is_no_window():
    query, key, value = tensors(6)
    rows = PackedRows(torch.tensor([0, 4, 6]))
    attention(CausalLayer(), query, key, value, None, packed_rows=rows, sliding_window=4)


def kernel_in_torch(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
    """The contract of torch.nn.attention.varlen.varlen_attn, whose kernel needs a GPU."""
    assert cu_seq_q.dtype == torch.int32 and torch.equal(cu_seq_q, cu_seq_k)
    assert max_q == max_k == int(cu_seq_q.diff().max()) and window_size == (-1, 0) and enable_gqa
    assert query.shape[1:] == (HEADS, SIZE) and key.shape[1:] == value.shape[1:] == (KV_HEADS, SIZE)
    batched = [x.transpose(0, 1).unsqueeze(0) for x in (query, key, value)]
    rows = zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True)
    return torch.cat([one_row(*(x[:, :, a:b] for x in batched), scaling=scale) for a, b in rows])


def test_the_kernel_for_packed_rows_is_asked_for_the_same_as_the_groups_compute(monkeypatch):
    monkeypatch.setattr(packed, "varlen_attn", kernel_in_torch)
    lengths = [3, 1, 40, 7]
    query, key, value = (x.squeeze(0).transpose(0, 1) for x in tensors(sum(lengths)))
    rows = PackedRows(torch.tensor([0, *lengths]).cumsum(0))
    by_kernel = packed._packed_kernel(query, key, value, rows, 0.3)
    torch.testing.assert_close(by_kernel, packed._by_groups(query, key, value, rows, 0.3, 0.0))


@pytest.mark.parametrize("heads, pairs, shards", [(6, 6, 4), (6, 3, 2), (12, 4, 3)])
def test_heads_that_cannot_be_shared_out_are_refused(heads, pairs, shards):
    config = SimpleNamespace(num_attention_heads=heads, num_key_value_heads=pairs)
    engine = SimpleNamespace(model_config=SimpleNamespace(hf_config=config), ulysses_sequence_parallel_size=shards)
    with pytest.raises(ValueError, match=f"ulysses_sequence_parallel_size={shards} to divide the model's {heads}"):
        DFTEngine._check_heads(engine)
    engine.ulysses_sequence_parallel_size = 1
    DFTEngine._check_heads(engine)
