"""Prompt formats: how a question becomes the token ids a model is asked to continue.

There is one definition, used by training and by evaluation, and it travels with the checkpoint as
``prompt_format.json``. A score measured under another format than the one trained on is the most common way
to compare two models unfairly; here both sides call :meth:`PromptFormat.encode`.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from verl.dft.data.control_tokens import ControlTokens
from verl.dft.data.messages import Message, with_system
from verl.dft.data.templates import NAMED_TEMPLATES

FILE_NAME = "prompt_format.json"

Question = str | Sequence[Mapping[str, Any]]  # plain text, or chat messages [{"role": ..., "content": ...}, ...]


@dataclass(frozen=True)
class PromptFormat:
    """``encode(question)`` = tokenizer(template filled with the question), the same in training and evaluation.

    The template's special tokens become tokens; the question's stay text, see :mod:`verl.dft.data.control_tokens`.

    name: ``"chat_template"``, or a key of ``NAMED_TEMPLATES``.
    kind: ``"chat"`` (``template`` is Jinja, applied to messages) or ``"text"`` (``template`` contains ``{input}``).
    stop: texts of the tokens that end a response; the first is the one that was trained.
    template_kwargs: extra variables for a chat template, e.g. ``{"enable_thinking": False}``.
    system_prompt: the system message of conversations that have none. fold_system_prompt: system messages become the
        beginning of the first user's message, for templates that know none.
    date: what a chat template takes for today, ``YYYY-MM-DD``; "": the day on which it is filled in.
    training: how the checkpoint was trained (objective ...), for the reader of a report; never used to render.
    """

    name: str
    kind: str
    template: str
    stop: tuple[str, ...]
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    system_prompt: str = ""
    fold_system_prompt: bool = False
    date: str = ""

    def __post_init__(self) -> None:
        if self.kind != "chat" and (self.system_prompt or self.fold_system_prompt):
            raise ValueError(f"data.system_prompt needs a chat template; found the plain prompt type {self.name}.")

    def render(self, question: Question, tokenizer, add_generation_prompt: bool = True, **variables: Any) -> str:
        """The prompt as text. Raises ValueError for messages in a format that knows only plain questions."""
        if self.kind == "chat":
            messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
            # A key that is null in one row exists because other rows of the column have it; templates ask for presence.
            messages = [{key: value for key, value in message.items() if value is not None} for message in messages]
            messages = with_system(messages, self.system_prompt, self.fold_system_prompt)
            return self.fill(messages, tokenizer, add_generation_prompt=add_generation_prompt, **variables)
        if not isinstance(question, str):
            if len(question) != 1 or question[0].get("role") != "user" or not isinstance(question[0]["content"], str):
                raise ValueError(
                    f"prompt format {self.name!r} takes one plain question; found {len(question)} messages with roles "
                    f"{[m.get('role') for m in question]}. Use a chat template for conversations."
                )
            question = question[0]["content"]
        return self.template.replace("{input}", question)

    def fill(self, messages: Sequence[Mapping[str, Any]], tokenizer, **variables: Any) -> str:
        """What the chat template makes of messages. Raises ValueError where it cannot be filled with them.

        transformers runs templates in Jinja's sandbox, where they reach nothing but what they are given.
        """
        try:
            # As a batch of one: an empty conversation, before an assistant that speaks first, is refused alone.
            (text,) = tokenizer.apply_chat_template(
                [messages], chat_template=self.template, tokenize=False, **self._variables(variables)
            )
            return text
        except Exception as error:  # a template is a program, and raises what its author and its values make it raise
            raise ValueError(f"the chat template cannot be filled in: {type(error).__name__}: {error}") from error

    def fill_marked(
        self, messages: Sequence[Message], tokenizer, **variables: Any
    ) -> tuple[str, list[tuple[int, int]]]:
        """As :meth:`fill`, with the spans of text that the template puts between ``{% generation %}`` and its end."""
        from transformers.utils.chat_template_utils import render_jinja_template

        tools = variables.pop("tools", None)
        given = {**tokenizer.special_tokens_map, **self._variables(variables)}
        try:
            rendered: Any = render_jinja_template(
                [list(messages)], tools=tools, chat_template=self.template, return_assistant_tokens_mask=True, **given
            )
            (text,), (spans,) = rendered
        except Exception as error:
            raise ValueError(f"the chat template cannot be filled in: {type(error).__name__}: {error}") from error
        return text, [(start, end) for start, end in spans]

    def _variables(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        fixed: dict[str, Any] = {}
        if self.date:
            day = datetime.datetime.fromisoformat(self.date)
            fixed["strftime_now"] = day.strftime  # as transformers calls it, which asks the clock
        return {**fixed, **self.template_kwargs, **variables}

    def fixed_at(self, date: str, tokenizer) -> "PromptFormat":
        """The same format with ``date`` for today, where its prompts depend on the date at all."""
        if self.kind != "chat":
            return self
        probe = [{"role": "user", "content": "1"}]
        try:
            texts = {replace(self, date=day).fill(probe, tokenizer) for day in ("2001-02-03", "2012-11-10")}
        except ValueError:
            return self
        return replace(self, date=date) if len(texts) > 1 else self

    def encode(self, question: Question, tokenizer) -> list[int]:
        """The prompt as token ids. A chat template writes its own BOS; a text format gets the tokenizer's, if any."""
        control = ControlTokens.of(tokenizer)
        (ids,) = control.encode([self.render(control.hide(question), tokenizer)])
        return self.leading_ids(tokenizer) + ids

    def leading_ids(self, tokenizer) -> list[int]:
        """What stands before the rendered text: the tokenizer's BOS for text formats, nothing for chat templates."""
        if self.kind == "chat":
            return []
        ids = tokenizer("", add_special_tokens=True)["input_ids"]
        return ids[:1] if ids and ids[0] == tokenizer.bos_token_id else []

    def same_prompts_as(self, other: "PromptFormat", tokenizer) -> bool:
        """Whether both formats give a model the same ids for the same question, and stop at the same tokens."""
        probe = "What is 1 + 1?"
        return self.encode(probe, tokenizer) == other.encode(probe, tokenizer) and set(self.stop) == set(other.stop)

    def save(self, folder: str | Path) -> Path:
        """Write ``folder/prompt_format.json`` and return its path."""
        path = Path(folder) / FILE_NAME
        path.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder: str | Path) -> "PromptFormat":
        """Read ``folder/prompt_format.json``. Raises ValueError when the file is not one of ours."""
        path = Path(folder) / FILE_NAME
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**stored, "stop": tuple(stored["stop"])})
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a prompt format written by verl-dft: {error!r}") from error


def resolve_prompt_format(
    template: str | None, tokenizer, stop: Sequence[str] | None = None, template_kwargs: Mapping[str, Any] | None = None
) -> PromptFormat:
    """The format a user asked for.

    template: None (the tokenizer's own chat template), a key of ``NAMED_TEMPLATES``, the path of a Jinja file, or
        Jinja text (recognised by ``{{`` or ``{%``).
    stop: texts of the tokens that end a response; default: the tokenizer's eos token.
    Raises ValueError when there is no template to use, or no stop token.
    """
    kwargs = dict(template_kwargs or {})
    if stop is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                "expected a tokenizer with an eos token, found none: a response could never end. "
                "Set eos_token in the tokenizer's configuration."
            )
        stop = [tokenizer.eos_token]
    if template in NAMED_TEMPLATES:
        return PromptFormat(template, "text", NAMED_TEMPLATES[template], tuple(stop))
    if template is None:
        template = tokenizer.chat_template
        if not isinstance(template, str):
            raise ValueError(
                "expected a tokenizer with one chat template, found "
                f"{'none' if template is None else 'several'}. Give one with data.chat_template=... in training: "
                f"a Jinja file, or one of {', '.join(sorted(NAMED_TEMPLATES))}."
            )
    elif "{{" not in template and "{%" not in template:
        path = Path(template).expanduser()
        if not path.is_file():
            raise ValueError(
                f"expected a chat template, found {template!r}: neither a file, nor Jinja text, nor one of "
                f"{', '.join(sorted(NAMED_TEMPLATES))}."
            )
        template = path.read_text(encoding="utf-8")
    return PromptFormat("chat_template", "chat", template, tuple(stop), kwargs)
