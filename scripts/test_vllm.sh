#!/usr/bin/env bash
# The vLLM backend on this machine's CPU against the transformers backend, on the quickstart's trained model.
#   bash scripts/test_vllm.sh        any pytest arguments may follow
# Hardware: 2 CPU cores, 8 GB. Time: about 4 minutes on 2 cores beside the installation, most of it starting vLLM four times.
# Expected: greedy answers of the two backends equal on at least 95 % of the prompts (the test prints the share).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup_vllm_cpu.sh
export VERL_DFT_QUICKSTART=${VERL_DFT_QUICKSTART:-outputs/quickstart}
compgen -G "$VERL_DFT_QUICKSTART/dft/global_step_*" >/dev/null || OUT=$VERL_DFT_QUICKSTART bash sh/quickstart.sh
export OMP_NUM_THREADS=1 VLLM_CPU_KVCACHE_SPACE=1
exec .venv-vllm/bin/python -m pytest -s tests/math_eval/test_vllm_backend.py "$@"
