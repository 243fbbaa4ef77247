"""The composed configuration, completed for this machine and checked, before anything heavy is loaded.

Every ValueError here says what was expected, what was found, and what to do.
"""

import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from verl.utils.device import get_device_name, is_device_available
from verl.utils.tracking import Tracking

from verl.dft.data.dataset import check_files
from verl.dft.model import activations, attention
from verl.dft.model.platform import device_problem
from verl.dft.model_folder import resolve_model
from verl.trainer.fsdp_dft_trainer.progress import BEST_METRICS
from verl.trainer.fsdp_dft_trainer.recipe import CompletedConfig, file_list, needed_columns, training_objective
from verl.trainer.fsdp_dft_trainer.stopping import seconds_of

# The loggers of verl that are packages of their own, under the names of both.
LOGGER_PACKAGES = {name: name for name in ("wandb", "mlflow", "swanlab", "tensorboard", "clearml", "trackio")}

# Of the learning rate; verl builds the first two.
SCHEDULES = ("cosine", "constant", "wsd", "linear")


@dataclass(frozen=True)
class Launch:
    """world: ranks of the run. local: those of this machine."""

    world: int = 1
    local: int = 1

    @classmethod
    def of_torchrun(cls, local: int | None = 1) -> "Launch":
        """The one that torchrun wrote into this process's environment; alone without torchrun.

        local: ranks of this machine where the environment does not say; None or 0: all of them.
        """
        world = int(os.environ.get("WORLD_SIZE", 1))
        return cls(world, int(os.environ.get("LOCAL_WORLD_SIZE", local or world)))


def complete_config(config: DictConfig, launch: Launch, say: Any = print) -> CompletedConfig:
    """A resolved copy with every automatic value filled in. ``say`` is told, once, what this machine cannot honour.

    Raises ValueError for values that contradict each other or this launch.
    """
    config = DictConfig(OmegaConf.to_container(config, resolve=True))
    for flag, value in (("data.train_files", config.data.train_files), ("model.partial_pretrain", config.model.path)):
        if not value:
            raise ValueError(f"expected {flag}=..., found nothing. Give it on the command line.")
    with open_dict(config):
        _check_choices(config)
        _check_launch(config, launch)
        _complete_batching(config, launch)
        _complete_precision(config)
        _complete_optimizer(config)
        _complete_model(config, say)
        _check_session(config)
        for flag in ("train_files", "val_files"):
            config.data[flag] = file_list(config.data[flag])
            if not config.data.custom_cls.path:
                local = [file for file in config.data[flag] if not file.startswith("hdfs://")]
                check_files(local, needed_columns(config), f"data.{flag}")
        config.trainer.default_local_dir = os.path.expanduser(config.trainer.default_local_dir)
    return CompletedConfig(config)


def _check_choices(config: DictConfig) -> None:
    training_objective(config)
    if config.data.balance_dp_token is False:
        raise ValueError(
            "data.balance_dp_token=False (a mean per rank) is not supported: the loss is divided by the target tokens "
            "of the global batch, so that it does not depend on how rows are dealt out. Remove the flag."
        )
    if config.data.pad_mode != "no_padding":
        raise ValueError(f"expected data.pad_mode=no_padding, found {config.data.pad_mode}. Remove the flag.")
    if config.engine.strategy not in ("fsdp", "fsdp2"):
        raise ValueError(f"expected model.strategy to be fsdp or fsdp2; found {config.engine.strategy!r}")
    if config.optim.lr_scheduler_type not in SCHEDULES:
        raise ValueError(
            f"expected optim.lr_scheduler to be one of {', '.join(SCHEDULES)}; found {config.optim.lr_scheduler_type!r}"
        )
    fsdp = config.model.fsdp_config
    if fsdp.offload_params is not None and fsdp.offload_params != config.engine.offload_policy:
        raise ValueError(
            f"model.fsdp_config.offload_params={fsdp.offload_params} contradicts cpu_offload="
            f"{config.engine.offload_policy}: parameters are offloaded with gradients and optimizer, or not at all."
        )
    if config.engine.strategy == "fsdp" and config.engine.offload_policy:
        raise ValueError(
            "cpu_offload needs model.strategy=fsdp2. With fsdp, use engine.param_offload=True "
            "engine.optimizer_offload=True."
        )
    if config.engine.strategy == "fsdp2" and config.engine.wrap_policy.get("min_num_params"):
        raise ValueError("min_num_params needs model.strategy=fsdp; fsdp2 shards by transformer layer.")


def _check_session(config: DictConfig) -> None:
    """How a run is saved, stopped and gone on with."""
    trainer = config.trainer
    _check_contents(config.checkpoint.save_contents)
    _check_loggers(trainer.logger)
    seconds_of(trainer.max_time)
    choices = {
        "resume_changed": ("refuse", "allow"),
        "on_nonfinite": ("stop", "skip"),
        "best_metric": (None, *BEST_METRICS),
    }
    for flag, known in choices.items():
        if trainer[flag] not in known:
            raise ValueError(
                f"expected trainer.{flag} to be one of {', '.join(map(str, known))}; found {trainer[flag]!r}"
            )
    for flag in ("max_nonfinite", "patience", "max_ckpt_to_keep", "peer_timeout"):
        value, may_be_null = trainer[flag], flag in ("patience", "max_ckpt_to_keep")
        if not (value is None and may_be_null) and (not isinstance(value, int) or value < 1):
            raise ValueError(f"expected trainer.{flag} to be 1 or more; found {value!r}")
    if trainer.patience and not trainer.best_metric:
        raise ValueError("trainer.patience needs trainer.best_metric: by what is a validation the best?")
    if trainer.best_metric and not config.data.val_files:
        raise ValueError(f"trainer.best_metric={trainer.best_metric} needs data.val_files.")


def _check_loggers(names: Sequence[str]) -> None:
    """Before a model is built: verl imports a logger, and asks it for its key, when training is about to begin."""
    if isinstance(names, str):
        raise ValueError(f"expected trainer.logger to be a list; found {names}. Write trainer.logger=[{names}].")
    for name in names:
        if name not in Tracking.supported_backend:
            known = ", ".join(Tracking.supported_backend)
            raise ValueError(f"expected trainer.logger to be a list of {known}; found {name!r}")
        if problem := _logger_problem(name):
            raise ValueError(f"trainer.logger={name} cannot be used: {problem}, or leave it out of trainer.logger.")


def _logger_problem(name: str) -> str | None:
    package = LOGGER_PACKAGES.get(name)
    if package and importlib.util.find_spec(package) is None:
        return f"the package {package} is not installed; pip install {package}"
    if name == "wandb":
        logged_in = os.environ.get("WANDB_API_KEY") or any(Path.home().glob("[._]netrc"))
        if not logged_in and os.environ.get("WANDB_MODE") not in ("offline", "disabled", "dryrun"):
            return "there is no key; run wandb login, or set WANDB_API_KEY or WANDB_MODE=offline"
    return None


def _check_contents(contents: Sequence[str]) -> None:
    known = {"model", "optimizer", "extra", "hf_model"}
    if set(contents) - known or not {"model", "hf_model"} & set(contents):
        raise ValueError(
            "expected checkpoint.save_contents to hold model or hf_model, and others of "
            f"{', '.join(sorted(known))}; found {', '.join(contents)}"
        )


def _check_launch(config: DictConfig, launch: Launch) -> None:
    launched = {"n_gpus_per_node": launch.local, "nnodes": launch.world // launch.local}
    for flag, actual in launched.items():
        if config.trainer[flag] is not None and config.trainer[flag] != actual:
            raise ValueError(
                f"trainer.{flag}={config.trainer[flag]}, but torchrun started {actual}. "
                "Set it with torchrun's --nnodes and --nproc_per_node and remove the flag."
            )
    if problem := device_problem(get_device_name()):
        raise ValueError(problem)
    device = config.trainer.device
    if device is not None and device != get_device_name():
        raise ValueError(f"trainer.device={device}, but this machine offers {get_device_name()}. Remove the flag.")
    config.trainer.device = get_device_name()
    if launch.world % config.engine.ulysses_sequence_parallel_size:
        raise ValueError(
            f"expected the number of ranks to be a multiple of ulysses_sequence_parallel_size="
            f"{config.engine.ulysses_sequence_parallel_size}; found {launch.world} ranks."
        )


def _complete_batching(config: DictConfig, launch: Launch) -> None:
    data, shards = config.data, config.engine.ulysses_sequence_parallel_size
    replicas = launch.world // shards
    if data.train_batch_size < 1 or data.train_batch_size % replicas:
        raise ValueError(
            f"expected data.train_batch_size to be a multiple of the {replicas} data-parallel ranks; "
            f"found {data.train_batch_size}."
        )
    per_rank = data.train_batch_size // replicas
    if data.use_dynamic_bsz is None:
        data.use_dynamic_bsz = data.micro_batch_size_per_gpu is None
    elif data.use_dynamic_bsz and data.micro_batch_size_per_gpu is not None:
        raise ValueError(
            f"data.micro_batch_size_per_gpu={data.micro_batch_size_per_gpu} contradicts data.use_dynamic_bsz=True, "
            "which fills micro-batches up to data.max_token_len_per_gpu. Give one of them."
        )
    if not data.use_dynamic_bsz:
        micro = data.micro_batch_size_per_gpu
        if not micro or micro < 1 or per_rank % micro:
            raise ValueError(
                f"expected data.micro_batch_size_per_gpu to divide the {per_rank} rows that each rank gets of "
                f"data.train_batch_size={data.train_batch_size}; found {micro}."
            )
    elif data.max_length > data.max_token_len_per_gpu * shards:
        raise ValueError(
            f"expected data.max_token_len_per_gpu={data.max_token_len_per_gpu} (times sequence-parallel size {shards}) "
            f"to hold a row of data.max_length={data.max_length} tokens. Raise the former."
        )


def _complete_precision(config: DictConfig) -> None:
    names = {"bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16", "float16": "fp16", "fp32": "fp32", "float32": "fp32"}
    wanted = config.engine.dtype or ("bfloat16" if is_device_available() and get_device_name() != "cpu" else "float32")
    for flag, value in (("engine.dtype", wanted), ("model.fsdp_config.model_dtype", config.engine.model_dtype)):
        if value not in names:
            raise ValueError(f"expected {flag} to be one of {', '.join(names)}; found {value!r}")
    compute = names[wanted]
    config.engine.dtype = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[compute]
    config.engine.mixed_precision = {"param_dtype": compute, "reduce_dtype": "fp32", "buffer_dtype": "fp32"}


def _complete_optimizer(config: DictConfig) -> None:
    """One kernel for all parameters, where the user has not chosen an optimizer or options of their own."""
    optim, scaled = config.optim, config.engine.dtype == "float16"
    if optim.clip_grad is not None and not optim.clip_grad >= 0:
        raise ValueError(f"expected optim.clip_grad of 0 (no clipping) or more; found {optim.clip_grad}")
    options = optim.override_optimizer_config or {}
    if scaled and options.get("fused"):
        raise ValueError(
            "optim.override_optimizer_config.fused=True cannot be used with engine.dtype=float16: the fused optimizer "
            "and FSDP's loss scaler do not fit together. Remove it, or train in bfloat16."
        )
    if (optim.optimizer_impl, optim.optimizer) == ("torch.optim", "AdamW") and not scaled:
        optim.override_optimizer_config = {"fused": True, **options}


def _complete_model(config: DictConfig, say: Any) -> None:
    model, on_cpu = config.model, get_device_name() == "cpu"
    model.path = resolve_model(model.path, "model.partial_pretrain")
    if model.use_liger and on_cpu:
        say("model.use_liger=True needs a GPU; training goes on without it.")
        model.use_liger = False
    elif model.use_liger and (problem := package_problem("liger-kernel", "liger_kernel.transformers", "0.")):
        raise ValueError(
            f"model.use_liger=True needs liger-kernel; found that {problem}. pip install -r requirements-gpu.txt, or "
            "set model.use_liger=False."
        )
    if config.engine.strategy == "fsdp" and on_cpu:
        say(
            "model.strategy=fsdp needs a GPU; training goes on with fsdp2, which computes the same and shards by "
            "layer, without min_num_params."
        )
        config.engine.strategy = "fsdp2"
    if config.engine.offload_policy and on_cpu:
        say("model.fsdp_config.cpu_offload=True has nothing to offload on a CPU; training goes on without it.")
        config.engine.offload_policy = False
    if config.engine.model_dtype in ("bf16", "bfloat16"):
        say(
            "model_dtype=bf16 keeps weights and optimizer in bf16, as the original did: an update smaller than 1/256 "
            "of a weight is lost. fp32 keeps master weights and still multiplies in bf16."
        )
    _complete_attention(config)
    _complete_checkpointing(config)


def _complete_checkpointing(config: DictConfig) -> None:
    model = config.model
    kind, enabled = model.activation_checkpointing, model.enable_gradient_checkpointing
    if kind is None:
        model.activation_checkpointing = "full" if enabled else "off"
    elif kind is False:  # YAML reads a bare off so
        model.activation_checkpointing = "off"
    elif kind not in activations.KINDS:
        raise ValueError(
            f"expected model.activation_checkpointing to be one of {', '.join(activations.KINDS)}; found {kind!r}"
        )
    if model.activation_checkpointing == "selective" and model.use_liger:
        raise ValueError(
            "model.activation_checkpointing=selective cannot be used with model.use_liger=True: Liger rotates queries "
            "and keys in the memory of the products that are kept, so recomputation would rotate them twice and the "
            "gradients would be wrong. Use full or off, or model.use_liger=False."
        )
    if kind in ("full", "selective") and not enabled:
        raise ValueError(
            f"model.activation_checkpointing={kind} contradicts model.enable_gradient_checkpointing=False. "
            "Give one of them."
        )


def _complete_attention(config: DictConfig) -> None:
    chosen = config.model.override_config.get("attn_implementation")
    # What was asked for, and null where layout.choose_layout() decides.
    config.model.given_attention, config.model.given_packing = chosen, config.model.use_remove_padding
    if config.model.use_remove_padding is None:
        config.model.use_remove_padding = True
    if chosen is None:  # torch's kernel for packed rows, which is flash-attn's own: no reason to look for the package
        chosen = config.model.override_config["attn_implementation"] = attention.NAME
    if chosen == "flash_attention_2":
        problem = package_problem("flash-attn", "flash_attn", "2.") if torch.cuda.is_available() else "there is no GPU"
        if problem:
            raise ValueError(
                f"attn_implementation=flash_attention_2 needs a GPU and the package flash-attn 2; found {problem}. "
                "Remove the flag."
            )
    shards = config.engine.ulysses_sequence_parallel_size
    if shards > 1 and chosen not in ("flash_attention_2", attention.NAME):
        raise ValueError(
            f"ulysses_sequence_parallel_size={shards} cannot be used with attn_implementation={chosen}: each rank "
            "would attend to its own slice only, which silently changes the gradient. Remove attn_implementation."
        )
    if shards > 1 and not config.model.use_remove_padding:
        raise ValueError(f"ulysses_sequence_parallel_size={shards} needs packed rows; set use_remove_padding=true.")


def package_problem(package: str, module: str, version: str) -> str | None:
    """Why ``module`` of ``package`` cannot be used, or None. version: what that of the package must begin with.

    Tried, not looked up: another package may have a module of that name, and a wheel built for another torch is found
    and does not load.
    """
    try:
        found = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return f"{package} is not installed"
    if not found.startswith(version):
        return f"its version is {found}"
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken wheel may raise anything
        return f"{package} {found} does not load ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
    return None
