"""An OpenAI-compatible completions server (vLLM, SGLang): prompts go there as token ids, so the template is ours.

Samples carry their seeds, but the server decides what shares a batch and what else it is doing: the last bits of the
logits, and now and then a token, may differ between two runs.
"""

import asyncio
import os
import random
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

import httpx

from verl.math_eval.backends.base import Engine, Progress, cut_at_stop
from verl.math_eval.backends.handout import Piece
from verl.math_eval.requests import Completion, Request, Sampling

REQUESTS_UNDER_WAY = 64
TRIES, FIRST_PAUSE, LONGEST_PAUSE = 9, 1.0, 30.0  # seconds; together some two minutes: a server may be restarting
TIMEOUT = httpx.Timeout(3600.0, connect=10.0)  # of one answer: a busy server takes long over a long one
FIRST_CONTACT = 10.0  # seconds in which a server must answer for the first time; a dead address is told soon
RETRIED = (408, 425, 429)  # beside all of 500 and above
EXTENDED = ("vllm", "sglang")  # servers that know stop_token_ids, top_k and the like


class ServerBackend(Engine):
    """The model that ``base_url`` serves; ``name_or_path`` is where its tokenizer and configuration are.

    A key for the server is read from the environment variable OPENAI_API_KEY. batch_size: requests under way.

    Raises ValueError (one line) when the server refuses a request, ConnectionError when it cannot be reached or keeps
    failing.
    """

    name = "server"

    def __init__(self, name_or_path: str, base_url: str, batch_size: int | None = None):
        super().__init__(name_or_path)
        self.base_url = base_url.rstrip("/")
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"expected base_url http://host:port/v1, found {base_url!r}")
        if not self.base_url.endswith("/v1"):
            self.base_url += "/v1"
        key = os.environ.get("OPENAI_API_KEY")
        self.slots = batch_size or REQUESTS_UNDER_WAY
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=TIMEOUT,
            limits=httpx.Limits(max_connections=self.slots),
            trust_env=False,  # a proxy of the environment has no business between us and the server
        )
        # The requests run in a loop of their own: a killed run does not wait for them, and a notebook keeps its loop.
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="server requests", daemon=True).start()
        self._under_way: set[Future[Completion]] = set()
        self._seeds_checked = False
        self._model, self.software, longest = asyncio.run_coroutine_threadsafe(
            self._served_model(), self._loop
        ).result()
        if longest and (self.context is None or longest < self.context):
            print(f"server: prompt and response together have {longest} tokens; the model allows {self.context}")
            self.context = longest
        if self.software not in EXTENDED:
            print(
                f"warning: {self.base_url} is neither vLLM nor SGLang: stop tokens other than its own are sent as text"
            )

    @property
    def settings(self) -> dict[str, Any]:
        return {"backend": self.name, "served_model": self._model}

    @property
    def described(self) -> dict[str, Any]:
        return {"base_url": self.base_url, "server": self.software}

    def pieces(self, requests: Sequence[Request], sampling: Sampling, done: Collection[tuple[str, int]]) -> list[Piece]:
        return [[r] for r in requests if r.key not in done]

    def work(
        self, pieces: Sequence[Piece], sampling: Sampling, stop: Sequence[str], on_progress: Progress
    ) -> Iterator[list[Completion]]:
        if pieces and sampling.temperature > 0 and not self._seeds_checked:
            self._check_seeds(pieces[0][0].prompt_ids)
        yield from super().work(pieces, sampling, stop, on_progress)

    def _check_seeds(self, prompt: tuple[int, ...]) -> None:
        """Raises ValueError when the server answers all seeds alike, as SGLang has done: samples would be copies."""
        wild = Sampling(temperature=2.0, max_new_tokens=32)
        probes = [[Request("seed check", i, prompt, seed)] for i, seed in enumerate((1, 1, 2, 3, 4))]
        finished = [c for cs in super().work(probes, wild, (), lambda tokens: None) for c in cs]
        first, again, *others = (c.text for c in sorted(finished, key=lambda c: c.request.sample))
        if len({first, again, *others}) == 1:
            raise ValueError(
                f"{self.base_url} answers different seeds alike, so the samples of a problem would be copies of one: "
                "start the server without a fixed seed (SGLang: without --enable-deterministic-inference)"
            )
        if first != again:
            print("warning: the server does not repeat a sample for the same seed: this run cannot be drawn again")
        self._seeds_checked = True

    def advance(
        self, new: Sequence[Piece], sampling: Sampling, stop: Sequence[str], on_progress: Progress
    ) -> list[Completion]:
        for piece in new:
            for request in piece:
                answer = self._complete(request, sampling, stop)
                self._under_way.add(asyncio.run_coroutine_threadsafe(answer, self._loop))
        ready, self._under_way = wait(self._under_way, return_when=FIRST_COMPLETED)
        finished = [future.result() for future in ready]
        on_progress(sum(c.num_tokens for c in finished))
        return finished

    def abandon(self) -> None:
        for future in self._under_way:
            future.cancel()
        self._under_way = set()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _served_model(self) -> tuple[str, str, int | None]:
        """(name, software, context or None) of the model there: the one named like ours, or the only one."""
        try:
            answer = await asyncio.wait_for(self._ask("GET", "/models", seconds=FIRST_CONTACT), FIRST_CONTACT + 1)
        except asyncio.TimeoutError as error:
            raise ConnectionError(
                f"{self.base_url} gave no answer within {FIRST_CONTACT:g} s: is a server running there?"
            ) from error
        models = answer.get("data", [])
        named = [m for m in models if m.get("id") in (self.source, self.folder)]
        if not named and len(models) != 1:
            found = ", ".join(str(m.get("id")) for m in models) or "none"
            raise ValueError(f"expected one model at {self.base_url}, or one named {self.source}; found {found}")
        model = (named or models)[0]
        return str(model["id"]), str(model.get("owned_by", "")), model.get("max_model_len")

    async def _complete(self, request: Request, sampling: Sampling, stop: Sequence[str]) -> Completion:
        stop_ids, stop_texts = self.stops(stop)
        answer = await self._ask("POST", "/completions", self._body(request, sampling, stop_ids, stop_texts))
        choice = answer["choices"][0]
        reason = choice["finish_reason"]
        if reason not in ("stop", "length"):
            raise ConnectionError(f"{self.base_url} ended a sample with finish_reason {reason!r}")
        if choice.get("token_ids") is not None:
            tokens = list(choice["token_ids"])
            if reason == "stop" and tokens and tokens[-1] in stop_ids:
                tokens.pop()
            return self.completion(request, tokens, stop_texts, reason)
        text = cut_at_stop(choice["text"], stop_texts)
        return Completion(request, text, answer["usage"]["completion_tokens"], reason)

    def _body(self, request: Request, sampling: Sampling, stop_ids, stop_texts) -> dict[str, Any]:
        greedy = sampling.temperature == 0
        body = {
            "model": self._model,
            "prompt": list(request.prompt_ids),
            "max_tokens": self.limit(request, sampling),
            "temperature": sampling.temperature,
            "top_p": 1.0 if greedy else sampling.top_p,
            "seed": request.seed,
            "stop": list(stop_texts),
        }
        if self.software in EXTENDED:
            # The last three undo what such servers take from the model's generation_config.json unless told otherwise.
            extra = {"stop_token_ids": sorted(stop_ids), "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
            return {**body, **extra, **({"return_token_ids": True} if self.software == "vllm" else {})}
        return {**body, "stop": [*stop_texts, *(self.tokenizer.decode([token]) for token in sorted(stop_ids))]}

    async def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, seconds: float = float("inf")
    ) -> dict[str, Any]:
        """The answer to one request, tried again with growing pauses while the server or the way to it fails.

        seconds: after these no further try is made.
        """
        url, trouble, end = self.base_url + path, "", time.monotonic() + seconds
        tries = 0
        for attempt in range(TRIES):
            if attempt:
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1))
                pause *= random.uniform(0.5, 1.0)  # not all requests at the same moment
                if time.monotonic() + pause > end:
                    break
                await asyncio.sleep(pause)
            tries += 1
            try:
                response = await self._client.request(method, url, json=body)
            except httpx.TransportError as error:
                trouble = f"{type(error).__name__}: {error}"
                continue
            if response.is_success:
                return response.json()
            trouble = f"HTTP {response.status_code}: {_message(response)}"
            if response.status_code < 500 and response.status_code not in RETRIED:
                raise ValueError(f"{url} refused a request with {trouble}")
        raise ConnectionError(f"{url} failed {tries} times, the last time with {trouble}")


def _message(response: httpx.Response) -> str:
    """What the server says, as one short line."""
    try:
        body = response.json()
        error = body.get("error", body)
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        text = response.text
    return " ".join(text.split())[:300]
