"""Handing out work, without engines: workers are names, time is a counter."""

import heapq
import random

import pytest

from verl.math_eval.backends.handout import DEATHS_OF_A_SAMPLE, Handout, take
from verl.math_eval.requests import Completion, Request


def pieces(sizes) -> list[list[Request]]:
    return [[Request(f"p{i}", s, (1,), 0) for s in range(size)] for i, size in enumerate(sizes)]


def finished(requests) -> list[Completion]:
    return [Completion(r, "", 1, "stop") for r in requests]


def test_what_is_taken_fits_into_the_free_slots_except_for_somebody_idle():
    from collections import deque

    queue = deque(pieces([3, 3, 3]))
    assert [len(p) for p in take(queue, 0, 7)] == [3, 3]
    assert take(queue, 6, 7) == []
    assert [len(p) for p in take(queue, 0, 1)] == [3]


def test_little_work_is_shared_though_one_worker_could_hold_it_all():
    handout = Handout(pieces([4] * 12), "abcd", slots=1000)
    for worker in "abcd":
        handout.give(worker)
    assert [handout.load(worker) for worker in "abcd"] == [12, 12, 12, 12]


def test_no_worker_is_given_more_than_its_slots():
    handout = Handout(pieces([4] * 100), "ab", slots=10)
    handout.give("a")
    assert handout.load("a") == 8
    assert handout.give("a") == []


@pytest.mark.parametrize("seed", range(5))
def test_workers_of_different_speed_end_at_nearly_the_same_time(seed):
    rng = random.Random(seed)
    speeds = {name: rng.uniform(1, 3) for name in "abcd"}
    handout = Handout(pieces([1] * 200), speeds, slots=1)
    ready, ends = [(0.0, name) for name in speeds], {}
    seconds = {}
    while ready:
        now, name = heapq.heappop(ready)
        handout.returned(name, finished([r for piece in handout.held[name] for r in piece]))
        if new := handout.give(name):
            seconds[name] = speeds[name] * len(new[0])
            heapq.heappush(ready, (now + seconds[name], name))
        else:
            ends[name] = now
    assert max(ends.values()) - min(ends.values()) <= 3  # the longest that one piece takes


def test_a_dead_worker_s_unanswered_requests_come_first_for_the_others():
    work = pieces([2, 2, 2])
    handout = Handout(work, "ab", slots=4)
    handout.give("a")
    assert handout.load("a") == 2  # of six requests for two workers, three, of which pieces of two fit once
    handout.returned("a", finished(work[0][:1]))
    assert handout.died("a") == 1
    assert [piece for piece in handout.give("b")] == [work[0][1:], work[1]]


def test_the_last_worker_s_death_is_the_end():
    handout = Handout(pieces([1]), "a", slots=1)
    with pytest.raises(ConnectionError, match="all engines have died"):
        handout.died("a")


def test_a_sample_that_worker_after_worker_dies_over_is_named():
    handout = Handout(pieces([1] * 20), range(10), slots=1)
    for worker in range(DEATHS_OF_A_SAMPLE - 1):
        handout.give(worker)
        handout.died(worker)
    handout.give(9)
    with pytest.raises(ConnectionError, match="engines died over sample 0 of problem p0"):
        handout.died(9)
