#!/usr/bin/env bash
# Fine-tune Qwen2.5-Math-1.5B with DFT on 100,000 rows of NuminaMath-CoT: the paper's command (arXiv 2508.05629).
#   bash sh/train_dft.sh [flag=value ...]      e.g. objective.floor=0.1, or model.partial_pretrain=/a/folder
#   DRY_RUN=1 bash sh/train_dft.sh             prints the command only
#   bash sh/train_dft.sh --dry_run             checks files and settings, counts steps, tokens and memory; trains nothing
# Data first:  python examples/data_preprocess/numina_cot.py --train_end 100000
#              python examples/data_preprocess/math_dataset.py
# Hardware: 8 GPUs of 80 GB (NPROC=... for another number). Time: not measured by us yet.
# Result: checkpoints/<experiment>/global_step_390, with huggingface/ and prompt_format.json.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

NPROC=${NPROC:-8}
MODEL=${MODEL:-Qwen/Qwen2.5-Math-1.5B}
TRAIN=${TRAIN:-data/numina_cot/train.parquet}
VAL=${VAL:-data/math500/test.parquet}
PROJECT=${PROJECT:-numina-cot}
EXPERIMENT=${EXPERIMENT:-numina-cot-dft-qwen-2.5-math-1.5b}

run_last torchrun --standalone --nnodes=1 --nproc_per_node="$NPROC" -m verl.trainer.fsdp_dft_trainer \
    data.train_files="$TRAIN" \
    data.val_files="$VAL" \
    data.prompt_key=extra_info \
    data.response_key=extra_info \
    data.train_batch_size=256 \
    data.max_length=2048 \
    optim.lr=5e-5 \
    data.prompt_dict_keys=['question'] \
    data.response_dict_keys=['answer'] \
    data.micro_batch_size_per_gpu=4 \
    model.partial_pretrain="$MODEL" \
    model.use_liger=True \
    model.fsdp_config.model_dtype=bf16 \
    trainer.default_local_dir="checkpoints/$EXPERIMENT" \
    trainer.project_name="$PROJECT" \
    trainer.experiment_name="$EXPERIMENT-$(date +%Y%m%d-%H%M%S)" \
    trainer.logger=['console','tensorboard'] \
    trainer.default_hdfs_dir=null \
    trainer.test_freq=10 \
    trainer.save_freq=50 \
    trainer.total_epochs=1 \
    ulysses_sequence_parallel_size=1 \
    use_remove_padding=true \
    "$@"
