"""The server backend against a small HTTP server that answers as vLLM does and writes down what it was asked."""

import json
import random
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from verl.math_eval.backends import server_backend
from verl.math_eval.backends.options import BackendOptions
from verl.math_eval.backends.server_backend import ServerBackend
from verl.math_eval.generation import make_backend
from verl.math_eval.requests import Completion, Request, Sampling, sample_seed

FIVE_TOKENS = Sampling(max_new_tokens=5)


class FakeServer(ThreadingHTTPServer):
    """Completes a prompt with its own last tokens. ``failures``: status codes to answer first, None: hang up."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lock = threading.Lock()
        self.bodies, self.failures, self.under_way, self.most_under_way = [], [], 0, 0
        self.models = [{"id": "tiny", "owned_by": "vllm", "max_model_len": 100}]
        self.answer = lambda body: {"finish_reason": "length", "text": "", "token_ids": tokens(body)}
        self.together = None  # a barrier that requests wait at


def tokens(body):
    """The end of the prompt; at a temperature as many tokens of it that the seed chooses."""
    count = body["max_tokens"]
    return (
        random.Random(body["seed"]).choices(body["prompt"], k=count) if body["temperature"] else body["prompt"][-count:]
    )


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self):
        self.reply(200, {"data": self.server.models})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body | {"path": self.path, "key": self.headers.get("Authorization")})
            failure = self.server.failures.pop(0) if self.server.failures else 200
            self.server.under_way += 1
            self.server.most_under_way = max(self.server.most_under_way, self.server.under_way)
        if self.server.together:
            self.server.together.wait(10)
        with self.server.lock:
            self.server.under_way -= 1
        if failure is None:
            return self.connection.close()
        if failure != 200:
            return self.reply(failure, {"error": {"message": "no such\nthing", "code": failure}})
        choice = self.server.answer(body)
        self.reply(200, {"choices": [choice], "usage": {"completion_tokens": 7}})

    def reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = FakeServer()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(server_backend, "FIRST_PAUSE", 0.01)


@pytest.fixture
def backend(server, tiny_model):
    backend = ServerBackend(str(tiny_model), server.url)
    yield backend
    backend.close()


def requests(backend, count, text="What is 1 + 1?"):
    ids = tuple(backend.tokenizer(text)["input_ids"])
    return [Request(f"p{i}", 0, ids, sample_seed(0, f"p{i}", 0)) for i in range(count)]


def run(backend, asked, sampling=FIVE_TOKENS, stop=("<|im_end|>", "zz"), done=()):
    finished = [c for cs in backend.generate(asked, sampling, stop, done=done) for c in cs]
    return {c.request.problem_id: c for c in finished}


def test_the_prompt_goes_as_token_ids_with_seed_and_stops(server, backend):
    asked = requests(backend, 1)
    assert run(backend, asked)["p0"] == Completion(asked[0], " + 1?", 5, "length")
    run(backend, asked, Sampling(0.7, 0.9, 5))
    body = server.bodies[-1]
    assert body["path"] == "/v1/completions"
    assert (body["model"], body["prompt"], body["seed"]) == ("tiny", list(asked[0].prompt_ids), asked[0].seed)
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.7, 0.9, 5)
    end = backend.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert body["stop_token_ids"] == sorted({end, backend.tokenizer.eos_token_id})
    assert body["stop"] == ["zz"]


def test_sampling_defaults_of_the_server_s_model_are_switched_off(server, backend):
    run(backend, requests(backend, 1))
    assert [server.bodies[0][key] for key in ("top_k", "min_p", "repetition_penalty")] == [-1, 0.0, 1.0]


def test_other_servers_get_no_fields_that_they_might_refuse(server, tiny_model, capsys):
    server.models = [{"id": "tiny", "owned_by": "somebody"}]
    server.answer = lambda body: {"finish_reason": "stop", "text": "so 2 zz more"}
    backend = ServerBackend(str(tiny_model), server.url + "/v1/")
    assert "neither vLLM nor SGLang" in capsys.readouterr().out
    done = run(backend, requests(backend, 1))
    known = {"model", "prompt", "max_tokens", "temperature", "top_p", "seed", "stop", "path", "key"}
    assert set(server.bodies[0]) == known
    assert sorted(server.bodies[0]["stop"]) == ["<|endoftext|>", "<|im_end|>", "zz"]
    assert (done["p0"].text, done["p0"].num_tokens, done["p0"].finish_reason) == ("so 2 ", 7, "stop")


def test_a_stop_token_is_neither_text_nor_counted(server, backend):
    end = backend.tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokens = backend.tokenizer("is 2")["input_ids"]
    server.answer = lambda body: {"finish_reason": "stop", "text": "is 2<|im_end|>", "token_ids": [*tokens, end]}
    done = run(backend, requests(backend, 1))
    assert (done["p0"].text, done["p0"].num_tokens) == ("is 2", 4)


def test_requests_run_at_once_but_no_more_than_asked(server, tiny_model):
    backend = ServerBackend(str(tiny_model), server.url, batch_size=4)
    server.together = threading.Barrier(4)  # nobody is answered before four are there
    done = run(backend, requests(backend, 12))
    assert len(done) == 12
    assert server.most_under_way == 4


def test_whoever_stops_listening_stops_the_asking(server, tiny_model):
    backend = ServerBackend(str(tiny_model), server.url, batch_size=1)
    for _ in backend.generate(requests(backend, 20), FIVE_TOKENS, []):
        break
    backend.close()
    assert len(server.bodies) == 1


def test_a_server_that_answers_all_seeds_alike_is_refused(server, backend):
    server.answer = lambda body: {"finish_reason": "stop", "text": "the same"}
    with pytest.raises(ValueError, match="answers different seeds alike"):
        run(backend, requests(backend, 1), Sampling(1.0, 1.0, 5))
    assert run(backend, requests(backend, 1))["p0"].text == "the same"  # greedy decoding has no seeds


def test_a_server_that_does_not_repeat_itself_is_reported_once(server, backend, capsys):
    server.answer = lambda body: {"finish_reason": "stop", "text": str(random.random())}
    for _ in range(2):
        run(backend, requests(backend, 1), Sampling(1.0, 1.0, 5))
    assert capsys.readouterr().out.count("cannot be drawn again") == 1


@pytest.mark.parametrize("failure", [500, 503, 429, None])
def test_passing_trouble_is_tried_again_with_the_same_seed(server, backend, failure):
    server.failures = [failure] * 3
    asked = requests(backend, 2)
    assert set(run(backend, asked)) == {"p0", "p1"}
    assert len(server.bodies) == 5
    assert {b["seed"] for b in server.bodies} == {r.seed for r in asked}


def test_a_refusal_is_one_line_and_is_not_tried_again(server, backend):
    server.failures = [400]
    with pytest.raises(ValueError, match="refused a request with HTTP 400: no such thing$"):
        run(backend, requests(backend, 1))
    assert len(server.bodies) == 1


def test_lasting_trouble_ends_with_what_the_server_says(server, backend, monkeypatch):
    monkeypatch.setattr(server_backend, "TRIES", 3)
    server.failures = [502] * 9
    with pytest.raises(ConnectionError, match="failed 3 times, the last time with HTTP 502: no such thing$"):
        run(backend, requests(backend, 1))
    assert len(server.bodies) == 3


def test_a_server_that_is_not_there_is_named(tiny_model, monkeypatch):
    monkeypatch.setattr(server_backend, "TRIES", 2)
    with pytest.raises(ConnectionError, match="http://127.0.0.1:9/v1/models failed 2 times"):
        ServerBackend(str(tiny_model), "http://127.0.0.1:9")


def test_the_shorter_of_the_two_contexts_counts(server, backend):
    assert backend.context == 100  # the model has 512
    long = Request("long", 0, tuple([5] * 100), 1)
    tight = Request("tight", 0, tuple([5] * 98), 1)
    done = run(backend, [long, tight], Sampling(max_new_tokens=50))
    assert done["long"].finish_reason == "prompt_too_long"
    assert [b["max_tokens"] for b in server.bodies] == [2]


def test_samples_that_are_known_are_not_asked_for(server, backend):
    asked = requests(backend, 3)
    assert set(run(backend, asked, done=[("p1", 0)])) == {"p0", "p2"}
    assert Counter(b["seed"] for b in server.bodies) == {asked[0].seed: 1, asked[2].seed: 1}


def test_the_model_is_the_one_of_our_name_or_the_only_one(server, tiny_model):
    server.models = [{"id": "a", "owned_by": "vllm"}, {"id": str(tiny_model), "owned_by": "vllm"}]
    backend = ServerBackend(str(tiny_model), server.url)
    assert backend.settings == {"backend": "server", "served_model": str(tiny_model)}
    server.models = [{"id": "a"}, {"id": "b"}]
    with pytest.raises(ValueError, match="expected one model at .*; found a, b"):
        ServerBackend(str(tiny_model), server.url)


def test_the_key_comes_from_the_environment(server, tiny_model, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    backend = ServerBackend(str(tiny_model), server.url)
    run(backend, requests(backend, 1))
    assert server.bodies[0]["key"] == "Bearer sesame"
    assert "sesame" not in str(backend.settings | backend.described)


def test_a_base_url_chooses_the_server(server, tiny_model):
    backend = make_backend(BackendOptions(str(tiny_model), base_url=server.url))
    assert isinstance(backend, ServerBackend)
    with pytest.raises(ValueError, match="expected base_url http://host:port/v1"):
        make_backend(BackendOptions(str(tiny_model), base_url="localhost:8000"))
