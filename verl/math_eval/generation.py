"""Sampling from a model with transformers: requests in, completions out, in the order they finish.

A sample is a function of the model, the prompt and its own seed: every row draws one uniform number per token from its
own generator and inverts the distribution's CDF. Which rows share a batch changes only the last bits of the logits.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache

logger = logging.getLogger(__name__)

BATCH_TOKENS = 32_768  # rows x (prompt + new tokens) of one batch when the user sets no batch size
TEXT_STOP_WINDOW = 24  # tokens decoded to look for a stop text that is not a single token


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy decoding; top_p in (0, 1]; max_new_tokens is capped by the model's context."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 4096

    def __post_init__(self):
        if not self.temperature >= 0:
            raise ValueError(f"expected temperature >= 0, found {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"expected 0 < top_p <= 1, found {self.top_p}")
        if self.max_new_tokens < 1:
            raise ValueError(f"expected max_tokens_per_call >= 1, found {self.max_new_tokens}")


@dataclass(frozen=True)
class Request:
    problem_id: str
    sample: int
    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Completion:
    """finish_reason: ``stop``, ``length`` (cut at the token limit) or ``prompt_too_long`` (nothing was generated)."""

    request: Request
    text: str
    num_tokens: int
    finish_reason: str


def sample_seed(base_seed: int, problem_id: str, sample: int) -> int:
    """The seed of one sample: a 63-bit hash, the same on every machine and under every sharding."""
    digest = hashlib.sha256(f"{base_seed}\x00{problem_id}\x00{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def resolve_model(name_or_path: str) -> str:
    """The folder (or hub id) that transformers can load: a HF folder, a trainer checkpoint's ``huggingface/``, or a hub
    id.

    Raises ValueError before anything is loaded when a local path holds no model.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        for folder in (path, path / "huggingface"):
            if (folder / "config.json").is_file():
                return str(folder)
        steps = sorted(p.name for p in path.glob("global_step_*"))
        hint = f" It holds the checkpoints {', '.join(steps)}: name one of them." if steps else ""
        raise ValueError(f"expected a model in {path}: no config.json there nor in its huggingface/ folder.{hint}")
    looks_local = path.is_absolute() or str(name_or_path).startswith((".", "~")) or str(name_or_path).count("/") > 1
    if looks_local or path.exists():
        raise ValueError(f"expected a model folder or a hub id, found no folder {path}")
    return str(name_or_path)


class TransformersBackend:
    """One loaded model. ``device`` and ``dtype``: ``auto`` is bf16 on a GPU, fp32 on a CPU."""

    name = "transformers"

    def __init__(self, name_or_path: str, device: str = "auto", dtype: str = "auto", batch_size: int | None = None):
        self.source = str(name_or_path)
        self.folder = resolve_model(self.source)
        self.device = _device(device)
        self.dtype = getattr(torch, dtype, None) if dtype != "auto" else _default_dtype(self.device)
        if not isinstance(self.dtype, torch.dtype):
            raise ValueError(f"expected dtype auto, float32, bfloat16 or float16, found {dtype!r}")
        self.batch_size = batch_size
        try:
            self.config = AutoConfig.from_pretrained(self.folder)
            self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
            model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=self.dtype)
        except (OSError, KeyError) as error:
            raise ValueError(f"{self.source} cannot be loaded as a model: {str(error).splitlines()[0]}") from error
        self.model = model.to(self.device).eval()  # type: ignore[arg-type]
        self.context = getattr(self.config.get_text_config(), "max_position_embeddings", None)

    def stop_ids(self, stop_texts: Sequence[str]) -> tuple[frozenset[int], tuple[str, ...]]:
        """(ids that end a response, stop texts that are no token of their own). The model's eos ids always count.

        An ordinary text is looked for in the text, even if one token spells it: "!" may also arrive inside "!!".
        """
        ids, texts = set(), []
        special = zip(self.tokenizer.all_special_tokens, self.tokenizer.all_special_ids, strict=True)
        own_tokens = {**self.tokenizer.get_added_vocab(), **dict(special)}
        for text in stop_texts:
            if text in own_tokens:
                ids.add(own_tokens[text])
            else:
                texts.append(text)
        own = [self.tokenizer.eos_token_id, self.model.generation_config.eos_token_id]
        for eos in own:
            ids.update(eos if isinstance(eos, list) else [] if eos is None else [eos])
        return frozenset(ids), tuple(texts)

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        stop: Sequence[str],
        on_progress: Callable[[int], None] | None = None,
        done: Collection[tuple[str, int]] = (),
    ) -> Iterator[list[Completion]]:
        """Yield the completions batch by batch. ``on_progress(tokens)`` is called every half a second or so.

        done: (problem id, sample) of requests whose completion is known. They are not yielded, but they keep their
            place in a batch that still misses others: a run in two parts does the very same arithmetic as a run in one.
        """
        stop_ids, stop_texts = self.stop_ids(stop)
        fits = [r for r in requests if self._room(r) > 0]
        too_long = [r for r in requests if self._room(r) <= 0 and (r.problem_id, r.sample) not in done]
        if too_long:
            yield [Completion(r, "", 0, "prompt_too_long") for r in too_long]
        for batch in self._batches(fits, sampling):
            missing = {(r.problem_id, r.sample) for r in batch}.difference(done)
            if missing:
                completions = _Batch(self, batch, sampling, stop_ids, stop_texts).run(
                    on_progress or (lambda tokens: None)
                )
                yield [c for c in completions if (c.request.problem_id, c.request.sample) in missing]

    def _room(self, request: Request) -> int:
        return self.context - len(request.prompt_ids) if self.context else 1 << 30

    def limit(self, request: Request, sampling: Sampling) -> int:
        """Tokens this request may generate: max_new_tokens, or what the context leaves."""
        return min(sampling.max_new_tokens, self._room(request))

    def _batches(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[list[Request]]:
        """Neighbours in length share a batch; the longest come first, so that memory runs out early or not at all."""
        queue = sorted(requests, key=lambda r: len(r.prompt_ids), reverse=True)
        start = 0
        while start < len(queue):
            longest = len(queue[start].prompt_ids) + self.limit(queue[start], sampling)
            size = self.batch_size or max(1, BATCH_TOKENS // longest)
            yield queue[start : start + size]
            start += size


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"expected device auto, cpu, cuda or cuda:N, found {name!r}") from error


def _default_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "cpu" else torch.bfloat16


class _Batch:
    """The decoding of one batch. Tensors have one row per *living* request; finished rows leave the KV cache."""

    def __init__(self, backend: TransformersBackend, requests, sampling: Sampling, stop_ids, stop_texts):
        self.backend, self.requests, self.sampling = backend, list(requests), sampling
        self.stop_texts = stop_texts
        self.limits = [backend.limit(r, sampling) for r in self.requests]
        self.stop_ids = torch.tensor(sorted(stop_ids), device=backend.device)
        self.tokens: list[list[int]] = [[] for _ in self.requests]
        self.rows = list(range(len(self.requests)))  # index into requests of each living row
        self.done: dict[int, str] = {}
        self.uniform = self._uniform() if sampling.temperature > 0 else None

    def _uniform(self) -> torch.Tensor:
        """(rows, steps) numbers in [0, 1): row i comes from request i's own generator and from nothing else."""
        rows = [
            torch.rand(max(self.limits), generator=torch.Generator().manual_seed(r.seed), dtype=torch.float64)
            for r in self.requests
        ]
        return torch.stack(rows).to(self.backend.device)

    def run(self, on_progress: Callable[[int], None]) -> list[Completion]:
        logits, mask, position, cache = self._prefill()
        reported, new_tokens = time.monotonic(), 0
        for step in range(max(self.limits)):
            chosen = self._choose(logits, step)
            keep = self._record(chosen, step)
            new_tokens += len(chosen)
            if time.monotonic() - reported > 0.5:
                on_progress(new_tokens)
                reported, new_tokens = time.monotonic(), 0
            if not keep:
                break
            if len(keep) <= 0.75 * len(self.rows):  # a quarter at a time: copying the cache costs more than a dead row
                chosen, mask, position = self._drop_finished(keep, chosen, mask, position, cache)
            position = position + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            logits = self._forward(chosen[:, None], mask, position[:, None], cache)
        on_progress(new_tokens)
        return [self._completion(i) for i in range(len(self.requests))]

    def _prefill(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, DynamicCache]:
        """(logits, mask, position of the newest token, cache), one row per request; equal prompts are computed once.

        Prompts are padded on the left, so that every row's newest token is in the last column.
        """
        prompts = list(dict.fromkeys(r.prompt_ids for r in self.requests))
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.backend.tokenizer.pad_token_id or 0, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        ids, mask = ids.to(self.backend.device), mask.to(self.backend.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.backend.config)
        logits = self._forward(ids, mask, positions, cache)
        row_of = {prompt: row for row, prompt in enumerate(prompts)}
        index = torch.tensor([row_of[r.prompt_ids] for r in self.requests], device=self.backend.device)
        cache.batch_select_indices(index)
        return logits[index], mask[index], positions[index, -1], cache

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache) -> torch.Tensor:
        """Logits of the last column, (rows, vocabulary)."""
        output = self.backend.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
        )
        return output.logits[:, -1]

    def _choose(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        """logits (rows, vocabulary) -> token ids (rows,)."""
        if self.uniform is None:
            best, ids = logits.max(-1)
            check_finite(best)  # the largest of numbers with a NaN among them is NaN
            return ids
        probs = torch.softmax(logits.float() / self.sampling.temperature, dim=-1)
        return inverse_cdf(probs, self.uniform[self.rows, step], self.sampling.top_p)

    def _record(self, chosen: torch.Tensor, step: int) -> list[int]:
        """Note one token per living row; return the row numbers that go on."""
        stopped = torch.isin(chosen, self.stop_ids).tolist()
        keep = []
        for row, (index, token) in enumerate(zip(self.rows, chosen.tolist(), strict=True)):
            if index in self.done:
                continue
            if stopped[row]:
                self.done[index] = "stop"
                continue
            self.tokens[index].append(token)
            if self.stop_texts and self._text_stop(index):
                self.done[index] = "stop"
            elif step + 1 >= self.limits[index]:
                self.done[index] = "length"
            else:
                keep.append(row)
        return keep

    def _text_stop(self, index: int) -> bool:
        tail = self.backend.tokenizer.decode(self.tokens[index][-TEXT_STOP_WINDOW:])
        return any(text in tail for text in self.stop_texts)

    def _drop_finished(self, keep: list[int], chosen, mask, position, cache):
        """Take finished rows out of the batch and its cache, so that one long answer does not cost a whole batch."""
        index = torch.tensor(keep, device=chosen.device)
        cache.batch_select_indices(index)
        self.rows = [self.rows[row] for row in keep]
        return chosen[index], mask[index], position[index]

    def _completion(self, index: int) -> Completion:
        tokens = self.tokens[index]
        text = str(self.backend.tokenizer.decode(tokens, skip_special_tokens=True))
        cuts = [text.find(stop) for stop in self.stop_texts if stop in text]
        return Completion(self.requests[index], text[: min(cuts)] if cuts else text, len(tokens), self.done[index])


def inverse_cdf(probs: torch.Tensor, uniform: torch.Tensor, top_p: float = 1.0) -> torch.Tensor:
    """probs (rows, vocabulary), uniform (rows,) in [0, 1) -> token ids (rows,): the smallest id whose CDF exceeds u.

    With top_p < 1 only the smallest set of most probable tokens that holds at least top_p of the mass can be drawn.
    """
    if top_p < 1.0:
        ordered, order = probs.sort(dim=-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p  # the first token is always inside
        probs = torch.zeros_like(probs).scatter(-1, order, ordered.masked_fill(outside, 0.0))
    cdf = probs.cumsum(-1, dtype=torch.float64)
    check_finite(cdf[:, -1])
    target = uniform.to(cdf)[:, None] * cdf[:, -1:]
    return torch.searchsorted(cdf, target, right=True).squeeze(-1).clamp(max=probs.shape[-1] - 1)


def check_finite(values: torch.Tensor) -> None:
    """Raises ValueError for a model whose next token is undefined."""
    if not torch.isfinite(values).all():
        raise ValueError(
            "the model gives logits that are not finite: its weights are broken, or the dtype is too small"
        )
