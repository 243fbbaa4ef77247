"""Several engines, each a Ray actor with the whole model, on one machine or a cluster.

Work is handed out a little at a time, so that no engine idles while another has a backlog, and an engine that dies has
its work done by another. Who does which piece changes nothing: pieces are cut before they are handed out, and samples
carry their own seeds. With transformers engines the result is the same to the bit as without Ray, given the same
number of CPU threads; with vLLM see vllm_backend.py.
"""

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from verl.math_eval.backends.base import Backend, EngineDied, Progress
from verl.math_eval.backends.cluster import connect
from verl.math_eval.backends.engines import make_engine
from verl.math_eval.backends.handout import Handout, Piece
from verl.math_eval.backends.options import BackendOptions
from verl.math_eval.requests import Completion, Request, Sampling


class _Actor:
    """What runs in a process of its own: one engine."""

    def load(self, options: BackendOptions) -> dict[str, Any]:
        self.engine = make_engine(options)
        names = ("name", "context", "settings", "described", "slots")
        return {name: getattr(self.engine, name) for name in names}

    def pieces(self, requests: list[Request], sampling: Sampling, done: frozenset) -> list[Piece]:
        return self.engine.pieces(requests, sampling, done)

    def advance(self, new: list[Piece], sampling: Sampling, stop: list[str]) -> list[Completion]:
        return self.engine.advance(new, sampling, stop, lambda tokens: None)

    def abandon(self) -> None:
        self.engine.abandon()


class RayBackend(Backend):
    """``options.engines`` actors with ``tensor_parallel_size`` GPUs each; without GPUs one CPU core each.

    Every machine of a cluster needs this environment, and the model under the same name. Raises ValueError when the
    cluster is too small, ConnectionError when all engines have died. What was yielded before is not lost.
    """

    def __init__(self, options: BackendOptions):
        super().__init__(options.model)
        connect()
        options = replace(options, backend=options.chosen, data_parallel_size=options.engines)
        needs: dict[str, Any] = {"num_cpus": 1, "num_gpus": _gpus_per_engine(options)}
        # Actors on another machine have another environment: what tunes vLLM here must hold there too.
        if tuning := {key: value for key, value in os.environ.items() if key.startswith("VLLM_")}:
            needs["runtime_env"] = {"env_vars": tuning}
        actor = ray.remote(**needs)(_Actor)
        self._actors: list[Any] = [actor.remote() for _ in range(options.engines)]
        facts = _get([actor.load.remote(options) for actor in self._actors])[0]
        self.name, self.context, self._slots = facts["name"], facts["context"], facts["slots"]
        self._settings, self._described = facts["settings"], facts["described"]
        self._calls: dict[Any, Any] = {}  # what the actors are doing

    @property
    def settings(self) -> dict[str, Any]:
        return self._settings

    @property
    def described(self) -> dict[str, Any]:
        return {**self._described, "engines": len(self._actors)}

    def pieces(self, requests: Sequence[Request], sampling: Sampling, done: Collection[tuple[str, int]]) -> list[Piece]:
        """As the first engine that is alive cuts them."""
        for actor in list(self._actors):
            try:
                return _get(actor.pieces.remote(list(requests), sampling, frozenset(done)))
            except RayActorError as error:
                self._bury(actor, error)
        raise ConnectionError("all engines have died; the same command goes on with what is missing")

    def work(
        self, pieces: Sequence[Piece], sampling: Sampling, stop: Sequence[str], on_progress: Progress
    ) -> Iterator[list[Completion]]:
        handout = Handout(pieces, self._actors, self._slots)
        self._hand_out(handout, sampling, stop)
        while self._calls:
            finished = self._next(handout, on_progress)
            self._hand_out(handout, sampling, stop)  # before the caller takes its time over what is finished
            yield finished

    def _hand_out(self, handout: Handout, sampling: Sampling, stop: Sequence[str]) -> None:
        for actor in [a for a in self._actors if a not in self._calls.values()]:
            new = handout.give(actor)
            if handout.load(actor):
                self._calls[actor.advance.remote(new, sampling, list(stop))] = actor

    def _next(self, handout: Handout, on_progress: Progress) -> list[Completion]:
        """What the first engine to report has finished."""
        (call,), _ = ray.wait(list(self._calls), num_returns=1)
        actor = self._calls.pop(call)
        try:
            finished = _get(call)
        except (RayActorError, EngineDied) as error:
            self._bury(actor, error)
            lost = handout.died(actor)
            print(f"{lost} samples are drawn again by the other {len(self._actors)}", file=sys.stderr, flush=True)
            return []
        handout.returned(actor, finished)
        on_progress(sum(c.num_tokens for c in finished))
        return finished

    def _bury(self, actor: Any, error: Exception) -> None:
        self._actors.remove(actor)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(f"warning: an engine died: {reason}", file=sys.stderr, flush=True)

    def abandon(self) -> None:
        for actor in self._calls.values():
            actor.abandon.remote()
        self._calls = {}

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []


def _gpus_per_engine(options: BackendOptions) -> int:
    """0 on a cluster without GPUs. Raises ValueError when there are too few for all engines: Ray would wait forever."""
    found = ray.cluster_resources()
    gpus = options.tensor_parallel_size if found.get("GPU", 0) and options.device in ("auto", "cuda") else 0
    for kind, each in (("GPU", gpus), ("CPU", 1)):
        if found.get(kind, 0) < each * options.engines:
            raise ValueError(
                f"expected {each * options.engines} {kind}s for {options.engines} engines, "
                f"found {found.get(kind, 0):g}: lower --data_parallel_size, or name a larger cluster with RAY_ADDRESS"
            )
    return gpus


def _get(calls: Any) -> Any:
    """The results. What an actor's code raised is raised as if it had happened here."""
    try:
        return ray.get(calls)
    except RayTaskError as error:
        raise error.cause from None
