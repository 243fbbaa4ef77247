import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from verl.utils import tensordict_utils as tu
from verl.workers.engine.utils import prepare_micro_batches

from verl.dft.data.batches import TrainBatches, validation_batches

LENGTHS = np.random.default_rng(0).integers(5, 500, size=50)


def batches(rank=0, ranks=1, seed=1, lengths=LENGTHS, size=16):
    return TrainBatches(50, lengths, size, rank, ranks, seed)


def test_an_epoch_uses_no_row_twice_and_leaves_out_what_fills_no_batch():
    plan = batches()
    rows = np.concatenate([plan.rows(step) for step in (1, 2, 3)])
    assert plan.steps_per_epoch == 3 and plan.left_over == 2
    assert len(set(rows.tolist())) == 48


def test_ranks_share_out_the_same_global_batch_whatever_their_number():
    for step in (1, 3, 4, 7):
        whole = set(batches().rows(step).tolist())
        for ranks in (2, 4):
            shares = [batches(rank, ranks).rows(step) for rank in range(ranks)]
            assert {len(share) for share in shares} == {16 // ranks}
            assert set(np.concatenate(shares).tolist()) == whole


def test_dealing_by_length_evens_out_the_tokens():
    def spread(lengths):
        tokens = [LENGTHS[batches(rank, 4, lengths=lengths).rows(1)].sum() for rank in range(4)]
        return max(tokens) / np.mean(tokens)

    assert spread(LENGTHS) < 1.05 < spread(None)


def test_the_order_depends_on_seed_and_epoch_only():
    assert np.array_equal(batches().rows(5), batches().rows(5))
    assert not np.array_equal(batches().rows(1), batches().rows(4))  # the first step of epochs 1 and 2
    assert not np.array_equal(batches(seed=1).rows(1), batches(seed=2).rows(1))
    late = batches()  # as after a resume: no earlier step was asked for
    assert np.array_equal(late.rows(6), batches().rows(6))


def test_less_than_a_batch_of_rows_is_refused():
    with pytest.raises(ValueError, match="at least data.train_batch_size=64 training rows, found 50"):
        batches(size=64)


@pytest.mark.parametrize("rows, per_rank, ranks", [(13, 4, 2), (16, 4, 2), (1, 8, 4), (17, 1, 3)])
def test_validation_counts_every_row_once_in_equal_shares(rows, per_rank, ranks):
    plans = [list(validation_batches(rows, per_rank, rank, ranks)) for rank in range(ranks)]
    assert len({len(plan) for plan in plans}) == 1
    assert all(len(indices) == per_rank for plan in plans for indices, _ in plan)
    counted = sorted(int(i) for plan in plans for indices, count in plan for i in indices[:count])
    assert counted == list(range(rows))


@st.composite
def runs(draw):
    """(lengths or None, batch size, ranks, seed) that the trainer would accept."""
    ranks = draw(st.sampled_from([1, 2, 3, 4, 8]))
    size = ranks * draw(st.integers(1, 6))
    lengths = draw(st.lists(st.integers(2, 4096), min_size=size, max_size=size + 40))
    known = np.array(lengths) if draw(st.booleans()) else None
    return len(lengths), known, size, ranks, draw(st.integers(0, 2**31))


@settings(max_examples=100, deadline=None)
@given(runs(), st.integers(0, 3))
def test_every_row_is_trained_exactly_once_per_epoch_whatever_ranks_lengths_and_batch(run, epoch):
    """But for those that fill no batch: fewer than one batch of them, and the count that ``left_over`` names."""
    count, lengths, size, ranks, seed = run
    plans = [TrainBatches(count, lengths, size, rank, ranks, seed) for rank in range(ranks)]
    per_epoch = plans[0].steps_per_epoch
    seen: list[int] = []
    for step in range(epoch * per_epoch + 1, (epoch + 1) * per_epoch + 1):
        shares = [plan.rows(step).tolist() for plan in plans]
        assert {len(share) for share in shares} == {size // ranks}
        seen += [row for share in shares for row in share]
    assert len(seen) == len(set(seen)) == count - plans[0].left_over
    assert plans[0].left_over < size and set(seen) <= set(range(count))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(2, 600), min_size=1, max_size=24), st.integers(600, 2000))
def test_every_row_of_a_step_is_in_exactly_one_forward_pass_whatever_the_token_budget(lengths, budget):
    """verl cuts a rank's rows into packed micro-batches; no row may be lost, doubled or cut there."""
    ids = [torch.full((length,), row) for row, length in enumerate(lengths)]
    nested = torch.nested.as_nested_tensor(ids, layout=torch.jagged)
    batch = tu.get_tensordict(
        {"input_ids": nested, "loss_mask": nested},
        {"use_dynamic_bsz": True, "max_token_len_per_gpu": budget, "sp_size": 1},
    )
    parts, places = prepare_micro_batches(batch, dp_group=None)
    rows = [row for part in parts for row in part["input_ids"].unbind()]
    assert sorted(place for part in places for place in part) == list(range(len(lengths)))
    assert sorted((int(row[0]), len(row)) for row in rows) == list(enumerate(lengths))
    assert all(part["input_ids"].values().numel() <= budget for part in parts)
