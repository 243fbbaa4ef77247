"""Loaded with data.custom_cls.path. On rank 1 the stage of training that the environment names goes wrong."""

import os

import pandas as pd
import torch

import verl.trainer.fsdp_dft_trainer.checkpoints as checkpoints
from verl.dft.model.engine import DFTEngine

STAGE, ON_THIS_RANK = os.environ["FAILING_STAGE"], os.environ["RANK"] == "1"


def fail(*args, **kwargs):
    raise ValueError(f"rank 1 fails in its {STAGE}")


class Rows(torch.utils.data.Dataset):
    def __init__(self, parquet_files, tokenizer, config, processor, max_samples):
        if STAGE == "dataset" and ON_THIS_RANK:
            fail()
        self.rows = [tokenizer(answer)["input_ids"] for answer in pd.read_parquet(parquet_files[0])["answer"]]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        ids = torch.tensor(self.rows[index])
        mask = torch.ones_like(ids)
        mask[0] = 0
        return {"input_ids": ids, "position_ids": torch.arange(len(ids)), "loss_mask": mask}


if ON_THIS_RANK:
    if STAGE == "engine":
        DFTEngine.initialize = fail
    if STAGE == "step":
        DFTEngine.optimizer_step = fail
    if STAGE == "validation":
        DFTEngine.infer_batch = fail
    if STAGE == "saving":
        checkpoints.save_shards = fail
