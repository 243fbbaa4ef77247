"""Packed attention against each row computed alone in float64."""

import pytest
import torch

from verl.dft.attention import PackedRows, attention

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
