#!/usr/bin/env bash
# Style, types and tests, in the environment of scripts/setup.sh (made where it is missing).
#   bash scripts/test.sh             everything but the slow tests: under 10 minutes on 2 cores, no GPU, no network
#   bash scripts/test.sh -m slow     the slow ones: about 17 minutes
#   bash scripts/test.sh tests/dft   any pytest arguments; -n 0 for one process, with -s or --pdb
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS=1
ruff check .
mypy
[ $# -gt 0 ] || set -- -m "not slow"
exec python -m pytest -n 2 --dist loadfile "$@"
