"""One copy of the model in this process: the backends that a Ray actor can hold too."""

from verl.math_eval.backends.base import Engine
from verl.math_eval.backends.options import BackendOptions


def make_engine(options: BackendOptions) -> Engine:
    """One copy of the model in this process, whatever ``data_parallel_size`` says."""
    if options.chosen == "vllm":
        from verl.math_eval.backends.vllm_backend import VLLMBackend

        return VLLMBackend(options.model, options.tensor_parallel_size, options.dtype, options.batch_size)
    from verl.math_eval.backends.transformers_backend import TransformersBackend

    return TransformersBackend(options.model, options.device, options.dtype, options.batch_size)
