"""Requests in, completions out: the words of generation, and how a backend is made.

The backends are in ``verl/math_eval/backends``, one file each. Importing this module imports none of them, nor torch.

Example::

    backend = make_backend(BackendOptions("checkpoints/global_step_100"))
    for completions in backend.generate(requests, Sampling(temperature=1.0), stop=["<|im_end|>"]):
        ...
"""

import argparse
import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from verl.math_eval.backends.base import Backend, Engine

BACKENDS = ("auto", "vllm", "transformers", "server")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy decoding, else from 0.01 to 2 (vLLM changes or refuses others); top_p in (0, 1];
    max_new_tokens is capped by the model's context.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 4096

    def __post_init__(self):
        if self.temperature != 0 and not 0.01 <= self.temperature <= 2:
            raise ValueError(f"expected temperature 0 (greedy) or from 0.01 to 2, found {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"expected 0 < top_p <= 1, found {self.top_p}")
        if self.max_new_tokens < 1:
            raise ValueError(f"expected max_tokens_per_call >= 1, found {self.max_new_tokens}")


@dataclass(frozen=True)
class Request:
    """One sample to draw. (problem_id, sample) is its identity; seed is all the randomness it gets."""

    problem_id: str
    sample: int
    prompt_ids: tuple[int, ...]
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        """(problem id, sample index), by which a sample is known everywhere."""
        return self.problem_id, self.sample


@dataclass(frozen=True)
class Completion:
    """text: without the stop token, special tokens, and a stop text with what follows it. num_tokens: the stop token is
    not counted. finish_reason: ``stop``, ``length`` (cut at the limit) or ``prompt_too_long`` (nothing was generated).
    """

    request: Request
    text: str
    num_tokens: int
    finish_reason: str


def sample_seed(base_seed: int, problem_id: str, sample: int) -> int:
    """The seed of one sample: a 63-bit hash, the same on every machine and under every sharding."""
    digest = hashlib.sha256(f"{base_seed}\x00{problem_id}\x00{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def resolve_model(name_or_path: str) -> str:
    """The folder (or hub id) that transformers can load: a HF folder, a trainer checkpoint's ``huggingface/``, or a hub
    id.

    Raises ValueError before anything is loaded when a local path holds no model.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        for folder in (path, path / "huggingface"):
            if (folder / "config.json").is_file():
                return str(folder)
        steps = sorted(p.name for p in path.glob("global_step_*"))
        hint = f" It holds the checkpoints {', '.join(steps)}: name one of them." if steps else ""
        raise ValueError(f"expected a model in {path}: no config.json there nor in its huggingface/ folder.{hint}")
    looks_local = path.is_absolute() or str(name_or_path).startswith((".", "~")) or str(name_or_path).count("/") > 1
    if looks_local or path.exists():
        raise ValueError(f"expected a model folder or a hub id, found no folder {path}")
    return str(name_or_path)


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


def gpu_count() -> int:
    """GPUs of this machine, or of the Ray cluster that RAY_ADDRESS names."""
    if os.environ.get("RAY_ADDRESS"):
        from verl.math_eval.backends.ray_backend import cluster_gpus

        return cluster_gpus()
    import torch

    return torch.cuda.device_count()


def make_backend(options: BackendOptions) -> "Backend":
    """The backend of these options, its model loaded: the one way in for the harness, the data CLIs and tests.

    What callers may use of it is the contract of :class:`verl.math_eval.backends.base.Backend`: ``source``, ``folder``,
    ``tokenizer``, ``commit``, ``settings``, ``described``, ``limit()``, ``generate()``, ``close()``. One backend serves
    any number of ``generate`` calls, one after the other: load once, ask for all benchmarks.

    Raises ValueError for what the user can put right (no model there, vllm not installed, no such server).
    """
    chosen = options.chosen
    resolve_model(options.model)
    if chosen == "vllm" and not importlib.util.find_spec("vllm"):
        raise ValueError(
            "backend vllm is not installed. With a GPU: pip install -r requirements.txt -r requirements-vllm.txt; "
            "without one: bash scripts/setup_vllm_cpu.sh. Or generate with --backend transformers."
        )
    if chosen == "server":
        from verl.math_eval.backends.server_backend import ServerBackend

        assert options.base_url is not None
        return ServerBackend(options.model, options.base_url, options.batch_size)
    if options.engines > 1:
        from verl.math_eval.backends.ray_backend import RayBackend

        return RayBackend(options)
    return make_engine(options)


def make_engine(options: BackendOptions) -> "Engine":
    """One copy of the model in this process, whatever ``data_parallel_size`` says."""
    if options.chosen == "vllm":
        from verl.math_eval.backends.vllm_backend import VLLMBackend

        return VLLMBackend(options.model, options.tensor_parallel_size, options.dtype, options.batch_size)
    from verl.math_eval.backends.transformers_backend import TransformersBackend

    return TransformersBackend(options.model, options.device, options.dtype, options.batch_size)


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
