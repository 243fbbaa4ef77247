"""What a backend promises: the same requests, finished in any order, each completion a function of its own request.

A sample depends on the model, its prompt and its seed. What shares a batch with it changes the last bits of the logits;
each backend says in its docstring what it does about that.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from verl.dft.model_folder import resolve_model
from verl.math_eval.backends.handout import Piece, take
from verl.math_eval.requests import Completion, Request, Sampling

Progress = Callable[[int], None]  # takes tokens generated since the last call


class EngineDied(RuntimeError):
    """This engine is gone for good; another one can do its work."""


class Backend(ABC):
    """A model that completes prompts.

    source: what the user named; folder: the HF folder or hub id behind it; tokenizer, config, generation_config: its
        files; commit: the hub's commit hash, None for a folder.
    context: tokens that a prompt and its response can have together; None: no limit is known.
    settings: what of the backend changes samples: other settings, other samples.
    described: what else a reader wants to know (device, versions); a run may be continued under another one.
    """

    name: str

    def __init__(self, name_or_path: str):
        self.source = str(name_or_path)
        self.folder = resolve_model(self.source)
        try:
            self.config = AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
            self.tokenizer = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{self.source} cannot be loaded as a model: {str(error).splitlines()[0]}") from error
        try:
            self.generation_config = GenerationConfig.from_pretrained(self.folder)
        except OSError:
            self.generation_config = GenerationConfig.from_model_config(self.config)
        self.commit: str | None = getattr(self.config, "_commit_hash", None)
        self.context: int | None = getattr(self.config.get_text_config(), "max_position_embeddings", None)

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What can change a sample: part of the settings under which samples are stored."""

    @property
    @abstractmethod
    def described(self) -> dict[str, Any]:
        """What else a report should say of the backend; may differ when a run goes on."""

    @abstractmethod
    def pieces(self, requests: Sequence[Request], sampling: Sampling, done: Collection[tuple[str, int]]) -> list[Piece]:
        """The work cut into pieces, in the order of handing out. ``done`` as in :meth:`generate`; a piece without a
        missing request is left out.
        """

    @abstractmethod
    def work(
        self, pieces: Sequence[Piece], sampling: Sampling, stop: Sequence[str], on_progress: Progress
    ) -> Iterator[list[Completion]]:
        """Yield the completions of all pieces in lists, as they finish; a list may be empty."""

    def abandon(self) -> None:  # noqa: B027 -- a backend that holds nothing between two calls has nothing to do
        """Forget the requests under way."""

    def close(self) -> None:  # noqa: B027
        """Free what the backend holds: processes, connections, memory."""

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        stop: Sequence[str],
        on_progress: Progress | None = None,
        done: Collection[tuple[str, int]] = (),
    ) -> Iterator[list[Completion]]:
        """Yield the completions of all requests in lists, as they finish.

        stop: texts that end a response; one that is a token of its own is watched for as a token. The model's eos
            tokens always end it.
        on_progress: called with the number of new tokens now and then.
        done: (problem id, sample) of requests whose completion is known. They are not yielded, but a backend whose
            batches change the last bits keeps their place in a batch that still misses others, so that a run in two
            parts does the very same arithmetic as a run in one. So: always pass all requests.
        """
        done = frozenset(done)
        too_long = [r for r in requests if self.room(r) <= 0 and r.key not in done]
        if too_long:
            yield [Completion(r, "", 0, "prompt_too_long") for r in too_long]
        pieces = self.pieces([r for r in requests if self.room(r) > 0], sampling, done)
        try:
            for finished in self.work(pieces, sampling, stop, on_progress or (lambda tokens: None)):
                if missing := [c for c in finished if c.request.key not in done]:
                    yield missing
        finally:
            self.abandon()

    def room(self, request: Request) -> int:
        """Tokens that the context leaves for the response; not positive: the prompt is too long."""
        return self.context - len(request.prompt_ids) if self.context else 1 << 30

    def limit(self, request: Request, sampling: Sampling) -> int:
        """Tokens this request may generate: max_new_tokens, or what the context leaves."""
        return min(sampling.max_new_tokens, self.room(request))

    def stops(self, stop: Sequence[str]) -> tuple[frozenset[int], tuple[str, ...]]:
        """(ids that end a response, stop texts that are no token of their own). The model's eos ids always count.

        An ordinary text is looked for in the text, even if one token spells it: "!" may also arrive inside "!!".
        """
        ids, texts = set(), []
        special = zip(self.tokenizer.all_special_tokens, self.tokenizer.all_special_ids, strict=True)
        own_tokens = {**self.tokenizer.get_added_vocab(), **dict(special)}
        for text in stop:
            if text in own_tokens:
                ids.add(own_tokens[text])
            else:
                texts.append(text)
        for eos in (self.tokenizer.eos_token_id, self.generation_config.eos_token_id):
            ids.update(eos if isinstance(eos, list) else [] if eos is None else [eos])
        return frozenset(ids), tuple(texts)

    def completion(self, request: Request, tokens: Sequence[int], texts: Sequence[str], reason: str) -> Completion:
        """tokens: the response without its stop token. The text ends before the first stop text."""
        text = cut_at_stop(str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)), texts)
        return Completion(request, text, len(tokens), reason)


class Engine(Backend):
    """A backend that takes on pieces and works on them for a while: what can run here or inside an actor.

    slots: how many requests keep it busy.
    """

    slots: int = 1

    @abstractmethod
    def advance(
        self, new: Sequence[Piece], sampling: Sampling, stop: Sequence[str], on_progress: Progress
    ) -> list[Completion]:
        """Take on the new pieces, work until some completions are finished, and return those.

        Called with no new pieces as long as requests are under way. May return early with nothing.
        """

    def work(
        self, pieces: Sequence[Piece], sampling: Sampling, stop: Sequence[str], on_progress: Progress
    ) -> Iterator[list[Completion]]:
        queue, under_way = deque(pieces), 0
        while queue or under_way:
            new = take(queue, under_way, self.slots)
            under_way += sum(map(len, new))
            finished = self.advance(new, sampling, stop, on_progress)
            under_way -= len(finished)
            yield finished


def cut_at_stop(text: str, stop_texts: Sequence[str]) -> str:
    """What comes before the first of the stop texts."""
    cuts = [text.find(stop) for stop in stop_texts if stop in text]
    return text[: min(cuts)] if cuts else text
