#!/usr/bin/env bash
# Table 1 of the paper (arXiv 2508.05629): five base models, as they are, after SFT and after DFT on 100,000 rows of
# NuminaMath-CoT; avg@16 at temperature 1 on five benchmarks by the original's rules and by ours, and greedy beside it.
#   bash sh/reproduce_paper.sh [flag=value ...]       flags go to every training, e.g. model.fsdp_config.model_dtype=fp32
#   MODELS="qwen2.5-math-1.5b llama-3.2-3b" bash sh/reproduce_paper.sh
#   DRY_RUN=1 bash sh/reproduce_paper.sh              prints every command
# MODEL_DIR=... for local copies of the models (named as on the hub, without the owner), BENCHMARK_DIR=... of the
# benchmarks, NPROC=... processes, PROMPT=auto to score with the trained prompt format in place of the paper's.
# Hardware: 8 GPUs of 80 GB. Time: not measured by us; no part of it has been run on the real models yet.
# Result: outputs/paper/summary.md, the table beside the paper's. The same command again goes on where it was.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# name, hub id, learning rate, prompt in training (-: the tokenizer's chat template), prompt in the paper's evaluation.
# Llama and DeepSeek base models bring no chat template: the evaluation's names tell what the authors trained with.
table="
llama-3.2-3b      meta-llama/Llama-3.2-3B            5e-5 llama-base-boxed llama-base-boxed
llama-3.1-8b      meta-llama/Llama-3.1-8B            2e-5 llama-base-boxed llama-base-boxed
deepseek-math-7b  deepseek-ai/deepseek-math-7b-base  5e-5 deepseek-math    deepseek-math
qwen2.5-math-1.5b Qwen/Qwen2.5-Math-1.5B             5e-5 -                qwen-boxed
qwen2.5-math-7b   Qwen/Qwen2.5-Math-7B               5e-5 -                qwen-boxed
"
known=$(awk 'NF {printf "%s ", $1}' <<<"$table")
MODELS=${MODELS:-$known}
export NPROC=${NPROC:-8} TRAIN=${TRAIN:-data/numina_cot/train.parquet} VAL=null PROJECT=paper
out=outputs/paper
scores=(--with_greedy --grader legacy ${BENCHMARK_DIR:+--benchmark_dir "$BENCHMARK_DIR"})

for name in $MODELS; do
    grep -q "^$name " <<<"$table" || { echo "error: no model $name; expected some of $known" >&2 && exit 2; }
done
[ -e "$TRAIN" ] || run python "$root/examples/data_preprocess/numina_cot.py" --train_end 100000

for name in $MODELS; do
    read -r _ hub lr template prompt <<<"$(grep "^$name " <<<"$table")"
    model=${MODEL_DIR:+$MODEL_DIR/}${MODEL_DIR:+${hub#*/}}
    model=${model:-$hub}
    prompt=${PROMPT:-$prompt}
    bash "$root/sh/eval.sh" "$prompt" "$model" "$out/$name/base" 16 1 "${scores[@]}"
    for objective in sft dft; do
        export MODEL=$model EXPERIMENT=paper/$name-$objective
        if [ ! -e "checkpoints/$EXPERIMENT/finished" ]; then
            flags=(optim.lr="$lr" trainer.test_freq=-1 trainer.max_ckpt_to_keep=1)
            [ "$template" = - ] || flags+=(data.chat_template="$template")
            bash "$root/sh/train_$objective.sh" "${flags[@]}" "$@"
            [ ! -e "checkpoints/$EXPERIMENT/stopped.json" ] || exit 75 # by trainer.max_time, and not at its end
            run touch "checkpoints/$EXPERIMENT/finished"
        fi
        bash "$root/sh/eval.sh" "$prompt" "$(newest "checkpoints/$EXPERIMENT")" "$out/$name/$objective" 16 1 "${scores[@]}"
    done
    run python "$root/examples/reproduce_paper/summary.py" --out "$out"
done
