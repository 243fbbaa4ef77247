"""Failures that all ranks learn of together, so that none waits in a collective for one that has given up."""

import socket
from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist
from safetensors import SafetensorError
from torch.distributed.checkpoint import CheckpointException

T = TypeVar("T")

# What a full or broken disk raises; the last one is torch's, which collects what its ranks raised.
WRITE_ERRORS = (OSError, SafetensorError, CheckpointException)


class NotWritten(Exception):
    """Something could not be written. Raised on every rank, with the reason of the first one in one line."""


def everywhere(write: Callable[[], None]) -> None:
    """``write()`` on each rank. Raises NotWritten on all of them where it could not be done on one."""
    problem = None
    try:
        write()
    except WRITE_ERRORS as error:
        problem = f"{socket.gethostname()}: {_cause(error)}"
    problems: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    for found in problems:
        if found is not None:
            raise NotWritten(found)


def on_first(write: Callable[[], None]) -> None:
    """``write()`` on rank 0 only, otherwise as :func:`everywhere`."""
    everywhere(write if dist.get_rank() == 0 else lambda: None)


def from_first(decide: Callable[[], T]) -> T:
    """What ``decide()`` returns on rank 0, on every rank; a ValueError that it raises there is raised on every rank."""
    outcome: list[T | ValueError | None] = [None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = decide()
        except ValueError as error:
            outcome[0] = error
    dist.broadcast_object_list(outcome)
    if isinstance(outcome[0], ValueError):
        raise outcome[0]
    return outcome[0]  # type: ignore[return-value]  # rank 0's answer


def _cause(error: BaseException) -> str:
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return " ".join(str(error).split()) or type(error).__name__
