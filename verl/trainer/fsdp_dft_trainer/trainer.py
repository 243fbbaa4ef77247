"""The training loop. Read :meth:`DFTTrainer.fit` first, then :meth:`DFTTrainer.train_step`."""

import datetime
import math
import random
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tensordict import TensorDict
from tqdm import tqdm
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.dataset.dataset_utils import DatasetPadMode, SFTTensorCollator
from verl.utils.device import get_torch_device
from verl.utils.import_utils import load_extern_object

from verl.dft.data.batches import TrainBatches, validation_batches
from verl.dft.data.rows import TokenizedRows, decoded_example, share_within_node
from verl.dft.forecast import short_form
from verl.dft.metrics import SUMS, summarize
from verl.dft.model.engine import DFTEngine, EngineChoices
from verl.trainer.fsdp_dft_trainer.bad_batches import BadBatches, trouble
from verl.trainer.fsdp_dft_trainer.checkpoints import Checkpoints
from verl.trainer.fsdp_dft_trainer.console import quiet
from verl.trainer.fsdp_dft_trainer.identity import run_identity
from verl.trainer.fsdp_dft_trainer.inputs import model_and_prompts, only_fields_of_target, tokenized_rows
from verl.trainer.fsdp_dft_trainer.layout import choose_layout
from verl.trainer.fsdp_dft_trainer.memory import tokens_at_once
from verl.trainer.fsdp_dft_trainer.recipe import CompletedConfig, training_objective
from verl.trainer.fsdp_dft_trainer.run_log import RunLog
from verl.trainer.fsdp_dft_trainer.stopping import StopRequests

OTHER_REFERENCE = 0.02  # relative difference of mean log p that rounding to bf16 does not explain
UNKNOWN_STOP_TOKEN = 0.01  # mean probability under which the trainer warns


class DFTTrainer:
    """Fine-tunes a causal language model under a token objective, on verl's FSDP engine.

    ``fit`` validates every row with equal weight per token, resumes at the right epoch, and reduces its metrics as
    sums. Needs an initialised process group. stop_requests: what may end the run early.
    """

    def __init__(self, config: CompletedConfig, stop_requests: StopRequests) -> None:
        self.config = config
        self.rank = dist.get_rank()
        self.device_name = config.trainer.device
        self.objective = training_objective(config)
        self.stop_requests = stop_requests
        self._build_config()
        self._build_dataset()
        self._build_engine()
        self._build_dataloader()
        self._init_engine()
        self._build_ckpt_handler()
        self.progress = self.checkpoints.resume()

    # ---------------------------------------------------------------- construction

    def _build_config(self) -> None:
        optim = only_fields_of_target(self.config.optim)
        if optim.lr_scheduler_type not in ("cosine", "constant"):  # all that verl's dataclass knows
            optim.lr_scheduler_type = "constant"  # the engine builds the others itself, by EngineChoices.schedule
        optim.clip_grad = optim.clip_grad or math.inf  # verl would scale every gradient to the norm 0
        today = [datetime.date.today().isoformat()]
        dist.broadcast_object_list(today)  # ranks that start around midnight must agree
        self.model_config, self.prompt_format = model_and_prompts(self.config, today[0])
        for line in choose_layout(self.config, self.model_config):
            if self.rank == 0:
                print(line, flush=True)
        self.engine_config = omega_conf_to_dataclass(only_fields_of_target(self.config.engine))
        self.optimizer_config = omega_conf_to_dataclass(optim)
        self.checkpoint_config = omega_conf_to_dataclass(self.config.checkpoint)
        self.tokenizer = self.model_config.tokenizer

    def _build_dataset(self) -> None:
        data = self.config.data
        self.train_dataset = self._dataset(data.train_files, "data.train_files", data.train_max_samples)
        self.val_dataset: Any = (
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

        def build() -> TokenizedRows:
            rows, report = tokenized_rows(
                self.config, self.model_config, self.prompt_format, flag, max_rows, progress=self.rank == 0
            )
            if self.rank == 0:
                print(report.text(flag, rows), flush=True)
            return rows

        return share_within_node(build)

    def _build_engine(self) -> None:
        self.model_config.model_type = "language_model"
        self.engine_config.use_remove_padding = self.model_config.use_remove_padding
        (stop,) = self.tokenizer(self.prompt_format.stop[0], add_special_tokens=False)["input_ids"]
        choices = EngineChoices(
            stop_token_id=stop,
            full_weight_ids=(stop, *self.tokenizer.all_special_ids),
            reference=self.objective.needs_reference,
            fused_head=self.config.model.fused_head,
            activation_checkpointing=self.config.model.activation_checkpointing,
            compile_layers=self.config.model.compile_layers,
            schedule=self.config.optim.lr_scheduler_type,
        )
        self.engine = DFTEngine(
            self.model_config, self.engine_config, self.optimizer_config, self.checkpoint_config, choices
        )

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
        with quiet(self.rank):
            self.engine.initialize()
        if self.rank == 0:
            self._tell_activation_memory()

    def _build_ckpt_handler(self) -> None:
        identity = run_identity(
            self.config, self.engine, self.train_dataset, self.val_dataset, self.total_training_steps
        )
        self.checkpoints = Checkpoints(self.engine, self.model_config, self.config, identity)
        self.bad_batches = BadBatches(self.config.trainer)

    # ---------------------------------------------------------------- the loop

    def fit(self) -> str | None:
        """Train from the step after the last checkpoint to the last step; validate and save on the way.

        Returns why it stopped before the last step, if it was asked to; then the step it stopped at is saved.
        """
        trainer, progress = self.config.trainer, self.progress
        log = RunLog(self.config, progress.step) if self.rank == 0 else None
        saved = True
        end = progress.step if progress.ended else self.total_training_steps
        if progress.step >= end and self.rank == 0:
            print(f"Nothing to do: {trainer.default_local_dir} holds step {progress.step} of {end}.")
        bar = tqdm(total=end, initial=progress.step, desc="training", disable=self.rank != 0)
        while progress.step < end and not progress.ended and not self.stop_requests.reason:
            step, is_best = progress.step + 1, False
            metrics = self.train_step(step)
            if self.val_dataset is not None and self._is_due(step, self.test_freq):
                metrics |= self.validate()
                is_best = progress.note_validation(metrics, trainer.best_metric, trainer.patience)
            if log is not None:
                with bar.external_write_mode():
                    log.write(metrics, step)
            stops = progress.ended or self.stop_requests.reason
            if is_best or stops or self._is_due(step, self.save_freq):
                saved = self.checkpoints.save(progress, self.prompt_format, *([log.flush] if log else []))
            bar.update()
        bar.close()
        self.stop_requests.done()
        if log is not None:
            log.close()
        if not saved:
            raise ValueError(f"the last checkpoint, of step {progress.step}, could not be saved; see above.")
        return self.stop_requests.reason if progress.step < end and not progress.ended else None

    def train_step(self, step: int) -> dict[str, float]:
        """One optimizer step on global batch ``step``; its metrics under ``train/``.

        A step whose loss or gradient is not finite leaves the model as it was. Raises ValueError for it, or counts it.
        """
        started = time.perf_counter()
        seed_everything(self.config.trainer.seed, step, self.rank)  # so that dropout needs no state to resume
        forecasts = step == 1 and self.config.trainer.diagnose
        batch = self._batch([self.train_dataset[i] for i in self.batches.rows(step)], forecasts=forecasts)
        lr = self.engine.lr_scheduler.get_last_lr()[0]
        lengths = _tokens_and_squares(batch) / self.engine.ulysses_sequence_parallel_size  # each rank of a group counts
        with self.engine.train_mode():
            self.engine.optimizer_zero_grad()
            done: Any = self.engine.forward_backward_batch(batch, loss_function=self.objective)
            output, asked = done["metrics"], self.stop_requests.flags()
            sums, (tokens, squares), asked = self._over_ranks(output["sums"], lengths, asked)
            what, grad_norm = trouble(sums), float("nan")
            if what is None:
                grad_norm = self.engine.optimizer_step()  # verl refuses a gradient that is not finite
                what = trouble(sums, grad_norm)
        self.engine.lr_scheduler_step()
        seconds = time.perf_counter() - started
        self.stop_requests.note(asked)
        self.progress.note_step(step, was_skipped=what is not None)
        if what is not None:
            overflow = self.engine.scaler is not None and trouble(sums) is None  # of fp16, which then scales by less
            if not overflow:
                rows, files = self._sums_by_row(step), self.config.data.train_files
                self.bad_batches.report(step, what, rows, self.train_dataset, self.tokenizer, files)
            self.bad_batches.judge(step, what, self.progress, may_skip=overflow)
        metrics = summarize(sums) | {"grad_norm": grad_norm, "lr": lr, "seconds": seconds}
        metrics["tokens_per_second"] = float(tokens) / seconds
        if self.device_name != "cpu":
            metrics["mfu"] = self.engine.flops.utilization(float(tokens), float(squares), seconds)
            metrics["memory_gib"] = get_torch_device().max_memory_allocated() / 2**30
        if self.bad_batches.skips:
            metrics["skipped"] = self.progress.skipped
        if step == 1:
            self._warn_of_unknown_stop_token(metrics["stop_p"])
            self._tell_reference(-metrics["nll"])
        if forecasts and what is None:
            self._tell_forecast(output["forecast"])
        return {f"train/{name}": value for name, value in metrics.items()}

    def validate(self) -> dict[str, float]:
        """The training metrics over every validation row, each target token with equal weight, under ``val/``."""
        rank, ranks = self.engine.get_data_parallel_rank(), self.engine.get_data_parallel_size()
        per_rank = self.config.data.train_batch_size // ranks
        total = torch.zeros(1, len(SUMS), dtype=torch.float64)
        shares = list(validation_batches(len(self.val_dataset), per_rank, rank, ranks))
        for rows, count in tqdm(shares, desc="validation", disable=self.rank != 0, leave=False):
            items = [dict(self.val_dataset[i]) for i in rows]
            for item in items[count:]:
                item["loss_mask"] = torch.zeros_like(item["loss_mask"])
            with self.engine.eval_mode():
                output = self.engine.infer_batch(self._batch(items), loss_function=self.objective)
            total += torch.stack(output["metrics"]["sums"]).sum(0).cpu()
        sums = self._over_ranks(total.to(self.device_name))[0]
        return {f"val/{name}": value for name, value in summarize(sums).items()}

    # ---------------------------------------------------------------- pieces

    def _batch(self, items: list[dict[str, torch.Tensor]], **other: Any) -> TensorDict:
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
        return tu.get_tensordict(tensor_dict=self.collate(items), non_tensor_dict={**how, **other})

    def _over_ranks(self, sums: Iterable[torch.Tensor], *riders: torch.Tensor) -> list[torch.Tensor]:
        """The vectors of ``sums`` added up, over all ranks too, and each of ``riders`` over all ranks; on the host."""
        own = torch.stack(list(sums)).sum(0)
        flat = torch.cat([own, *(rider.to(own) for rider in riders)])
        dist.all_reduce(flat)
        return list(flat.cpu().split([len(own), *map(len, riders)]))

    def _sums_by_row(self, step: int) -> dict[int, torch.Tensor]:
        """This rank's part of a step once more, row by row, without gradient or dropout."""
        found = {}
        for row in self.batches.rows(step).tolist():
            batch = self._batch([self.train_dataset[row]], use_dynamic_bsz=False, micro_batch_size_per_gpu=1)
            with self.engine.eval_mode():
                output = self.engine.infer_batch(batch, loss_function=self.objective)
            found[row] = torch.stack(output["metrics"]["sums"]).sum(0).cpu()
        return found

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

    def _tell_reference(self, mean_log_p: float) -> None:
        """Whether the numbers that the data bring along are those of the model that training starts from."""
        if self.rank or not self.objective.reference_in_data:
            return
        rows = [self.train_dataset[i] for i in self.batches.global_rows(1)]
        of_targets = [row["reference_log_probs"][row["loss_mask"].bool()] for row in rows]
        stored = float(torch.cat(of_targets).double().mean())
        another = abs(stored - mean_log_p) > OTHER_REFERENCE * max(1.0, abs(stored))
        print(
            f"Mean log p on the first batch: {stored:.4f} by the column {self.config.objective.reference_key}, "
            f"{mean_log_p:.4f} by the model before its first update. "
            + ("warning: the column is of another model than the one that training starts from." if another else ""),
            flush=True,
        )

    def _tell_forecast(self, sums: list[torch.Tensor]) -> None:
        (total,) = self._over_ranks(sums)
        if self.rank == 0:
            print(f"Before the first update, on its batch: {short_form(total)}", flush=True)

    def _tell_activation_memory(self) -> None:
        sizes, tokens = self.engine.activation_bytes, tokens_at_once(self.config)
        if not sizes:
            return
        told = ", ".join(f"{kind} {size * tokens / 2**20:,.1f} MiB" for kind, size in sizes.items())
        print(
            f"Activations of the layers for {tokens} tokens, by model.activation_checkpointing: {told}. "
            f"This run: {self.config.model.activation_checkpointing}.",
            flush=True,
        )

    def _is_due(self, step: int, every: int) -> bool:
        return step == self.total_training_steps or (every > 0 and step % every == 0)


def seed_everything(*seed: int) -> None:
    """Every generator of this process, from one or more numbers."""
    drawn = int(np.random.SeedSequence(seed).generate_state(1)[0])
    random.seed(drawn)
    np.random.seed(drawn)
    torch.manual_seed(drawn)


def _tokens_and_squares(batch: TensorDict) -> torch.Tensor:
    """sum(length) and sum(length^2) of the rows."""
    lengths = batch["input_ids"].offsets().diff().double()
    return torch.stack([lengths.sum(), lengths.square().sum()])
