#!/usr/bin/env bash
# Goes on with reinforcement learning: verl 0.9.1's own GRPO trainer from a checkpoint of this project, asked and stopped
# as it was trained, rewarded by the grader of the evaluation. See docs/rl.md.
#   bash sh/grpo.sh CHECKPOINT DATA [flag=value ...]       flags are verl's (python -m verl.trainer.main_ppo --help)
# CHECKPOINT: .../global_step_N. DATA: a parquet of examples/data_preprocess, with gold answers.
# Variables: OUT (outputs/grpo), VAL (a parquet; default: 100 rows of DATA), MAX_RESPONSE (2048), NPROC (GPUs),
#   DRY_RUN=1 (only print the commands). Hardware: GPUs and vLLM (requirements-vllm.txt); nothing of it was
#   measured here.
# Result: OUT/checkpoints/global_step_N, in verl's own format.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [ $# -lt 2 ]; then
    echo "error: expected CHECKPOINT DATA [flag=value ...]; found $# argument(s)" >&2
    exit 1
fi
checkpoint=$1 data=$2
shift 2
out=${OUT:-outputs/grpo}

max_response=${MAX_RESPONSE:-2048}

if [ ! -f "$out/flags" ]; then
    run python "$root/examples/grpo/prepare.py" --checkpoint "$checkpoint" --train "$data" ${VAL:+--val "$VAL"} \
        --max_response_length "$max_response" --out "$out"
fi
fitted=(data.max_response_length="$max_response") # in a dry run nothing is prepared, and the prompts' length not known
if [ -f "$out/flags" ]; then
    mapfile -t fitted <"$out/flags"
    out=$(cd "$out" && pwd) # Ray's workers have working directories of their own
fi

run_last python -m verl.trainer.main_ppo \
    algorithm.adv_estimator=grpo \
    algorithm.use_kl_in_reward=false \
    data.train_files="$out/train.parquet" \
    data.val_files="$out/val.parquet" \
    data.train_batch_size=128 \
    data.truncation=error \
    data.seed=1 \
    "${fitted[@]}" \
    actor_rollout_ref.model.path="$out/model" \
    actor_rollout_ref.model.use_remove_padding=true \
    actor_rollout_ref.model.enable_gradient_checkpointing=true \
    actor_rollout_ref.actor.optim.lr=1e-6 \
    actor_rollout_ref.actor.ppo_mini_batch_size=128 \
    actor_rollout_ref.actor.use_dynamic_bsz=true \
    actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384 \
    actor_rollout_ref.actor.use_kl_loss=true \
    actor_rollout_ref.actor.kl_loss_coef=0.001 \
    actor_rollout_ref.actor.kl_loss_type=low_var_kl \
    actor_rollout_ref.actor.entropy_coeff=0 \
    actor_rollout_ref.rollout.name=vllm \
    actor_rollout_ref.rollout.n=8 \
    actor_rollout_ref.rollout.temperature=1.0 \
    actor_rollout_ref.rollout.top_p=1.0 \
    actor_rollout_ref.rollout.tensor_model_parallel_size=1 \
    actor_rollout_ref.rollout.gpu_memory_utilization=0.5 \
    actor_rollout_ref.rollout.val_kwargs.do_sample=true \
    actor_rollout_ref.rollout.val_kwargs.temperature=1.0 \
    actor_rollout_ref.rollout.val_kwargs.n=4 \
    reward.custom_reward_function.path=pkg://verl.math_eval.reward \
    reward.custom_reward_function.name=compute_score \
    trainer.n_gpus_per_node="$(processes)" \
    trainer.nnodes=1 \
    trainer.val_before_train=true \
    trainer.total_epochs=1 \
    trainer.test_freq=10 \
    trainer.save_freq=50 \
    trainer.project_name=verl-dft \
    trainer.experiment_name=grpo \
    trainer.default_local_dir="$out/checkpoints" \
    "trainer.logger=[console,tensorboard]" \
    "$@"
