#!/usr/bin/env bash
# Style, types and tests, in the environment of scripts/setup.sh (made where it is missing).
#   bash scripts/test.sh             everything but the slow tests: under 10 minutes on 2 cores, no GPU, no network
#   bash scripts/test.sh --fast      what needs no training run and no engine: under 90 seconds on 2 cores, between edits
#   bash scripts/test.sh -m slow     the slow ones: about 17 minutes
#   bash scripts/test.sh tests/dft   any pytest arguments; -n 0 for one process, with -s or --pdb
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS=1
# Objectives, head, data, grading, scores and tables, data scripts, and what the pages say. Not Triton's interpreter.
FAST=(tests/dft/loss tests/dft/data tests/dft/test_metrics.py tests/math_eval/grading tests/examples
    tests/math_eval/test_{scores,metrics,paired,report,prompting}.py tests/test_{style,documentation}.py)
ruff check .
mypy
if [ "${1:-}" = --fast ]; then
    shift
    set -- -m "not slow" "${FAST[@]}" --deselect tests/dft/loss/test_head_kernels.py "$@"
elif [ $# -eq 0 ]; then
    set -- -m "not slow"
fi
exec python -m pytest -n 2 --dist loadfile "$@"
