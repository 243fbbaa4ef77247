"""A row has the ids of its whole text, and begins with the ids of its prompt, for every kind of tokenizer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from verl.dft.data.joining import Joiner
from verl.dft.data.prompts import resolve_prompt_format

TEXTS = [
    "What is 1 + 1? The answer is 2.\n\nHello there, Answer: 42\n",
    "def f(x):\n    return x  # it's\n\n\nUser: hi\nAssistant: hi hi",
    "Ünïcödé größe 12345 ...   and\ttabs",
]
SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|bot|>", "<|end|>"]


def finished(tokenizer: Tokenizer, trainer) -> PreTrainedTokenizerFast:
    tokenizer.train_from_iterator(TEXTS * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def byte_level() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return finished(tokenizer, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet))


def tiktoken_like() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    pattern = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return finished(tokenizer, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet))


def metaspace(scheme: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return finished(tokenizer, trainers.UnigramTrainer(vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>"))


def prepend() -> PreTrainedTokenizerFast:
    """Llama-2's: the blank is put in front by the normalizer, behind every special token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return finished(tokenizer, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL))


TOKENIZERS = {
    "byte level": byte_level(),
    "tiktoken": tiktoken_like(),
    "metaspace always": metaspace("always"),
    "metaspace first": metaspace("first"),
    "prepend": prepend(),
}
PROMPTS = {
    "marked": "<|user|>{{ messages[0]['content'] }}<|end|>\n<|bot|>",
    "lines": "<s><|user|>\n{{ messages[0]['content'] }}<|end|>\n<|bot|>\n",
    "words": "User: {{ messages[0]['content'] }}\nAssistant:",
    "blank": "User: {{ messages[0]['content'] }} ",
    "open": "{{ messages[0]['content'] }}",
}
letters = st.text(st.sampled_from("aiHe 12.\n'sö:\t"), max_size=12)


def joined(tokenizer, prompt: str, response: str):
    return Joiner(tokenizer).rows([[(prompt, 0.0), (response, 1.0), ("</s>", 1.0)]])[0]


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=80, deadline=None)
@given(question=letters, response=letters, template=st.sampled_from(list(PROMPTS)))
def test_a_row_begins_with_the_prompt_that_is_asked_and_has_the_ids_of_the_whole_text(
    kind, question, response, template
):
    tokenizer = TOKENIZERS[kind]
    prompts = resolve_prompt_format(PROMPTS[template], tokenizer)
    asked = prompts.encode(question, tokenizer)
    text = prompts.render(question, tokenizer)
    ids, weights, moved = joined(tokenizer, text, response)
    assert ids[: len(asked)] == asked
    assert not any(weights[: len(asked)]) and all(weights[len(asked) :])
    whole = tokenizer(text + response + "</s>", add_special_tokens=False)["input_ids"]
    if not moved:
        assert ids == whole
    else:
        assert whole[: len(asked)] != asked


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_first_target_is_the_models_own_token(kind):
    tokenizer = TOKENIZERS[kind]
    for prompt in ("<|user|>\nhi<|end|>\n<|bot|>\n", "User: hi\nAssistant:", "<|bot|>"):
        ids, weights, moved = joined(tokenizer, prompt, "Hello")
        assert not moved and ids == tokenizer(prompt + "Hello</s>", add_special_tokens=False)["input_ids"]
        first = next(i for i, weight in enumerate(weights) if weight)
        assert "He" in tokenizer.decode(ids[first : first + 3])


def test_a_border_inside_a_token_leaves_the_prompt_as_it_is_asked():
    tokenizer = TOKENIZERS["byte level"]
    asked = tokenizer("Answer: ", add_special_tokens=False)["input_ids"]
    ids, _, moved = joined(tokenizer, "Answer: ", "hi")
    assert moved and ids[: len(asked)] == asked
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Answer: hi"


def test_several_turns_are_cut_where_each_prompt_ends():
    for tokenizer in TOKENIZERS.values():
        turns = [
            ("<|user|>hi<|end|>\n<|bot|>\n", 0.0),
            ("Hello<|end|>", 1.0),
            ("\n<|user|>1 + 1<|end|>\n<|bot|>\n", 0.0),
        ]
        turns += [("2<|end|>", 0.5)]
        ((ids, weights, moved),) = Joiner(tokenizer).rows([turns])
        text = "".join(piece for piece, _ in turns)
        assert not moved and ids == tokenizer(text, add_special_tokens=False)["input_ids"]
        end = tokenizer.convert_tokens_to_ids("<|end|>")
        assert [weight for token, weight in zip(ids, weights, strict=True) if token == end] == [0, 1.0, 0, 0.5]
