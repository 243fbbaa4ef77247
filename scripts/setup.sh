#!/usr/bin/env bash
# Make .venv with the pinned requirements and this project in it. Does nothing where that is done already.
#   bash scripts/setup.sh            Python 3.10 to 3.12; set PYTHON=... to choose one
# Time: about 3 minutes on 2 cores with a fast index and the CPU build of torch; the CUDA build is several gigabytes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

supported='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'
PYTHON=${PYTHON:-}
for candidate in python3 python3.12 python3.11 python3.10; do
    if [ -z "$PYTHON" ] && command -v "$candidate" >/dev/null && "$candidate" -c "$supported"; then
        PYTHON=$candidate
    fi
done
if [ -z "$PYTHON" ]; then
    echo "error: expected Python 3.10 to 3.12, found none. Install one and set PYTHON=/path/to/python." >&2
    exit 1
fi

# Containers often have the device without nvidia-smi.
has_gpu() { command -v nvidia-smi >/dev/null || [ -e /dev/nvidia0 ] || [ -e /proc/driver/nvidia/version ]; }
requirements=(-r requirements.txt -r requirements-dev.txt)
has_gpu && requirements+=(-r requirements-gpu.txt)

stamp=.venv/installed-$(cat requirements*.txt setup.py <(echo "${requirements[*]}") | sha256sum | cut -c1-16)
[ -e "$stamp" ] && exit 0
echo "Making .venv with $("$PYTHON" --version)"
"$PYTHON" -m venv .venv
pip="$PWD/.venv/bin/python -m pip --disable-pip-version-check --no-input"

torch=$(grep '^torch==' requirements.txt)
if ! has_gpu; then
    # The CPU build is far smaller. Where its index is out of reach, any build of the same version will do.
    $pip install --quiet --retries 1 --timeout 15 --index-url https://download.pytorch.org/whl/cpu "$torch" ||
        $pip install --progress-bar on "$torch"
fi
echo "Installing the requirements"
$pip install --quiet --progress-bar on "${requirements[@]}"
$pip install --quiet --no-deps --editable .
touch "$stamp"
