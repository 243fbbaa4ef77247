"""A CUDA device of shapes and dtypes only, on a CPU build of torch: where would the host wait for it?

Tensors on "cuda" are fake; the host computes as ever. Start Python with the library made of guard.cpp in LD_PRELOAD.
It cannot tell time, numbers or memory, and it knows what torch asks for, not what a kernel does.
"""

import collections
import contextlib
import traceback
import types
from typing import Any
from unittest import mock

import torch
import torch.cuda.amp.common
import torch.distributed as dist
import torch.utils.checkpoint
import transformers.masking_utils
from torch._decomp import decomposition_table, global_decomposition_table
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nested._internal.nested_tensor import NestedTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._pytree import tree_leaves, tree_map
from triton.runtime.jit import JITFunction

GIB = 2**30
_aten = torch.ops.aten
_VALUES = (  # what needs a value from the device before the host can go on
    _aten._local_scalar_dense.default, _aten.nonzero.default, _aten.equal.default, _aten._unique2.default,
    _aten.masked_select.default, _aten.is_nonzero.default,
)  # fmt: skip
_COLLECTIVES = ("all_reduce",)  # FSDP's own are not seen


class FakeCuda(FakeTensorMode):
    """Fakes whatever is on cuda, and notes:

    waits: where the host needed a value. blocking, pageable, pinned: copies between host and device, by how the host
    waits for them. collectives: by name. launches: Triton kernels by name. Values that the host reads are 1 or True.
    """

    avoid_device_init = True

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True, shape_env=ShapeEnv(), static_shapes=True)
        self.pinned_memory: set[int] = set()
        self.total = 0  # what repeat_interleave without a size would give
        self.forget()

    def forget(self) -> None:
        """Begin to count."""
        self.waits: list[str] = []
        self.blocking: list[str] = []
        self.pageable: list[str] = []
        self.pinned: list[str] = []
        self.collectives: collections.Counter[str] = collections.Counter()
        self.launches: collections.Counter[str] = collections.Counter()

    def counts(self) -> dict[str, Any]:
        """All of it as numbers."""
        copies = {name: len(getattr(self, name)) for name in ("waits", "blocking", "pageable", "pinned")}
        return {**copies, "collectives": dict(self.collectives), "launches": dict(self.launches)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if any(isinstance(x, NestedTensor) for x in inputs):  # its parts come back one by one
            return self._nested(func, types, args, kwargs, inputs)
        device = kwargs.get("device")
        on_gpu = device is not None and torch.device(device).type == "cuda"
        if not on_gpu and not any(isinstance(x, FakeTensor) for x in inputs):
            return func(*args, **kwargs)
        if func in _VALUES:
            self.waits.append(f"{func} {_caller()}")
            if func is _aten._local_scalar_dense.default:
                return True if inputs[0].dtype == torch.bool else 1
            if func is _aten.equal.default:
                return True
        if func is _aten.repeat_interleave.Tensor and kwargs.get("output_size") is None:
            self.waits.append(f"{func} {_caller()}")
            kwargs = {**kwargs, "output_size": self.total}
        if func in (_aten._to_copy.default, _aten.copy_.default):
            self._note_copy(func, args, kwargs, inputs)
        args, kwargs = tree_map(self._fake, (args, kwargs))
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _fake(self, x: Any) -> Any:
        is_real = isinstance(x, torch.Tensor) and not isinstance(x, FakeTensor)
        return self.from_tensor(x, static_shapes=True) if is_real else x

    def _nested(self, func: Any, types: Any, args: Any, kwargs: Any, inputs: list[torch.Tensor]) -> Any:
        for x in inputs:
            offsets = x._offsets if isinstance(x, NestedTensor) else None
            is_new = offsets is not None and not isinstance(offsets, FakeTensor)
            if is_new and not hasattr(offsets, "nested_int_memo"):
                offsets.nested_int_memo = self.create_symbolic_nested_int()
        with self:
            return NestedTensor.__torch_dispatch__(func, types, args, kwargs)

    def _note_copy(self, func: Any, args: Any, kwargs: Any, inputs: list[torch.Tensor]) -> None:
        if func is _aten.copy_.default:
            target, source = inputs[0].device.type, inputs[1]
            goes_on = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
        else:
            source = inputs[0]
            target = torch.device(kwargs.get("device") or source.device).type
            goes_on = kwargs.get("non_blocking")
        if source.device.type == target:
            return
        what = f"{source.device.type} to {target} {tuple(source.shape)} {source.dtype} {_caller()}"
        is_pinned = not isinstance(source, FakeTensor) and source.untyped_storage().data_ptr() in self.pinned_memory
        (self.blocking if not goes_on else self.pinned if is_pinned else self.pageable).append(what)


def _caller() -> str:
    own = ("/torch/", "fake_cuda/device")
    frames = [f for f in traceback.extract_stack() if not any(part in f.filename for part in own)]
    return " < ".join(f"{f.filename.split('site-packages/')[-1]}:{f.lineno}" for f in reversed(frames[-4:]))


# --------------------------------------------------------------------------------- what stands in for torch's


class _Event:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def record(self, *args: Any) -> "_Event":
        return self

    def wait(self, *args: Any) -> None: ...
    def synchronize(self) -> None: ...
    def query(self) -> bool:
        return True


class _Stream:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def wait_event(self, event: Any) -> None: ...
    def wait_stream(self, stream: Any) -> None: ...
    def record_event(self, event: Any = None) -> Any:
        return event or _Event()

    def synchronize(self) -> None: ...
    def is_capturing(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Stream)

    def __hash__(self) -> int:
        return 1


def _addmm_into_wider(self, mat1, mat2, out_dtype, *, beta=1, alpha=1, out):  # type: ignore[no-untyped-def]
    """The checks of torch's _addmm_dtype_out_cuda (2.10 and later), which has no meta kernel."""
    assert mat1.dtype == mat2.dtype, (mat1.dtype, mat2.dtype)
    assert out_dtype == mat1.dtype or (out_dtype == torch.float32 and mat1.dtype in (torch.float16, torch.bfloat16))
    assert out_dtype == out.dtype and self.dtype in (out_dtype, mat1.dtype), (out_dtype, out.dtype, self.dtype)
    assert mat1.shape[1] == mat2.shape[0] and out.shape == (mat1.shape[0], mat2.shape[1])
    return out


_META = torch.library.Library("aten", "IMPL")


def install(cuda: FakeCuda, ranks: int) -> None:
    """For the rest of the process: this torch has GPUs, and this is rank 0 of a process group of ``ranks``."""
    _install_device(cuda)
    for table in (decomposition_table, *global_decomposition_table.values()):
        table.pop(_aten.addmm.dtype_out, None)
    _META.impl("addmm.dtype_out", _addmm_into_wider, "Meta")
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False  # else autocast("cuda") switches itself off
    transformers.masking_utils.is_tracing = lambda *args: False  # else it takes a fake tensor for torch.compile's
    torch.utils.checkpoint.get_device_states = lambda *args: ([], [])
    torch.utils.checkpoint.set_device_states = lambda *args, **kwargs: None

    def launch(kernel: Any, *args: Any, **kwargs: Any) -> None:
        cuda.launches[kernel.fn.__name__] += 1

    JITFunction.run = launch
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    dist.all_gather_object = lambda out, obj, group=None: out.__setitem__(slice(None), [obj] * len(out))
    dist.broadcast_object_list = lambda objects, *args, **kwargs: None
    dist.barrier = lambda *args, **kwargs: None
    for name in _COLLECTIVES:
        setattr(dist, name, _counted(cuda, name, getattr(dist, name)))


def _counted(cuda: FakeCuda, name: str, function: Any) -> Any:
    def counted(*args: Any, **kwargs: Any) -> Any:
        cuda.collectives[name] += 1
        return function(*args, **kwargs)

    return counted


def _install_device(cuda: FakeCuda) -> None:
    stand_ins: dict[str, Any] = dict(
        is_available=lambda: True, is_initialized=lambda: True, device_count=lambda: 8, current_device=lambda: 0,
        set_device=lambda device: None, device_of=lambda tensor: contextlib.nullcontext(), Stream=_Stream, Event=_Event,
        current_stream=lambda *args: _Stream(), default_stream=lambda *args: _Stream(), empty_cache=lambda: None,
        stream=lambda stream: contextlib.nullcontext(), synchronize=lambda *args: cuda.waits.append("synchronize"),
        memory_allocated=lambda *args: 0, max_memory_allocated=lambda *args: 0, memory_reserved=lambda *args: 0,
        max_memory_reserved=lambda *args: 0, mem_get_info=lambda *args: (79 * GIB, 80 * GIB),
        get_device_name=lambda *args: "NVIDIA H100 80GB HBM3", get_device_capability=lambda *args: (9, 0),
        get_device_properties=lambda *args: types.SimpleNamespace(total_memory=80 * GIB, major=9, minor=0),
        manual_seed=lambda seed: None, manual_seed_all=lambda seed: None, is_bf16_supported=lambda *args: True,
        get_rng_state=lambda *args: torch.get_rng_state(), set_rng_state=lambda *args, **kwargs: None,
    )  # fmt: skip
    for name, value in stand_ins.items():
        setattr(torch.cuda, name, value)
    torch.accelerator.current_stream = lambda *args: _Stream()
    torch.random.fork_rng = lambda *args, **kwargs: contextlib.nullcontext()

    def pin_memory(tensor: torch.Tensor, *args: Any) -> torch.Tensor:
        copy = tensor.clone()
        cuda.pinned_memory.add(copy.untyped_storage().data_ptr())
        _KEPT.append(copy)  # so that nobody else gets its address
        return copy

    mock.patch.object(torch.Tensor, "pin_memory", pin_memory).start()
    mock.patch.object(torch.Tensor, "record_stream", lambda self, stream: None).start()


_KEPT: list[torch.Tensor] = []
