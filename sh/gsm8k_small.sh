#!/usr/bin/env bash
# Real rows, small model: 200 steps of SFT from random weights, then 200 of DFT and 200 of SFT from there, on GSM8K.
#   bash sh/gsm8k_small.sh           SOURCE=/a/folder for a local copy of the data, OUT=... for another place,
#                                    DRY_RUN=1 to see the commands only
# Hardware: 2 CPU cores. Time: 13 minutes when measured. Result: outputs/gsm8k_small/curves.png, see docs/gsm8k.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. sh/common.sh
run bash scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS=1

OUT=${OUT:-outputs/gsm8k_small}
SOURCE=${SOURCE:-openai/gsm8k}

run python examples/data_preprocess/gsm8k.py --source "$SOURCE" --local_dir "$OUT/data" --overwrite
[ -e "$OUT/init/config.json" ] ||
    run python examples/quickstart/make_model.py --data "$OUT/data/train.parquet" --out "$OUT/init" \
        --layers 4 --width 128 --vocab_size 2048

# $1: folder to write, $2: model to start from, $3: objective, $4: learning rate
train() {
    run torchrun --standalone --nproc_per_node=2 -m verl.trainer.fsdp_dft_trainer \
        data.train_files="$OUT/data/train.parquet" data.val_files="$OUT/data/test.parquet" data.val_max_samples=256 \
        data.prompt_key=extra_info data.prompt_dict_keys=[question] \
        data.response_key=extra_info data.response_dict_keys=[answer] \
        data.train_batch_size=32 data.max_length=512 \
        objective.name="$3" optim.lr="$4" model.partial_pretrain="$2" model.enable_gradient_checkpointing=false \
        trainer.default_local_dir="$OUT/$1" trainer.total_epochs=1 trainer.total_training_steps=200 \
        trainer.test_freq=25 'trainer.logger=[tensorboard]'
}
train base "$OUT/init" sft 3e-3
train dft "$OUT/base/global_step_200/huggingface" dft 1e-3
train sft "$OUT/base/global_step_200/huggingface" sft 1e-3
run python -m verl.dft.plots "$OUT/base" "$OUT/sft" "$OUT/dft" --out "$OUT/curves.png"
