#!/usr/bin/env bash
# The whole story on the machine it is on: data, a base model, SFT and DFT from it, evaluation, report, plots.
#   bash sh/quickstart.sh            a second call reuses what is there; --fresh starts over; DRY_RUN=1 prints the commands
# Hardware: 2 CPU cores or a GPU. Time: under 5 minutes on 2 cores after the installation.
# Result: the table that it prints, and outputs/quickstart/report.md with plots.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. sh/common.sh

OUT=${OUT:-outputs/quickstart}
SEED=${SEED:-0}
case "${1:-}" in
    --fresh) run rm -rf "$OUT" ;;
    "") ;;
    *) echo "usage: bash sh/quickstart.sh [--fresh]" >&2 && exit 2 ;;
esac

run bash scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
export OMP_NUM_THREADS=1
ranks=$(processes)
SECONDS=0
say() { printf '\n[%d s] %s\n' "$SECONDS" "$*"; }

# Train model $2 on file $3 with objective $4 into $OUT/$1, unless that is done. The rest goes to the trainer.
train() {
    local name=$1 model=$2 file=$3 objective=$4
    shift 4
    if [ ! -e "$OUT/$name/finished" ]; then
        run torchrun --standalone --nproc_per_node="$ranks" -m verl.trainer.fsdp_dft_trainer \
            objective.name="$objective" \
            model.partial_pretrain="$model" \
            model.enable_gradient_checkpointing=false engine.reshard_after_forward=false \
            data.train_files="$OUT/data/$file" \
            data.val_files="$OUT/data/test.parquet" \
            data.prompt_key=extra_info 'data.prompt_dict_keys=[question]' \
            data.response_key=extra_info 'data.response_dict_keys=[answer]' \
            data.max_length=256 \
            trainer.default_local_dir="$OUT/$name" \
            'trainer.logger=[tensorboard]' \
            trainer.seed="$SEED" \
            "$@"
        run touch "$OUT/$name/finished"
    fi
}

say "Word problems: clean ones for the base model; for fine-tuning, 30 % of the demonstrations are wrong or badly written"
[ -e "$OUT/data/test.jsonl" ] ||
    run python examples/data_preprocess/arithmetic.py --local_dir "$OUT/data" --seed "$SEED" \
        --pretrain_size 20000 --train_size 4800 --test_size 200 --noise 0.3 --overwrite

say "A small Qwen2 with random weights, and its tokenizer"
[ -e "$OUT/init/config.json" ] ||
    run python examples/quickstart/make_model.py --data "$OUT/data/pretrain.parquet" --out "$OUT/init" --seed "$SEED"

say "The base model: trained from scratch on the clean demonstrations"
train base "$OUT/init" pretrain.parquet sft data.train_batch_size=32 optim.lr=6e-3 trainer.test_freq=100

for objective in sft dft; do
    say "Fine-tuning the base model with $objective"
    train "$objective" "$(newest "$OUT/base")/huggingface" train.parquet "$objective" \
        data.train_batch_size=32 optim.lr=1e-3 trainer.test_freq=30
done

say "Evaluation: greedy, and 16 samples per question at temperature 1"
run python examples/quickstart/report.py --out "$OUT" --seed "$SEED" \
    --models base="$(newest "$OUT/base")" sft="$(newest "$OUT/sft")" dft="$(newest "$OUT/dft")"
say "Done: $OUT/report.md, $OUT/curves.png, $OUT/scores.png"
