"""The GPUs of this machine, and the Ray cluster that RAY_ADDRESS names. Imports Ray and torch only when asked."""

import logging
import os


def gpu_count() -> int:
    """GPUs of this machine, or of the Ray cluster that RAY_ADDRESS names."""
    if os.environ.get("RAY_ADDRESS"):
        return cluster_gpus()
    import torch

    return torch.cuda.device_count()


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names, or else start Ray on this machine. Does nothing the second time."""
    import ray

    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = os.environ.get("RAY_ADDRESS", "local")
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


def cluster_gpus() -> int:
    """GPUs of the cluster that RAY_ADDRESS names."""
    import ray

    connect()
    return int(ray.cluster_resources().get("GPU", 0))
