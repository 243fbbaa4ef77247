"""Which engine has which work: pieces are handed out a little at a time, and a dead engine's go to the others."""

import math
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from verl.math_eval.requests import Completion, Request

Piece = list[Request]  # requests that are handed out together
Worker = TypeVar("Worker", bound=Hashable)

DEATHS_OF_A_SAMPLE = 3  # a sample that was under way at that many deaths is taken for their cause


def take(queue: deque[Piece], under_way: int, slots: int) -> list[Piece]:
    """Take pieces off the queue until ``slots`` requests are under way; at least one for somebody who has nothing."""
    new: list[Piece] = []
    while queue and (under_way == 0 or under_way + len(queue[0]) <= slots):
        new.append(queue.popleft())
        under_way += len(new[-1])
    return new


class Handout(Generic[Worker]):
    """The pieces of one call to generate, and who works on them. slots: requests that keep one worker busy."""

    def __init__(self, pieces: Iterable[Piece], workers: Iterable[Worker], slots: int):
        self.queue, self.slots = deque(pieces), slots
        self.held: dict[Worker, list[Piece]] = {worker: [] for worker in workers}
        self.deaths: Counter[tuple[str, int]] = Counter()

    def load(self, worker: Worker) -> int:
        """Requests that this worker has not answered yet."""
        return sum(map(len, self.held[worker]))

    def give(self, worker: Worker) -> list[Piece]:
        """New pieces: up to an equal part of all that is left, but no more than a worker can work on at once."""
        left = sum(map(len, self.queue)) + sum(map(self.load, self.held))
        new = take(self.queue, self.load(worker), min(self.slots, math.ceil(left / len(self.held))))
        self.held[worker] += new
        return new

    def returned(self, worker: Worker, completions: Sequence[Completion]) -> None:
        """``worker`` has finished these requests."""
        keys = {c.request.key for c in completions}
        left = [[r for r in piece if r.key not in keys] for piece in self.held[worker]]
        self.held[worker] = [piece for piece in left if piece]

    def died(self, worker: Worker) -> int:
        """Give this worker's requests to the others; how many there are.

        Raises ConnectionError when no worker is left, or when one sample seems to be what they die over.
        """
        pieces = self.held.pop(worker)
        self.queue.extendleft(reversed(pieces))
        lost = [r.key for piece in pieces for r in piece]
        self.deaths.update(lost)
        if not self.held:
            raise ConnectionError("all engines have died; the same command goes on with what is missing")
        for problem, sample in lost:
            if self.deaths[problem, sample] >= DEATHS_OF_A_SAMPLE:
                raise ConnectionError(f"{DEATHS_OF_A_SAMPLE} engines died over sample {sample} of problem {problem}")
        return len(lost)
