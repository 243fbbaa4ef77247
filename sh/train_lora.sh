#!/usr/bin/env bash
# DFT with LoRA, rank 8 and alpha 16 on all linear layers, the rest as in sh/train_dft.sh (arXiv 2508.05629, A.6).
#   bash sh/train_lora.sh [flag=value ...]     objective.name=sft for the comparison; variables and data as there
# Hardware: 8 GPUs, or fewer with NPROC=...: gradients and optimizer are those of the adapters only. Not measured yet.
# Result: checkpoints/<experiment>/global_step_390; huggingface/ in it is the model with the adapters merged.
set -euo pipefail

export EXPERIMENT=${EXPERIMENT:-numina-cot-dft-lora-qwen-2.5-math-1.5b}
exec bash "$(dirname "${BASH_SOURCE[0]}")/train_dft.sh" model.lora_rank=8 model.lora_alpha=16 "$@"
