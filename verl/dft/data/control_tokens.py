"""Special tokens are what a template writes. Where their names stand in somebody's text, they stay text.

A tokenizer turns ``<|im_end|>`` into the token that ends a turn wherever it reads it, in a user's question as well: the
turn would end there, in training and in evaluation. So, before a template is filled in, :meth:`ControlTokens.hide`
replaces such names in the texts by stand-ins, which no text contains, and :meth:`ControlTokens.encode` reads stand-ins
as the text they stand for. A prompt without such names is tokenised as ever, in one call.

Only tokens that the tokenizer marks as special are meant. What it adds without that mark (``<think>``, ``<tool_call>``)
is part of what a model writes, and is read as a token everywhere.
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

MARK = "\ufdd0"  # a noncharacter: Unicode reserves it for the inside of programs


class ControlTokens:
    """The special tokens of one tokenizer. Get it with :meth:`of`, which keeps it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        names = {token.content for token in added if token.special} - {""}
        longest_first = sorted(names, key=lambda name: (-len(name), name))
        self.stand_ins = {name: f"{MARK}{i}{MARK}" for i, name in enumerate(longest_first)}
        self.other_way = self.stand_ins | {stand_in: name for name, stand_in in self.stand_ins.items()}
        self.in_texts = re.compile("|".join(map(re.escape, [*longest_first, MARK])))
        self.in_prompts = re.compile("|".join(map(re.escape, [*self.stand_ins.values(), *longest_first, MARK])))

    @staticmethod
    @functools.lru_cache(maxsize=4)
    def of(tokenizer: Any) -> "ControlTokens":
        """Those of a tokenizer, made once."""
        return ControlTokens(tokenizer)

    def hide(self, value: Any) -> Any:
        """``value``, a text or messages or anything nested, with stand-ins in the place of special tokens' names.

        Raises ValueError for a text with the noncharacter U+FDD0, which the stand-ins are made of.
        """
        if isinstance(value, str):
            return self.in_texts.sub(self._stand_in, value)
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, bytes):
            return [self.hide(item) for item in value]
        return value

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, with nothing put before or after it."""
        plain = ["" if MARK in text else text for text in texts]
        encoded = self.tokenizer(plain, add_special_tokens=False)["input_ids"] if plain else []
        return [self._encode_hidden(text) if MARK in text else ids for text, ids in zip(texts, encoded, strict=True)]

    def _stand_in(self, found: re.Match) -> str:
        if found[0] == MARK:
            raise ValueError("found the noncharacter U+FDD0 in a text, which no text may contain. Remove it.")
        return self.stand_ins[found[0]]

    def _encode_hidden(self, text: str) -> list[int]:
        """Names and stand-ins change places, and so they do in the tokenizer: what is a name now is text to it."""
        reader, ids_of_reader, special = self._reader
        swapped, written = [], 0
        start = 0
        for found in self.in_prompts.finditer(text):
            if found[0] == MARK:
                raise ValueError("the chat template cuts a text inside the name of a special token.")
            swapped += [text[start : found.start()], self.other_way[found[0]]]
            written += found[0] in self.stand_ins
            start = found.end()
        encoded = reader.encode("".join([*swapped, text[start:]]), add_special_tokens=False).ids
        ids = [ids_of_reader.get(token, token) for token in encoded]
        if sum(token in special for token in ids) != written:
            raise ValueError("a text names a special token, which this tokenizer cannot read as text. Remove the row.")
        return ids

    @functools.cached_property
    def _reader(self) -> tuple[Tokenizer, dict[int, int], set[int]]:
        """The tokenizer with its special tokens renamed to their stand-ins; its ids -> ours; our special ids."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ValueError("a text names a special token, and this tokenizer has no fast form that could be told so.")
        made = json.loads(backend.to_str())
        made |= {"post_processor": None, "truncation": None, "padding": None}
        added = made["added_tokens"]
        special = {token["id"] for token in added if token["content"] in self.stand_ins}
        for token in added:
            token["content"] = self.stand_ins.get(token["content"], token["content"])
        reader = Tokenizer.from_str(json.dumps(made))
        return reader, {reader.token_to_id(token["content"]): token["id"] for token in added}, special
