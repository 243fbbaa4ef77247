"""Engines in Ray actors on this machine: their samples are those of one engine without Ray, also when one dies."""

import os
import signal

import pytest
import ray
import torch

from tiny_model import save_tiny_model
from verl.math_eval.backends.options import BackendOptions
from verl.math_eval.backends.ray_backend import RayBackend
from verl.math_eval.generation import make_backend
from verl.math_eval.requests import Request, Sampling, sample_seed

STOP = ("<|im_end|>",)
SAMPLING = Sampling(1.0, 1.0, 200)


@pytest.fixture(scope="module", autouse=True)
def ray_on_two_cores():
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def options(model, engines: int) -> BackendOptions:
    return BackendOptions(str(model), backend="transformers", data_parallel_size=engines, batch_size=6)


def requests(backend) -> list[Request]:
    prompts = {f"p{i}": tuple(backend.tokenizer("What is 1 + 1? " * (1 + i % 5))["input_ids"]) for i in range(15)}
    return [Request(name, s, ids, sample_seed(3, name, s)) for name, ids in prompts.items() for s in range(4)]


def run(backend, done=()):
    return {c.request.key: c for cs in backend.generate(requests(backend), SAMPLING, STOP, done=done) for c in cs}


def test_two_engines_one_engine_and_none_draw_the_same_samples_and_deaths_change_nothing(tiny_model, capsys):
    assert torch.get_num_threads() == 1  # as in an actor: the number of threads can change the last bits
    alone = make_backend(options(tiny_model, 1))
    expected = run(alone)
    assert len({c.text for c in expected.values()}) == 60
    backend = make_backend(options(tiny_model, 2))
    assert isinstance(backend, RayBackend)
    assert (backend.settings, backend.name) == (alone.settings, alone.name)
    assert run(backend) == expected
    done = list(expected)[::7]
    assert run(backend, done) == {key: c for key, c in expected.items() if key not in done}

    processes = ray.get([actor.__ray_call__.remote(lambda self: os.getpid()) for actor in backend._actors])
    finished = {}
    for count, completions in enumerate(backend.generate(requests(backend), SAMPLING, STOP)):
        if count == 1:
            os.kill(processes[1], signal.SIGKILL)
        assert not finished.keys() & {c.request.key for c in completions}
        finished.update({c.request.key: c for c in completions})
    assert finished == expected
    assert "6 samples are drawn again by the other 1" in capsys.readouterr().err

    assert backend.described["engines"] == 1
    assert run(backend) == expected  # one engine, and the next benchmark after a death
    os.kill(processes[0], signal.SIGKILL)
    with pytest.raises(ConnectionError, match="all engines have died"):
        run(backend)


def test_what_is_wrong_in_an_actor_is_said_as_if_it_were_here(tmp_path):
    model = save_tiny_model(tmp_path / "model")
    (model / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="model cannot be loaded as a model: "):
        RayBackend(options(model, 1))


def test_more_engines_than_the_cluster_can_hold_are_refused(tiny_model):
    with pytest.raises(ValueError, match="expected 5 CPUs for 5 engines, found 2"):
        make_backend(options(tiny_model, 5))
