"""From the host to the device without waiting for either."""

from typing import Any

import torch


def send(tensor: torch.Tensor, device: Any) -> torch.Tensor:
    """``tensor`` on ``device``, copied while the host goes on; it must not be changed afterwards.

    To a GPU through pinned memory: from any other the host waits until the copy is made. device: a name or a
    torch.device, or the index of a GPU.
    """
    on_gpu = isinstance(device, int) or torch.device(device).type == "cuda"
    if not on_gpu or not tensor.is_cpu:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
