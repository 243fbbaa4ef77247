"""One training step of the whole engine on a fake CUDA, rank 0 of 8, for each of some cases; prints what it counted.

Run by tests/trainer/test_fake_cuda.py with guard.cpp's library preloaded.
"""

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

RANKS = 8
os.environ.update(
    RANK="0", LOCAL_RANK="0", WORLD_SIZE=str(RANKS), LOCAL_WORLD_SIZE=str(RANKS), MASTER_ADDR="127.0.0.1",
    MASTER_PORT="29777", VERL_PLATFORM="nvidia", VERL_LOGGING_LEVEL="ERROR",
)  # fmt: skip

import torch  # noqa: E402
from fake_cuda.device import FakeCuda, install  # noqa: E402

CUDA = FakeCuda()
install(CUDA, RANKS)

import torch.distributed.fsdp._fully_shard._fsdp_init as fsdp_init  # noqa: E402
import torch.distributed.fsdp._fully_shard._fully_shard as fully_shard  # noqa: E402
import verl.utils.fsdp_utils as fsdp_utils  # noqa: E402
import verl.workers.engine.fsdp.transformer_impl as verls_engine  # noqa: E402
from verl.utils.dataset.dataset_utils import DatasetPadMode, SFTTensorCollator  # noqa: E402

from tiny_model import save_tiny_model  # noqa: E402
from verl.dft.loss.fused_head import linear_objective  # noqa: E402
from verl.dft.loss.objectives import objective, objective_names  # noqa: E402
from verl.dft.loss.plain_head import plain_objective  # noqa: E402
from verl.dft.loss.statistics import STATISTICS  # noqa: E402
from verl.trainer.fsdp_dft_trainer import trainer as trainer_module  # noqa: E402
from verl.trainer.fsdp_dft_trainer.command_line import compose_config  # noqa: E402
from verl.trainer.fsdp_dft_trainer.recipe import training_objective  # noqa: E402
from verl.trainer.fsdp_dft_trainer.settings import Launch, complete_config  # noqa: E402
from verl.trainer.fsdp_dft_trainer.stopping import StopRequests  # noqa: E402

LENGTHS = (40, 33, 60, 20, 77, 12, 40, 41)  # of a rank's rows: two micro-batches of 4
MICRO = "data.micro_batch_size_per_gpu=4"
CASES: dict[str, tuple[bool, list[str]]] = {  # whether the embedding is the output layer's weight; flags
    "tied": (True, [MICRO]),
    "untied": (False, [MICRO]),
    "bf16 master weights": (True, [MICRO, "model.fsdp_config.model_dtype=bf16"]),
    "selective": (True, [MICRO, "model.activation_checkpointing=selective"]),
    "kept": (True, [MICRO, "model.activation_checkpointing='off'"]),
    "padded": (True, [MICRO, "use_remove_padding=false"]),
    "plain head": (True, [MICRO, "model.fused_head=false"]),
    "reduced each time": (True, [MICRO, "engine.use_no_sync_for_gradient_accumulation=false"]),
    "lora": (True, [MICRO, "model.lora_rank=8"]),
    "asft": (True, [MICRO, "objective.name=asft"]),
    "iw_sft": (True, [MICRO, "objective.name=iw_sft"]),
    "full weight": (True, [MICRO, "objective.full_weight_tokens=eos"]),
}


def _faked(module: torch.nn.Module) -> torch.nn.Module:
    """Its tensors on the fake device, a tied weight still one."""
    made: dict[int, torch.nn.Parameter] = {}
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                if id(p) not in made:
                    fake = CUDA.from_tensor(p.detach().clone(), static_shapes=True).to("cuda:0")
                    made[id(p)] = torch.nn.Parameter(fake, requires_grad=p.requires_grad)
                part._parameters[name] = made[id(p)]
        for name, b in part._buffers.items():
            if b is not None:
                part._buffers[name] = CUDA.from_tensor(b.clone(), static_shapes=True).to("cuda:0")
    return module


def _sharded(module: torch.nn.Module, *args: Any) -> Any:
    return fsdp_utils.apply_fsdp2(_faked(module), *args)


verls_engine.apply_fsdp2 = _sharded
trainer_module.choose_layout = lambda config, model: []  # it compares numbers, and here are none
verls_engine.fsdp2_load_full_state_dict = lambda module, *args, **kwargs: None
for place in (fully_shard, fsdp_init):
    if hasattr(place, "_move_states_to_device"):
        place._move_states_to_device = lambda *args, **kwargs: None


class EngineAlone(trainer_module.DFTTrainer):
    """A trainer up to its engine: neither rows nor checkpoints."""

    def __init__(self, config: Any) -> None:
        self.config, self.rank, self.stop_requests = config, 0, StopRequests()
        self.objective = training_objective(config)
        self._build_config()
        self._build_engine()
        self.optimizer_config.total_training_steps = 10
        self.collate = SFTTensorCollator(DatasetPadMode.NO_PADDING)
        self.engine.initialize()


def build(tied: bool, flags: list[str], folder: Path) -> EngineAlone:
    """The engine of a run with these flags, on the fake device."""
    save_tiny_model(folder, num_hidden_layers=3, tie_word_embeddings=tied)
    import pandas as pd

    pd.DataFrame({"question": ["?"], "answer": ["!"]}).to_parquet(folder / "rows.parquet")
    given = [
        f"model.partial_pretrain={folder}", f"data.train_files={folder}/rows.parquet", "data.chat_template=direct",
        "data.train_batch_size=64", "data.max_length=256", f"trainer.default_local_dir={folder}/out",
        "trainer.logger=[]", *flags,
    ]  # fmt: skip
    return EngineAlone(complete_config(compose_config(given), Launch.of_torchrun(), say=lambda text: None))


def step(tied: bool, flags: list[str]) -> dict[str, Any]:
    """What a step of two micro-batches is counted to do, from its first forward pass on, and what it left behind."""
    with tempfile.TemporaryDirectory() as folder, CUDA:
        trainer = build(tied, flags, Path(folder))
        engine, generator = trainer.engine, torch.Generator().manual_seed(0)
        rows = [
            dict(input_ids=torch.randint(5, 64, (n,), generator=generator), position_ids=torch.arange(n),
                 loss_mask=(torch.arange(n) >= n // 3 + 1).long())
            for n in LENGTHS
        ]  # fmt: skip
        batch, forward = trainer._batch(rows), engine.forward_step

        def forward_step(micro_batch: Any, *args: Any, **kwargs: Any) -> Any:
            CUDA.total = int(micro_batch["input_ids"].offsets()[-1])
            return forward(micro_batch, *args, **kwargs)

        engine.forward_step = forward_step  # type: ignore[method-assign]
        with engine.train_mode():
            engine.optimizer_zero_grad()
            CUDA.forget()
            engine.forward_backward_batch(batch, loss_function=trainer.objective)
            counted, details = CUDA.counts(), [*CUDA.waits, *CUDA.blocking]
            grads = [p.grad for p in engine.module.parameters() if p.requires_grad]
            CUDA.forget()
            engine.optimizer_step()
        return {
            "micro_batches": counted, "optimizer_step": CUDA.counts(), "fused": engine.fused, "where": details,
            "gradients": sorted({str(g.dtype) for g in grads if g is not None}),
            "without_gradient": sum(g is None for g in grads),
        }  # fmt: skip


def heads() -> dict[str, Any]:
    """Both heads with every objective, dtype and, in bf16, combination of wanted gradients: nothing waits."""
    combinations, n, size, vocabulary = 0, 5000, 64, 1001
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        for name in objective_names():
            made = objective(name)
            needs = [key for key in made.needs if key in ("reference_log_probs", "sequence_log_ratio")]
            for wanted in ((True, True), (True, False), (False, True), (False, False)):
                if dtype != torch.bfloat16 and not all(wanted):
                    continue
                with CUDA:
                    hidden, other = (torch.empty(n, size, device="cuda", dtype=dtype) for _ in range(2))
                    weight, other_weight = (torch.empty(vocabulary, size, device="cuda", dtype=dtype) for _ in range(2))
                    targets = torch.empty(n, device="cuda", dtype=torch.long)
                    values = {key: torch.empty(n, device="cuda") for key in needs}
                    hidden.requires_grad_(wanted[0]), weight.requires_grad_(wanted[1])
                    CUDA.forget()
                    loss, found = linear_objective(
                        hidden, weight, targets, made, 7.0, values=values, reference=(other, other_weight),
                        statistics=tuple(STATISTICS),
                    )  # fmt: skip
                    if any(wanted):
                        loss.backward()
                    for leaf, want in zip((hidden, weight), wanted, strict=True):
                        grad = leaf.grad
                        assert (grad is not None) == want, (dtype, name, wanted)
                        assert grad is None or (grad.dtype, grad.device, grad.shape) == (dtype, leaf.device, leaf.shape)
                    assert all(value.device.type == "cuda" and value.shape == (n,) for value in found.values())
                    uses_kernels = dtype != torch.float64
                    assert bool(CUDA.launches) == uses_kernels, CUDA.launches
                    _plain(hidden, weight, targets, made, values, other @ other_weight.T)
                    counts = CUDA.counts()
                    assert not any(counts[key] for key in ("waits", "blocking", "pageable", "pinned")), counts
                    combinations += 1
    return {"combinations": combinations}


def _plain(hidden: Any, weight: Any, targets: Any, made: Any, values: Any, of_reference: Any) -> None:
    logits = hidden.detach()[:1500] @ weight.detach().T
    values = {key: value[:1500] for key, value in values.items()}
    loss, _ = plain_objective(
        logits.requires_grad_(), targets[:1500], made, 3.0, values=values, reference_logits=of_reference[:1500]
    )
    loss.backward()


def main() -> None:
    """Prints one line of JSON per case."""
    for name in sys.argv[1:] or ["heads", *CASES]:
        try:
            found = heads() if name == "heads" else step(*CASES[name])
        except Exception as error:
            frames = [f"{f.filename}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
            found = {"error": f"{type(error).__name__}: {error}", "where": frames}
        print("RESULT " + json.dumps({"case": name, **found}), flush=True)


if __name__ == "__main__":
    main()
