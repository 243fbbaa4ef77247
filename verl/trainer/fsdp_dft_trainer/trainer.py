"""The training loop. Read :meth:`DFTTrainer.fit` first, then :meth:`DFTTrainer.train_step`."""

import os
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from hydra.errors import InstantiationException
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from tqdm import tqdm
from verl.trainer.sft_trainer import SFTTrainer
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.dataset.dataset_utils import DatasetPadMode, SFTTensorCollator
from verl.utils.device import get_torch_device
from verl.utils.fs import copy_to_local
from verl.utils.import_utils import load_extern_object
from verl.utils.tracking import Tracking
from verl.workers.config import HFModelConfig

from verl.dft.batches import TrainBatches, validation_batches
from verl.dft.dataset import TokenizedRows, check_files, decoded_example, share_within_node, tokenize_files
from verl.dft.engine import DFTEngine
from verl.dft.forecast import short_form
from verl.dft.metrics import SUMS, MetricsFile, summarize
from verl.trainer.fsdp_dft_trainer.checkpoints import Checkpoints, verl_contents
from verl.trainer.fsdp_dft_trainer.checks import needed_columns, prompt_format, row_format, training_objective

UNKNOWN_STOP_TOKEN = 0.01  # mean probability under which the trainer warns


class DFTTrainer(SFTTrainer):
    """Fine-tunes a causal language model under a token objective, on verl's FSDP engine.

    The parent's construction order is kept; its loop is not: ``fit`` here validates every row with equal weight per
    token, resumes at the right epoch, and reduces its metrics as sums. Needs an initialised process group and a
    configuration from :func:`~verl.trainer.fsdp_dft_trainer.checks.complete_config`.
    """

    engine: DFTEngine

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self.rank = dist.get_rank()
        self.device_name = config.trainer.device
        self.objective = training_objective(config)
        self._build_config()
        self._build_dataset()
        self._build_engine()
        self._build_dataloader()
        self._init_engine()
        self._build_ckpt_handler()
        self.resume_global_step = self.checkpoints.resume()

    # ---------------------------------------------------------------- construction, in the parent's order

    def _build_config(self) -> None:
        # verl's dataclass knows two schedules; the engine builds the third from verl's own function.
        wsd = self.config.optim.lr_scheduler_type == "wsd"
        optim = self.config.optim.copy()
        if wsd:
            optim.lr_scheduler_type = "constant"
        self.model_config = _model_config(self.config)
        self.engine_config = omega_conf_to_dataclass(_only_fields_of_target(self.config.engine))
        self.optimizer_config = omega_conf_to_dataclass(_only_fields_of_target(optim))
        contents = verl_contents(list(self.config.checkpoint.save_contents))
        self.checkpoint_config = omega_conf_to_dataclass({**self.config.checkpoint, "save_contents": contents})
        if wsd:
            self.optimizer_config.lr_scheduler_type = "wsd"
        self.tokenizer = self.model_config.tokenizer
        self.prompt_format = prompt_format(self.config, self.tokenizer)
        if self.prompt_format.kind == "chat":
            self.tokenizer.chat_template = self.prompt_format.template  # saved with the checkpoints

    def _build_dataset(self) -> None:
        data = self.config.data
        self.train_dataset = self._dataset(data.train_files, "data.train_files", data.train_max_samples)
        self.val_dataset = (
            self._dataset(data.val_files, "data.val_files", data.val_max_samples) if data.val_files else None
        )
        if self.rank == 0 and isinstance(self.train_dataset, TokenizedRows):
            example = decoded_example(self.train_dataset, self.tokenizer)
            print(f"The first row, with the trained tokens between ⟦ and ⟧:\n{example}", flush=True)

    def _dataset(self, files: list[str], flag: str, max_rows: int) -> Any:
        data = self.config.data
        if data.custom_cls.path:
            custom: Any = load_extern_object(data.custom_cls.path, data.custom_cls.name)
            return custom(
                parquet_files=files,
                tokenizer=self.tokenizer,
                config=data,
                processor=self.model_config.processor,
                max_samples=max_rows,
            )
        how = row_format(self.config, self.prompt_format)

        def build() -> TokenizedRows:
            local = _local_copies(files, data.use_shm)
            check_files(local, needed_columns(self.config), flag)
            rows, report = tokenize_files(local, how, self.tokenizer, flag, max_rows, progress=self.rank == 0)
            largest, known = int(rows.input_ids.max()), self.model_config.hf_config.vocab_size
            if largest >= known:
                raise ValueError(
                    f"the tokenizer wrote token {largest}, but the model knows {known}. They do not belong together."
                )
            if self.rank == 0:
                print(report.text(flag, rows), flush=True)
            return rows

        return share_within_node(build)

    def _build_engine(self) -> None:
        self.model_config.model_type = "language_model"
        self.engine_config.use_remove_padding = self.model_config.use_remove_padding
        self.engine = DFTEngine(self.model_config, self.engine_config, self.optimizer_config, self.checkpoint_config)
        (self.engine.stop_token_id,) = self.tokenizer(self.prompt_format.stop[0], add_special_tokens=False)["input_ids"]
        self.engine.full_weight_ids = (self.engine.stop_token_id, *self.tokenizer.all_special_ids)
        self.engine.wants_reference = self.objective.needs_reference
        self.engine.wants_fused_head = self.config.model.fused_head
        self.engine.activation_checkpointing = self.config.model.activation_checkpointing
        self.engine.compiles_layers = self.config.model.compile_layers

    def _build_dataloader(self) -> None:
        known = isinstance(self.train_dataset, TokenizedRows)
        self.batches = TrainBatches(
            row_count=len(self.train_dataset),
            lengths=self.train_dataset.lengths() if known else None,
            batch_size=self.config.data.train_batch_size,
            rank=self.engine.get_data_parallel_rank(),
            ranks=self.engine.get_data_parallel_size(),
            seed=self.config.trainer.seed,
        )
        self.collate = SFTTensorCollator(DatasetPadMode.NO_PADDING)
        if self.rank == 0 and self.batches.left_over:
            print(f"Each epoch leaves out the {self.batches.left_over} rows that fill no batch.", flush=True)

    def _init_engine(self) -> None:
        trainer, steps = self.config.trainer, self.batches.steps_per_epoch
        self.total_training_steps = trainer.total_training_steps or steps * trainer.total_epochs
        self.save_freq = steps if trainer.save_freq == "after_each_epoch" else trainer.save_freq
        self.test_freq = steps if trainer.test_freq == "after_each_epoch" else trainer.test_freq
        self.optimizer_config.total_training_steps = self.total_training_steps
        self.engine.initialize()
        if self.rank == 0:
            self._tell_activation_memory()

    def _build_ckpt_handler(self) -> None:
        export = "hf_model" in self.config.checkpoint.save_contents
        self.checkpoints = Checkpoints(self.engine, self.model_config, self.config.trainer, export)

    # ---------------------------------------------------------------- the loop

    def fit(self) -> None:
        """Train from the step after the last checkpoint to the last step; validate and save on the way."""
        folder = Path(self.config.trainer.default_local_dir)
        tracking = self._tracking(folder) if self.rank == 0 else None
        history = MetricsFile(folder / "metrics.jsonl", self.resume_global_step) if self.rank == 0 else None
        steps = range(self.resume_global_step + 1, self.total_training_steps + 1)
        if not steps and self.rank == 0:
            print(f"Nothing to do: {folder} holds step {self.resume_global_step} of {self.total_training_steps}.")
        bar = tqdm(total=self.total_training_steps, initial=steps.start - 1, desc="training", disable=self.rank != 0)
        for step in steps:
            metrics = self.train_step(step)
            if self.val_dataset is not None and self._is_due(step, self.test_freq):
                metrics |= self.validate()
            if self.rank == 0:
                assert tracking is not None and history is not None
                with bar.external_write_mode():
                    tracking.log({name: float(f"{value:.6g}") for name, value in metrics.items()}, step=step)
                history.append(metrics, step)
            if self._is_due(step, self.save_freq):
                self.checkpoints.save(step, self.prompt_format)
            bar.update()
        bar.close()
        if tracking is not None:
            tracking.finish()

    def train_step(self, step: int) -> dict[str, float]:
        """One optimizer step on global batch ``step``; its metrics under ``train/``.

        Raises ValueError, with the model as it was before the step, when loss or gradient is not finite.
        """
        started = time.perf_counter()
        batch = self._batch([self.train_dataset[i] for i in self.batches.rows(step)])
        lr = self.engine.lr_scheduler.get_last_lr()[0]
        self.engine.forecasts = step == 1 and self.config.trainer.diagnose
        with self.engine.train_mode():
            output = self.engine.train_batch(batch, loss_function=self.objective)
        self.engine.lr_scheduler_step()
        sums = self._over_ranks(torch.stack(output["metrics"]["sums"]).sum(0), batch["input_ids"].offsets().diff())
        seconds = time.perf_counter() - started
        metrics = summarize(sums[: len(SUMS)])
        # verl tells the gradient's norm to the first rank of a sequence-parallel group only; rank 0 is one.
        metrics |= {"grad_norm": float(output["metrics"].get("grad_norm", 0.0)), "lr": lr, "seconds": seconds}
        tokens, squares = sums[len(SUMS) :].tolist()
        metrics["tokens_per_second"] = tokens / seconds
        if self.device_name != "cpu":
            metrics["mfu"] = self.engine.flops.utilization(tokens, squares, seconds)
            metrics["memory_gib"] = get_torch_device().max_memory_allocated() / 2**30
        self._refuse_bad_numbers(step, metrics)
        if step == 1:
            self._warn_of_unknown_stop_token(metrics["stop_p"])
        if self.engine.forecasts:
            self._tell_forecast(output["metrics"]["forecast"])
        return {f"train/{name}": value for name, value in metrics.items()}

    def validate(self) -> dict[str, float]:
        """The training metrics over every validation row, each target token with equal weight, under ``val/``."""
        rank, ranks = self.engine.get_data_parallel_rank(), self.engine.get_data_parallel_size()
        per_rank = self.config.data.train_batch_size // ranks
        total = torch.zeros(len(SUMS), dtype=torch.float64)
        shares = list(validation_batches(len(self.val_dataset), per_rank, rank, ranks))
        for rows, count in tqdm(shares, desc="validation", disable=self.rank != 0, leave=False):
            items = [dict(self.val_dataset[i]) for i in rows]
            for item in items[count:]:
                item["loss_mask"] = torch.zeros_like(item["loss_mask"])
            with self.engine.eval_mode():
                output = self.engine.infer_batch(self._batch(items), loss_function=self.objective)
            total += torch.stack(output["metrics"]["sums"]).sum(0).cpu()
        sums = self._over_ranks(total.to(self.device_name))
        return {f"val/{name}": value for name, value in summarize(sums).items()}

    # ---------------------------------------------------------------- pieces

    def _batch(self, items: list[dict[str, torch.Tensor]]) -> TensorDict:
        if any(item["loss_mask"][0] for item in items):
            raise ValueError(
                "expected loss_mask 0 at the first token of every row, found 1: nothing comes before it to predict it "
                "from. Correct the dataset of data.custom_cls."
            )
        data = self.config.data
        how = {
            "use_remove_padding": self.model_config.use_remove_padding,
            "use_dynamic_bsz": data.use_dynamic_bsz,
            "max_token_len_per_gpu": data.max_token_len_per_gpu,
            "micro_batch_size_per_gpu": data.micro_batch_size_per_gpu,
            "temperature": 1.0,
            "pad_mode": DatasetPadMode.NO_PADDING,
            "pad_token_id": self.tokenizer.pad_token_id,
        }
        return tu.get_tensordict(tensor_dict=self.collate(items), non_tensor_dict=how)

    def _over_ranks(self, sums: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """The sums added over all ranks, with sum(length) and sum(length^2) behind them if lengths are given.

        Under sequence parallelism each rank has summed its own part of the tokens, but knows all lengths of its group.
        """
        if lengths is not None:
            extra = torch.stack([lengths.double().sum(), lengths.double().square().sum()])
            sums = torch.cat([sums, extra.to(sums.device) / self.engine.ulysses_sequence_parallel_size])
        dist.all_reduce(sums)
        return sums.cpu()

    def _refuse_bad_numbers(self, step: int, metrics: dict[str, float]) -> None:
        finite = all(torch.isfinite(torch.tensor(metrics[name])) for name in ("nll", "grad_norm"))
        if not finite and metrics["target_tokens"]:
            raise ValueError(
                f"step {step}: nll {metrics['nll']}, gradient norm {metrics['grad_norm']}; expected finite numbers. "
                "The model was not updated. Lower the learning rate, or look at the rows of this step."
            )

    def _warn_of_unknown_stop_token(self, stop_p: float) -> None:
        """A base model may never have seen the token that ends a response, and DFT leaves tokens at p near 0 alone."""
        learns = self.objective.name == "sft" or self.objective.full_weight
        if self.rank == 0 and not learns and stop_p < UNKNOWN_STOP_TOKEN:
            print(
                f"warning: the model gives the token that ends a response, {self.prompt_format.stop[0]!r}, a mean "
                f"probability of {stop_p:.2g}. DFT weighs a token with its probability, so the model may never learn "
                "to stop. Set objective.full_weight_tokens=eos, or choose a token it knows with data.response_end=...; "
                "watch train/stop_p.",
                flush=True,
            )

    def _tell_forecast(self, sums: list[torch.Tensor]) -> None:
        total = self._over_ranks(torch.stack(sums).sum(0))
        if self.rank == 0:
            print(f"Before the first update, on its batch: {short_form(total)}", flush=True)

    def _tell_activation_memory(self) -> None:
        data, sizes = self.config.data, self.engine.activation_bytes
        if not sizes:
            return
        tokens = data.max_token_len_per_gpu if data.use_dynamic_bsz else data.micro_batch_size_per_gpu * data.max_length
        told = ", ".join(f"{kind} {size * tokens / 2**20:,.1f} MiB" for kind, size in sizes.items())
        print(
            f"Activations of the layers for {tokens} tokens, by model.activation_checkpointing: {told}. "
            f"This run: {self.config.model.activation_checkpointing}.",
            flush=True,
        )

    def _is_due(self, step: int, every: int) -> bool:
        return step == self.total_training_steps or (every > 0 and step % every == 0)

    def _tracking(self, folder: Path) -> Any:
        os.environ.setdefault("TENSORBOARD_DIR", str(folder / "tensorboard"))
        trainer = self.config.trainer
        return Tracking(
            project_name=trainer.project_name,
            experiment_name=trainer.experiment_name,
            default_backend=list(trainer.logger),
            config=OmegaConf.to_container(self.config),
        )


def _model_config(config: DictConfig) -> HFModelConfig:
    """verl's model configuration, which loads configuration and tokenizer. Raises ValueError for what is no model."""
    own = _only_fields_of_target(config.model)
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


def _only_fields_of_target(node: DictConfig) -> DictConfig:
    """The part of ``node`` that its ``_target_`` dataclass knows: our yaml keeps the original's names beside it."""
    known = {field.name for field in fields(get_class(node["_target_"]))} | {"_target_"}
    return OmegaConf.create({key: value for key, value in node.items() if key in known})


def _local_copies(files: list[str], use_shm: bool) -> list[str]:
    return [copy_to_local(file, use_shm=use_shm) for file in files]
