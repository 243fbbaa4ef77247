"""A tiny Qwen2 model and a byte-level tokenizer, made from a configuration: no download, no file in the repository."""

from pathlib import Path

import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, plus the special tokens of Qwen."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL[1:],
        chat_template=CHAT_TEMPLATE,
    )


def save_tiny_model(folder: Path, seed: int = 0, **changes: int | bool | float) -> Path:
    """Write a randomly initialised model and its tokenizer to ``folder``. ``changes`` go into the configuration."""
    tokenizer = tiny_tokenizer()
    sizes = dict(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,  # far from uniform: p must differ between tokens for DFT to differ from SFT
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(Qwen2Config(**{**sizes, **changes}))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # zero after initialisation, and then nothing but optimizer noise to compare
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tokens_of(file: Path, tokenizer) -> list[tuple[list[int], int]]:
    """(ids, length of the prompt) per row of a training file, built with string concatenation only."""
    rows = []
    for row in pd.read_parquet(file).to_dict("records"):
        prompt = f"<|im_start|>user\n{row['question']}<|im_end|>\n<|im_start|>assistant\n"
        prompt_ids = tokenizer(prompt)["input_ids"]
        rows.append((prompt_ids + tokenizer(row["answer"] + "<|endoftext|>")["input_ids"], len(prompt_ids)))
    return rows


def token_weight(row: int, place: int) -> float:
    """A weight for a token of a row, above 0 and exact in fp32."""
    return (1 + (5 * row + 3 * place) % 8) / 4


def moved(name: str, value: torch.Tensor) -> torch.Tensor:
    """The parameter after some training: away from the initial model, the same on any number of ranks."""
    generator = torch.Generator().manual_seed(sum(name.encode()))
    noise = torch.randn(value.shape, generator=generator)
    return 0.2 * noise if "lora_" in name else value * (1 + 0.1 * noise)
