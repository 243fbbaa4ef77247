#!/usr/bin/env bash
# A study in miniature: SFT, DFT and other objectives on models trained from scratch, 3 seeds each (docs/study.md).
#   bash sh/study.sh                 the same command again goes on where it was stopped
#   DRY_RUN=1 bash sh/study.sh       prints every command that it is made of
#   STUDY_SCALE=smoke OUT=/tmp/smoke bash sh/study.sh      the machinery in a minute: one seed, two steps of training
# Hardware: 2 CPU cores (JOBS=... processes at a time). Time: 38 CPU minutes for all 126 models, measured on a machine that
# did other work; that is about 20 minutes on two cores of their own.
# Result: outputs/study/study.json, tables.md and study_*.png; what we found is in docs/study.md.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

OUT=${OUT:-outputs/study}
STUDY_SCALE=${STUDY_SCALE:-full}
JOBS=${JOBS:-2}
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

python "$root/examples/study/run.py" --out "$OUT" --scale "$STUDY_SCALE" --jobs "$JOBS" ${DRY_RUN:+--dry_run} "$@"
run python "$root/examples/study/report.py" --results "$OUT/study.json"
