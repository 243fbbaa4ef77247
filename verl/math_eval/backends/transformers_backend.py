"""The model in this process, in batches of neighbours in length. The default on a CPU.

Repeatable to the bit: batches are a function of all requests, and a sample of its logits and its own seed. Another
batch size, number of CPU threads or device moves the last bits of the logits, and now and then a token.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from verl.math_eval.backends.attention import use_grouped_attention
from verl.math_eval.backends.base import Engine, Progress
from verl.math_eval.backends.decoding import Batch
from verl.math_eval.backends.handout import Piece
from verl.math_eval.requests import Completion, Request, Sampling

# A batch when the user sets no size: as many rows as their keys and values at full length fit into this memory, so
# that it depends on the kind of machine, not on what else runs there.
CPU_BYTES, GPU_SHARE = 2 << 30, 0.5  # of what the weights leave
MOST_ROWS = 256


class TransformersBackend(Engine):
    """One loaded model. ``device`` and ``dtype``: ``auto`` is bf16 on a GPU, fp32 on a CPU."""

    name = "transformers"

    def __init__(self, name_or_path: str, device: str = "auto", dtype: str = "auto", batch_size: int | None = None):
        super().__init__(name_or_path)
        self.device = _device(device)
        self.dtype = getattr(torch, dtype) if dtype != "auto" else _default_dtype(self.device)
        self.batch_size = batch_size
        try:
            model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=self.dtype, trust_remote_code=False)
        except (OSError, KeyError) as error:
            raise ValueError(f"{self.source} cannot be loaded as a model: {str(error).splitlines()[0]}") from error
        self.model = model.to(self.device).eval()  # type: ignore[arg-type]
        use_grouped_attention(self.model)

    @property
    def settings(self) -> dict[str, Any]:
        return {"backend": self.name, "dtype": str(self.dtype)}

    @property
    def described(self) -> dict[str, Any]:
        return {"device": str(self.device)}

    def pieces(self, requests: Sequence[Request], sampling: Sampling, done: Collection[tuple[str, int]]) -> list[Piece]:
        """Batches of neighbours in length; the longest come first, so that memory runs out early or not at all.

        A batch is whole even where some of its requests are done: its arithmetic stays the same.
        """
        queue = sorted(requests, key=lambda r: len(r.prompt_ids), reverse=True)
        batches, start = [], 0
        while start < len(queue):
            longest = len(queue[start].prompt_ids) + self.limit(queue[start], sampling)
            size = self.batch_size or self._rows(longest)
            batches.append(queue[start : start + size])
            start += size
        return [batch for batch in batches if any(r.key not in done for r in batch)]

    def _rows(self, tokens: int) -> int:
        """Rows of ``tokens`` tokens that fit into one batch."""
        config = self.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        per_token = 2 * config.num_hidden_layers * heads * width * self.dtype.itemsize
        memory = CPU_BYTES
        if self.device.type == "cuda":
            weights = sum(p.nbytes for p in self.model.parameters())
            memory = int(GPU_SHARE * (torch.cuda.get_device_properties(self.device).total_memory - weights))
        return max(1, min(MOST_ROWS, memory // (per_token * tokens)))

    def close(self) -> None:
        """Free the model's memory; the next model may need it."""
        del self.model
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def advance(
        self, new: Sequence[Piece], sampling: Sampling, stop: Sequence[str], on_progress: Progress
    ) -> list[Completion]:
        stop_ids, stop_texts = self.stops(stop)
        finished = []
        for requests in new:
            limits = [self.limit(r, sampling) for r in requests]
            batch = Batch(self.model, self.tokenizer, requests, limits, sampling, stop_ids, stop_texts)
            batch.run(on_progress)
            finished += [
                self.completion(request, tokens, stop_texts, batch.done[index])
                for index, (request, tokens) in enumerate(zip(requests, batch.tokens, strict=True))
            ]
        return finished


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"expected device auto, cpu, cuda or cuda:N, found {name!r}") from error
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # no such GPU, or a build of torch without CUDA
        reason = str(error).splitlines()[0]
        raise ValueError(f"expected a device that is here, found {name!r}, which is not: {reason}") from error
    return device


def _default_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "cpu" else torch.bfloat16
