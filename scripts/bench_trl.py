#!/usr/bin/env python
"""One variant of scripts/bench_train.py on TRL's SFTTrainer with loss_type="dft", in an environment that has TRL.

Started by bench_train.py --trl_python; not by hand. Same rows, batches, precision, optimizer and checkpointing.
"""

import argparse
import json
from pathlib import Path

from bench_train import SHAPES, VARIANTS, Timer, rows
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    """Times what lies between the beginning and the end of an optimizer step."""

    def __init__(self, timer: Timer) -> None:
        self.timer = timer

    def on_step_begin(self, *args, **kwargs) -> None:
        self.timer.start()

    def on_step_end(self, *args, **kwargs) -> None:
        self.timer.stop()


class InOrder(SFTTrainer):
    """Takes the rows as they come, so that every trainer's steps hold the same ones."""

    def _get_train_sampler(self, *args, **kwargs) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape")
    parser.add_argument("--lengths")
    parser.add_argument("--worker")
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    on_gpu, made = shape["device"] != "cpu", rows(shape, args.lengths)
    packed = "padding_free" in VARIANTS[args.worker][2]
    config = SFTConfig(
        output_dir=str(args.folder / "trl"),
        loss_type="dft",
        padding_free=packed,
        max_length=None if packed else shape["longest"],
        per_device_train_batch_size=shape["micro"],
        gradient_accumulation_steps=shape["batch"] // shape["micro"],
        max_steps=shape["steps"] + 1,
        learning_rate=1e-5,
        gradient_checkpointing=True,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        completion_only_loss=True,
        logging_steps=10_000,
        save_strategy="no",
        report_to="none",
        model_init_kwargs={"dtype": "bfloat16" if shape.get("pure_bf16") else "float32"},
    )
    columns = [{"input_ids": r["input_ids"].tolist(), "completion_mask": r["loss_mask"].tolist()} for r in made]
    timer = Timer(on_gpu)
    trainer = InOrder(str(args.folder), args=config, train_dataset=Dataset.from_list(columns), callbacks=[Clock(timer)])
    trainer.train()
    print("RESULT " + json.dumps(timer.result(shape, made)), flush=True)


if __name__ == "__main__":
    main()
