"""What the settings name: the objective, the prompt format, and how rows are read. Nothing heavy is imported."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, NewType

from omegaconf import DictConfig, ListConfig

from verl.dft.data.dataset import RowFormat
from verl.dft.data.prompts import PromptFormat, resolve_prompt_format
from verl.dft.loss.objectives import Objective, objective

# What settings.complete_config returns: resolved, checked, and with every automatic value filled in.
CompletedConfig = NewType("CompletedConfig", DictConfig)


def file_list(files: Any) -> list[str]:
    """One path, a list of them or null, as a list of expanded paths."""
    if files is None:
        return []
    names = files if isinstance(files, Sequence | ListConfig) and not isinstance(files, str) else [files]
    return [os.path.expanduser(name) for name in names]


def training_objective(config: DictConfig) -> Objective:
    """The objective that the configuration names."""
    options = dict(config.objective)
    name, path, full, key = (options.pop(k) for k in ("name", "path", "full_weight_tokens", "reference_key"))
    if full not in (None, "eos"):
        raise ValueError(f"expected objective.full_weight_tokens to be eos or null; found {full!r}")
    if "label_smoothing" in options:
        raise ValueError(
            "objective.label_smoothing is not supported: an objective here weighs the target token alone, and a weight "
            "p on a smoothed target has no published meaning. Remove it."
        )
    if key and config.data.custom_cls.path:
        raise ValueError("objective.reference_key names a column of data.train_files, which data.custom_cls replaces.")
    return objective(name, path=path, full_weight=full == "eos", reference_in_data=bool(key), **options)


def prompt_format(config: DictConfig, tokenizer: Any) -> PromptFormat:
    """The prompt format of this run, to be stored with its checkpoints."""
    template, kwargs = config.model.custom_chat_template, config.data.apply_chat_template_kwargs
    given = [config.data.response_end] if config.data.response_end else None
    made = resolve_prompt_format(template, tokenizer, stop=given, template_kwargs=kwargs)
    stop = _end_of_turn(made, tokenizer) if config.data.multiturn.enable else made.stop[0]
    if len(tokenizer(stop, add_special_tokens=False)["input_ids"]) != 1:
        raise ValueError(
            f"expected data.response_end to be one token of the tokenizer, found {stop!r}. Generation stops at a token."
        )
    chosen = {key: value for key, value in config.objective.items() if value is not None}
    training = {"objective": chosen, "model": config.model.path}
    return dataclasses.replace(made, stop=(stop,), training=training)


def _end_of_turn(prompts: PromptFormat, tokenizer: Any) -> str:
    """What a chat template writes after an assistant's words, blanks at the end aside."""
    if prompts.kind != "chat":
        raise ValueError(f"data.multiturn.enable needs a chat template; found the plain prompt type {prompts.name}.")
    turn = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    end = prompts.render(turn, tokenizer, add_generation_prompt=False).rpartition("2")[2].rstrip()
    if not end:
        raise ValueError("the chat template writes nothing after an assistant's turn, so no model could learn to stop.")
    return end


def needed_columns(config: DictConfig) -> dict[str, str]:
    """The columns that a data file must have, and the flag that names each."""
    data, reference = config.data, config.objective.reference_key
    scored = {reference: "objective.reference_key, a column that python -m verl.dft.score adds"} if reference else {}
    if data.multiturn.enable:
        return {data.messages_key: "data.multiturn.messages_key"} | scored
    return {data.prompt_key: "data.prompt_key", data.response_key: "data.response_key"} | scored


def row_format(config: DictConfig, prompts: PromptFormat) -> RowFormat:
    """How rows of the data files are read."""
    data = config.data
    return RowFormat(
        prompt_format=prompts,
        response_end=prompts.stop[0],
        max_length=data.max_length,
        truncation=data.truncation,
        prompt_keys=(data.prompt_key, *(data.prompt_dict_keys or [])),
        response_keys=(data.response_key, *(data.response_dict_keys or [])),
        multiturn=data.multiturn.enable,
        messages_key=data.messages_key,
        tools_key=data.tools_key,
        enable_thinking_key=data.enable_thinking_key,
    )
