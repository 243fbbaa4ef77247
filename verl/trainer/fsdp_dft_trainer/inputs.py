"""What a run reads before it builds anything: the model's configuration and tokenizer, and the rows as tokens.

Shared by the trainer and by its dry run. No weights are loaded here.
"""

from dataclasses import fields

from hydra.errors import InstantiationException
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.fs import copy_to_local
from verl.workers.config import HFModelConfig

from verl.dft.data.dataset import Report, check_files, tokenize_files
from verl.dft.data.prompts import PromptFormat
from verl.dft.data.reference_column import read_reference_log_probs
from verl.dft.data.rows import TokenizedRows
from verl.dft.model.loading import text_config
from verl.trainer.fsdp_dft_trainer.layout import check_context
from verl.trainer.fsdp_dft_trainer.recipe import CompletedConfig, needed_columns, prompt_format, row_format


def model_and_prompts(config: CompletedConfig, today: str | None = None) -> tuple[HFModelConfig, PromptFormat]:
    """What of the model is read before its weights, and how it is asked.

    The tokenizer gets the chat template in use, so that it is saved with the checkpoints. today: as for prompt_format.
    Raises ValueError for what is no model, and for a format that it cannot have.
    """
    model = _model_config(config)
    prompts = prompt_format(config, model.tokenizer, today)
    if prompts.kind == "chat":
        model.tokenizer.chat_template = prompts.template
    return model, prompts


def _model_config(config: DictConfig) -> HFModelConfig:
    """verl's model configuration, which loads configuration and tokenizer."""
    own = only_fields_of_target(config.model)
    own.custom_chat_template = None  # a path or a name here; resolved by prompt_format()
    try:
        made = omega_conf_to_dataclass(own)
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise ValueError(
            f"expected a model and its tokenizer in model.partial_pretrain={config.model.path}; "
            f"{type(cause).__name__}: {str(cause).splitlines()[0]}"
        ) from error
    if not made.tokenizer("What is 1 + 1?", add_special_tokens=False)["input_ids"]:
        raise ValueError(
            f"expected a tokenizer in {made.tokenizer_path}, found one without vocabulary: its files are missing. "
            "Set model.tokenizer_path, or copy tokenizer.json and tokenizer_config.json there."
        )
    # verl copies the choice into the configuration as well, and a saved model would then ask for it wherever it is
    # loaded. What transformers reads in this process is the private attribute.
    made.hf_config.__dict__.pop("attn_implementation", None)
    return made


def tokenized_rows(
    config: CompletedConfig,
    model: HFModelConfig,
    prompts: PromptFormat,
    flag: str,
    max_rows: int,
    progress: bool = True,
) -> tuple[TokenizedRows, Report]:
    """The rows of the files that ``flag`` (``data.train_files`` or ``data.val_files``) names, and what became of them.

    max_rows: only the first N, -1 for all. Raises ValueError for files and rows that cannot be trained on, and
    for a tokenizer that writes tokens the model does not know.
    """
    files = [copy_to_local(file, use_shm=config.data.use_shm) for file in OmegaConf.select(config, flag)]
    check_files(files, needed_columns(config), flag)
    how = row_format(config, prompts)
    rows, report = tokenize_files(files, how, model.tokenizer, flag, max_rows, progress)
    largest, known = int(rows.input_ids.max()), text_config(model.hf_config).vocab_size
    if largest >= known:
        raise ValueError(
            f"the tokenizer wrote token {largest}, but the model knows {known}. They do not belong together."
        )
    key = config.objective.reference_key
    if key:
        rows.reference_log_probs = read_reference_log_probs(files, key, rows)
    told = check_context(model, rows.lengths(), flag)
    if told and progress:
        print(told, flush=True)
    return rows, report


def only_fields_of_target(node: DictConfig) -> DictConfig:
    """The part of ``node`` that its ``_target_`` dataclass knows: our yaml keeps the original's names beside it."""
    known = {field.name for field in fields(get_class(node["_target_"]))} | {"_target_"}
    return OmegaConf.create({key: value for key, value in node.items() if key in known})
