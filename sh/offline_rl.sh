#!/usr/bin/env bash
# Offline RL in one command: sample from MODEL, keep what is right, drop benchmark questions, write a training parquet,
# and, with "--", train MODEL on it with DFT.
#   bash sh/offline_rl.sh MODEL QUESTIONS OUT [options of rejection_sampling.py] [-- [flags of the trainer]]
#   bash sh/offline_rl.sh Qwen/Qwen2.5-Math-1.5B data/numina_cot/train.parquet outputs/offline_rl --train_end 100000 --
# The paper's recipe is the default (arXiv 2508.05629, 4.2): 4 samples per question at temperature 1.0, all correct ones
# kept, one epoch of DFT at batch 256 and learning rate 5e-5. BENCHMARK_DIR=... for local copies of the benchmarks,
# DRY_RUN=1 to see the commands only. The same command again goes on after a kill (--overwrite, once OUT is written).
# Hardware: GPUs (NPROC=... of them for training, default: all) or CPU cores. Time: 100,000 questions not measured yet;
# docs/data.md has a run on 2 cores.
# Result: OUT/train.parquet, OUT/train.report.json, OUT/samples/; with "--" also OUT/dft/global_step_N.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ $# -ge 3 ] || { sed -n '4,5s/^# *//p' "$0" >&2 && exit 2; }
MODEL=$1 QUESTIONS=$2 OUT=$3
shift 3
BENCHMARK_DIR=${BENCHMARK_DIR:-}
[ ! -d "$MODEL/huggingface" ] || MODEL=$MODEL/huggingface # a checkpoint of our own

sampling=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    sampling+=("$1")
    shift
done
run python "$root/examples/data_preprocess/rejection_sampling.py" --model "$MODEL" --source "$QUESTIONS" \
    --local_dir "$OUT" --decontaminate ${BENCHMARK_DIR:+--benchmark_dir "$BENCHMARK_DIR"} "${sampling[@]}"
[ $# -gt 0 ] || exit 0
shift

# The prompt of the training is the prompt of the sampling.
template=()
if [ -z "${DRY_RUN:-}" ]; then
    read_format='import json, sys; print(json.load(open(sys.argv[1]))["described"]["prompt_format"])'
    format=$(python -c "$read_format" "$OUT/samples/settings.json")
    [ "$format" = chat_template ] || template=(data.chat_template="$format")
fi
run_last torchrun --standalone --nproc_per_node="$(processes)" -m verl.trainer.fsdp_dft_trainer \
    objective.name=dft \
    model.partial_pretrain="$MODEL" \
    data.train_files="$OUT/train.parquet" \
    data.prompt_key=extra_info \
    'data.prompt_dict_keys=[question]' \
    data.response_key=extra_info \
    'data.response_dict_keys=[answer]' \
    trainer.default_local_dir="$OUT/dft" \
    "${template[@]}" \
    "$@"
