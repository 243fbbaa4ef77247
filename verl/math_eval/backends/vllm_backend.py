"""vLLM's offline engine. The default where it is installed and a GPU is there.

Every request carries its own seed, so what shares the engine with it can only move the last bits of the logits. On the
GPU kinds that support it, VLLM_BATCH_INVARIANT=1 in the environment removes that too, at some cost in speed.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any

import torch

from verl.math_eval.backends.base import Engine, EngineDied, Progress
from verl.math_eval.backends.handout import Piece
from verl.math_eval.requests import Completion, Request, Sampling

PIECE = 4  # samples of one problem that are handed out together: they share the prompt's KV cache
COLLECT_SECONDS = 0.5  # finished samples are returned this often: grading and storing them one by one would cost more


class VLLMBackend(Engine):
    """One engine over ``tensor_parallel_size`` GPUs, or on the CPU.

    ``dtype`` auto is bf16 on a GPU, fp32 on a CPU. batch_size: vLLM's max_num_seqs.
    """

    name = "vllm"

    def __init__(
        self, name_or_path: str, tensor_parallel_size: int = 1, dtype: str = "auto", batch_size: int | None = None
    ):
        super().__init__(name_or_path)
        gpu = torch.cuda.is_available()
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        if gpu:  # a forked engine could not use CUDA, which the line above has touched
            os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        import vllm

        self.version = vllm.__version__
        self.tensor_parallel_size = tensor_parallel_size
        self.dtype = ("bfloat16" if gpu else "float32") if dtype == "auto" else dtype
        limit: dict[str, Any] = {"max_num_seqs": batch_size} if batch_size else {}
        self._llm = vllm.LLM(
            self.folder,
            tensor_parallel_size=tensor_parallel_size,
            distributed_executor_backend="mp" if tensor_parallel_size > 1 else None,  # not Ray: we may be in an actor
            dtype=self.dtype,
            max_model_len=-1,  # the model's context, or the longest that fits into memory
            generation_config="vllm",  # without the sampling defaults of the model's generation_config.json
            enforce_eager=not gpu,
            seed=0,
            use_tqdm_on_load=False,
            **limit,
        )
        self._engine = self._llm.llm_engine
        config = self._engine.vllm_config
        longest = int(config.model_config.max_model_len)
        if self.context is None or longest < self.context:
            print(f"vllm: prompt and response together have {longest} tokens; the model allows {self.context}")
            self.context = longest
        self.slots = int(config.scheduler_config.max_num_seqs * 1.25)  # the engine always finds something waiting
        self._under_way: dict[str, Request] = {}
        self._count = 0
        threading.Thread(target=_report_death, args=(self._engine.engine_core,), daemon=True).start()
        self._watcher = _end_with_us([p.pid for p in self._engine.engine_core.resources.engine_manager.processes])

    @property
    def settings(self) -> dict[str, Any]:
        return {"backend": self.name, "dtype": self.dtype}

    @property
    def described(self) -> dict[str, Any]:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        return {"device": device, "vllm": self.version, "tensor_parallel_size": self.tensor_parallel_size}

    def pieces(self, requests: Sequence[Request], sampling: Sampling, done: Collection[tuple[str, int]]) -> list[Piece]:
        """Up to ``PIECE`` missing samples of one problem, in the order of the requests."""
        groups = [list(group) for _, group in groupby(requests, key=lambda r: r.problem_id)]
        missing = [[r for r in group if r.key not in done] for group in groups]
        return [group[start : start + PIECE] for group in missing for start in range(0, len(group), PIECE)]

    def advance(
        self, new: Sequence[Piece], sampling: Sampling, stop: Sequence[str], on_progress: Progress
    ) -> list[Completion]:
        stop_ids, stop_texts = self.stops(stop)
        for request in (r for piece in new for r in piece):
            self._submit(request, sampling, stop_ids, stop_texts)
        finished: list[Completion] = []
        start = time.monotonic()
        while self._under_way and not (finished and time.monotonic() - start >= COLLECT_SECONDS):
            for output in self._step():
                finished.append(self._finish(output, stop_ids, stop_texts))
                on_progress(finished[-1].num_tokens)
        return finished

    def _submit(self, request: Request, sampling: Sampling, stop_ids, stop_texts) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p if sampling.temperature > 0 else 1.0,
            seed=request.seed if sampling.temperature > 0 else None,
            max_tokens=self.limit(request, sampling),
            stop_token_ids=sorted(stop_ids),
            stop=list(stop_texts),
            skip_special_tokens=False,  # in the text that stop texts are looked for in
            detokenize=bool(stop_texts),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._count += 1
        name = str(self._count)
        self._engine.add_request(name, {"prompt_token_ids": list(request.prompt_ids)}, params)
        self._under_way[name] = request

    def _step(self) -> list[Any]:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            return [output for output in self._engine.step() if output.finished]
        except EngineDeadError as error:
            raise EngineDied("vLLM's engine process ended; its own messages are above") from error

    def _finish(self, output, stop_ids: Collection[int], stop_texts: Sequence[str]) -> Completion:
        request = self._under_way.pop(output.request_id)
        response = output.outputs[0]
        if response.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended sample {request.key} with {response.finish_reason!r}")
        tokens = list(response.token_ids)
        if response.finish_reason == "stop" and tokens and tokens[-1] in stop_ids:
            tokens.pop()
        return self.completion(request, tokens, stop_texts, response.finish_reason)

    def abandon(self) -> None:
        if self._under_way:
            self._engine.abort_request(list(self._under_way))
            self._under_way = {}

    def close(self) -> None:
        self._engine.engine_core.shutdown()
        self._watcher.communicate()


def _report_death(core: Any) -> None:
    """Wake up whoever waits for output of an engine process that is gone: vLLM 0.30 lets a synchronous caller wait."""
    from vllm.v1.engine.exceptions import EngineDeadError

    while not core.resources.engine_dead:
        time.sleep(0.5)
    core.outputs_queue.put(EngineDeadError())


def _end_with_us(processes: list[int]) -> subprocess.Popen:
    """A small process that kills these when ours ends in any way: vLLM's engine outlives kill -9, with all its memory.

    It waits at a pipe whose other end only we hold, and knows the processes by descriptor, not by a number that the
    system may give away again.
    """
    code = (
        "import os, signal, sys\n"
        "engines = [os.pidfd_open(int(number)) for number in sys.argv[1:]]\n"
        "sys.stdin.read()\n"
        "for engine in engines:\n"
        "    try: signal.pidfd_send_signal(engine, signal.SIGKILL)\n"
        "    except ProcessLookupError: pass\n"
    )
    command = [sys.executable, "-I", "-S", "-c", code, *map(str, processes)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
