"""A verl platform for machines without an accelerator: device "cpu", process group gloo.

verl imports this module on ``import verl`` (entry-point group ``verl.plugins``), so importing it registers the
platform: the one module of this project whose import does something. With an accelerator present it is inert.
"""

import contextlib
import glob
import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import psutil
import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry

PLATFORM_NAME = "cpu"


class _NoDeviceMemory:
    """torch.cpu plus the memory counters that verl reads from every device module; a CPU has none to report."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    @staticmethod
    def max_memory_allocated(device: Any = None) -> int:
        return 0

    max_memory_reserved = memory_allocated = memory_reserved = max_memory_allocated

    @staticmethod
    def mem_get_info(device: Any = None) -> tuple[int, int]:
        """Free and total bytes of the machine's memory."""
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    @staticmethod
    def empty_cache() -> None: ...

    @staticmethod
    def ipc_collect() -> None: ...

    @staticmethod
    def set_device(device: Any) -> None:
        """Ranks on a CPU share one device, so LOCAL_RANK selects nothing."""

    @staticmethod
    def manual_seed(seed: int) -> None:
        torch.manual_seed(seed)

    @staticmethod
    def get_rng_state(device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)


@PlatformRegistry.register(platform=PLATFORM_NAME)
class PlatformCPU(PlatformBase):
    """verl's device interface on plain CPUs."""

    _module = _NoDeviceMemory()

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> ModuleType:
        return self._module  # type: ignore[return-value]  # a module in all that verl asks of it

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """Only where no other registered platform is: detection takes the first that answers yes.

        verl looks for a GPU by nvidia-smi, which containers may lack: a GPU that torch can use is never passed over.
        When no platform answers yes, verl takes NVIDIA's.
        """
        if torch.cuda.is_available():
            return False
        for name in PlatformRegistry.registered_names():
            other = PlatformRegistry.get(name)
            if other is None or name == PLATFORM_NAME:
                continue
            with contextlib.suppress(Exception):
                if other().is_platform_available(use_smi_check=use_smi_check):
                    return False
        return True

    def current_device(self) -> Any:
        # verl passes this to Tensor.to() and Module.to(); an index would mean an accelerator there.
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        self._module.set_device(device_index)

    def synchronize(self, device_index: int | None = None) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        # verl reads (never sets) it; on a CPU it is unset, and Ray's own variable stays untouched.
        return "CUDA_VISIBLE_DEVICES"

    @contextlib.contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None: ...

    def profiler_stop(self) -> None: ...

    def ray_resource_name(self) -> str:
        return "CPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None


def device_problem(device: str) -> str | None:
    """Why training on ``device`` (verl's name for it) is not what this machine is for, in one sentence; None if it is.

    A GPU that is there and cannot be used must not end as a run on the CPU that says nothing. VERL_PLATFORM=cpu in the
    environment says that the CPU is meant.
    """
    meant = "To train on the CPU all the same, set VERL_PLATFORM=cpu in the environment."
    if device == "cuda" and not torch.cuda.is_available():
        return f"expected a GPU, for nvidia-smi is there; found that torch {_why_no_cuda()}. {meant}"
    asked = os.environ.get("VERL_PLATFORM", "").strip().lower() == PLATFORM_NAME
    if device == PLATFORM_NAME and not asked and nvidia_devices():
        where = nvidia_devices()[0]
        return f"expected to train on the GPU of this machine ({where}); found that torch {_why_no_cuda()}. {meant}"
    return None


def nvidia_devices() -> list[str]:
    """The device files of NVIDIA GPUs, which are there with and without nvidia-smi."""
    return sorted(glob.glob("/dev/nvidia[0-9]*"))


def _why_no_cuda() -> str:
    if torch.version.cuda is None:
        return f"{torch.__version__} is a build without CUDA: install the CUDA build of the version in requirements.txt"
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return "sees no GPU because CUDA_VISIBLE_DEVICES is empty: unset it"
    return f"sees no GPU: its CUDA {torch.version.cuda} needs another driver, or the container was started without GPUs"
