"""Which backend answers for which model, and the command line's options that say so. Imports no backend, nor torch."""

import argparse
import importlib.util
from dataclasses import dataclass

from verl.math_eval.backends.cluster import gpu_count

BACKENDS = ("auto", "vllm", "transformers", "server")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class BackendOptions:
    """Which backend answers for which model; the command line's options under the same names.

    model: hub id, HF folder or trainer checkpoint. With a server: where the tokenizer is, which must be the model's.
    backend: one of ``BACKENDS``. auto: the server if there is a base_url, vllm where it is installed and a GPU is
        there, else transformers.
    base_url: an OpenAI-compatible server, ``http://host:port/v1``.
    data_parallel_size: engines (Ray actors), each with the whole model; default: one per GPU, or per group of
        tensor_parallel_size GPUs; 1 without a GPU and with a server.
    batch_size: samples that one engine works on at once, for a server: requests under way. Default: a budget of tokens
        (transformers), the engine's own (vllm), 64 (server).
    device, dtype: ``auto`` is bfloat16 on a GPU, float32 on a CPU. A server has its own.

    Raises ValueError for options that contradict each other.
    """

    model: str
    backend: str = "auto"
    base_url: str | None = None
    tensor_parallel_size: int = 1
    data_parallel_size: int | None = None
    batch_size: int | None = None
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self):
        if self.backend not in BACKENDS:
            raise ValueError(f"expected backend out of {', '.join(BACKENDS)}, found {self.backend!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"expected dtype out of {', '.join(DTYPES)}, found {self.dtype!r}")
        for name in ("tensor_parallel_size", "data_parallel_size", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"expected {name} >= 1, found {value}")
        if self.base_url and self.backend not in ("auto", "server"):
            raise ValueError(f"expected backend server with base_url, found {self.backend}: leave one of the two out")
        if self.backend == "server" and not self.base_url:
            raise ValueError("expected base_url with backend server, found none: give http://host:port/v1")
        if self.base_url and (self.tensor_parallel_size > 1 or (self.data_parallel_size or 1) > 1):
            raise ValueError(
                "expected no tensor_parallel_size nor data_parallel_size with base_url: the server has its own"
            )
        if self.device.startswith("cuda:") and (self.data_parallel_size or 1) > 1:
            raise ValueError(f"expected device cuda or cpu with data_parallel_size > 1, found {self.device}")
        if self.backend == "transformers" and self.tensor_parallel_size > 1:
            raise ValueError("expected backend vllm with tensor_parallel_size > 1, found transformers")

    @property
    def chosen(self) -> str:
        """The backend with ``auto`` decided for this machine."""
        if self.base_url:
            return "server"
        if self.backend != "auto":
            return self.backend
        if importlib.util.find_spec("vllm") and self.device in ("auto", "cuda") and gpu_count() > 0:
            return "vllm"
        return "transformers"

    @property
    def engines(self) -> int:
        """How many copies of the model answer."""
        if self.data_parallel_size is not None:
            return self.data_parallel_size
        if self.chosen == "server" or self.device not in ("auto", "cuda"):
            return 1
        return max(1, gpu_count() // self.tensor_parallel_size)


def add_backend_options(parser: argparse.ArgumentParser) -> None:
    """The command-line options of :class:`BackendOptions`, without the model's own."""
    group = parser.add_argument_group("backend")
    group.add_argument(
        "--backend",
        default="auto",
        choices=BACKENDS,
        help="auto: the server with --base_url, vllm where it is installed and a GPU is there, else transformers",
    )
    group.add_argument(
        "--use_vllm", action="store_const", const="vllm", dest="backend", help="the same as --backend vllm"
    )
    group.add_argument("--base_url", help="OpenAI-compatible server (vLLM, SGLang): http://host:port/v1")
    group.add_argument("--tensor_parallel_size", type=int, default=1, help="GPUs per engine (vllm)")
    group.add_argument("--data_parallel_size", type=int, help="engines (Ray actors); default: one per GPU")
    group.add_argument("--batch_size", type=int, help="samples one engine works on at once, or requests to the server")
    group.add_argument("--device", default="auto", help="auto: the GPU if there is one (transformers)")
    group.add_argument("--dtype", default="auto", choices=DTYPES, help="auto: bfloat16 on a GPU, float32 on the CPU")


def backend_options(model: str, args: argparse.Namespace) -> BackendOptions:
    """The options that :func:`add_backend_options` added, for one model."""
    return BackendOptions(
        model=model,
        backend=args.backend,
        base_url=args.base_url,
        tensor_parallel_size=args.tensor_parallel_size,
        data_parallel_size=args.data_parallel_size,
        batch_size=args.batch_size,
        device=args.device,
        dtype=args.dtype,
    )
