#!/usr/bin/env bash
# Score a model on math benchmarks: samples, grades, metrics, report.md and a plot in OUTPUT_DIR.
#
#   bash sh/eval.sh PROMPT_TYPE MODEL OUTPUT_DIR N_SAMPLING TEMPERATURE [more options]
#   bash sh/eval.sh auto checkpoints/global_step_390 output/dft 16 1
#   bash sh/eval.sh auto checkpoints/global_step_390 output/greedy 1 0 --benchmark_dir benchmarks --data_names math500
#
# Hardware: any; with a GPU in bfloat16, otherwise on the CPU, which is meant for small models.
# Time:     the model's own generation time; grading takes seconds.
# Expected: one line per benchmark with avg@N (greedy at temperature 0) and its standard error.
# A killed run continues where it was when the same command is given again.
set -euo pipefail

usage() {
    cat >&2 <<'TEXT'
usage: bash sh/eval.sh PROMPT_TYPE MODEL OUTPUT_DIR N_SAMPLING TEMPERATURE [more options]
  PROMPT_TYPE  auto (the format the checkpoint was trained with, else its chat template), chat_template, or a name
               such as qwen-boxed, qwen25-math-cot, llama-base-boxed, deepseek-math
  MODEL        hub id, HF folder, or trainer checkpoint (.../global_step_N, or its huggingface/)
  more options python -m verl.math_eval --help lists them; e.g. --data_names, --benchmark_dir, --max_tokens_per_call
TEXT
    exit 2
}
[[ $# -ge 5 ]] || usage

PROMPT_TYPE=$1 MODEL=$2 OUTPUT_DIR=$3 N_SAMPLING=$4 TEMPERATURE=$5
shift 5
DATA_NAMES=${DATA_NAMES:-math_oai,minerva_math,olympiadbench,aime24,amc23}
MAX_TOKENS=${MAX_TOKENS:-4096}

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=python
if [[ -z ${VIRTUAL_ENV:-} && -z ${CONDA_PREFIX:-} && -x $ROOT/.venv/bin/python ]]; then
    PYTHON=$ROOT/.venv/bin/python
fi

exec "$PYTHON" -m verl.math_eval \
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
