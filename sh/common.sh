# shellcheck shell=bash
# Sourced by the scripts beside it, after "set -euo pipefail": the environment, run(), run_last() and processes().

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# The project's own environment, where the user has activated no other.
if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -d "$root/.venv" ]; then
    export PATH="$root/.venv/bin:$PATH"
fi

# run COMMAND ...: run it, or, with DRY_RUN=1, only print it, quoted for a shell.
run() {
    if [ -n "${DRY_RUN:-}" ]; then
        printf '%q ' "$@" && echo
    else
        "$@"
    fi
}

# run_last COMMAND ...: the same in place of this shell, so that a signal for the script reaches the command.
run_last() {
    [ -n "${DRY_RUN:-}" ] || exec "$@"
    run "$@"
}

# How many processes train: NPROC, else one per GPU, else 2.
processes() {
    echo "${NPROC:-$(python -c 'import torch; print(torch.cuda.device_count() or 2)')}"
}

# newest FOLDER: its last checkpoint. In a dry run there is none, and the name stands for it.
newest() {
    if [ -n "${DRY_RUN:-}" ]; then
        echo "$1/global_step_N"
    else
        find "$1" -maxdepth 1 -name 'global_step_*' | sort -V | tail -n 1
    fi
}
