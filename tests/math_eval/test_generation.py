import math
from collections import Counter

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from verl.dft.model_folder import resolve_model
from verl.math_eval.backends.decoding import inverse_cdf
from verl.math_eval.backends.transformers_backend import TransformersBackend
from verl.math_eval.requests import Request, Sampling, sample_seed

PROMPTS = ["What is 1 + 1?", "2", "A much longer question about nothing at all, asked twice.", "What is 17 + 4?"]
NEVER = ("<|im_end|>",)


@pytest.fixture(scope="module")
def backend(tiny_model):
    return TransformersBackend(str(tiny_model), device="cpu")


def requests(backend, samples: int = 1, prompts=PROMPTS) -> list[Request]:
    return [
        Request(f"p{i}", s, tuple(backend.tokenizer(text)["input_ids"]), sample_seed(7, f"p{i}", s))
        for i, text in enumerate(prompts)
        for s in range(samples)
    ]


def run(backend, asked, sampling, stop=NEVER, batch_size=None):
    backend.batch_size = batch_size
    done = [c for batch in backend.generate(asked, sampling, stop) for c in batch]
    return {(c.request.problem_id, c.request.sample): c for c in done}


def test_greedy_equals_the_library_s_own_generation(backend):
    ours = run(backend, requests(backend), Sampling(max_new_tokens=24))
    for request in requests(backend):
        ids = torch.tensor([request.prompt_ids])
        theirs = backend.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, pad_token_id=0
        )
        new = [t for t in theirs[0, ids.shape[1] :].tolist() if t != backend.tokenizer.eos_token_id]
        assert ours[request.problem_id, 0].text == backend.tokenizer.decode(new, skip_special_tokens=True)


@pytest.mark.parametrize("window", [None, 8])
def test_rows_that_end_at_different_steps_leave_the_batch_without_a_trace(backend, tmp_path, window):
    ends = list(range(20))  # many tokens end a response, so that the batch shrinks step by step
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(backend.tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, sliding_window=window,
        eos_token_id=ends, initializer_range=0.5,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(tmp_path)
    backend.tokenizer.save_pretrained(tmp_path)
    other = TransformersBackend(str(tmp_path), device="cpu")
    asked = requests(other, prompts=["ab c" * n for n in range(1, 13)])
    ours = run(other, asked, Sampling(max_new_tokens=40), batch_size=12)
    assert len({c.num_tokens for c in ours.values()}) > 1
    all_ends = [*ends, other.tokenizer.eos_token_id, other.tokenizer.convert_tokens_to_ids("<|im_end|>")]
    for request in asked:
        ids = torch.tensor([request.prompt_ids])
        theirs = other.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False, pad_token_id=0,
            eos_token_id=all_ends,
        )  # fmt: skip
        new = [token for token in theirs[0, ids.shape[1] :].tolist() if token not in all_ends]
        assert ours[request.problem_id, 0].text == other.tokenizer.decode(new, skip_special_tokens=True)


def test_a_tokenizer_without_a_pad_token_generates_the_same(backend):
    expected = run(backend, requests(backend), Sampling(max_new_tokens=12))
    pad, backend.tokenizer.pad_token = backend.tokenizer.pad_token, None
    try:
        assert run(backend, requests(backend), Sampling(max_new_tokens=12)) == expected
    finally:
        backend.tokenizer.pad_token = pad


def test_stop_ids_are_those_of_the_format_the_tokenizer_and_the_generation_config(backend):
    before = backend.generation_config.eos_token_id
    backend.generation_config.eos_token_id = [7, 9]
    try:
        ids, texts = backend.stops(["<|im_end|>", "!", "\n\nQuestion:"])
    finally:
        backend.generation_config.eos_token_id = before
    special = {backend.tokenizer.convert_tokens_to_ids("<|im_end|>"), backend.tokenizer.eos_token_id}
    assert (ids, texts) == ({7, 9} | special, ("!", "\n\nQuestion:"))


@pytest.mark.parametrize("sampling", [Sampling(max_new_tokens=20), Sampling(1.0, 1.0, 20), Sampling(0.7, 0.8, 20)])
def test_a_sample_does_not_depend_on_its_batch(backend, sampling):
    asked = requests(backend, 3)
    together = run(backend, asked, sampling)
    assert run(backend, asked, sampling, batch_size=1) == together
    assert run(backend, asked[::-1], sampling, batch_size=5) == together
    alone = run(backend, asked[4:5], sampling)
    assert alone == {key: together[key] for key in alone}


def test_a_model_loaded_again_draws_the_same_samples(backend, tiny_model):
    asked, sampling = requests(backend, 4), Sampling(1.0, 0.95, 30)
    again = TransformersBackend(str(tiny_model), device="cpu")
    assert run(again, asked, sampling) == run(backend, asked, sampling)


def test_samples_of_a_problem_differ_and_follow_the_seed(backend):
    first = run(backend, requests(backend, 4), Sampling(1.0, 1.0, 20))
    texts = [first["p0", s].text for s in range(4)]
    assert len(set(texts)) == 4
    assert sample_seed(0, "p", 1) == sample_seed(0, "p", 1) != sample_seed(1, "p", 1)
    assert len({sample_seed(b, p, s) for b in (0, 1) for p in ("a", "b") for s in range(50)}) == 200


def test_frequencies_match_the_distribution():
    probs = torch.tensor([0.5, 0.0, 0.2, 0.25, 0.05])
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = inverse_cdf(probs.expand(20_000, 5), uniform)
    counts = torch.bincount(drawn, minlength=5) / 20_000
    assert counts[1] == 0
    assert torch.allclose(counts, probs, atol=0.012)  # 3.4 standard errors of the largest share


def test_top_p_draws_from_the_smallest_sufficient_set_only():
    probs = torch.tensor([[0.1, 0.45, 0.05, 0.4]]).expand(2_000, 4)
    uniform = torch.linspace(0, 1 - 1e-9, 2_000, dtype=torch.float64)
    counts = torch.bincount(inverse_cdf(probs, uniform, top_p=0.8), minlength=4) / 2_000
    assert counts[[0, 2]].tolist() == [0, 0]
    assert counts[1] == pytest.approx(0.45 / 0.85, abs=0.002)
    assert torch.bincount(inverse_cdf(probs, uniform, top_p=1e-9), minlength=4)[1] == 2_000


def test_first_token_frequencies_match_the_model(backend):
    prompt = tuple(backend.tokenizer("What is 1 + 1?")["input_ids"])
    asked = [Request("p", s, prompt, sample_seed(0, "p", s)) for s in range(3_000)]
    with torch.inference_mode():
        logits = backend.model(torch.tensor([prompt])).logits[0, -1].float()
    expected = torch.softmax(logits / 0.25, -1)
    done = run(backend, asked, Sampling(0.25, 1.0, 1), batch_size=3_000)
    by_text = Counter()  # several byte tokens read the same
    for token, p in enumerate(expected.tolist()):
        by_text[backend.tokenizer.decode([token], skip_special_tokens=True)] += p
    drawn = Counter(c.text for c in done.values())
    for text, p in by_text.most_common(4):
        assert drawn[text] / 3_000 == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 3_000) + 1e-3)


def test_generation_ends_at_any_stop_token(backend):
    free = run(backend, requests(backend), Sampling(max_new_tokens=30))
    text = free["p0", 0].text
    stop = next(c for c in text if c.isascii() and c.isprintable())  # one byte is one token here
    ended = run(backend, requests(backend), Sampling(max_new_tokens=30), stop=(*NEVER, stop))["p0", 0]
    assert ended.text == text[: text.index(stop)]
    assert ended.finish_reason == "stop"
    assert ended.num_tokens < free["p0", 0].num_tokens


def test_stop_texts_of_several_tokens_cut_the_text(backend):
    text = run(backend, requests(backend), Sampling(max_new_tokens=30))["p1", 0].text
    start = next(i for i in range(2, len(text) - 3) if text[i : i + 2].isascii())
    stop = text[start : start + 2]
    ended = run(backend, requests(backend), Sampling(max_new_tokens=30), stop=(stop,))["p1", 0]
    assert (ended.text, ended.finish_reason) == (text[: text.index(stop)], "stop")


def test_batches_are_cut_by_the_memory_that_full_answers_would_need(backend, monkeypatch):
    monkeypatch.setattr("verl.math_eval.backends.transformers_backend.CPU_BYTES", 1 << 20)
    asked = [Request(f"p{i}", 0, (5,) * length, 0) for i, length in enumerate([10] * 60 + [100] * 4)]
    backend.batch_size = None
    per_token = 2 * 2 * 2 * 8 * 4  # keys and values of 2 layers with 2 heads of 8 numbers of 4 bytes
    pieces = backend.pieces(asked, Sampling(max_new_tokens=100), ())
    first, second = (1 << 20) // (per_token * 200), (1 << 20) // (per_token * 110)
    assert [len(piece) for piece in pieces] == [first, second, 64 - first - second] == [20, 37, 7]


def test_long_prompts_are_reported_and_short_room_is_used_up(backend):
    room = backend.context
    long, tight = tuple([5] * room), tuple([5] * (room - 3))
    done = run(backend, [Request("long", 0, long, 1), Request("tight", 0, tight, 1)], Sampling(max_new_tokens=50))
    assert (done["long", 0].finish_reason, done["long", 0].text) == ("prompt_too_long", "")
    assert done["tight", 0].num_tokens <= 3
    assert backend.limit(Request("tight", 0, tight, 1), Sampling(max_new_tokens=50)) == 3


def test_cut_answers_say_so(backend):
    done = run(backend, requests(backend), Sampling(max_new_tokens=2))
    assert {c.finish_reason for c in done.values()} <= {"length", "stop"}
    assert any(c.finish_reason == "length" and c.num_tokens == 2 for c in done.values())


@pytest.mark.parametrize(
    "values", [(-1, 1, 5), (0.001, 1, 5), (2.5, 1, 5), (1, 0, 5), (1, 1.5, 5), (1, 1, 0), (float("nan"), 1, 5)]
)
def test_impossible_sampling_is_refused(values):
    with pytest.raises(ValueError, match="expected"):
        Sampling(*values)


def test_logits_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        inverse_cdf(torch.tensor([[float("nan"), 1.0]]), torch.tensor([0.5]))


def test_greedy_decoding_refuses_them_too(backend, monkeypatch):
    original = backend.model.forward

    def broken(**kwargs):
        output = original(**kwargs)
        output.logits[:, :, 3] = float("nan")
        return output

    monkeypatch.setattr(backend.model, "forward", broken)
    with pytest.raises(ValueError, match="not finite"):
        run(backend, requests(backend), Sampling(max_new_tokens=2))


def test_model_is_found_in_a_trainer_checkpoint(tmp_path):
    (tmp_path / "global_step_3" / "huggingface").mkdir(parents=True)
    (tmp_path / "global_step_3" / "huggingface" / "config.json").write_text("{}")
    assert resolve_model(str(tmp_path / "global_step_3")).endswith("huggingface")
    assert resolve_model("Qwen/Qwen2.5-Math-1.5B") == "Qwen/Qwen2.5-Math-1.5B"
    with pytest.raises(ValueError, match="global_step_3"):
        resolve_model(str(tmp_path))
    with pytest.raises(ValueError, match="found no folder"):
        resolve_model(str(tmp_path / "nowhere"))
