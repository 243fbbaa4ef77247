"""Loaded with data.custom_cls.path: rows without a single target token, for a batch, for a rank, for all validation."""

import os

import torch

RANK = int(os.environ["RANK"])


class Rows(torch.utils.data.Dataset):
    """16 rows; with 4 rows per rank and step, step 1 has no target at all and step 2 none on rank 1."""

    def __init__(self, parquet_files, tokenizer, config, processor, max_samples):
        self.asked, self.is_validation = 0, "val" in parquet_files[0]

    def __len__(self):
        return 16

    def __getitem__(self, index):
        self.asked += 1
        empty = self.is_validation or self.asked <= 4 + 4 * RANK
        ids = torch.arange(index, index + 6)
        mask = torch.zeros_like(ids) if empty else (torch.arange(6) > 0).long()
        return {"input_ids": ids, "position_ids": torch.arange(6), "loss_mask": mask}
