import argparse

import pytest

from verl.math_eval.backends import options as backend_choice
from verl.math_eval.backends.options import BackendOptions, add_backend_options, backend_options
from verl.math_eval.generation import make_backend


@pytest.fixture
def machine(monkeypatch):
    """Pretend: what is installed, and how many GPUs there are."""

    def pretend(vllm: bool, gpus: int) -> None:
        monkeypatch.setattr(backend_choice.importlib.util, "find_spec", lambda name: object() if vllm else None)
        monkeypatch.setattr(backend_choice, "gpu_count", lambda: gpus)

    return pretend


@pytest.mark.parametrize(
    ("vllm", "gpus", "options", "backend", "engines"),
    [
        (False, 0, {}, "transformers", 1),
        (True, 0, {}, "transformers", 1),
        (False, 8, {}, "transformers", 8),
        (True, 8, {}, "vllm", 8),
        (True, 8, {"tensor_parallel_size": 4}, "vllm", 2),
        (True, 8, {"tensor_parallel_size": 3}, "vllm", 2),
        (True, 8, {"data_parallel_size": 1}, "vllm", 1),
        (True, 8, {"device": "cpu"}, "transformers", 1),
        (True, 8, {"device": "cuda:3"}, "transformers", 1),
        (True, 8, {"backend": "transformers"}, "transformers", 8),
        (True, 8, {"base_url": "http://localhost:8000"}, "server", 1),
        (True, 0, {"backend": "vllm"}, "vllm", 1),
    ],
)
def test_the_machine_decides_what_the_user_leaves_open(machine, vllm, gpus, options, backend, engines):
    machine(vllm, gpus)
    chosen = BackendOptions("model", **options)
    assert (chosen.chosen, chosen.engines) == (backend, engines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tgi"}, "expected backend out of auto, vllm, transformers, server, found 'tgi'"),
        ({"dtype": "int8"}, "expected dtype out of auto, float32, bfloat16, float16, found 'int8'"),
        ({"batch_size": 0}, "expected batch_size >= 1, found 0"),
        ({"data_parallel_size": -1}, "expected data_parallel_size >= 1, found -1"),
        ({"backend": "vllm", "base_url": "http://h"}, "expected backend server with base_url, found vllm"),
        ({"backend": "server"}, "expected base_url with backend server"),
        ({"base_url": "http://h", "tensor_parallel_size": 2}, "the server has its own"),
        ({"backend": "transformers", "tensor_parallel_size": 2}, "expected backend vllm with tensor_parallel_size > 1"),
        ({"device": "cuda:1", "data_parallel_size": 2}, "expected device cuda or cpu with data_parallel_size > 1"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BackendOptions("model", **options)


def test_a_missing_vllm_is_explained(machine, tiny_model):
    machine(vllm=False, gpus=0)
    with pytest.raises(ValueError, match="vllm is not installed. With a GPU: pip install"):
        make_backend(BackendOptions(str(tiny_model), backend="vllm"))


def test_the_command_line_has_the_same_options():
    parser = argparse.ArgumentParser()
    add_backend_options(parser)
    assert backend_options("model", parser.parse_args([])) == BackendOptions("model")
    words = "--use_vllm --tensor_parallel_size 2 --data_parallel_size 3 --batch_size 4 --dtype float16"
    expected = BackendOptions("model", "vllm", None, 2, 3, 4, "auto", "float16")
    assert backend_options("model", parser.parse_args(words.split())) == expected
    url = backend_options("model", parser.parse_args(["--base_url", "http://h"]))
    assert url.chosen == "server"
