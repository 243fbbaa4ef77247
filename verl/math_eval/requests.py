"""Requests in, completions out: the words of generation. Imports no backend, nor torch."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy decoding, else from 0.01 to 2 (vLLM changes or refuses others); top_p in (0, 1];
    max_new_tokens is capped by the model's context.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 4096

    def __post_init__(self):
        if self.temperature != 0 and not 0.01 <= self.temperature <= 2:
            raise ValueError(f"expected temperature 0 (greedy) or from 0.01 to 2, found {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"expected 0 < top_p <= 1, found {self.top_p}")
        if self.max_new_tokens < 1:
            raise ValueError(f"expected max_tokens_per_call >= 1, found {self.max_new_tokens}")


@dataclass(frozen=True, slots=True)
class Request:
    """One sample to draw. (problem_id, sample) is its identity; seed is all the randomness it gets."""

    problem_id: str
    sample: int
    prompt_ids: tuple[int, ...]
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        """(problem id, sample index), by which a sample is known everywhere."""
        return self.problem_id, self.sample


@dataclass(frozen=True)
class Completion:
    """text: without the stop token, special tokens, and a stop text with what follows it. num_tokens: the stop token is
    not counted. finish_reason: ``stop``, ``length`` (cut at the limit) or ``prompt_too_long`` (nothing was generated).
    """

    request: Request
    text: str
    num_tokens: int
    finish_reason: str


def sample_seed(base_seed: int, problem_id: str, sample: int) -> int:
    """The seed of one sample: a 63-bit hash, the same on every machine and under every sharding."""
    digest = hashlib.sha256(f"{base_seed}\x00{problem_id}\x00{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
