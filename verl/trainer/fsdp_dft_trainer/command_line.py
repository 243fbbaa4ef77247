"""From the command line to one resolved configuration, or to one sentence that says what is wrong with it.

The yaml is the only list of flags. A setting with two names is written there as an interpolation, verl's name
pointing to the original's; :func:`alias_pairs` reads the pairs off the file.
"""

import difflib
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONFIG_DIR = Path(__file__).parent / "config"
CONFIG_NAME = "dft_trainer"

# Dictionaries into which new keys may be put without Hydra's "+".
OPEN_DICTS = (
    "objective",
    "data.apply_chat_template_kwargs",
    "model.override_config",
    "optim.override_optimizer_config",
    "engine.wrap_policy",
)

# Flags that cannot be honoured here, and what to use instead. All but the first are verl's own.
REFUSED = {
    "data.micro_batch_size": "use data.micro_batch_size_per_gpu",
    "data.num_workers": "rows are tokenised once and kept in memory, so there are no loader workers; remove it",
    "data.ignore_input_ids_mismatch": "a template that rewrites earlier turns is refused; remove it",
    "data.enable_thinking_default": "use data.apply_chat_template_kwargs.enable_thinking",
    "trainer.balance_batch": "the global batch is always dealt out by length; remove it",
    "trainer.profile_interval": "profile with torch.profiler or nsys around the command; remove it",
    "model.use_fused_kernels": "it computes prompt tokens too and no accuracy; remove it",
    "profiler": "profile with torch.profiler or nsys around the command; remove it",
    "model.lora": "it is Megatron's; use model.lora_rank, model.lora_alpha and model.target_modules",
    "model.mtp": "multi-token prediction is not trained here; remove it",
    "model.tiled_mlp": "verl's FSDP engine does not read it; remove it",
    "engine.forward_only": "a trainer runs backward; remove it",
    "engine.turbo_config": "it belongs to another engine; remove it",
    "optim.total_training_steps": "use trainer.total_training_steps",
    "optim.warmup_style": "use optim.lr_scheduler",
}


# Names that other trainers have for a setting.
KNOWN_ELSEWHERE = {
    "learning_rate": "optim.lr",
    "warmup_ratio": "optim.warmup_steps_ratio",
    "max_grad_norm": "optim.clip_grad",
    "lr_scheduler_type": "optim.lr_scheduler",
    "per_device_train_batch_size": "data.micro_batch_size_per_gpu",
    "num_train_epochs": "trainer.total_epochs",
    "num_epochs": "trainer.total_epochs",
    "epochs": "trainer.total_epochs",
    "max_steps": "trainer.total_training_steps",
    "max_seq_length": "data.max_length",
    "max_seq_len": "data.max_length",
    "max_prompt_length": "data.max_length",
    "output_dir": "trainer.default_local_dir",
    "save_steps": "trainer.save_freq",
    "eval_steps": "trainer.test_freq",
    "save_total_limit": "trainer.max_ckpt_to_keep",
    "report_to": "trainer.logger",
    "batch_size": "data.train_batch_size",
    "model_name_or_path": "model.partial_pretrain",
}


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The composed configuration of a command line such as ``["optim.lr=1e-5", ...]``, interpolations in place.

    Raises ValueError for unknown and refused flags, and for two names of one setting with different values.
    """
    given = _given_keys(overrides)
    pairs = list(zip(given, overrides, strict=True))
    for key, override in pairs:
        _check_flag(key, override)
    opened = [("++" if _is_open(key) else "") + override.lstrip("+") for key, override in pairs]
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        try:
            config = compose(CONFIG_NAME, overrides=opened)
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(f"the command line does not fit the settings: {' '.join(str(error).split())}") from error
    _check_aliases(config, set(given))
    return config


def alias_pairs() -> dict[str, str]:
    """verl's name -> the name it points to, for every setting with two names."""
    raw = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / f"{CONFIG_NAME}.yaml"), resolve=False)
    return {
        key: value[2:-1]
        for key, value in _leaves(raw)
        if isinstance(value, str) and value.startswith("${") and value.endswith("}") and value.count("$") == 1
    }


def help_text() -> str:
    """All flags with their defaults: ours with what they mean, and below them the others that verl has."""
    written = (CONFIG_DIR / f"{CONFIG_NAME}.yaml").read_text(encoding="utf-8")
    ours = written[written.index("\nobjective:") :]  # after Hydra's own keys
    explained = {name for name, _ in _leaves(OmegaConf.to_container(OmegaConf.create(written)))}
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        defaults = dict(_leaves(OmegaConf.to_container(compose(CONFIG_NAME), resolve=False)))
    others = [
        f"{name}={json.dumps(value)}"
        for name, value in defaults.items()
        if name not in explained and not _refusal(name) and not name.endswith("_target_")
    ]
    return (
        "torchrun --standalone --nproc_per_node=N -m verl.trainer.fsdp_dft_trainer flag=value ...\n"
        "Instead of a run: --dry_run (checks, counts and estimates), --cfg (the settings), --help.\n"
        "${name} is the value of the setting of that name, under which verl knows it; either may be given.\n"
        f"{ours}\nverl's other flags (of its configurations hf_model and fsdp):\n\n" + "\n".join(others)
    )


def _given_keys(overrides: Sequence[str]) -> list[str]:
    try:
        parsed = OverridesParser.create().parse_overrides(overrides=list(overrides))
    except HydraException as error:
        message = " ".join(str(error).split("See https://")[0].split())
        raise ValueError(f"expected flags of the form name=value; {message}") from error
    return [override.key_or_group for override in parsed]


@functools.cache
def _flags() -> tuple[str, ...]:
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        return tuple(name for name, _ in _leaves(OmegaConf.to_container(compose(CONFIG_NAME), resolve=False)))


def _check_flag(key: str, override: str) -> None:
    if refused := _refusal(key):
        raise ValueError(f"{key} is not supported by this trainer: {REFUSED[refused]}.")
    if override.startswith("~"):
        raise ValueError(f"found {override}: settings cannot be removed. Give the value that you want instead.")
    if _is_open(key):
        return
    flags = _flags()
    if key in flags or any(flag.startswith(key + ".") for flag in flags):
        return
    last = key.rsplit(".", 1)[-1]
    elsewhere = [KNOWN_ELSEWHERE[last]] if last in KNOWN_ELSEWHERE else []
    close = elsewhere or [flag for flag in flags if flag.rsplit(".", 1)[-1] == last]
    close = close or difflib.get_close_matches(key, flags, n=3)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(f"unknown flag {key}.{hint} --help lists all flags.")


def _refusal(key: str) -> str | None:
    """The entry of REFUSED that ``key`` is, or is below of."""
    return next((name for name in REFUSED if key == name or key.startswith(name + ".")), None)


def _check_aliases(config: DictConfig, given: set[str]) -> None:
    for name, other in alias_pairs().items():
        if {name, other} <= given:
            first, second = OmegaConf.select(config, name), OmegaConf.select(config, other)
            if first != second:
                raise ValueError(
                    f"{other}={second} and {name}={first} are two names of one setting; found different values. "
                    "Give one of them."
                )


def _is_open(key: str) -> bool:
    return any(key.startswith(name + ".") for name in OPEN_DICTS)


def _leaves(node: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node
