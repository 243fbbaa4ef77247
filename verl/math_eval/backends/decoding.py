"""Decoding one batch with transformers: prefill, then token after token, finished rows leaving the KV cache.

Every row draws one uniform number per token from its own generator and inverts the distribution's CDF.
"""

import time
from collections.abc import Callable, Collection, Sequence

import torch
from transformers import DynamicCache

from verl.math_eval.backends.cache import roomy_cache
from verl.math_eval.requests import Request, Sampling

TEXT_STOP_WINDOW = 24  # tokens decoded to look for a stop text that is not a single token


class Batch:
    """The decoding of one batch. Tensors have one row per *living* request; finished rows leave the KV cache.

    limits: tokens that each request may generate. After :meth:`run`, ``tokens`` and ``done`` (the finish reason) hold
    the responses, in the order of the requests; the stop token is not among the tokens.
    """

    def __init__(
        self,
        model,
        tokenizer,
        requests: Sequence[Request],
        limits: Sequence[int],
        sampling: Sampling,
        stop_ids: Collection[int],
        stop_texts: Sequence[str],
    ):
        self.model, self.tokenizer, self.requests, self.sampling = model, tokenizer, list(requests), sampling
        self.limits, self.stop_texts = list(limits), stop_texts
        self.device = model.device
        self.stop_ids = torch.tensor(sorted(stop_ids), device=self.device)
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
        return torch.stack(rows).to(self.device)

    def run(self, on_progress: Callable[[int], None]) -> None:
        """Decode to the end. ``on_progress(tokens)`` is called every half a second or so."""
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

    def _prefill(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, DynamicCache]:
        """(logits, mask, position of the newest token, cache), one row per request; equal prompts are computed once.

        Prompts are padded on the left, so that every row's newest token is in the last column.
        """
        prompts = list(dict.fromkeys(r.prompt_ids for r in self.requests))
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.tokenizer.pad_token_id or 0, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = roomy_cache(self.model.config)
        logits = self._forward(ids, mask, positions, cache)
        row_of = {prompt: row for row, prompt in enumerate(prompts)}
        index = torch.tensor([row_of[r.prompt_ids] for r in self.requests], device=self.device)
        cache.batch_select_indices(index)
        return logits[index], mask[index], positions[index, -1], cache

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache) -> torch.Tensor:
        """Logits of the last column, (rows, vocabulary)."""
        output = self.model(
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
        tail = self.tokenizer.decode(self.tokens[index][-TEXT_STOP_WINDOW:])
        return any(text in tail for text in self.stop_texts)

    def _drop_finished(self, keep: list[int], chosen, mask, position, cache):
        """Take finished rows out of the batch and its cache, so that one long answer does not cost a whole batch."""
        index = torch.tensor(keep, device=chosen.device)
        cache.batch_select_indices(index)
        self.rows = [self.rows[row] for row in keep]
        return chosen[index], mask[index], position[index]


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
