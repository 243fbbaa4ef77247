"""vLLM against the transformers backend, on a trained model: scripts/test_vllm.sh runs this, where vLLM is installed.

The model is the quickstart's DFT model; VERL_DFT_QUICKSTART names another output folder of sh/quickstart.sh.
"""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vllm is not installed; scripts/test_vllm.sh has an environment with it", allow_module_level=True)

from verl.math_eval.backends.options import BackendOptions
from verl.math_eval.backends.server_backend import ServerBackend
from verl.math_eval.generation import make_backend
from verl.math_eval.prompting import choose_format
from verl.math_eval.requests import Request, Sampling, sample_seed

QUICKSTART = Path(os.environ.get("VERL_DFT_QUICKSTART", Path(__file__).parents[2] / "outputs" / "quickstart"))
GREEDY = Sampling(max_new_tokens=96)
RANDOM = Sampling(1.0, 1.0, 96)


@pytest.fixture(scope="module")
def model() -> str:
    steps = sorted(QUICKSTART.glob("dft/global_step_*"), key=lambda p: int(p.name.split("_")[-1]))
    if not steps:
        pytest.fail(f"no trained model in {QUICKSTART}: run bash sh/quickstart.sh first")
    return str(steps[-1])


@pytest.fixture(scope="module")
def reference(model):
    return make_backend(BackendOptions(model, backend="transformers", device="cpu", dtype="float32"))


@pytest.fixture(scope="module")
def stop(reference):
    return choose_format("auto", reference.folder, reference.tokenizer).format.stop


@pytest.fixture(scope="module")
def questions(reference) -> list[tuple[int, ...]]:
    """200 prompts as the model was trained on."""
    rows = [json.loads(line) for line in (QUICKSTART / "data" / "test.jsonl").read_text().splitlines()]
    form = choose_format("auto", reference.folder, reference.tokenizer).format
    return [tuple(form.encode(row["question"], reference.tokenizer)) for row in rows]


@pytest.fixture(scope="module")
def vllm_options(model) -> BackendOptions:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    return BackendOptions(model, backend="vllm", dtype="float32", batch_size=64, data_parallel_size=1)


@pytest.fixture(scope="module")
def engine(vllm_options):
    engine = make_backend(vllm_options)
    yield engine
    engine.close()


def requests(questions, samples: int = 1) -> list[Request]:
    return [
        Request(f"p{i}", s, ids, sample_seed(0, f"p{i}", s)) for i, ids in enumerate(questions) for s in range(samples)
    ]


def run(backend, asked, sampling, stop, done=()):
    finished = {c.request.key: c for cs in backend.generate(asked, sampling, stop, done=done) for c in cs}
    assert finished.keys() == {r.key for r in asked}.difference(done)
    return finished


def agreement(one, other) -> float:
    """Share of samples with the same text, number of tokens and finish reason."""
    assert one.keys() == other.keys()
    return sum(one[key] == other[key] for key in one) / len(one)


def test_greedy_answers_are_those_of_transformers(engine, reference, questions, stop):
    asked = requests(questions)
    ours, theirs = run(engine, asked, GREEDY, stop), run(reference, asked, GREEDY, stop)
    assert len({c.text for c in theirs.values()}) > 150  # a model with something to say
    share = agreement(ours, theirs)
    print(f"\ngreedy: {share:.1%} of {len(asked)} answers equal")
    assert share >= 0.95


@pytest.mark.parametrize("text", ["so", "=", "e "])
def test_stop_texts_and_cut_answers_end_as_with_transformers(engine, reference, questions, stop, text):
    asked = requests(questions[:50])
    sampling = Sampling(max_new_tokens=12)
    theirs = run(reference, asked, sampling, (*stop, text))
    assert agreement(run(engine, asked, sampling, (*stop, text)), theirs) >= 0.95
    assert not any(text in c.text for c in theirs.values())


def test_the_context_is_used_up_as_with_transformers(engine, reference, questions, stop):
    assert engine.context == reference.context
    room = reference.context
    filler = (questions[0] * room)[:room]
    asked = [Request(f"room {n}", 0, filler[: room - n], 1) for n in (0, 1, 3)]
    theirs = run(reference, asked, GREEDY, stop)
    assert theirs["room 0", 0].finish_reason == "prompt_too_long"
    assert run(engine, asked, GREEDY, stop) == theirs


def test_the_same_seeds_draw_the_same_samples(engine, questions, stop):
    asked = requests(questions[:50], 4)
    first = run(engine, asked, RANDOM, stop)
    assert len({c.text for c in first.values()}) > 100
    assert run(engine, asked, RANDOM, stop) == first
    assert agreement(run(engine, asked[::-1], RANDOM, stop), first) >= 0.99  # other batches, other last bits
    done = list(first)[::3]
    rest = {key: c for key, c in first.items() if key not in done}
    assert agreement(run(engine, asked, RANDOM, stop, done), rest) >= 0.99


def test_an_abandoned_call_leaves_nothing_behind(engine, questions, stop):
    asked = requests(questions[:50], 4)
    for _ in engine.generate(asked, RANDOM, stop):
        break
    run(engine, asked[:3], GREEDY, stop)


def test_first_tokens_come_as_often_as_the_model_says(engine, reference, questions, stop):
    prompt = questions[0]
    asked = [Request("p", s, prompt, sample_seed(1, "p", s)) for s in range(2_000)]
    temperature = 2.0  # several likely tokens
    with torch.inference_mode():
        logits = reference.model(torch.tensor([prompt])).logits[0, -1]
    expected = torch.softmax(logits / temperature, -1)
    assert expected.max() < 0.9
    drawn = Counter(c.text for c in run(engine, asked, Sampling(temperature, 1.0, 1), stop).values())
    by_text: Counter[str] = Counter()  # several tokens may read the same
    for token, p in enumerate(expected.tolist()):
        by_text[reference.tokenizer.decode([token], skip_special_tokens=True)] += p
    for text, p in by_text.most_common(4):
        assert drawn[text] / 2_000 == pytest.approx(p, abs=4 * (p * (1 - p) / 2_000) ** 0.5)


def test_a_vllm_server_answers_like_the_engine(engine, reference, vllm_options, questions, stop, tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", reference.folder, "--port", port]
    command += ["--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager", "--max-num-seqs", 64]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, start_new_session=True)
    try:
        backend = _wait_for(server, vllm_options.model, f"http://127.0.0.1:{port}", tmp_path / "log")
        assert backend.software == "vllm"
        asked = requests(questions[:100])
        share = agreement(run(backend, asked, GREEDY, stop), run(reference, asked, GREEDY, stop))
        print(f"\ngreedy from the server: {share:.1%} of {len(asked)} answers equal")
        assert share >= 0.95
        sampled = run(backend, asked, RANDOM, stop)
        assert agreement(sampled, run(engine, asked, RANDOM, stop)) >= 0.95
        short = Sampling(max_new_tokens=12)
        assert agreement(run(backend, asked, short, (*stop, "e ")), run(reference, asked, short, (*stop, "e "))) >= 0.95
        with pytest.raises(ValueError, match="HTTP 400"):
            run(backend, [Request("token that is not there", 0, (10**6,), 1)], GREEDY, stop)
        backend.close()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def _wait_for(server: subprocess.Popen, model: str, url: str, log: Path) -> ServerBackend:
    deadline = time.monotonic() + 600
    while True:
        try:
            return ServerBackend(model, url)
        except ConnectionError:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail("the server did not start:\n" + log.read_text()[-3000:])


def test_two_engines_draw_what_one_draws_though_one_of_them_dies(vllm_options, engine, questions, stop, capfd):
    asked = requests(questions, 2)
    expected = run(engine, asked, RANDOM, stop)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        backend = make_backend(replace(vllm_options, data_parallel_size=2, batch_size=16))
        actors, engines = zip(
            *ray.get(
                [
                    actor.__ray_call__.remote(
                        lambda a: (os.getpid(), a.engine._engine.engine_core.resources.engine_manager.processes[0].pid)
                    )
                    for actor in backend._actors
                ]
            ),
            strict=True,
        )
        finished = {}
        for count, completions in enumerate(backend.generate(asked, RANDOM, stop)):
            if count == 1:
                os.kill(engines[0], signal.SIGKILL)
            assert not finished.keys() & {c.request.key for c in completions}
            finished.update({c.request.key: c for c in completions})
        assert "warning: an engine died: vLLM's engine process ended" in capfd.readouterr().err
        assert backend.described["engines"] == 1
        share = agreement(finished, expected)
        print(f"\ntwo engines, one killed: {share:.1%} of {len(asked)} samples equal")
        assert share >= 0.99

        os.kill(actors[1], signal.SIGKILL)
        deadline = time.monotonic() + 20
        while Path(f"/proc/{engines[1]}").exists():
            assert time.monotonic() < deadline, "the engine outlives its actor, and a GPU's memory would stay taken"
            time.sleep(0.1)
    finally:
        ray.shutdown()
