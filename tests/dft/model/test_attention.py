"""Packed attention against each row computed alone in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config

import verl.dft.model.attention as packed
from verl.dft.model.attention import PackedRows, attention
from verl.dft.model.loading import check_heads

HEADS, KV_HEADS, SIZE = 6, 2, 8


class CausalLayer(torch.nn.Module):
    is_causal = True


class BidirectionalLayer(torch.nn.Module):
    is_causal = False


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
    "module, mask, message",
    [(CausalLayer(), torch.zeros(1, 1, 6, 6), "mask of its own"), (BidirectionalLayer(), None, "bidirectional")],
)
def test_what_it_does_not_compute_is_refused(module, mask, message):
    with pytest.raises(ValueError, match=message):
        attention(module, *tensors(6), mask)


SCORES = {
    "window": {"sliding_window": 5},
    "window-of-one": {"sliding_window": 1},
    "window-of-a-block": {"sliding_window": packed.BLOCK},
    "cap": {"softcap": 1.5},
    "sinks": {"s_aux": torch.linspace(-1, 2, HEADS, dtype=torch.float64)},
    "all": {"sliding_window": 7, "softcap": 1.5, "s_aux": torch.linspace(-1, 2, HEADS, dtype=torch.float64)},
    "none": {},
}


def written_out(query, key, value, scaling: float, sliding_window=None, softcap=None, s_aux=None):
    """One row, one query and one head at a time, straight from the definition: (T, H, Dv)."""
    out = []
    for i in range(query.shape[2]):
        first = 0 if sliding_window is None else max(0, i - sliding_window + 1)
        heads = []
        for head in range(HEADS):
            pair = head * KV_HEADS // HEADS
            scores = scaling * key[0, pair, first : i + 1] @ query[0, head, i]
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            weights = scores.exp()
            total = weights.sum() + (s_aux[head].exp() if s_aux is not None else 0)
            heads.append(weights @ value[0, pair, first : i + 1] / total)
        out.append(torch.stack(heads))
    return torch.stack(out)


@pytest.mark.parametrize("value_size", [SIZE, SIZE - 3])
@pytest.mark.parametrize("name", SCORES)
def test_windows_caps_and_sinks_are_those_of_the_definition(name, value_size):
    lengths = [1, 4, 9, 2 * packed.BLOCK + 3, 5]  # shorter and longer than a window, and of several blocks
    query, key, value = tensors(sum(lengths))
    value = value[..., :value_size].detach().requires_grad_()
    kwargs = {k: v.clone().requires_grad_() if k == "s_aux" else v for k, v in SCORES[name].items()}
    leaves = [query, key, value, *(v for k, v in kwargs.items() if k == "s_aux")]
    borders = torch.tensor([0, *lengths]).cumsum(0)
    output, _ = attention(CausalLayer(), query, key, value, None, 0.4, packed_rows=PackedRows(borders), **kwargs)
    rows = [slice(int(a), int(b)) for a, b in zip(borders[:-1], borders[1:], strict=True)]
    expected = torch.cat([written_out(*(x[:, :, r] for x in (query, key, value)), 0.4, **kwargs) for r in rows])
    torch.testing.assert_close(output[0], expected)
    weights = torch.randn(expected.shape, dtype=torch.float64)
    got = torch.autograd.grad((output[0] * weights).sum(), leaves)
    for gradient, reference in zip(got, torch.autograd.grad((expected * weights).sum(), leaves), strict=True):
        torch.testing.assert_close(gradient, reference)
    for row in rows:  # the same row in the padded layout, with padding on its right
        padded = [F.pad(x[:, :, row], (0, 0, 0, 3), value=9.0) for x in (query, key, value)]
        alone, _ = attention(CausalLayer(), *padded, None, 0.4, **kwargs)
        torch.testing.assert_close(alone[0, : row.stop - row.start], expected[row])


def test_the_work_of_a_window_grows_with_the_length_and_not_with_its_square():
    def operations(length: int) -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            attention(CausalLayer(), *tensors(length), None, softcap=2.0, sliding_window=packed.BLOCK)
        return counter.get_total_flops()

    assert operations(32 * packed.BLOCK) < 5 * operations(8 * packed.BLOCK)


def kernel_in_torch(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
    """The contract of torch.nn.attention.varlen.varlen_attn, whose kernel needs a GPU."""
    assert cu_seq_q.dtype == torch.int32 and torch.equal(cu_seq_q, cu_seq_k)
    assert max_q == max_k == int(cu_seq_q.diff().max()) and window_size[1] == 0 and enable_gqa
    assert query.shape[1:] == (HEADS, SIZE) and key.shape[1:] == value.shape[1:] == (KV_HEADS, SIZE)
    batched = [x.transpose(0, 1).unsqueeze(0) for x in (query, key, value)]
    rows = zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True)
    window = None if window_size[0] < 0 else window_size[0] + 1
    return torch.cat([written_out(*(x[:, :, a:b] for x in batched), scale, window) for a, b in rows])


@pytest.mark.parametrize("window, value_size", [(None, SIZE), (5, SIZE), (5, SIZE - 3)])
def test_the_kernel_for_packed_rows_is_asked_for_the_same_as_the_groups_compute(monkeypatch, window, value_size):
    monkeypatch.setattr(packed, "varlen_attn", kernel_in_torch)
    lengths = [3, 1, 40, 7]
    query, key, value = (x.squeeze(0).transpose(0, 1) for x in tensors(sum(lengths)))
    rows, scores = PackedRows(torch.tensor([0, *lengths]).cumsum(0)), packed.Scores(0.3, window=window)
    by_kernel = packed._packed_kernel(query, key, value[..., :value_size], rows, scores)
    torch.testing.assert_close(by_kernel, packed._by_groups(query, key, value[..., :value_size], rows, scores))


@pytest.mark.parametrize("heads, pairs, shards", [(6, 6, 4), (6, 3, 2), (12, 4, 3)])
def test_heads_that_cannot_be_shared_out_are_refused(heads, pairs, shards):
    config = Qwen2Config(num_attention_heads=heads, num_key_value_heads=pairs)
    with pytest.raises(ValueError, match=f"ulysses_sequence_parallel_size={shards} to divide the model's {heads}"):
        check_heads(config, shards)
    check_heads(config, 1)
