"""Which prompt a checkpoint is scored with: its own stored format, its chat template, or a named one."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from verl.dft.data.prompts import FILE_NAME, NAMED_TEMPLATES, PromptFormat, resolve_prompt_format
from verl.dft.data.templates import PROGRAM_TYPES, TEMPLATES
from verl.math_eval.benchmarks import Problem
from verl.math_eval.few_shot import check_num_shots, with_examples

AUTO, CHAT = "auto", "chat_template"

# Tokens with which known chat formats end a turn. A base model under a foreign template may emit any of them.
_END_TOKENS = (
    "</s>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<｜end▁of▁sentence｜>",
)


@dataclass(frozen=True)
class ChosenFormat:
    """format: how prompts are made. stored: how the checkpoint was trained, if it says so. warning: "" or how they
    differ.
    """

    format: PromptFormat
    stored: PromptFormat | None
    warning: str


def check_prompt_type(prompt_type: str, num_shots: int = 0) -> None:
    """Raises ValueError for a prompt type that no model could make sense of; needs no model."""
    if prompt_type in PROGRAM_TYPES:
        raise ValueError(
            f"prompt type {prompt_type!r} asks the model for programs, and nothing here runs what a model wrote. "
            "Use one that asks for a written solution, such as cot."
        )
    check_num_shots(num_shots, prompt_type)
    if prompt_type in (AUTO, CHAT) or prompt_type in NAMED_TEMPLATES or Path(prompt_type).expanduser().is_file():
        return
    known = ", ".join([AUTO, CHAT, *sorted(NAMED_TEMPLATES)])
    raise ValueError(f"expected a prompt type out of {known}, or a Jinja file; found {prompt_type!r}")


def stored_format(model_folder: str) -> PromptFormat | None:
    """The format that training wrote beside the weights, in a folder or on the hub; None for other models."""
    folder = Path(model_folder)
    if not folder.is_dir():
        return _hub_format(model_folder)
    places = [folder, folder.parent] if folder.name == "huggingface" else [folder]
    for place in places:
        if (place / FILE_NAME).is_file():
            return PromptFormat.load(place)
    return None


def _hub_format(name: str) -> PromptFormat | None:
    from huggingface_hub import hf_hub_download

    try:
        return PromptFormat.load(Path(hf_hub_download(name, FILE_NAME)).parent)
    except OSError:  # no such file there, or no way to the hub: the model itself then comes from the cache
        return None


def choose_format(prompt_type: str, model_folder: str, tokenizer, num_shots: int = 0) -> ChosenFormat:
    """The format for ``prompt_type``, with a warning when the checkpoint was trained on another one.

    prompt_type: "auto" (the checkpoint's stored format, else its chat template), "chat_template", a name out of
        ``verl.dft.data.templates``, or a Jinja file. num_shots: worked examples in front, for named types only.
    """
    check_prompt_type(prompt_type, num_shots)
    stored = stored_format(model_folder)
    if prompt_type == AUTO and stored is not None:
        return ChosenFormat(stored, stored, "")
    template = None if prompt_type in (AUTO, CHAT) else prompt_type
    if template is None and not isinstance(tokenizer.chat_template, str):
        raise ValueError(
            "expected a checkpoint with a prompt_format.json, or a tokenizer with one chat template; found neither. "
            f"Give one with --prompt_type: a Jinja file, or one of {', '.join(sorted(NAMED_TEMPLATES))}."
        )
    stop = _stops(prompt_type, stored, tokenizer)
    asked = with_examples(resolve_prompt_format(template, tokenizer, stop=stop or None), num_shots)
    if stored is None or replace(asked, stop=stored.stop).same_prompts_as(stored, tokenizer):
        return ChosenFormat(asked, stored, "")
    warning = (
        f"the prompt format {asked.name!r} is not the one this checkpoint was trained with ({stored.name!r}): "
        "the scores understate the model. Use --prompt_type auto for the stored format."
    )
    return ChosenFormat(asked, stored, warning)


def encoded(problems: Iterable[Problem], prompt_format: PromptFormat, tokenizer: Any) -> dict[str, tuple[int, ...]]:
    """The token ids with which each problem is asked, by the problem's id."""
    return {problem.id: tuple(prompt_format.encode(problem.question, tokenizer)) for problem in problems}


def _stops(prompt_type: str, stored: PromptFormat | None, tokenizer) -> list[str]:
    """What ends a response: the model's own tokens, the markers that the template writes, and a next question."""
    vocabulary = tokenizer.get_vocab()
    named = TEMPLATES.get(prompt_type)
    tokens = [token for token in (tokenizer.eos_token, *_END_TOKENS) if token and token in vocabulary]
    markers = [token for token in _END_TOKENS if named and token in named.text]
    return list(dict.fromkeys([*tokens, *(stored.stop if stored else ()), *markers, *(named.stop if named else ())]))
