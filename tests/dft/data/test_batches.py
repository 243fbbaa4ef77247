import numpy as np
import pytest

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
