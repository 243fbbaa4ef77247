# verl-dft for GPU machines. Written against a public image and linted, but built by nobody yet.
#   docker build -t verl-dft .
#   docker run --gpus all --shm-size 16g -v "$PWD:/run" -w /run verl-dft \
#       torchrun --standalone --nproc_per_node=8 -m verl.trainer.fsdp_dft_trainer flag=value ...
# The runtime image is enough: torch brings its own CUDA libraries, and Triton needs a C compiler only.
FROM nvidia/cuda:12.8.1-runtime-ubuntu22.04

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Ubuntu 22.04 has Python 3.10. Versions of the system's packages follow the image.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-dev python3-venv gcc git \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/verl-dft
ENV VIRTUAL_ENV=/opt/verl-dft PATH=/opt/verl-dft/bin:$PATH PIP_NO_CACHE_DIR=1

WORKDIR /src
# First what seldom changes, so that a change of the code does not install torch again.
COPY requirements.txt requirements-gpu.txt requirements-vllm.txt ./
RUN pip install -r requirements.txt -r requirements-gpu.txt -r requirements-vllm.txt
COPY . .
RUN pip install --no-deps .

WORKDIR /run
CMD ["python", "-m", "verl.trainer.fsdp_dft_trainer", "--help"]
