#!/usr/bin/env bash
# The other half of every comparison: sh/train_dft.sh with cross-entropy in place of DFT, and nothing else changed.
#   bash sh/train_sft.sh [flag=value ...]      variables, data and hardware as in train_dft.sh
# Result: checkpoints/<experiment>/global_step_390, with huggingface/ and prompt_format.json.
set -euo pipefail

export EXPERIMENT=${EXPERIMENT:-numina-cot-sft-qwen-2.5-math-1.5b}
exec bash "$(dirname "${BASH_SOURCE[0]}")/train_dft.sh" objective.name=sft "$@"
