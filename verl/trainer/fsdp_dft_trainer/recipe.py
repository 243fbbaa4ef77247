"""What the settings name: the objective, the prompt format, and how rows are read. Nothing heavy is imported."""

import dataclasses
import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NewType

from omegaconf import DictConfig, ListConfig

from verl.dft.data.dataset import AS_TEMPLATE, RowFormat
from verl.dft.data.files import expand
from verl.dft.data.prompts import FILE_NAME, PromptFormat, resolve_prompt_format
from verl.dft.data.turns import Turns
from verl.dft.loss.objectives import Objective, objective

# What settings.complete_config returns: resolved, checked, and with every automatic value filled in.
CompletedConfig = NewType("CompletedConfig", DictConfig)


def file_list(files: Any) -> list[str]:
    """One path, a list of them or null, as a list of files: globs and folders of parts are read as their files."""
    if files is None:
        return []
    names = files if isinstance(files, Sequence | ListConfig) and not isinstance(files, str) else [files]
    return [file for name in names for file in expand(os.path.expanduser(name))]


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


def prompt_format(config: DictConfig, tokenizer: Any, today: str | None = None) -> PromptFormat:
    """The prompt format of this run, to be stored with its checkpoints.

    today: the date that a template gets which writes one, ``YYYY-MM-DD``; None: that of this machine. A run that goes
    on keeps the date of its checkpoint, so that its prompts stay the same.
    """
    data = config.data
    made = resolve_prompt_format(
        config.model.custom_chat_template,
        tokenizer,
        stop=[data.response_end] if data.response_end else None,
        template_kwargs=data.apply_chat_template_kwargs,
    )
    made = dataclasses.replace(
        made, system_prompt=data.system_prompt or "", fold_system_prompt=bool(data.fold_system_prompt)
    )
    made = made.fixed_at(_stored_date(config) or today or datetime.date.today().isoformat(), tokenizer)
    chosen = {key: value for key, value in config.objective.items() if value is not None}
    training = {"objective": chosen, "model": config.model.path}
    return dataclasses.replace(made, stop=(_stop_token(config, made, tokenizer),), training=training)


def _stop_token(config: DictConfig, prompts: PromptFormat, tokenizer: Any) -> str:
    """The last token of what ends a response: generation stops at one token."""
    end = prompts.stop[0]
    if config.data.multiturn.enable or config.data.response_end == AS_TEMPLATE:
        if prompts.kind != "chat":
            flag = "data.multiturn.enable" if config.data.multiturn.enable else "data.response_end=template"
            raise ValueError(f"{flag} needs a chat template; found the plain prompt type {prompts.name}.")
        end = Turns(prompts, tokenizer).end
        if not end:
            raise ValueError(
                "the chat template writes nothing after an assistant's turn, so no model could learn to stop."
            )
    ids = tokenizer(end, add_special_tokens=False)["input_ids"]
    if len(ids) == 1:
        return end
    token = tokenizer.convert_ids_to_tokens(ids[-1]) if ids else ""
    if token in tokenizer.get_added_vocab():
        return token
    raise ValueError(
        f"expected a response to end in a token of its own, found {end!r}. Generation stops at a token: set "
        "data.response_end to one that the tokenizer knows, or choose another template."
    )


def _stored_date(config: DictConfig) -> str:
    """The date in the prompt format of the checkpoint that this run goes on from; "" where there is none."""
    trainer = config.trainer
    if trainer.resume_mode == "disable":
        return ""
    folders = [Path(trainer.resume_from_path)] if trainer.resume_from_path else []
    steps = Path(trainer.default_local_dir).expanduser().glob("global_step_*")
    folders += sorted(steps, key=lambda folder: int(folder.name.rpartition("_")[2] or 0), reverse=True)
    for folder in folders:
        if (folder / FILE_NAME).is_file():
            return PromptFormat.load(folder).date
    return ""


def needed_columns(config: DictConfig) -> dict[str, str]:
    """The columns that a data file must have, and the flag that names each."""
    data, reference = config.data, config.objective.reference_key
    more = {reference: "objective.reference_key, a column that python -m verl.dft.score adds"} if reference else {}
    more |= {data.weight_key: "data.weight_key"} if data.weight_key else {}
    if data.multiturn.enable:
        return {data.messages_key: "data.multiturn.messages_key"} | more
    return {data.prompt_key: "data.prompt_key", data.response_key: "data.response_key"} | more


def row_format(config: DictConfig, prompts: PromptFormat) -> RowFormat:
    """How rows of the data files are read."""
    data = config.data
    return RowFormat(
        prompt_format=prompts,
        response_end=data.response_end or prompts.stop[0],
        max_length=data.max_length,
        truncation=data.truncation,
        prompt_keys=(data.prompt_key, *(data.prompt_dict_keys or [])),
        response_keys=(data.response_key, *(data.response_dict_keys or [])),
        multiturn=data.multiturn.enable,
        messages_key=data.messages_key,
        tools_key=data.tools_key,
        enable_thinking_key=data.enable_thinking_key,
        train=data.multiturn.train,
        weight_key=data.weight_key,
    )
