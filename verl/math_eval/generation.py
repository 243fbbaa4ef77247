"""How a backend is made: the one way in for the harness, the data CLIs and tests.

The backends are in ``verl/math_eval/backends``, one file each. Importing this module imports none of them, nor torch.

Example::

    backend = make_backend(BackendOptions("checkpoints/global_step_100"))
    for completions in backend.generate(requests, Sampling(temperature=1.0), stop=["<|im_end|>"]):
        ...
"""

import importlib.util
from typing import TYPE_CHECKING

from verl.dft.model_folder import resolve_model
from verl.math_eval.backends.options import BackendOptions

if TYPE_CHECKING:
    from verl.math_eval.backends.base import Backend


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
