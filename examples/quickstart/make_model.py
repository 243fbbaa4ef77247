"""A small Qwen2 model with random weights, and a tokenizer trained on the questions it will see.

python examples/quickstart/make_model.py --data data/arithmetic/pretrain.parquet --out models/small
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

# As short as a template can be: every token of it is computed thousands of times.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
EOS = "<|endoftext|>"
SPECIAL_TOKENS = [EOS, "<|system|>", "<|user|>", "<|assistant|>"]


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE that can write any text and keeps every digit apart, as Qwen's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL_TOKENS,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=EOS,
        additional_special_tokens=SPECIAL_TOKENS[1:],
        chat_template=CHAT_TEMPLATE,
    )


def small_model(tokenizer: PreTrainedTokenizerFast, layers: int, width: int, seed: int) -> Qwen2ForCausalLM:
    """A Qwen2 of ``layers`` layers and ``width`` hidden units, heads of 32 in pairs, tied embeddings.

    The initial weights are wider than usual: narrow models got more sums right from them in the same training time.
    """
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            num_key_value_heads=width // 64,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            initializer_range=0.08,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def texts_of(path: Path) -> Iterator[str]:
    for row in pq.read_table(path, columns=["extra_info"]).column(0).to_pylist():
        yield row["question"]
        yield row["answer"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="training parquet whose texts the tokenizer learns")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--vocab_size", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tokenizer = train_tokenizer(texts_of(options.data), options.vocab_size)
    model = small_model(tokenizer, options.layers, options.width, options.seed)
    tokenizer.save_pretrained(options.out)
    model.save_pretrained(options.out)
    print(f"{options.out}: {model.num_parameters()} parameters, {len(tokenizer)} tokens")


if __name__ == "__main__":
    main()
