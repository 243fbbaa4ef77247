"""verl's FSDP engine with a token objective in place of its loss.

One method is replaced: a micro-batch in, the loss that is differentiated and the statistics that are logged out.
Sharding, packing, accumulation, clipping and checkpoints are verl's.
"""

import functools
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.utils.torch_dtypes import PrecisionType
from verl.utils.torch_functional import get_wsd_schedule_with_warmup
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from verl.dft.forecast import forecast_sums
from verl.dft.loss.fused_head import linear_objective
from verl.dft.loss.objectives import Objective, objective
from verl.dft.loss.plain_head import plain_objective
from verl.dft.loss.targets import Targets, find_targets, row_means, within_padded_rows, within_slice
from verl.dft.metrics import ModelFlops, token_sums
from verl.dft.model import activations, attention, loading
from verl.dft.model.output_layer import output_layer, reading, reason_against_fusing
from verl.dft.model.reference import Reference
from verl.dft.transfer import send

# score(objective, denominator, values=..., reference=...) -> (loss, statistics), of either head
Score = Callable[..., tuple[torch.Tensor, dict[str, torch.Tensor]]]


@dataclass(frozen=True)
class EngineChoices:
    """What a run chooses beyond verl's own configurations.

    stop_token_id: the token that ends a response, for the statistics. full_weight_ids: the tokens that objectives with
    full_weight train as SFT does. reference: an objective compares with the initial model. fused_head: the output layer
    and the loss in one, without kept logits. activation_checkpointing: one of :data:`verl.dft.model.activations.KINDS`.
    compile_layers: torch.compile each layer. schedule: of the learning rate: cosine, constant, wsd or linear.
    """

    stop_token_id: int
    full_weight_ids: tuple[int, ...]
    reference: bool = False
    fused_head: bool = True
    activation_checkpointing: str = "full"
    compile_layers: bool = False
    schedule: str = "cosine"


class DFTEngine(FSDPEngineWithLMHead):
    """``forward_step`` = the loss of one micro-batch under a token objective.

    ``loss_function`` is an :class:`~verl.dft.loss.objectives.Objective`. FSDP averages gradients over all ranks, so
    each rank's sum over its target tokens is divided by the global count and multiplied by the number of ranks.
    """

    fused: bool = False  # whether the fused head is used
    activation_bytes: dict[str, float]  # per token and kind of checkpointing, on rank 0
    flops: ModelFlops
    reference: Reference

    # ---------------------------------------------------------------- construction

    def __init__(
        self,
        model_config: HFModelConfig,
        engine_config: FSDPEngineConfig,
        optimizer_config: FSDPOptimizerConfig,
        checkpoint_config: CheckpointConfig,
        choices: EngineChoices,
    ) -> None:
        super().__init__(model_config, engine_config, optimizer_config, checkpoint_config)
        loading.check_heads(model_config.hf_config, self.ulysses_sequence_parallel_size)
        self.choices = choices

    def initialize(self) -> None:
        """verl's construction, then the frozen model and the choice of the head."""
        super().initialize()
        if self.choices.reference:
            self.reference = Reference(self.module if self._is_lora else self._frozen_copy(), self._is_lora)
        self.full_weight_ids = torch.tensor(self.choices.full_weight_ids).to(get_device_id())
        reason = self._reason_against_fusing()
        self.fused = reason is None
        if reason and self.choices.fused_head and self.rank == 0:
            print(f"The fused head is not used, because {reason}: logits will be kept in memory.", flush=True)

    def _build_module(self) -> torch.nn.Module:
        attention.register()
        module = self._loaded()
        if loading.freeze_all_but_text(module):
            # Else fsdp mixes frozen weights with trained ones. verl freezes its dataclass.
            object.__setattr__(self.engine_config, "use_orig_params", True)
        layers = loading.classes_to_shard(module)
        if layers:
            self.engine_config.wrap_policy.setdefault("transformer_layer_cls_to_wrap", layers)
        self.flops = ModelFlops.of(module, self.model_config.hf_config)  # before sharding hides the shapes
        if self.rank == 0:  # the only rank that holds numbers at this point
            self.activation_bytes = estimate_activations(module, self.compute_dtype)
        activations.apply(module, self.choices.activation_checkpointing)
        if self.choices.compile_layers:
            for layer in activations.layers_of(module):
                layer.compile(dynamic=True)
        return module

    def _loaded(self) -> torch.nn.Module:
        dtype = PrecisionType.to_dtype(self.engine_config.model_dtype)
        return loading.pretrained(self.model_config, dtype, self.device_mesh, self.ulysses_sequence_parallel_size)

    def _build_lr_scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        optim = self.optimizer_config
        total, warmup, least = optim.total_training_steps, optim.lr_warmup_steps or 0, optim.min_lr_ratio or 0.0
        if warmup <= 0:
            warmup = int(optim.lr_warmup_steps_ratio * total)
        if self.choices.schedule == "wsd":
            return get_wsd_schedule_with_warmup(optimizer, warmup, total, min_lr_ratio=least)
        if self.choices.schedule == "linear":
            return torch.optim.lr_scheduler.LambdaLR(optimizer, functools.partial(linear_share, warmup, total, least))
        return super()._build_lr_scheduler(optimizer)

    # ---------------------------------------------------------------- going on

    def resume_at(self, step: int, scaler: Mapping[str, Any]) -> None:
        """Set the schedule after ``step`` steps, skipped ones included, and fp16's loss scaler to ``scaler``."""
        assert self.lr_scheduler is not None
        self.lr_scheduler.last_epoch = step - 1
        self.lr_scheduler.step()
        if self.scaler is not None and scaler:
            self.scaler.load_state_dict(dict(scaler))

    def scaler_state(self) -> dict[str, Any]:
        """For :meth:`resume_at`; empty except in fp16."""
        return {} if self.scaler is None else self.scaler.state_dict()

    # ---------------------------------------------------------------- the frozen model and the head

    def _frozen_copy(self) -> torch.nn.Module:
        """The initial model once more, sharded like the first, in the dtype of the products."""
        module = self._loaded().to(self.compute_dtype).requires_grad_(False).eval()
        if self.rank == 0:
            size = sum(p.numel() * p.element_size() for p in module.parameters())
            ranks = torch.distributed.get_world_size()
            print(
                f"The objective compares with the initial model: a frozen copy of it takes {size / ranks / 2**30:.2f} "
                "GiB per rank, and the whole weight of its output layer besides.",
                flush=True,
            )
        return self._build_fsdp_module(module)

    def _reason_against_fusing(self) -> str | None:
        if not self.choices.fused_head:
            return "model.fused_head=false"
        if getattr(self, "scaler", None) is not None:
            return "in fp16 the loss must be scaled before gradients are rounded"
        with self.eval_mode(), self._autocast():
            return reason_against_fusing(self.module, get_device_id())

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of the matrix products; the master weights may be wider."""
        precision: Any = self.engine_config.mixed_precision  # filled in by the trainer's checks
        return PrecisionType.to_dtype(precision["param_dtype"])

    # ---------------------------------------------------------------- one micro-batch

    def forward_step(
        self, micro_batch: TensorDict, loss_function: Objective, forward_only: bool
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """The loss of a micro-batch, with a graph unless ``forward_only``, and the sums that are logged about it."""
        inputs, targets = self._inputs_and_targets(micro_batch)
        # A global batch without targets divides an empty sum: 0 / 1, with zero gradients, instead of NaN.
        denominator = max(tu.get_non_tensor_data(micro_batch, "batch_num_tokens", None), 1)
        head = self._fused_loss if self.fused else self._plain_loss
        with self._autocast():
            loss, found = head(inputs, targets, loss_function, denominator / torch.distributed.get_world_size())
        is_stop = targets.ids == self.choices.stop_token_id
        sums = token_sums(found["losses"], found["log_probs"], found["hits"], is_stop, targets.weights)
        metrics = {"sums": sums}
        if tu.get_non_tensor_data(micro_batch, "forecasts", False):
            metrics["forecast"] = forecast_sums(found["log_probs"], is_stop)
        return loss, {"loss": loss.detach(), "metrics": metrics}

    def _inputs_and_targets(self, micro_batch: TensorDict) -> tuple[dict[str, Any], Targets]:
        """The model's arguments and the targets, worked out on the host and then sent: nothing waits for the device."""
        inputs, layout = self.prepare_model_inputs(micro_batch=micro_batch)
        is_packed, device = tu.get_non_tensor_data(micro_batch, "use_remove_padding", True), get_device_id()
        targets = self._targets(micro_batch, inputs, is_packed).to(device)
        inputs = {key: send(x, device) if isinstance(x, torch.Tensor) else x for key, x in inputs.items()}
        if is_packed:
            inputs |= self._packed_rows(micro_batch["input_ids"].offsets(), layout["pad_size"])
        inputs |= loading.text_only_inputs(self.module, inputs["input_ids"])
        return inputs, targets

    def _targets(self, on_host: TensorDict, inputs: dict[str, Any], is_packed: bool) -> Targets:
        borders = on_host["input_ids"].offsets()
        given = (on_host.get(name, None) for name in ("reference_log_probs", "loss_weight"))
        known, weight = (None if value is None else value.values() for value in given)
        targets = find_targets(on_host["input_ids"].values(), on_host["loss_mask"].values(), borders, known, weight)
        width = inputs["input_ids"].shape[1]
        if not is_packed:
            return within_padded_rows(targets, borders, width)
        # Under Ulysses a rank holds one slice of the packed sequence, width = (T + padding) / sequence-parallel size.
        shard = torch.distributed.get_rank(self.ulysses_parallel_group) if self.use_ulysses_sp else 0
        return within_slice(targets, shard * width, width)

    def _packed_rows(self, borders: torch.Tensor, pad_size: int) -> dict[str, Any]:
        """What the attention needs to know of the rows' borders; padding counts as a row."""
        if pad_size:
            borders = torch.cat([borders, borders[-1:] + pad_size])
        if self.model_config.hf_config._attn_implementation != attention.NAME:
            return flash_attention_rows(borders, get_device_id()) if self.ulysses_sequence_parallel_size == 1 else {}
        return {"packed_rows": attention.PackedRows(borders, get_device_id())}

    def _fused_loss(
        self, inputs: dict[str, Any], targets: Targets, loss_function: Objective, denominator: float
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        of_reference: tuple[torch.Tensor, torch.Tensor] | None = None
        score_reference: Score | None = None
        if loss_function.needs_reference:
            of_reference = self.reference.hidden_and_weight(inputs, targets.positions)
            score_reference = functools.partial(linear_objective, *of_reference, targets.ids)
        found: dict[str, torch.Tensor] = {}

        def read(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            hidden = hidden.flatten(0, 1).index_select(0, targets.positions)
            score = functools.partial(linear_objective, hidden, weight.to(hidden.dtype), targets.ids)
            values = self._token_values(score, score_reference, targets, loss_function)
            loss, statistics = score(loss_function, denominator, values=values, reference=of_reference)
            found.update(statistics)
            return loss

        with reading(output_layer(self.module), read):
            return self.module(**inputs, use_cache=False).logits, found

    def _plain_loss(
        self, inputs: dict[str, Any], targets: Targets, loss_function: Objective, denominator: float
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = self.module(**inputs, use_cache=False).logits.flatten(0, 1).index_select(0, targets.positions)
        of_reference: torch.Tensor | None = None
        score_reference: Score | None = None
        if loss_function.needs_reference:
            of_reference = self.reference.logits(inputs, targets.positions)
            score_reference = functools.partial(plain_objective, of_reference, targets.ids)
        score = functools.partial(plain_objective, logits, targets.ids)
        values = self._token_values(score, score_reference, targets, loss_function)
        return score(loss_function, denominator, values=values, reference_logits=of_reference)

    @torch.no_grad()
    def _token_values(
        self, score: Score, score_reference: Score | None, targets: Targets, loss_function: Objective
    ) -> dict[str, torch.Tensor]:
        """Those of the values the objective needs that no head computes on its way."""
        values: dict[str, torch.Tensor] = {} if targets.weights is None else {"weight": targets.weights}
        if loss_function.full_weight:
            values["full_weight"] = torch.isin(targets.ids, self.full_weight_ids)
        if {"reference_log_probs", "sequence_log_ratio"} & set(loss_function.needs):
            if loss_function.reference_in_data:
                assert targets.reference_log_probs is not None
                values["reference_log_probs"] = targets.reference_log_probs
            else:
                assert score_reference is not None
                values["reference_log_probs"] = score_reference(objective("sft"), 1)[1]["log_probs"]
        if "sequence_log_ratio" in loss_function.needs:
            # The weights need every log p of a row before the first gradient: one more projection of the targets.
            log_ratio = score(objective("sft"), 1)[1]["log_probs"] - values["reference_log_probs"]
            group = self.ulysses_parallel_group if self.use_ulysses_sp else None
            values["sequence_log_ratio"] = row_means(log_ratio, targets, group)
        return values

    def _autocast(self) -> Any:
        if self.compute_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(get_device_name(), dtype=self.compute_dtype)


def linear_share(warmup: int, total: int, least: float, step: int) -> float:
    """Share of the learning rate: up from 0 to 1 over ``warmup`` steps, then down to ``least`` at step ``total``."""
    if step < warmup:
        return step / warmup
    left = max(0.0, (total - step) / max(1, total - warmup))
    return least + (1 - least) * left


def estimate_activations(module: torch.nn.Module, dtype: torch.dtype) -> dict[str, float]:
    """Bytes per token and kind; empty where the layers cannot be tried alone, which is no reason to stop."""
    try:
        return activations.bytes_per_token(module, dtype, get_device_id())
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        print(f"No estimate of the activations' memory ({type(error).__name__}: {reason}).", flush=True)
        return {}


def flash_attention_rows(borders: torch.Tensor, device: Any) -> dict[str, Any]:
    """The borders under transformers' names: without them it finds them in the position ids, waiting in every layer.

    borders: ``(rows + 1,)`` on the host.
    """
    longest, sent = int(borders.diff().max()), send(borders.to(torch.int32), device)
    return {"cu_seq_lens_q": sent, "cu_seq_lens_k": sent, "max_length_q": longest, "max_length_k": longest}
