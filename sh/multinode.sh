#!/usr/bin/env bash
# Train on several machines. Start the same command on each, with its number from 0; HEAD is the first machine's address.
#   NNODES=2 NODE_RANK=0 HEAD=10.0.0.1 bash sh/multinode.sh data.train_files=... model.partial_pretrain=... [flag=value ...]
#   NNODES=2 NODE_RANK=1 HEAD=10.0.0.1 bash sh/multinode.sh   ... the same flags
# With Slurm, which knows these numbers (one task per machine; torchrun starts the ranks):
#   sbatch --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 --requeue --wrap 'srun bash sh/multinode.sh flag=value ...'
#   DRY_RUN=1 bash sh/multinode.sh             prints the command only
# Hardware: machines with equally many GPUs that reach each other's ports, and a disk that all of them see for
# trainer.default_local_dir. NCCL and gloo choose a network by themselves; NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME name one.
# Result: as with one machine. When a rank fails, all end, and torchrun starts them again from the last checkpoint, up to
# MAX_RESTARTS times; set trainer.save_freq. When a machine is lost, the others end after trainer.peer_timeout seconds and
# wait ten minutes for a machine to be started in its place. docs/multinode.md says more.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

NNODES=${NNODES:-${SLURM_NNODES:-2}}
NODE_RANK=${NODE_RANK:-${SLURM_NODEID:-0}}
NPROC=$(processes)
MAX_RESTARTS=${MAX_RESTARTS:-3}
JOB=${JOB:-${SLURM_JOB_ID:-1}}
PORT=${PORT:-$((20000 + JOB % 10000))}
if [ -z "${HEAD:-}" ] && [ -n "${SLURM_JOB_NODELIST:-}" ]; then
    HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
fi
HEAD=${HEAD:-$(hostname)}
LOCAL_ADDR=${LOCAL_ADDR:-} # this machine's address, where its name means nothing to the others
[ "$NODE_RANK" = 0 ] && is_host=true || is_host=false

run_last python -m verl.trainer.fsdp_dft_trainer.torchrun \
    --nnodes="$NNODES" \
    --nproc_per_node="$NPROC" \
    --max-restarts="$MAX_RESTARTS" \
    --rdzv_id="$JOB" \
    --rdzv_backend=c10d \
    --rdzv_endpoint="$HEAD:$PORT" \
    --rdzv_conf="is_host=$is_host" \
    ${LOCAL_ADDR:+--local-addr="$LOCAL_ADDR"} \
    -m verl.trainer.fsdp_dft_trainer \
    "$@"
