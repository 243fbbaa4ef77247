#!/usr/bin/env bash
# Score a model, or every checkpoint in a folder of them, on math benchmarks (docs/evaluation.md).
#
#   bash sh/eval.sh PROMPT_TYPE MODEL OUTPUT_DIR N_SAMPLING TEMPERATURE [more options]
#   bash sh/eval.sh auto checkpoints/dft/global_step_390 outputs/dft 16 1 --with_greedy
#   bash sh/eval.sh auto checkpoints/dft outputs/dft_curve 4 1 --benchmark_dir benchmarks --data_names math500
#
# Hardware: any. All GPUs of the machine with vLLM where it is installed, else transformers; CPUs for small models.
# Time:     the model's own generation time; grading goes on beside it.
# Expected: the table of scores, and in OUTPUT_DIR report.md, plots, samples.html and every sample.
# A killed run continues where it was when the same command is given again.
# DRY_RUN=1 prints the command only.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat >&2 <<'TEXT'
usage: bash sh/eval.sh PROMPT_TYPE MODEL OUTPUT_DIR N_SAMPLING TEMPERATURE [more options]
  PROMPT_TYPE  auto (the format the checkpoint was trained with, else its chat template), chat_template, or a name
               such as qwen-boxed, qwen25-math-cot, llama-base-boxed, deepseek-math
  MODEL        hub id, HF folder, trainer checkpoint (.../global_step_N, or its huggingface/), or a folder of checkpoints
  more options python -m verl.math_eval --help lists them; e.g. --data_names, --benchmark_dir,
               --with_greedy, --regrade, --merge, --backend, --max_tokens_per_call
TEXT
    exit 2
}
[[ $# -ge 5 ]] || usage

PROMPT_TYPE=$1 MODEL=$2 OUTPUT_DIR=$3 N_SAMPLING=$4 TEMPERATURE=$5
shift 5
DATA_NAMES=${DATA_NAMES:-math_oai,minerva_math,olympiadbench,aime24,amc23}
MAX_TOKENS=${MAX_TOKENS:-4096}

run_last python -m verl.math_eval \
    --prompt_type "$PROMPT_TYPE" \
    --model_name_or_path "$MODEL" \
    --output_dir "$OUTPUT_DIR" \
    --n_sampling "$N_SAMPLING" \
    --temperature "$TEMPERATURE" \
    --data_names "$DATA_NAMES" \
    --max_tokens_per_call "$MAX_TOKENS" \
    --top_p 1 \
    --seed 0 \
    "$@"
