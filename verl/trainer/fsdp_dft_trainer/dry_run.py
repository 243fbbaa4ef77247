"""--dry_run: the command is checked as far as it can be without weights, and what it would do is counted and printed.

Needs the data files and a model folder with configuration and tokenizer. WORLD_SIZE in the environment says for how
many ranks; torchrun sets it, and without torchrun it is 1.
"""

import os
from collections.abc import Callable, Iterator

import numpy as np
import torch
from omegaconf import DictConfig
from tensordict import TensorDict
from verl.utils.seqlen_balancing import rearrange_micro_batches
from verl.workers.config import HFModelConfig

from verl.dft.data.batches import TrainBatches
from verl.dft.data.prompts import PromptFormat
from verl.dft.data.rows import TokenizedRows, decoded_example
from verl.trainer.fsdp_dft_trainer.inputs import model_and_prompts, tokenized_rows
from verl.trainer.fsdp_dft_trainer.layout import choose_layout
from verl.trainer.fsdp_dft_trainer.memory import Memory, estimate
from verl.trainer.fsdp_dft_trainer.recipe import CompletedConfig, training_objective
from verl.trainer.fsdp_dft_trainer.settings import Launch, complete_config

Say = Callable[[str], None]


def dry_run(config: DictConfig, say: Say = print) -> None:
    """Print steps, tokens, micro-batches, memory and one row with its mask. Raises ValueError as a run would."""
    if os.environ.get("RANK", "0") != "0":
        return
    launch = Launch.of_torchrun(config.trainer.n_gpus_per_node)
    ranks, completed = launch.world, complete_config(config, launch, say)
    model, prompts = model_and_prompts(completed)
    for line in choose_layout(completed, model):
        say(line)
    say(f"Dry run for {ranks} rank(s): no weights are loaded, nothing is trained or written.")
    if completed.data.custom_cls.path:
        say("The rows are those of data.custom_cls, which a dry run does not open.")
        several = True  # more likely than not
    else:
        several = _tell_rows(completed, model, prompts, ranks, say)
    _tell_memory(estimate(completed, model, training_objective(completed), ranks, several), say)


def _tell_rows(config: CompletedConfig, model: HFModelConfig, prompts: PromptFormat, ranks: int, say: Say) -> bool:
    """Whether a rank needs several micro-batches for a step."""
    data = config.data
    rows, report = tokenized_rows(config, model, prompts, "data.train_files", data.train_max_samples)
    say(report.text("data.train_files", rows))
    if data.val_files:
        val_rows, val_report = tokenized_rows(config, model, prompts, "data.val_files", data.val_max_samples)
        say(val_report.text("data.val_files", val_rows))
    replicas = ranks // config.engine.ulysses_sequence_parallel_size
    shares = [
        TrainBatches(len(rows), rows.lengths(), data.train_batch_size, rank, replicas, config.trainer.seed)
        for rank in range(replicas)
    ]
    _tell_steps(config, shares[0], rows, say)
    micro_batches = [_micro_batches(config, rows.lengths()[share.rows(1)]) for share in shares]
    # All ranks make as many as the one that needs most.
    count, largest = max(map(len, micro_batches)), max(max(sizes) for sizes in micro_batches)
    say(f"step 1: {count} micro-batch(es) per rank, the largest of {largest:,} tokens")
    say(f"The first row, with the trained tokens between ⟦ and ⟧:\n{decoded_example(rows, model.tokenizer)}")
    return count > 1


def _tell_steps(config: CompletedConfig, batches: TrainBatches, rows: TokenizedRows, say: Say) -> None:
    per_epoch, trainer = batches.steps_per_epoch, config.trainer
    steps = trainer.total_training_steps or per_epoch * trainer.total_epochs
    left_over = f"; each epoch leaves out {batches.left_over} rows that fill no batch" if batches.left_over else ""
    say(f"{steps} steps of {batches.batch_size} rows, {per_epoch} per epoch{left_over}")
    tokens, targets = zip(*_tokens_of_steps(batches, rows, min(steps, per_epoch)), strict=True)
    say(
        f"tokens per step: mean {np.mean(tokens):,.0f}, least {min(tokens):,}, most {max(tokens):,}; "
        f"targets: mean {np.mean(targets):,.0f}, least {min(targets):,}, most {max(targets):,}"
    )
    say(f"in all about {np.mean(tokens) * steps:,.0f} tokens, {np.mean(targets) * steps:,.0f} of them targets")


def _tokens_of_steps(batches: TrainBatches, rows: TokenizedRows, steps: int) -> Iterator[tuple[int, int]]:
    """(tokens, target tokens) of each of the first ``steps`` global batches."""
    lengths, targets = rows.lengths(), np.add.reduceat(rows.loss_mask, rows.starts[:-1], dtype=np.int64)
    for step in range(1, steps + 1):
        chosen = batches.global_rows(step)
        yield int(lengths[chosen].sum()), int(targets[chosen].sum())


def _micro_batches(config: CompletedConfig, lengths: np.ndarray) -> list[int]:
    """Tokens of each micro-batch that one rank's rows make, with the padding that they are given."""
    data = config.data
    if not data.use_dynamic_bsz:
        parts = [
            lengths[i : i + data.micro_batch_size_per_gpu]
            for i in range(0, len(lengths), data.micro_batch_size_per_gpu)
        ]
    else:
        ids = torch.nested.nested_tensor(
            [torch.zeros(n, dtype=torch.int8) for n in lengths.tolist()], layout=torch.jagged
        )
        limit = data.max_token_len_per_gpu * config.engine.ulysses_sequence_parallel_size
        indices = rearrange_micro_batches(TensorDict({"input_ids": ids}, batch_size=len(lengths)), limit)[1]
        parts = [lengths[part] for part in indices]
    packed = config.model.use_remove_padding
    return [int(part.sum() if packed else part.max() * len(part)) for part in parts]


def _tell_memory(memory: Memory, say: Say) -> None:
    total = sum(memory.parts.values())
    unit, name = (2**30, "GiB") if total > 2**30 else (2**20, "MiB")
    say(f"{memory.parameters:,} parameters, {memory.trained:,} trained")
    say(f"memory per rank in {name}, estimated:")
    for part, size in memory.parts.items():
        say(f"  {size / unit:8.2f}  {part}")
    say(f"  {total / unit:8.2f}  in all, without the allocator's gaps and communication buffers")
    if torch.cuda.is_available():
        say(f"  {torch.cuda.get_device_properties(0).total_memory / unit:8.2f}  is what this GPU has")
